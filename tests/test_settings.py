"""Validation of the configuration: every key has a type and a range; each error is one line."""

import copy
import json
import re
import shutil
import sys

import pytest
from conftest import outcome
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from untrusted_models import CARD

from pipeline import config, portable
from pipeline.common import errors, yaml_files
from pipeline.config import composition, validate, wording
from pipeline.stage import stage


def _error(*overrides: str) -> str:
    """The one-line error of an invalid configuration."""
    with pytest.raises(errors.UserError) as error:
        config.compose(*overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def default() -> DictConfig:
    return config.compose()


def _error_of_value(cfg: DictConfig, override: str) -> str:
    """The one-line error of a value set in a composed configuration, which is quicker than composing it."""
    parsed = OverridesParser.create().parse_override(override)
    changed = cfg.copy()
    OmegaConf.update(changed, parsed.key_or_group, parsed.value())
    with pytest.raises(errors.UserError) as error:
        validate.check(changed)
    assert "\n" not in str(error.value)
    return str(error.value)


def _keys(tree: DictConfig, prefix: str = ""):
    for key in tree:
        yield f"{prefix}{key}"
        node = tree._get_node(key)
        if isinstance(node, DictConfig) and f"{prefix}{key}" not in ("model.net", "augment.transforms"):
            yield from _keys(node, f"{prefix}{key}.")


def test_every_key_of_conf_has_a_type_and_vice_versa():
    found = set()
    for group in ("data", "model", "augment", "trainer"):
        for name in config.choices(group):
            found |= set(_keys(config.compose(f"{group}={name}")))
    known = {key for key in wording.known_keys() if ".files." not in key}
    assert found == known - {"model.loss"}  # no model in conf/ sets it; see docs/models.md


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed=-1: must be a whole number from 0 to 4294967295"),
        ("seed=4294967296", "seed=4294967296: must be a whole number from 0 to 4294967295"),
        ("seed=abc", "seed=abc: must be a whole number from 0"),
        ("seed=null", "seed=null: must be a whole number from 0"),
        ("seed=1.5", "seed=1.5: must be a whole number from 0"),
        ("seed=true", "seed=true: must be a whole number from 0"),
        ("seed='1'", 'seed="1": must be a whole number from 0'),
        ("split.seed=-1", "split.seed=-1: must be a whole number from 0"),
        ("model.epochs=0", "a head with random weights (model=scratch) needs at least 1 epoch"),
        ("data.epochs=0", "a head with random weights (model=scratch) needs at least 1 epoch"),
        ("model.lr=abc", "model.lr=abc: must be a number above 0"),
        ("model.lr=0", "model.lr=0: must be a number above 0"),
        ("model.lr=nan", "model.lr=NaN: must be a number above 0"),
        ("model.lr=inf", "model.lr=Infinity: must be a number above 0"),
        ("model.lr=true", "model.lr=true: must be a number above 0"),
        ("model.batch_size=0", "model.batch_size=0: must be a whole number from 1 to 65536"),
        ("model.shares=[]", "model.shares=[]: must be a list of at least 1"),
        ("model.shares=[0.5,-1]", "model.shares=[0.5, -1]: must be a list of at least 1, each a number"),
        ("model.input.size=0", "model.input.size=0: must be a whole number from 8 to 1024"),
        ("model.input.size=100000", "model.input.size=100000: must be a whole number from 8 to 1024"),
        ("model.input.size=null", "only a timm backbone has a default"),
        ("model.input.mean=[0.5]", "model.input.mean=[0.5]: must be a list of 3"),
        ("model.input.std=[0,0.2,0.2]", "model.input.std=[0, 0.2, 0.2]: must be a list of 3"),
        ("model.input.crop=top", "model.input.crop=top: must be squash or center"),
        ("model.input={size: abc}", "model.input.size=abc: must be"),
        ("model.input=3", "model.input=3: must be a mapping of size"),
        ("model.head=prob", "must be probe or random; near: probe"),
        ("model.head=probe", "model=scratch has no inverse_regularization"),
        ("model.balance=some", "must be none, weights or sampler"),
        ("model.start=7", "must be a string, or null; quote it: model.start=\"'7'\""),
        ("model.net=3", "model.net=3: must be a mapping"),
        ("model.name='../x'", "model.name=../x: must be a name of letters, digits and _.-"),
        ("model.name='a b'", "model.name=a b: must be a name of letters, digits and _.-"),
        ("unsure.min_precision=1", "unsure.min_precision=1: must be a number of at least 0 and below 1"),
        ("model.net.dropout=nan", "model.net.dropout=nan: must be finite"),
        ("split.val=0", "split.val=0: must be a number above 0 and below 1"),
        ("split.val=0.9", "split.val=0.9 and split.test=0.15 must sum to less than 1"),
        ("split.official=1", "split.official=1: must be true or false"),
        ("split=3", "split=3: must be a mapping of seed, val, test, official, distance"),
        (
            "trainer.devices=0",
            "must be a whole number from 1 to 1024, -1 or auto, or a list",
        ),
        ("runtime.threads=0", "runtime.threads=0: must be a whole number from 1"),
        ("trainer.accelerator=gppu", "must be auto, cpu, gpu, cuda or mps; near: gpu"),
        ("trainer.strategy=dpd", "near: ddp"),
        ("trainer.precision=bf16", "near: bf16-mixed"),
        ("runtime.features=onyx", "must be onnx or torch; near: onnx"),
        ("augment.mixup=-1", "augment.mixup=-1: must be a number from 0"),
        (
            "augment.transforms=[HorizontalFlip]",
            "a list, each a mapping of one name to its arguments",
        ),
        ("pack.classes=breeds", "must be folder or breed; near: breed"),
        ("fetch.path=2024", "must be a string; quote it: fetch.path=\"'2024'\""),
        ("models=[]", "models=[]: must be a list of at least 1"),
        ("models=scratch", "models=scratch: must be a list"),
        ("models=[scratch,prob]", "models: prob is not known; near: probe"),
        ("models=[scratch,scratch]", "models: scratch is listed twice"),
        ("data.source.kind=x", "must be drawn, drawn_attributes, archive, oxford_photos or folder"),
        ("out=", "out is empty; must be a string"),
        ("trainer.devices=[0,1]", r"trainer.devices=[0, 1]: with trainer.accelerator=cpu it is a number"),
        ("trainer.devices=-1", "trainer.devices=-1: with trainer.accelerator=cpu it is a number"),
        ("trainer.precision=16-true", "trainer.precision=16-true: must be"),
        ("augment.mixup=1001", "augment.mixup=1001: must be a number from 0 to 1000"),
        ("model.input.std=[0.0001,1,1]", "must be"),
        ("model.input.crop_pct=0.2", "model.input.crop_pct=0.2: must be a number from 0.25 to 1"),
        ("seed=???", "seed has no value"),
        ("seed=${nope}", "Interpolation key 'nope' not found"),
        ("seed=${seed}", "Recursive interpolation"),
    ],
)
def test_an_invalid_value_is_an_error_that_says_what_is_allowed(default, override, message):
    assert message in _error_of_value(default, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed=-1: must be a whole number from 0 to 4294967295"),
        ("seed=${nope}", "Interpolation key 'nope' not found"),
        ("+model.frozen=2", "model.frozen=2 needs a timm backbone"),
        ("data=../x", "data=../x is not known; choose one of "),
        ("+data.source.rebuild=oxford", "data.source.rebuild has no effect with data.source.kind=drawn"),
        ("~data.source.seed", "data.source.seed is missing; data.source.kind=drawn needs it"),
        ("~seed", "seed is missing"),
        ("~model", "model is missing"),
    ],
)
def test_an_override_that_composes_to_something_invalid_is_an_error(override, message):
    assert message in _error(override)


