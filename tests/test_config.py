"""The command line overrides params.yaml, which overrides conf/; unknown keys and values are errors."""

import itertools
import json
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from pipeline import config
from pipeline.common import errors, paths, yaml_files

GROUPS = {
    group: sorted(f.stem for f in (paths.CONF / group).glob("*.yaml"))
    for group in ("data", "model", "augment", "trainer")
}


@pytest.mark.parametrize(("data", "model"), itertools.product(GROUPS["data"], GROUPS["model"]))
def test_every_shipped_model_composes_with_every_data_set(data, model):
    cfg = config.compose(f"data={data}", f"model={model}")
    OmegaConf.resolve(cfg.model)
    assert cfg.data.name == data
    assert cfg.model.name == model


def test_composed_models_match_the_recorded_ones():
    """If the change is intended, replace composed_models.json with the JSON in the assert message."""
    here = Path(__file__).parent
    config.store_params()
    composed = {}
    # The checkout's configuration: the copy's is made small.
    with hydra.initialize_config_dir(str(here.parent / "conf"), version_base="1.3"):
        for name in GROUPS["model"]:
            cfg = hydra.compose("config", [f"model={name}"])
            composed[name] = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["model", "augment"]))
    recorded = json.loads((here / "composed_models.json").read_text())
    assert composed == recorded, json.dumps(composed, indent=1)


def test_a_model_file_repeats_no_value_of_its_bases():
    for name in GROUPS["model"]:
        own = yaml_files.read(paths.CONF / f"model/{name}.yaml")
        bases = [each for each in own.pop("defaults") if isinstance(each, str) and each != "_self_"]
        inherited = {}
        for base in bases:
            inherited |= dict(config.flat(yaml_files.read(paths.CONF / f"model/{base}.yaml")))
        same = [key for key, value in config.flat(own) if inherited.get(key, ...) == value]
        assert bases and not same, (name, same)


@pytest.mark.parametrize(("augment", "trainer"), itertools.product(GROUPS["augment"], GROUPS["trainer"]))
def test_every_shipped_augmentation_composes_with_every_trainer(augment, trainer):
    cfg = config.compose(f"augment={augment}", f"trainer={trainer}")
    assert "transforms" in cfg.augment
    assert cfg.trainer.devices >= 1


EXPERIMENTS = sorted((paths.CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_shipped_experiment_composes_and_states_command_cost_and_result(file):
    config.compose(f"experiment={file.stem}")
    comment = [line for line in file.read_text().splitlines() if line.startswith("# ")][1:]
    assert f"experiment={file.stem}" in comment[0]
    assert any(line.startswith("# Cost: ") for line in comment)
    assert any(line.startswith("# Result: ") and "%" in line for line in comment)


def test_a_model_sets_its_augmentation_and_the_command_line_overrides_it():
    assert config.compose("model=scratch").augment.mixup > 0
    assert config.compose("model=scratch", "augment=none").augment.mixup == 0


def test_params_override_conf_and_the_command_line_overrides_params(project, restored, change):
    change("params.yaml", ("\nseed: 1 ", "\nseed: 5 "), ("data: sample ", "data: petfaces "))
    assert config.compose().seed == 5
    assert config.compose().data.name == "petfaces"
    assert config.compose("seed=7", "data=sample").seed == 7
    assert config.compose("seed=7", "data=sample").data.name == "sample"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 3\n", "sead is not a key"),
        ("trainer: tpu\n", "trainer: tpu is not known"),
        ("split: {sed: 1}\n", "split.sed is not"),
    ],
)
def test_an_unknown_key_or_value_in_params_is_a_one_line_error(project, restored, run, text, message):
    params = project / "params.yaml"
    kept = [line for line in params.read_text().splitlines(keepends=True) if not line.startswith("trainer:")]
    plain = "".join(kept) if text.startswith("trainer") else params.read_text()
    if text.startswith("split"):
        plain = plain[: plain.index("split:")]
    params.write_text(plain + text)
    done = run("python", "-m", "pipeline.split")
    assert done.returncode == 1
    assert message in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "override", ["sead=1", "model.lrr=1", "data=moon", "model=moon", "trainer=moon", "augment=moon"]
)
def test_an_unknown_override_is_an_error_that_names_it(run, override):
    done = run("python", "-m", "pipeline.split", override)
    assert done.returncode != 0
    assert override.split("=")[0].split(".")[-1] in done.stdout
    assert "Traceback" not in done.stdout


def test_params_and_model_configs_share_no_key():
    shared = dict(config.flat(yaml_files.read(paths.PARAMS)))
    for file in (paths.CONF / "model").glob("*.yaml"):
        own = set(OmegaConf.load(file)) - {"defaults", "name"}
        assert not own & {key.split(".")[0] for key in shared}, file


def test_a_choice_is_written_and_comments_stay(project, restored):
    before = paths.PARAMS.read_text()
    config.choose("data", "petfaces")
    after = paths.PARAMS.read_text()
    assert after == before.replace("data: sample", "data: petfaces")
    with pytest.raises(errors.UserError, match="moon is not known"):
        config.choose("data", "moon")


def test_dvcs_temporary_copy_uses_the_main_checkouts_store(monkeypatch):
    copy = Path("/home/someone/faces/.dvc/tmp/exps/standalone/tmp1")
    monkeypatch.setattr(paths, "ROOT", copy)
    assert paths.main_checkout() == Path("/home/someone/faces")


def test_disk_errors_become_user_errors_and_bugs_do_not():
    with (
        pytest.raises(errors.UserError, match=r"x can't be read or written \(No space left on device\)"),
        errors.os_errors_as_user_errors(),
    ):
        raise OSError(28, "No space left on device", "x")
    with pytest.raises(FileNotFoundError), errors.os_errors_as_user_errors():
        raise FileNotFoundError(2, "No such file", "x")
