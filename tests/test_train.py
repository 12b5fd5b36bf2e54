"""train(cfg) leaves one folder, the same bytes for the same seed, however many workers read."""

import io
import json
import re
import shutil
import tarfile

import pytest
import torch
import yaml
from safetensors.torch import load_file

from models import scratch
from models.pretrained import imagenet_from_package
from pipeline import config, pack, split, train
from pipeline.artifacts import atomic, curves, provenance, seal
from pipeline.artifacts.provenance import Provenance
from pipeline.common.errors import UserError
from pipeline.data.dataset import PackedDataset
from pipeline.training import build, features, fit

FILES = {
    "SHA256SUMS",
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
    two, none = once("model=scratch", "runtime.workers=2"), once("model=scratch")
    assert _weights(two) == _weights(none) == _weights(house / "runs/sample/train/scratch")
    for name in FILES - {"config.yaml", "SHA256SUMS"}:  # which tell of the workers
        assert (two / name).read_bytes() == (none / name).read_bytes(), name


def test_names_and_times_of_pictures_move_neither_hashes_nor_splits_nor_weights(
    once, house, tmp_path, monkeypatch
):
    kept = PackedDataset.open(house / "data/sample")
    with tarfile.open(house / "data/sample/archive") as old, tarfile.open(tmp_path / "tar", "w") as new:
        members = [member for member in old if member.isfile()]
        for number, member in enumerate(reversed(members)):
            data, (*folders, _) = old.extractfile(member).read(), member.name.split("/")
            renamed = tarfile.TarInfo("/".join([*folders, f"photo {number * 7919 % len(members):03}.jpg"]))
            renamed.size, renamed.mtime = len(data), 1_000_000_000 + number
            new.addfile(renamed, io.BytesIO(data))
    place = tmp_path / "sample"
    place.mkdir()
    pack.pack(tmp_path / "tar", place / "pack", 128)
    split.split(place / "pack", place / "split.csv", config.compose().split)
    other = PackedDataset.open(place)
    assert set(other.table["path"]).isdisjoint(kept.table["path"])
    assert other.summary["content"] == kept.summary["content"]
    assert other.split_sha256 == kept.split_sha256
    monkeypatch.setattr(PackedDataset, "open", lambda place: other)
    train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch"))
    for name in FILES - {"config.yaml"}:
        assert (tmp_path / "out" / name).read_bytes() == (once("model=scratch") / name).read_bytes(), name


def test_the_splits_hash_moves_with_one_picture_and_one_label(repro, house, tmp_path):
    shutil.copytree(house / "data/sample", tmp_path / "data")
    before, file = PackedDataset.open(tmp_path / "data"), tmp_path / "data/split.csv"
    text = file.read_text()
    file.write_text(re.sub(",train\n", ",val\n", text, count=1))
    moved = PackedDataset.open(tmp_path / "data")
    assert moved.split_sha256 != before.split_sha256
    assert moved.summary["content"] == before.summary["content"]


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
    assert "torch" in lineage["environment"]
    assert lineage.keys() == {"data", "code", "environment"}  # DVC hashes it: no commit
    known = Provenance.of(once("model=scratch"))
    assert known == Provenance(run("git", "rev-parse", "HEAD").stdout.strip(), dirty=False)


def test_dirty_means_code_and_configuration_not_what_running_changes(repro, house, restored, change):
    change("params.yaml", ("\nseed: 1 ", "\nseed: 2 "))
    assert Provenance.current().dirty is False
    change("conf/model/scratch.yaml", ("dropout: 0.2", "dropout: 0.3"))
    assert Provenance.current().dirty is True
    assert b"dropout: 0.3" in Provenance.current().changes


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


def test_finetuning_starts_from_the_probe(once):
    probed, tuned = once("model=probe"), once("model=finetune")
    first, last = curves.read(tuned)
    assert first["epoch"] == 0 and last["epoch"] == 1
    (best,) = [row for row in curves.read(probed) if row["C"] == first["C"]]
    assert first["val/top1"] == pytest.approx(best["val/top1"])
    assert json.loads((tuned / "metrics.json").read_text())["epochs"] == 1
    assert json.loads((tuned / "model.json").read_text())["net"]["weights"] is None


def test_finetuning_changes_the_backbone_but_for_what_is_frozen(once):
    given = imagenet_from_package("tf_efficientnet_lite0").state_dict()
    tuned = load_file(once("model=finetune", "model.head=random") / "weights.safetensors")
    assert torch.equal(tuned["conv_stem.weight"], given["conv_stem.weight"])
    assert torch.equal(tuned["blocks.1.1.conv_pw.weight"], given["blocks.1.1.conv_pw.weight"])
    assert not torch.equal(tuned["blocks.2.0.conv_pw.weight"], given["blocks.2.0.conv_pw.weight"])
    assert not torch.equal(tuned["conv_head.weight"], given["conv_head.weight"])


def test_finetuning_never_ends_worse_than_the_head_it_began_with(once):
    probed, ruined = once("model=probe"), once("model=finetune", "model.lr=3")
    rows = curves.read(ruined)
    assert rows[1]["val/top1"] < rows[0]["val/top1"]
    assert _weights(ruined) == _weights(probed)


def test_a_training_starts_from_a_folder_or_a_version_and_notes_which(once, house):
    from pipeline.artifacts.seal import model_hash
    from pipeline.tracking import champion

    first = once("model=scratch")
    # No step that counts: what comes out is what it started from.
    still = ("model=scratch", "data.epochs=1", "model.lr=1e-30", "model.weight_decay=0")
    again = once(*still, f"model.start={first}")
    one, two = (load_file(folder / "weights.safetensors") for folder in (first, again))
    assert all(
        torch.equal(one[name], two[name]) for name in one if "running" not in name and "num_" not in name
    )
    assert json.loads((again / "lineage.json").read_text())["start"] == model_hash(first)
    assert "start" not in json.loads((first / "lineage.json").read_text())
    kind = json.loads((house / "runs/sample/register/decision.json").read_text())["champion"]["model"]
    registered = once(f"model={kind}", "model.start=models:/sample@champion", "seed=3", "data.epochs=1")
    assert json.loads((registered / "lineage.json").read_text())["start"] == champion("sample")[1]


def test_a_heads_rows_are_kept_by_the_classes_names(once):
    first = once("model=scratch")
    card = json.loads((first / "model.json").read_text())
    card["classes"] = ["a new one", card["classes"][7], card["classes"][3]]
    net = scratch.ScratchCNN(3, card["net"]["widths"], card["net"]["depths"])
    before = net.head.weight[0].clone()
    build.load_start(net, card["net"], card["classes"], first, "first")
    old = load_file(first / "weights.safetensors")
    assert torch.equal(net.head.weight, torch.stack([before, old["head.weight"][7], old["head.weight"][3]]))
    assert torch.equal(net.stem[0].weight, old["stem.0.weight"])


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("nowhere", "is not a trained model"),
        ("runs/sample/train/probe", "has another architecture"),
        ("models:/sample/99", "has no models:/sample/99"),
        ("models:/sample@nobody", "has no models:/sample@nobody"),
    ],
)
def test_a_start_that_cannot_be_is_told(repro, tmp_path, start, message):
    with pytest.raises(UserError, match=message):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", f"model.start={start}"))


