"""train(cfg) writes one folder, with the same bytes for the same seed and any number of workers."""

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
from pipeline.evaluation import mistakes
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


# Trainings of which a test compares all files; the others draw no plots, which take longer than the training.
PLOTTED = {("model=scratch", *more) for more in ((), ("runtime.workers=2",), ("data.epochs=1",))}


@pytest.fixture(scope="module")
def trained(repro, tmp_path_factory):
    """Trains once for equal overrides; returns the folder."""
    done = {}

    def _train(*overrides):
        if overrides not in done:
            folder = tmp_path_factory.mktemp("train") / "out"
            with pytest.MonkeyPatch.context() as patched:
                if overrides not in PLOTTED:
                    patched.setattr(mistakes, "draw", lambda *_: None)
                train.train(config.compose(f"out={folder}", *overrides))
            done[overrides] = folder
        return done[overrides]

    return _train


def _weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def test_a_training_writes_these_files(trained):
    assert {file.name for file in trained("model=scratch").iterdir()} == FILES


def test_same_seed_same_bytes_with_0_and_2_workers(trained, repro, project):
    # With dropout and mixup. The stage's training ran in another process.
    two, none = trained("model=scratch", "runtime.workers=2"), trained("model=scratch")
    assert _weights(two) == _weights(none) == _weights(project / "runs/sample/train/scratch")
    for name in FILES - {"config.yaml", "SHA256SUMS"}:  # which record the workers
        assert (two / name).read_bytes() == (none / name).read_bytes(), name


def test_file_names_and_times_change_neither_hashes_nor_weights(trained, project, tmp_path, monkeypatch):
    original = PackedDataset.open(project / "data/sample")
    with tarfile.open(project / "data/sample/archive") as old, tarfile.open(tmp_path / "tar", "w") as new:
        members = [member for member in old if member.isfile()]
        for number, member in enumerate(reversed(members)):
            data, (*folders, _) = old.extractfile(member).read(), member.name.split("/")
            renamed = tarfile.TarInfo("/".join([*folders, f"photo {number * 7919 % len(members):03}.jpg"]))
            renamed.size, renamed.mtime = len(data), 1_000_000_000 + number
            new.addfile(renamed, io.BytesIO(data))
    data_dir = tmp_path / "sample"
    data_dir.mkdir()
    pack.pack(tmp_path / "tar", data_dir / "pack", 128)
    split.split(data_dir / "pack", data_dir / "split.csv", config.compose().split)
    other = PackedDataset.open(data_dir)
    assert set(other.table["path"]).isdisjoint(original.table["path"])
    assert other.summary["content"] == original.summary["content"]
    assert other.split_sha256 == original.split_sha256
    monkeypatch.setattr(PackedDataset, "open", lambda data_dir: other)
    train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch"))
    for name in FILES - {"config.yaml"}:
        assert (tmp_path / "out" / name).read_bytes() == (trained("model=scratch") / name).read_bytes(), name


def test_the_splits_hash_changes_with_one_images_split(repro, project, tmp_path):
    shutil.copytree(project / "data/sample", tmp_path / "data")
    before, file = PackedDataset.open(tmp_path / "data"), tmp_path / "data/split.csv"
    text = file.read_text()
    file.write_text(re.sub(",train\n", ",val\n", text, count=1))
    moved = PackedDataset.open(tmp_path / "data")
    assert moved.split_sha256 != before.split_sha256
    assert moved.summary["content"] == before.summary["content"]


def test_another_seed_gives_other_weights(trained):
    assert _weights(trained("model=scratch")) != _weights(trained("model=scratch", "seed=2"))