@pytest.mark.parametrize("values", ["[]", "[-1]", "[0]", "[a]", "1"])
def test_inverse_regularization_must_be_above_0(values):
    assert "must be a list of at least 1, each a number above 0" in _error(
        "model=probe", f"model.inverse_regularization={values}"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+foo=1"], "foo is not a key; the configuration has data, augment"),
        (["++sead=1"], "sead is not a key; near: seed"),
        (["+model.optimizer=sgd"], "model.optimizer is not a key; model has name, net"),
        (["+model.batchsize=8"], "model.batchsize is not a key; near: model.batch_size"),
        (["+lr=1"], "lr is not a key; near: model.lr"),
        (["+split.sed=1"], "split.sed is not a key; near: split.seed"),
        (["+model.input.sise=8"], "model.input.sise is not a key; near: model.input.size"),
        (["+data.source.foo=1"], "data.source.foo is not a key"),
        (["+trainer.max_epochs=1"], "trainer.max_epochs is not used here; set model.epochs"),
        (["+b.c=1"], "b is not a key"),
        (["sead=1"], "sead is not a key; near: seed"),
        (["model.lrr=1"], "model.lrr is not a key; near: model.lr"),
        (["model=probe", "model.lr=1"], "model=probe has no lr; it belongs to convnext_tiny"),
        (["model=probe", "+model.lr=1"], "model=probe has no lr; it belongs to convnext_tiny"),
        (["experiment=petfaces-probe", "model.lr=1"], "model=probe has no lr; it belongs to"),
        (["model=probe", "model.epochs=3"], "model=probe has no shares, no patience, no lr"),
        (["model=scrath"], "model=scrath is not known; near: scratch"),
        (["data=moon"], "data=moon is not known; choose one of attributes, folder, labels, labels_multi"),
        (["experiment=petfaces-prob"], "experiment=petfaces-prob is not known; near: petfaces-probe"),
        (["a=["], "a=[ is not an override; use KEY=VALUE"),
        (["seed"], "seed is not an override; use KEY=VALUE"),
        (["unsure.answers_right=0"], "answers_right is not a key; it is called unsure.min_precision now"),
        (["+unsure.others_named=0"], "others_named is not a key; it is called unsure.max_ood_rate now"),
        (["model=probe", "model.strengths=[1]"], "it is called model.inverse_regularization now"),
        (["seed=1,2"], "seed=1,2: several values need --multirun"),
        (["+seed=3"], "+seed: the key exists already; omit the +"),
        (["model=null"], "model=null: choose one file per group"),
        (["trainer=gpu", "trainer.devices=[0,0]"], "trainer.devices=[0, 0]: a device is listed twice"),
        (["model=probe", "model.net.file=x"], "model.net.file has no effect without model.net.weights=file"),
        (["+experiment=petfaces-probe"], "+experiment=…: experiment has a choice already; omit the +"),
        (["hydra.foo=1"], "hydra.foo is not a key of Hydra"),
        (["model@x=probe"], "model@x is not a group of conf/"),
    ],
)
def test_unknown_key_is_an_error_that_suggests_the_right_one(overrides, message, monkeypatch):
    # Each error looks through conf/ for a broken file, see test_a_broken_yaml_file_is_an_error; here is none.
    monkeypatch.setattr(composition, "_broken_file", lambda: None)
    error = _error(*overrides)
    assert error.startswith(message) or message in error
    assert "Set the environment variable" not in error