def test_an_unknown_balance_is_told(repro, tmp_path):
    with pytest.raises(UserError, match=r"model\.balance=some: must be none, weights or sampler"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "model.balance=some"))


@pytest.mark.parametrize("balance", ["weights", "sampler"])
def test_balance_changes_what_is_learnt(once, balance, repro):
    # The sample's classes differ by a picture or two: enough to tell.
    plain, balanced = (
        once("model=scratch", "data.epochs=1", f"model.balance={b}") for b in ("none", balance)
    )
    assert _weights(plain) != _weights(balanced)


def _mine(folder):
    (folder / "notes.txt").write_text("a person's")


def _changed_card(folder):
    (folder / "model.json").write_text("{}")


def _only_a_card(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "model.json").write_text("{}")


@pytest.mark.parametrize("change", [_mine, _changed_card, _only_a_card])
@pytest.mark.parametrize("source", ["runs/sample/train/scratch", "runs/sample/register/candidates/scratch"])
def test_a_folder_that_holds_more_than_a_training_left_is_not_replaced(
    repro, house, tmp_path, source, change
):
    out = shutil.copytree(house / source, tmp_path / "out")
    change(out)
    before = {file: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(UserError, match=r"^out=.*; name another out=") as told:
        train.train(config.compose(f"out={out}", "model=scratch"))
    assert "\n" not in str(told.value)
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_an_exported_model_is_not_replaced_but_a_whole_train_folder_is(repro, house, tmp_path):
    exported = shutil.copytree(house / "runs/sample/register/candidates/scratch", tmp_path / "exported")
    with pytest.raises(UserError, match="contains other files than this program writes"):
        train._target(config.compose(f"out={exported}", "model=scratch"))
    whole = shutil.copytree(house / "runs/sample/train/scratch", tmp_path / "whole")
    (whole / ".DS_Store").write_text("a system's")
    with train._target(config.compose(f"out={whole}", "model=scratch")).replace() as part:
        (part / "new").write_text("new")
    assert [file.name for file in whole.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "out",
    [
        *(".", "/", "..", "pipeline", "models/mine", "conf/x", "tests/x", "data/sample", "photos/x"),
        *("reports/x", ".git/x", ".dvc/x", "runs", "runs/single", "runs/sweeps", "runs/.work/x"),
        *("runs/x.part", "file", "link"),
    ],
)
def test_a_training_is_not_written_over_the_projects_own_places(repro, house, tmp_path, out):
    (tmp_path / "file").write_text("a person's")
    (tmp_path / "link").symlink_to(house / "runs/sample/train/scratch")
    named = tmp_path / out if out in ("file", "link") else out
    with pytest.raises(UserError, match=r"^out=.*; name another out=") as told:
        train.train(config.compose(f"out='{named}'", "model=scratch"))
    assert "\n" not in str(told.value)


def test_what_a_person_puts_there_while_it_trains_stays_too(tmp_path):
    target = atomic.Target(tmp_path / "out", ("a",), advice="name another")
    with pytest.raises(UserError, match="contains other files"), target.replace() as part:
        (part / "a").write_text("trained")
        seal.seal(part)
        target.out.mkdir()
        _mine(target.out)
    assert (target.out / "notes.txt").read_text() == "a person's"
    (target.part).mkdir()
    _mine(target.part)
    shutil.rmtree(target.out)
    with pytest.raises(UserError, match=r"out\.part contains other files .* in the way: move it away"):
        target.begin()
    assert (target.part / "notes.txt").read_text() == "a person's"


def test_what_a_killed_process_was_writing_is_written_anew(tmp_path):
    target = atomic.Target(tmp_path / "out", ("a",))
    (target.begin() / "half").write_text("half")
    with target.replace() as part:
        (part / "a").write_text("whole")
        seal.seal(part)
    assert {file.name for file in target.out.iterdir()} == {"a", "SHA256SUMS"}
    assert not target.part.exists()


def test_two_single_runs_of_one_second_have_folders_of_their_own(house, monkeypatch):
    monkeypatch.setattr(train.time, "strftime", lambda _: "now")
    made = [train._new_run_folder("probe") for _ in range(2)]
    for place in made:
        (house / place).rmdir()
    assert [str(place) for place in made] == ["runs/single/now-probe", "runs/single/now-probe-2"]


def test_equal_runs_are_equal_bytes_whatever_the_commit(once, house, run, tmp_path):
    first = once("model=scratch", "data.epochs=1")
    before = Provenance.of(first).commit
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    assert run("git", *who, "commit", "-q", "--allow-empty", "-m", "a page").returncode == 0
    try:
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "data.epochs=1"))
        assert (
            Provenance.of(tmp_path / "out").commit == run("git", "rev-parse", "HEAD").stdout.strip() != before
        )
    finally:
        assert run("git", "reset", "-q", "--soft", "HEAD~1").returncode == 0
    for file in first.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "GIT_TEST_ASSUME_DIFFERENT_OWNER",
            "1",
            "dubious ownership .* git config --global --add safe.directory",
        ),
        ("GIT_DIR", "/nowhere", "not a git repository: '/nowhere'"),
        ("PATH", "/nowhere", "git is not installed$"),
    ],
)
def test_a_training_without_git_is_told_why_in_one_line(
    repro, tmp_path, monkeypatch, capsys, name, value, told
):
    monkeypatch.setenv(name, value)

    def stop(*_):
        raise UserError("enough")

    monkeypatch.setattr(fit, "fit", stop)
    with pytest.raises(UserError, match="enough"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "seed=78"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "git" in line]
    assert re.match(
        rf"warning: git can't report the commit, so this model can't be rebuilt later: .*{told}", line
    )