def test_the_recorded_config_is_resolved_and_holds_no_path(trained, project):
    text = (trained("model=scratch") / "config.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings["model"]["input"]["size"] == 32
    assert settings["seed"] == 1
    assert "${" not in text
    assert str(project.parent) not in text


def test_the_lineage_records_data_code_and_environment(trained, run):
    lineage = json.loads((trained("model=scratch") / "lineage.json").read_text())
    assert len(lineage["data"]["content"]) == len(lineage["data"]["split"]) == 64
    assert "torch" in lineage["environment"]
    assert lineage.keys() == {"data", "code", "environment"}  # no commit, as DVC hashes it
    known = Provenance.of(trained("model=scratch"))
    assert known == Provenance(run("git", "rev-parse", "HEAD").stdout.strip(), dirty=False)


def test_params_do_not_mark_the_tree_dirty_but_conf_does(repro, project, restored, change):
    change("params.yaml", ("\nseed: 1 ", "\nseed: 2 "))
    assert Provenance.current().dirty is False
    change("conf/model/scratch.yaml", ("dropout: 0.2", "dropout: 0.3"))
    assert Provenance.current().dirty is True
    assert b"dropout: 0.3" in Provenance.current().changes


def test_kept_weights_are_those_of_the_best_epoch(trained):
    folder = trained("model=scratch", "data.epochs=4")
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = curves.read(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert metrics["val/top1"] == pytest.approx(max(row["val/top1"] for row in rows))
    assert metrics["pictures_seen"] == rows[-1]["pictures_seen"] > 0


def test_a_training_stops_early_without_progress(trained):
    folder = trained("model=scratch", "data.epochs=9", "model.patience=1", "model.lr=1e-12")
    assert json.loads((folder / "metrics.json").read_text())["epochs"] < 9


def test_a_second_probe_uses_cached_features(trained, monkeypatch):
    first = trained("model=probe")

    def refuse(*_):
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features, "_compute", refuse)
    second = trained("model=probe", "seed=5")
    assert _weights(first) == _weights(second)


def test_finetuning_starts_from_the_probe(trained):
    probe, finetuned = trained("model=probe"), trained("model=finetune")
    first, last = curves.read(finetuned)
    assert first["epoch"] == 0 and last["epoch"] == 1
    (best,) = [row for row in curves.read(probe) if row["C"] == first["C"]]
    assert first["val/top1"] == pytest.approx(best["val/top1"])
    assert json.loads((finetuned / "metrics.json").read_text())["epochs"] == 1
    assert json.loads((finetuned / "model.json").read_text())["net"]["weights"] is None


def test_finetuning_changes_only_unfrozen_layers(trained):
    pretrained = imagenet_from_package("tf_efficientnet_lite0").state_dict()
    finetuned = load_file(trained("model=finetune", "model.head=random") / "weights.safetensors")
    assert torch.equal(finetuned["conv_stem.weight"], pretrained["conv_stem.weight"])
    assert torch.equal(finetuned["blocks.1.1.conv_pw.weight"], pretrained["blocks.1.1.conv_pw.weight"])
    assert not torch.equal(finetuned["blocks.2.0.conv_pw.weight"], pretrained["blocks.2.0.conv_pw.weight"])
    assert not torch.equal(finetuned["conv_head.weight"], pretrained["conv_head.weight"])


def test_finetuning_is_never_worse_than_its_initial_head(trained):
    probe, diverged = trained("model=probe"), trained("model=finetune", "model.lr=3")
    rows = curves.read(diverged)
    assert rows[1]["val/top1"] < rows[0]["val/top1"]
    assert _weights(diverged) == _weights(probe)


def test_a_training_starts_from_a_folder_or_version_and_records_it(trained, project):
    from pipeline.artifacts.seal import model_hash
    from pipeline.tracking import champion

    first = trained("model=scratch")
    # With no effective step the result is the start model.
    no_change = ("model=scratch", "data.epochs=1", "model.lr=1e-30", "model.weight_decay=0")
    restarted = trained(*no_change, f"model.start={first}")
    before, after = (load_file(folder / "weights.safetensors") for folder in (first, restarted))
    assert all(
        torch.equal(before[name], after[name])
        for name in before
        if "running" not in name and "num_" not in name
    )
    assert json.loads((restarted / "lineage.json").read_text())["start"] == model_hash(first)
    assert "start" not in json.loads((first / "lineage.json").read_text())
    kind = json.loads((project / "runs/sample/register/decision.json").read_text())["champion"]["model"]
    registered = trained(f"model={kind}", "model.start=models:/sample@champion", "seed=3", "data.epochs=1")
    assert json.loads((registered / "lineage.json").read_text())["start"] == champion("sample")[1]


def test_head_weights_are_matched_by_class_name(trained):
    first = trained("model=scratch")
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
def test_an_unusable_start_model_is_an_error(repro, tmp_path, start, message):
    with pytest.raises(UserError, match=message):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", f"model.start={start}"))


def test_an_unknown_balance_is_an_error(repro, tmp_path):
    with pytest.raises(UserError, match=r"model\.balance=some: must be none, weights or sampler"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "model.balance=some"))