def test_no_error_about_a_setting_shows_a_password():
    for override in (
        "fetch.mirrr=http://me:secret@host/x",
        "fetch.mirror=[http://me:secret@host",
        "models='http://me:secret@host'",
    ):
        assert "secret" not in _error(override)


def test_a_models_optional_keys_can_be_added():
    assert config.compose("model=resnet50", "+model.flip=true").model.flip
    assert config.compose("model=finetune", "model.epochs=0").model.epochs == 0
    assert config.compose("model=probe", "+model.net.drop_rate=0.1").model.net.drop_rate == 0.1


@pytest.fixture
def added(project):
    """Writes files into conf/ and removes them afterwards."""
    files = []

    def add(name: str, content: str | bytes):
        file = project / "conf" / name
        assert not file.exists()
        files.append(file)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    yield add
    for file in files:
        file.unlink()


def test_a_users_model_may_have_other_arguments(project, added):
    text = (project / "conf/model/scratch.yaml").read_text()
    text = text.replace("name: scratch", "name: tiny").replace(
        "models.scratch.ScratchCNN", "models.tiny.Tiny"
    )
    added("model/tiny.yaml", re.sub(r"(?s)  widths:.*?  dropout: 0.2", "  width: 16", text))
    assert config.compose("model=tiny", "model.net.width=8", "models=[tiny]").model.net.width == 8