def test_a_project_within_another_repository_has_no_commit_of_its_own(tmp_path, monkeypatch, run):
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    (tmp_path / "petfaces").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "petfaces")
    assert Provenance.current().commit is None
    assert Provenance.current().git_error.endswith("is the folder petfaces/ of another repository")


def test_a_killed_training_leaves_no_half_folder(repro, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(curves, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "data.epochs=1"))
    assert not list(tmp_path.iterdir())


def test_more_devices_than_there_are_is_told(repro, tmp_path):
    with pytest.raises(UserError, match="trainer=cpu"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "trainer=gpu", "trainer.devices=64"))


@pytest.mark.parametrize(("devices", "rank", "index"), [("1", "0", 0), ("[2]", "0", 2), ("[3,1]", "1", 1)])
def test_work_outside_the_loop_is_on_the_gpu_of_the_rank(monkeypatch, devices, rank, index):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", rank)
    cfg = config.compose("trainer=gpu", f"trainer.devices={devices}")
    assert build.device(cfg) == torch.device("cuda", index)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told_even_where_a_head_alone_is_fitted(repro, tmp_path):
    with pytest.raises(UserError, match=r"PyTorch sees no GPU here; use trainer=cpu"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=probe", "trainer=gpu"))


def test_a_directory_that_cannot_be_written_is_one_line_before_anything_is_trained(repro, run):
    done = run("python", "-m", "pipeline.train", "model=scratch", "out=/dev/null/here")
    assert done.returncode == 1
    assert "/dev/null/here" in done.stdout
    assert "name another place" in done.stdout
    assert done.stdout.count("\n") == 1


def test_an_unknown_backbone_is_told(repro, tmp_path):
    with pytest.raises(UserError, match="timm has no model 'resnet1800'"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=probe", "model.net.backbone=resnet1800"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.net.widths=[]", "^model.net: the network can't be built"),
        ("model.net.depths=[1]", "^model.net: the network can't be built"),
        ("model.net.dropout=1.5", "^model.net.dropout=1.5: wrong type for ScratchCNN, or out of bounds"),
        ("model.net.widths=[0]", r"^model.net.widths=\[0\]: wrong type for ScratchCNN, or out of bounds"),
    ],
)
def test_a_network_that_can_not_be_built_is_told(repro, tmp_path, override, message):
    with pytest.raises(UserError, match=message) as told:
        train.train(config.compose(f"out={tmp_path / 'out'}", override))
    assert "\n" not in str(told.value)


def test_missing_data_is_told(repro, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="dvc repro split"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "data=petfaces"))


def test_a_model_of_other_classes_than_the_data_is_told(once, house, tmp_path):
    from pipeline.evaluate import evaluate

    trained = shutil.copytree(once("model=scratch"), tmp_path / "scratch")
    card = json.loads((trained / "model.json").read_text())
    card["classes"][0] = "a unicorn"
    (trained / "model.json").write_text(json.dumps(card))
    seal.seal(trained)
    with pytest.raises(UserError, match=r"knows other classes than .*data/sample; run: dvc repro train"):
        evaluate(trained, house / "data/sample", tmp_path / "out", 1, 0)


@pytest.mark.slow
def test_two_processes_train_together_alone_and_in_a_sweep(repro, run, house):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "model=finetune")
    done = run("python", "-m", "pipeline.train", *ddp, "out=runs/single/ddp")
    assert done.returncode == 0, done.stdout
    assert {file.name for file in (house / "runs/single/ddp").iterdir()} == FILES
    done = run("python", "-m", "pipeline.train", "--multirun", *ddp, "seed=1,2")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("val top-1") - done.stdout.count("epoch") == 2