@pytest.mark.parametrize("balance", ["weights", "sampler"])
def test_balance_changes_the_weights(trained, balance, repro):
    # The classes differ by an image or two, enough to change the weights.
    plain, balanced = (
        trained("model=scratch", "data.epochs=1", f"model.balance={b}") for b in ("none", balance)
    )
    assert _weights(plain) != _weights(balanced)


def _add_notes(folder):
    (folder / "notes.txt").write_text("a user's")


def _change_card(folder):
    (folder / "model.json").write_text("{}")


def _leave_only_a_card(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "model.json").write_text("{}")


@pytest.mark.parametrize("change", [_add_notes, _change_card, _leave_only_a_card])
@pytest.mark.parametrize("source", ["runs/sample/train/scratch", "runs/sample/register/candidates/scratch"])
def test_a_folder_with_other_contents_is_not_replaced(repro, project, tmp_path, source, change):
    out = shutil.copytree(project / source, tmp_path / "out")
    change(out)
    before = {file: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(UserError, match=r"^out=.*; name another out=") as error:
        train.train(config.compose(f"out={out}", "model=scratch"))
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_a_train_folder_is_replaced_but_not_an_exported_model(repro, project, tmp_path):
    exported = shutil.copytree(project / "runs/sample/register/candidates/scratch", tmp_path / "exported")
    with pytest.raises(UserError, match="contains other files than this program writes"):
        train._output_folder(config.compose(f"out={exported}", "model=scratch"))
    whole = shutil.copytree(project / "runs/sample/train/scratch", tmp_path / "whole")
    (whole / ".DS_Store").write_text("a system's")
    with train._output_folder(config.compose(f"out={whole}", "model=scratch")).replace() as part:
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
def test_out_must_not_be_one_of_the_projects_folders(repro, project, tmp_path, out):
    (tmp_path / "file").write_text("a user's")
    (tmp_path / "link").symlink_to(project / "runs/sample/train/scratch")
    path = tmp_path / out if out in ("file", "link") else out
    with pytest.raises(UserError, match=r"^out=.*; name another out=") as error:
        train.train(config.compose(f"out='{path}'", "model=scratch"))
    assert "\n" not in str(error.value)


def test_files_added_to_out_during_training_are_kept(tmp_path):
    target = atomic.Target(tmp_path / "out", ("a",), advice="name another")
    with pytest.raises(UserError, match="contains other files"), target.replace() as part:
        (part / "a").write_text("trained")
        seal.seal(part)
        target.out.mkdir()
        _add_notes(target.out)
    assert (target.out / "notes.txt").read_text() == "a user's"
    (target.part).mkdir()
    _add_notes(target.part)
    shutil.rmtree(target.out)
    with pytest.raises(UserError, match=r"out\.part contains other files .* in the way: move it away"):
        target.begin()
    assert (target.part / "notes.txt").read_text() == "a user's"


def test_a_partial_folder_of_a_killed_process_is_replaced(tmp_path):
    target = atomic.Target(tmp_path / "out", ("a",))
    (target.begin() / "half").write_text("half")
    with target.replace() as part:
        (part / "a").write_text("whole")
        seal.seal(part)
    assert {file.name for file in target.out.iterdir()} == {"a", "SHA256SUMS"}
    assert not target.part.exists()


def test_two_threads_may_replace_a_file_at_once(tmp_path):
    file = tmp_path / "file"
    with atomic.replace_file(file) as first, atomic.replace_file(file) as second:
        first.write_text("first")
        second.write_text("second")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_single_runs_started_in_the_same_second_get_different_folders(project, monkeypatch):
    monkeypatch.setattr(train.time, "strftime", lambda _: "now")
    folders = [train._new_run_folder("probe") for _ in range(2)]
    for folder in folders:
        (project / folder).rmdir()
    assert [str(folder) for folder in folders] == ["runs/single/now-probe", "runs/single/now-probe-2"]


def test_the_commit_does_not_change_the_bytes(trained, project, run, tmp_path):
    first = trained("model=scratch", "data.epochs=1")
    before = Provenance.of(first).commit
    user = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    assert run("git", *user, "commit", "-q", "--allow-empty", "-m", "a page").returncode == 0
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
    ("name", "value", "message"),
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
def test_a_training_without_git_warns_in_one_line(repro, tmp_path, monkeypatch, capsys, name, value, message):
    monkeypatch.setenv(name, value)

    def stop(*_):
        raise UserError("enough")

    monkeypatch.setattr(fit, "fit", stop)
    with pytest.raises(UserError, match="enough"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "seed=78"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "git" in line]
    assert re.match(
        rf"warning: git can't report the commit, so this model can't be rebuilt later: .*{message}", line
    )


def test_a_project_inside_another_repository_has_no_commit(tmp_path, monkeypatch, run):
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    (tmp_path / "petfaces").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "petfaces")
    assert Provenance.current().commit is None
    assert Provenance.current().git_error.endswith("is the folder petfaces/ of another repository")