def test_an_invalid_key_or_value_in_a_file_is_an_error_that_names_it(project, added, restored, change):
    added("experiment/mine.yaml", "# @package _global_\nsead: 3\n")
    assert _error("experiment=mine") == "conf/experiment/mine.yaml: sead is not a key; near: seed"
    added("experiment/ours.yaml", "# @package _global_\nseed: -3\n")
    assert _error("experiment=ours").startswith("conf/experiment/ours.yaml: seed=-3: must be")
    added("experiment/old.yaml", "# @package _global_\nunsure: {others_named: 0.1}\n")
    assert _error("experiment=old") == (
        "conf/experiment/old.yaml: unsure.others_named is not a key; it is called unsure.max_ood_rate now"
    )
    text = (project / "conf/model/scratch.yaml").read_text()
    added("model/other.yaml", text.replace("name: scratch", "name: other\noptimizer: sgd"))
    assert "conf/model/other.yaml: model.optimizer is not a key" in _error("model=other")
    added("model/hollow.yaml", "")
    assert "model.name, model.net, model.input" in _error("model=hollow")
    change("params.yaml", ("\nseed: 1 ", "\nseed: abc "))
    assert _error().startswith("params.yaml: seed=abc: must be a whole number")


CONFLICT = "<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> theirs\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\tseed: 1\n", ", line 2: YAML does not allow a tab here; indent with spaces"),
        ("split:\n\tseed: 1\n", ", line 3: YAML does not allow a tab here; indent with spaces"),
        (CONFLICT, ", line 2: git left conflict markers; keep one side and delete the lines that begin with"),
        ("seed: 1\nseed: 2\n", ", line 3: found duplicate key seed"),
        ("seed: 010\n", ", line 2: YAML reads 010 as 8; write that, or '010' for a string"),
        ("seed: 1\na: {b: [3, -0x1F]}  # x\n", ", line 3: YAML reads -0x1F as -31; write that"),
        ("models:\n  - 1:30\n", ", line 3: YAML reads 1:30 as 90; write that"),
        ("a: [1\n", ", line 3: "),
        ("a: 'x\n", ", line 3: "),
        ("a: b: c\n", ", line 2: mapping values are not allowed here"),
        ("a: @x\n", ", line 2: "),
        ("a: *x\n", ", line 2: found undefined alias 'x'"),
        ("a: !!python/object:os.system x\n", ", line 2: could not determine a constructor"),
        ("- seed\n", ", line 2: must be a mapping, key: value"),
        ("seed\n", ", line 2: must be a mapping, key: value"),
        ("seed: \x01\n", ", line 2: character 0x1 is not allowed in YAML"),
        (b"seed: \xff\n", ", line 2: not UTF-8"),
        ("seed: " + "[" * 500, ": nested too deeply"),
        ("a: ${\n", ": "),
    ],
)
def test_a_broken_yaml_file_is_an_error_with_line_and_fix(project, restored, added, text, message):
    data = b"# first\n" + (text if isinstance(text, bytes) else text.encode())
    added("experiment/broken.yaml", data)
    error = _error("experiment=broken")
    assert f"conf/experiment/broken.yaml{message}" in error
    (project / "params.yaml").write_bytes(data)
    assert f"params.yaml{message}" in _error()


def test_unambiguous_numbers_are_read(tmp_path):
    file = tmp_path / "good.yaml"
    file.write_text("a: [0, 10, -5, 1e-3, 0.5, '010', 08:30 pm, x010]  # 010\nb: a 010\n# c: 010\n")
    assert yaml_files.load(file).a[:4] == [0, 10, -5, 1e-3]


def test_every_valid_input_setting_is_valid_in_a_card(tmp_path):
    for std, crop in ((portable.MIN_STD, portable.MIN_CROP_PCT), (1, 1)):
        overrides = [f"model.input.std=[{std},{std},{std}]", f"model.input.crop_pct={crop}"]
        input_ = OmegaConf.to_container(config.compose(*overrides, "model.input.size=1024").model.input)
        card = CARD | {"input": {"max_side": 4096, **input_}}
        (tmp_path / "model.json").write_text(json.dumps(card))
        portable.read_card(tmp_path)


def test_params_may_be_empty_but_not_missing(project, restored):
    (project / "params.yaml").write_text("# nothing yet\n")
    assert config.compose().seed == 1
    (project / "params.yaml").unlink()
    assert _error() == "params.yaml is missing; restore it: git checkout -- params.yaml"
    (project / "params.yaml").touch()  # for `restored` to overwrite


