"""train(cfg) leaves one folder, the same bytes for the same seed, however many workers read."""

import json

import pytest
import yaml

from pipeline import config, curves, features, train
from pipeline.config import UserError

FILES = {
    "config.yaml",
    "confusion.png",
    "curves.csv",
    "lineage.json",
    "metrics.json",
    "mistakes.png",
    "model.json",
    "weights.safetensors",
}


@pytest.fixture(scope="module")
def once(repro, tmp_path_factory):
    """Trains with some overrides, once for equal ones; returns the folder."""
    done = {}

    def _train(*overrides):
        if overrides not in done:
            folder = tmp_path_factory.mktemp("train") / "out"
            train.train(config.compose(f"out={folder}", *overrides))
            done[overrides] = folder
        return done[overrides]

    return _train


def _weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def test_the_files_it_leaves(once):
    assert {file.name for file in once("model=scratch").iterdir()} == FILES


def test_same_seed_same_bytes_with_0_and_2_workers(once, repro, house):
    # Dropout and mixup are on in this model. The DVC run was another process.
    two, none = once("model=scratch", "trainer.workers=2"), once("model=scratch")
    assert _weights(two) == _weights(none) == _weights(house / "runs/sample/train/scratch")
    for name in FILES - {"config.yaml"}:
        assert (two / name).read_bytes() == (none / name).read_bytes(), name


def test_another_seed_other_weights(once):
    assert _weights(once("model=scratch")) != _weights(once("model=scratch", "seed=2"))


def test_the_config_holds_every_choice_resolved_and_no_path(once, house):
    text = (once("model=scratch") / "config.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings["model"]["input"]["size"] == 32
    assert settings["seed"] == 1
    assert "${" not in text
    assert str(house.parent) not in text


def test_the_lineage_names_data_commit_and_versions(once, run):
    lineage = json.loads((once("model=scratch") / "lineage.json").read_text())
    assert len(lineage["data"]["content"]) == len(lineage["data"]["split"]) == 64
    assert lineage["commit"] == run("git", "rev-parse", "HEAD").stdout.strip()
    assert lineage["dirty"] is False
    assert "torch" in lineage["environment"]


def test_dirty_means_code_and_configuration_not_what_running_changes(repro, house, restored, change):
    from pipeline.data import Pack

    pack = Pack.open(house / "data/sample")
    change("params.yaml", ("\nseed: 1 ", "\nseed: 2 "))
    assert train.lineage_of(pack, 2)["dirty"] is False
    change("conf/model/scratch.yaml", ("dropout: 0.2", "dropout: 0.3"))
    assert train.lineage_of(pack, 2)["dirty"] is True


def test_kept_weights_are_those_of_the_best_epoch(once):
    folder = once("model=scratch", "data.epochs=4")
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = curves.read(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert metrics["val/top1"] == pytest.approx(max(row["val/top1"] for row in rows))
    assert metrics["pictures_seen"] == rows[-1]["pictures_seen"] > 0


def test_it_stops_early_when_validation_stays(once):
    folder = once("model=scratch", "data.epochs=9", "model.patience=1", "model.lr=1e-12")
    assert json.loads((folder / "metrics.json").read_text())["epochs"] < 9


def test_a_second_probe_computes_no_feature(once, monkeypatch):
    first = once("model=probe")

    def refuse(*_):
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features, "_compute", refuse)
    second = once("model=probe", "seed=5")
    assert _weights(first) == _weights(second)


def test_finetuning_starts_from_the_probe_and_changes_the_backbone(once):
    probed, tuned = once("model=probe"), once("model=finetune")
    assert _weights(probed) != _weights(tuned)
    metrics = json.loads((tuned / "metrics.json").read_text())
    assert metrics["epochs"] == 1
    assert json.loads((tuned / "model.json").read_text())["net"]["weights"] is None


def test_a_killed_training_leaves_no_half_folder(repro, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(curves, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "data.epochs=1"))
    assert not (tmp_path / "out").exists()


def test_more_devices_than_there_are_is_told(repro, tmp_path):
    with pytest.raises(UserError, match="trainer=cpu"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "trainer=gpu", "trainer.devices=64"))


def test_an_unknown_backbone_is_told(repro, tmp_path):
    with pytest.raises(UserError, match="timm has no model 'resnet1800'"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=probe", "model.net.backbone=resnet1800"))


def test_missing_data_is_told(repro, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="dvc repro split"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "data=petfaces"))


@pytest.mark.slow
def test_two_processes_train_together_alone_and_in_a_sweep(repro, run, house):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "model=finetune")
    done = run("python", "-m", "pipeline.train", *ddp, "out=runs/single/ddp")
    assert done.returncode == 0, done.stdout
    assert {file.name for file in (house / "runs/single/ddp").iterdir()} == FILES
    done = run("python", "-m", "pipeline.train", "--multirun", *ddp, "seed=1,2")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("val top-1") - done.stdout.count("epoch") == 2