def test_an_interrupted_training_leaves_no_partial_folder(repro, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(curves, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=scratch", "data.epochs=1"))
    assert not list(tmp_path.iterdir())


def test_too_many_devices_is_an_error(repro, tmp_path):
    with pytest.raises(UserError, match="trainer=cpu"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "trainer=gpu", "trainer.devices=64"))


@pytest.mark.parametrize(("devices", "rank", "index"), [("1", "0", 0), ("[2]", "0", 2), ("[3,1]", "1", 1)])
def test_work_outside_the_loop_uses_the_ranks_gpu(monkeypatch, devices, rank, index):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", rank)
    cfg = config.compose("trainer=gpu", f"trainer.devices={devices}")
    assert build.device(cfg) == torch.device("cuda", index)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_an_error_for_a_probe_too(repro, tmp_path):
    with pytest.raises(UserError, match=r"PyTorch sees no GPU here; use trainer=cpu"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "model=probe", "trainer=gpu"))


def test_an_unwritable_out_is_an_error_before_training(repro, run):
    done = run("python", "-m", "pipeline.train", "model=scratch", "out=/dev/null/here")
    assert done.returncode == 1
    assert "/dev/null/here" in done.stdout
    assert "use another folder" in done.stdout
    assert done.stdout.count("\n") == 1


def test_an_unknown_backbone_is_an_error(repro, tmp_path):
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
def test_invalid_network_arguments_are_an_error(repro, tmp_path, override, message):
    with pytest.raises(UserError, match=message) as error:
        train.train(config.compose(f"out={tmp_path / 'out'}", override))
    assert "\n" not in str(error.value)


def test_missing_data_is_an_error(repro, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="dvc repro split"):
        train.train(config.compose(f"out={tmp_path / 'out'}", "data=petfaces"))


def test_a_model_with_other_classes_than_the_data_is_an_error(trained, project, tmp_path):
    from pipeline.evaluate import evaluate

    copy = shutil.copytree(trained("model=scratch"), tmp_path / "scratch")
    card = json.loads((copy / "model.json").read_text())
    card["classes"][0] = "a unicorn"
    (copy / "model.json").write_text(json.dumps(card))
    seal.seal(copy)
    with pytest.raises(
        UserError, match=r"was trained on other classes than .*data/sample has; run: dvc repro train"
    ):
        evaluate(copy, project / "data/sample", tmp_path / "out", 1, 0)


@pytest.mark.slow
def test_ddp_trains_in_a_single_run_and_in_a_sweep(repro, run, project):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "model=finetune")
    done = run("python", "-m", "pipeline.train", *ddp, "out=runs/single/ddp")
    assert done.returncode == 0, done.stdout
    assert {file.name for file in (project / "runs/single/ddp").iterdir()} == FILES
    done = run("python", "-m", "pipeline.train", "--multirun", *ddp, "seed=1,2")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("val top-1") - done.stdout.count("epoch") == 2