@pytest.fixture(scope="module")
def composed() -> list[dict]:
    """Resolved configurations of different kinds."""
    choices = (["model=scratch"], ["model=probe"], ["model=finetune"], ["data=petfaces"], ["data=folder"])
    return [OmegaConf.to_container(config.compose(*choice), resolve=True) for choice in choices]


# A small alphabet: all of Unicode takes hypothesis seconds to prepare.
TEXTS = st.text("aeE10.-_${}[]:,'\"\\ \n\x1b\x00é猫\u202e\ud800", max_size=8)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.sampled_from(["", "???", "${seed}", "1", "nan", "scratch", "auto", "probe", b"x", 10**400, -1, 0]),
)
KEYS = st.one_of(TEXTS, st.integers(), st.sampled_from(["size", "lr", "sead", "net.x"]))
TREES = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | st.integers() | st.sampled_from(["size", "lr"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def _only_user_error(function, *arguments) -> None:
    """Calls the function, which may raise nothing but a UserError of one line."""
    try:
        function(*arguments)
    except errors.UserError as error:
        assert str(error).splitlines() == [str(error)]


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 4), data=st.data())
def test_no_value_at_any_key_gives_a_traceback(composed, number, data):
    tree = copy.deepcopy(composed[number])
    for _ in range(data.draw(st.integers(1, 3))):
        node = tree
        while True:
            key = data.draw(st.sampled_from(sorted(node, key=str)) if node else TEXTS)
            if not isinstance(node.get(key), dict) or data.draw(st.integers(0, 5)) == 0:
                break
            node = node[key]
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                node[key] = data.draw(TREES)
            case "remove":
                node.pop(key, None)
            case "add":
                node[data.draw(TEXTS | st.sampled_from(["lr", "sead", "net.x"]))] = data.draw(TREES)
    _only_user_error(validate.check_tree, tree)


@settings(max_examples=1000, deadline=None)
@given(tree=TREES)
@example(tree={"data": {"name": "sample"}})
def test_no_tree_gives_a_traceback(tree):
    _only_user_error(validate.check_tree, tree)


MARKS = [*"\t\n -:{}[],&*!|>%@`'\"#?<=é\x00", "seed", "1", "<<<<<<<", ">>>>>>> x", "\n  ", ": "]
WORDS = st.lists(st.sampled_from(MARKS), max_size=20).map("".join)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=WORDS.map(str.encode) | st.binary(max_size=40))
def test_no_yaml_file_gives_a_traceback(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "generated.yaml"
    file.write_bytes(content)
    _only_user_error(yaml_files.load, file)


def _exit(monkeypatch, program, *overrides: str) -> str | int | None:
    """Last message or exit status of a program in this process; see conftest.ended."""
    monkeypatch.setattr(sys, "argv", [f"{sys.argv[0]}", *overrides])
    return outcome(program)


@pytest.mark.parametrize("mode", [(), ("--multirun",)])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sead=1", "error: sead is not a key; near: seed"),
        ("model=scrath", "error: model=scrath is not known; near: scratch"),
        ("a=[", "error: a=[ is not an override"),
        ("--config-name=moon", "error: there is no conf/moon.yaml"),
    ],
)
def test_a_stage_prints_one_line_and_exits_with_1(project, monkeypatch, capsys, mode, override, message):
    from pipeline import split

    line = _exit(monkeypatch, split.main, *mode, override)
    assert line.startswith(f"split: {message}")
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    shutil.rmtree(project / "runs/sweeps", ignore_errors=True)


@pytest.mark.parametrize("group", ["model", "data", "trainer", "augment"])
def test_two_files_of_a_group_are_an_error(monkeypatch, group):
    override = f"{group}=[{','.join(config.choices(group)[:2])}]"
    message = _exit(monkeypatch, stage(lambda cfg: pytest.fail("started")), override)
    assert (
        message == f"test_settings: error: {group} must be one name; to try several: --multirun {group}=A,B"
    )


def test_a_stage_validates_before_it_runs(monkeypatch, capsys):
    started = []
    program = stage(lambda cfg: started.append(cfg))
    assert _exit(monkeypatch, program, "+foo=1").startswith("test_settings: error: foo is not a key")
    assert _exit(monkeypatch, program, "seed=-1").startswith("test_settings: error: seed=-1: must be")
    assert not started
    assert _exit(monkeypatch, program, "seed=3") is None
    assert started[0].seed == 3
