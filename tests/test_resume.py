"""Killed anywhere, the same command goes on: same bytes, same run in MLflow, each point of a curve once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.classifier import Classifier
from pipeline import config, train
from pipeline.artifacts import curves, job_outcomes, resume_state
from pipeline.artifacts.checkpoints import Checkpoints, load_checkpoint
from pipeline.artifacts.lineage import code_hash
from pipeline.artifacts.seal import model_hash
from pipeline.common import errors, paths
from pipeline.common.errors import StoppedError, UserError
from pipeline.tracking import store
from pipeline.tracking.live import Run
from pipeline.training import callbacks, datamodule, fit

# Dropout and mixup are on in this model; batches of 16 make some of them an epoch.
SCRATCH = ("model=scratch", "data.epochs=3", "model.batch_size=16")

# Trains in a process of its own, with one function changed so that it kills the process at its n-th call.
KILLED = """
import os, signal, sys
from models import classifier
from pipeline import config, train
from pipeline.artifacts import checkpoints
from pipeline.evaluation import mistakes
from pipeline.tracking import live, runs
from pipeline.training import callbacks, fit
place, name, number = {place}, {name!r}, {number}
whole, calls = getattr(place, name), []
def deadly(*given, **named):
    calls.append(1)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given, **named)
setattr(place, name, deadly)
mistakes.draw = lambda *given: None
train.train(config.compose(*sys.argv[1:]), "killed")
"""


@pytest.fixture(autouse=True)
def nothing_waits(house, undrawn):
    """No test goes on with what another one left."""
    shutil.rmtree(house / "runs/.work", ignore_errors=True)


@pytest.fixture(scope="module")
def trained():
    return {}


@pytest.fixture
def undisturbed(repro, trained, tmp_path_factory):
    """Trains without a break, once for equal overrides; returns the folder."""

    def _train(*overrides):
        if overrides not in trained:
            folder = tmp_path_factory.mktemp("undisturbed") / "out"
            train.train(config.compose(f"out={folder}", *overrides))
            trained[overrides] = folder
        return trained[overrides]

    return _train


def _same(one: Path, two: Path) -> None:
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def _waiting() -> set[Path]:
    return {file.parent for file in (paths.ROOT / "runs/.work").glob("*/attempt.json")}


def _attempts(name: str) -> list:
    client = store.client()
    place = [store.experiment_id("sample")]
    return client.search_runs(place, f"attributes.run_name = '{name}'")


def _each_point_once(run, folder: Path) -> None:
    rows = curves.read(folder)
    for key in ("val/top1", "val/loss", "train/loss", "lr"):
        points = store.client().get_metric_history(run.info.run_id, key)
        assert [point.step for point in points] == list(range(len(rows))), key
    for key in ("best/val/top1", "parameters", "wall_seconds"):
        assert len(store.client().get_metric_history(run.info.run_id, key)) == 1, key


@pytest.mark.parametrize(
    ("place", "name", "number"),
    [
        ("callbacks.Curves", "_accumulate_losses", 4),  # within the first epoch
        ("classifier.Classifier", "validation_step", 3),  # within validation
        ("checkpoints.os", "fsync", 3),  # while the second checkpoint is being written
        ("runs", "complete", 1),  # the folder is there, MLflow does not know
    ],
)
def test_killed_and_begun_again_it_ends_with_the_same_bytes_in_the_same_run(
    undisturbed, run, tmp_path, place, name, number
):
    overrides = (*SCRATCH, f"out={tmp_path / 'out'}", f"seed={number}{len(name)}")
    program = KILLED.format(place=place, name=name, number=number)
    killed = run("python", "-c", program, *overrides)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    (before,) = _attempts("killed")
    assert before.info.status == "RUNNING"
    store.client().set_tag(before.info.run_id, "mlflow.runName", "found again")
    train.train(config.compose(*overrides), "not a second one")
    assert not _attempts("not a second one")
    again = store.client().get_run(before.info.run_id)
    assert again.info.status == "FINISHED"
    _each_point_once(again, tmp_path / "out")
    _same(undisturbed(*SCRATCH, overrides[-1]), tmp_path / "out")
    assert not _waiting()


def _stop_at(monkeypatch, steps: int, judging: bool = False) -> None:
    """Lets SIGTERM arrive when so many steps are done; in the midst of validation, if so."""
    name = "on_validation_batch_start" if judging else "on_train_batch_start"
    whole = getattr(callbacks.ExactResume, name)

    def hook(self, trainer, *given):
        if trainer.global_step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, trainer, *given)

    monkeypatch.setattr(callbacks.ExactResume, name, hook)


STOPPED = {
    "two workers, dropout, mixup, cutmix, growing pictures, outliers": (
        *("runtime.workers=2", "augment.cutmix=1.0", "model.shares=[0.5,1.0]", "model.outliers=0.2"),
    ),
    "moving average": ("model.ema=0.9", "model.balance=sampler"),
    "early stopping": ("model.patience=1", "data.epochs=5", "model.lr=1e-12"),
}
# An epoch of the small sample has eleven batches of 16, and two whole ones of validation.
STOPS = [(1, False), (11, False), (11, True), (14, False)]


@pytest.mark.parametrize(
    ("overrides", "steps", "judging"),
    [
        pytest.param(
            (*SCRATCH, *words),
            *stop,
            # Each kind of training is stopped in the middle of an epoch, and one of them everywhere.
            marks=[] if name == "moving average" or stop == (14, False) else pytest.mark.slow,
            id=f"{name}-{stop[0]}-{stop[1]}",
        )
        for name, words in STOPPED.items()
        for stop in STOPS
    ],
)
def test_sigterm_keeps_what_was_reached_and_nothing_changes(
    undisturbed, tmp_path, monkeypatch, overrides, steps, judging
):
    cfg = [*overrides, f"out={tmp_path / 'out'}"]
    _stop_at(monkeypatch, steps, judging)
    told = r"\d is trained and not yet validated" if judging else r"\d is saved at batch \d+ of"
    with pytest.raises(StoppedError, match=f"SIGTERM; epoch {told}"):
        train.train(config.compose(*cfg), "stopped")
    monkeypatch.undo()
    (folder,) = _waiting()
    last = Checkpoints(folder / "checkpoints").latest()
    # While it validates nothing is written: the last few minutes are trained again.
    assert last is None if judging else load_checkpoint(last)["global_step"] == steps
    train.train(config.compose(*cfg))
    _same(undisturbed(*overrides), tmp_path / "out")


def test_a_finetuning_goes_on_behind_its_head(undisturbed, tmp_path, monkeypatch):
    overrides = ("model=finetune", "model.batch_size=64")
    _stop_at(monkeypatch, 1)
    with pytest.raises(StoppedError):
        train.train(config.compose(*overrides, f"out={tmp_path / 'out'}"))
    monkeypatch.undo()
    monkeypatch.setattr(fit, "fit_head", None)  # the head is in the checkpoint
    train.train(config.compose(*overrides, f"out={tmp_path / 'out'}"))
    monkeypatch.undo()
    _same(undisturbed(*overrides), tmp_path / "out")


def test_sigterm_ends_the_program_with_its_own_status_and_one_line(repro, house):
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *SCRATCH, "data.epochs=500", "out=runs/single/terminated"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "epoch 1/500" in line:
            break
    process.send_signal(signal.SIGTERM)
    results, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert results == ""
    (line,) = [line for line in messages.splitlines() if "epoch" not in line.partition("stopped")[0]]
    assert line.startswith("train: stopped: SIGTERM; epoch ")
    assert line.endswith("the same command resumes there")
    (folder,) = _waiting()
    assert Checkpoints(folder / "checkpoints").latest()


def test_a_single_run_without_a_folder_of_its_own_is_found_by_its_choices(repro, run, house, monkeypatch):
    _stop_at(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train.train(config.compose(*SCRATCH, "seed=41", "out=runs/single/first"))
    monkeypatch.undo()
    done = run("python", "-m", "pipeline.train", *SCRATCH, "seed=41")
    assert done.returncode == 0, done.stdout
    assert "train: resuming after epoch 0, batch 3" in done.stdout


def test_other_choices_begin_anew_and_say_so(repro, tmp_path, monkeypatch, capsys):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    _stop_at(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    train.train(config.compose(*cfg, "seed=5"))
    told = capsys.readouterr().err
    assert "starting over: config, data or code differ from " in told
    assert "resuming after" not in told


def test_how_fast_it_goes_may_change_in_between(repro, tmp_path, monkeypatch, capsys):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}", "seed=6")
    _stop_at(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    shown = ("trainer.enable_progress_bar=false", "trainer.profiler=simple")
    train.train(config.compose(*cfg, "runtime.workers=1", "runtime.checkpoint_minutes=60", *shown))
    assert "resuming after epoch 0, batch 3" in capsys.readouterr().err


def test_a_changed_byte_of_code_is_another_training(house):
    settings = {"trainer": {}, "runtime": {}}
    before = resume_state.identity(settings, {"code": code_hash()}, None)
    file = house / "pipeline/artifacts/curves.py"
    text = file.read_text()
    try:
        file.write_text(text + "\n")
        assert resume_state.identity(settings, {"code": code_hash()}, None) != before
    finally:
        file.write_text(text)
    assert resume_state.identity(settings, {"code": code_hash()}, None) == before


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(undisturbed, tmp_path, monkeypatch, capsys):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    _stop_at(monkeypatch, 14)
    with pytest.raises(StoppedError):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    (folder,) = _waiting()
    _, two = sorted((folder / "checkpoints").iterdir())
    data = bytearray(two.read_bytes())
    data[len(data) // 2] ^= 1
    two.write_bytes(data)
    train.train(config.compose(*cfg))
    told = capsys.readouterr()
    assert f"the checkpoint {two} is damaged" in told.err
    assert "resuming after epoch 1\n" in told.err
    _same(undisturbed(*SCRATCH), tmp_path / "out")


def test_where_only_a_damaged_checkpoint_is_left_the_head_is_fitted_again(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.write(1, {}).write_bytes(b"damaged")
    began = []
    monkeypatch.setattr(fit, "fit_head", lambda training: ["a row of the head"])
    monkeypatch.setattr(fit, "ImageData", lambda training: None)

    def begin(rows, *_):
        began.append(rows)
        raise StoppedError("the epochs begin")

    monkeypatch.setattr(fit.callbacks, "Curves", begin)
    training = SimpleNamespace(
        cfg=config.compose("model=finetune"), model=None, card=SimpleNamespace(name="")
    )
    with pytest.raises(StoppedError, match="the epochs begin"):
        fit.fit(training, kept, started_at=0.0)
    assert began == [["a row of the head"]]


def test_checkpoints_are_known_by_sha256sum_and_two_are_kept(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints")
    for step in range(4):
        file = kept.write(step, {"weights": torch.full((3,), float(step))})
        told = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout
        assert told.split()[0] in file.name
    assert len(list(kept.folder.iterdir())) == 2
    assert load_checkpoint(kept.latest())["weights"].tolist() == [3, 3, 3]


def test_a_full_disk_stops_with_the_cause_keeps_the_last_checkpoint_and_goes_on(
    undisturbed, tmp_path, monkeypatch
):
    from pipeline.artifacts import checkpoints

    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    whole, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # file and directory of the first checkpoint, file of the second
            raise OSError(28, "No space left on device", "checkpoint")
        whole(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device"), errors.os_errors_as_user_errors():
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    (folder,) = _waiting()
    (file,) = (folder / "checkpoints").iterdir()  # the half one has given its space back
    assert load_checkpoint(file)["epoch"] == 1
    train.train(config.compose(*cfg))
    _same(undisturbed(*SCRATCH), tmp_path / "out")


def test_killed_before_dvc_took_the_result_the_stage_gives_it_again_at_once(
    undisturbed, tmp_path, monkeypatch, capsys
):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    monkeypatch.setenv("DVC_STAGE", "train")
    train.train(config.compose(*cfg), "not taken yet")
    shutil.rmtree(tmp_path / "out")  # as DVC does with an out that it has not committed
    train.train(config.compose(*cfg), "not taken yet")
    assert "resuming after epoch 3" in capsys.readouterr().err
    assert len(_attempts("not taken yet")) == 1
    _same(undisturbed(*SCRATCH), tmp_path / "out")
    resume_state.discard(tmp_path / "out")  # which the stage behind it calls
    assert not _waiting()


def test_a_second_training_of_the_same_is_told_and_the_first_is_undisturbed(
    undisturbed, tmp_path, monkeypatch
):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    told = []

    def meanwhile(*_):
        for other in ("seed=1", "seed=2"):  # the same, and another into the same folder
            with pytest.raises(UserError, match="another process is already training this or writing to"):
                train.train(config.compose(*cfg, other))
            told.append(other)

    monkeypatch.setattr(Run, "push", meanwhile)
    train.train(config.compose(*cfg))
    assert told
    monkeypatch.undo()
    _same(undisturbed(*SCRATCH), tmp_path / "out")


def test_a_loss_that_is_no_number_names_the_batchs_pictures_and_the_last_good_checkpoint(
    repro, house, tmp_path, monkeypatch
):
    cfg = config.compose(*SCRATCH, f"out={tmp_path / 'out'}", "seed=9")
    seen, whole = [], datamodule.ImageDataset.__getitem__

    def noted(self, item):
        if isinstance(item, tuple):
            seen.append((item[0], self.rows[item[1]]))
        return whole(self, item)

    monkeypatch.setattr(datamodule.ImageDataset, "__getitem__", noted)
    learn, calls = Classifier.training_step, []

    def broken(self, batch, batch_idx):
        calls.append(batch_idx)
        loss = learn(self, batch, batch_idx)
        return loss * float("nan") if len(calls) == 13 else loss

    monkeypatch.setattr(Classifier, "training_step", broken)
    with pytest.raises(UserError, match=r"epoch 2, batch 2: the loss is nan") as told:
        train.train(cfg)
    from pipeline.data.dataset import PackedDataset

    paths = PackedDataset.open(house / "data/sample").table["path"]
    batch = [row for epoch, row in seen if epoch == 1][16:32]
    assert f"its pictures: {', '.join(paths.iloc[batch])}; last good checkpoint: " in str(told.value)
    file = Path(str(told.value).partition("last good checkpoint: ")[2].partition(";")[0])
    assert load_checkpoint(file)["epoch"] == 1


def test_a_worker_killed_for_memory_is_told_and_the_training_goes_on(undisturbed, tmp_path, monkeypatch):
    cfg = (*SCRATCH, "runtime.workers=2", f"out={tmp_path / 'out'}")
    whole, trainer = datamodule.ImageDataset.__getitem__, os.getpid()

    def deadly(self, item):
        if isinstance(item, tuple) and item[0] == 1 and os.getpid() != trainer:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, item)

    monkeypatch.setattr(datamodule.ImageDataset, "__getitem__", deadly)
    with pytest.raises(UserError, match=r"a DataLoader worker was killed.*fewer runtime\.workers"):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    train.train(config.compose(*cfg))
    _same(undisturbed(*SCRATCH, "runtime.workers=2"), tmp_path / "out")


def test_a_server_that_falls_silent_in_the_middle_loses_nothing(repro, tmp_path, monkeypatch, capsys):
    cfg = config.compose(*SCRATCH, f"out={tmp_path / 'out'}", "seed=12")
    client, whole, calls = store.client(), store.client().log_batch, []

    def silent(*given, **named):
        calls.append(1)
        if len(calls) == 3:  # parameters, the first epoch; then an answer that is lost on its way back
            whole(*given, **named)
        if len(calls) >= 3:
            raise ConnectionError("no answer")
        return whole(*given, **named)

    monkeypatch.setattr(client, "log_batch", silent)
    train.train(cfg, "silent")
    assert capsys.readouterr().err.count("warning: ") == 1
    (folder,) = _waiting()
    assert not (folder / "checkpoints").exists()
    monkeypatch.undo()
    from pipeline import tracking

    tracking.ensure(tmp_path / "out")
    tracking.ensure(tmp_path / "out")
    (run,) = _attempts("silent")
    assert run.info.status == "FINISHED"
    rows = curves.read(tmp_path / "out")
    for key in ("val/top1", "train/loss"):
        points = store.client().get_metric_history(run.info.run_id, key)
        assert [point.step for point in points] == list(range(len(rows)))
    assert not _waiting()


def test_a_server_that_swallows_everything_holds_a_training_up_for_seconds(repro, tmp_path, run):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers
        began = time.monotonic()
        done = run(
            "python",
            "-c",
            "from pipeline.artifacts.provenance import Provenance\n"
            "from pipeline.common import log\n"
            "from pipeline.tracking.live import Run\n"
            "log.setup()\n"
            "import time\n"
            "lineage = {'data': {}}\n"
            "from types import SimpleNamespace\n"
            "card, settings = SimpleNamespace(name='m', data='d'), {'seed': 1}\n"
            "run = Run(card, settings, lineage, Provenance('a', False), 'n', None, 'cpu', 'x')\n"
            "began = time.monotonic()\n"
            "for epoch in range(1000): run.push([{'step': 0, 'val/loss': 1.0}])\n"
            "print('pushes', time.monotonic() - began < 1)\n",
            MLFLOW_TRACKING_URI=f"http://127.0.0.1:{server.getsockname()[1]}",
        )
        assert "pushes True" in done.stdout, done.stdout
        assert done.stdout.count("warning: ") == 1
        assert time.monotonic() - began < 60


def test_killed_while_registering_the_version_is_there_once(repro, run, house, tmp_path):
    from pipeline import tracking

    folder = tmp_path / "runs/sample/train/again"
    train.train(config.compose(*SCRATCH, "seed=15", f"out={folder}"))
    judged = house / "runs/sample/evaluate/scratch"
    portable = house / "runs/sample/register/candidates/scratch"
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline import tracking\n"
        "from pipeline.tracking import store\n"
        "store.client().create_model_version = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "tracking.ensure_version(*map(Path, sys.argv[1:]))\n"
    )
    places = (folder, judged, portable)
    killed = run("python", "-c", program, *map(str, places))
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    number = tracking.ensure_version(*places)
    assert tracking.ensure_version(*places) == number
    client = store.client()
    known = model_hash(folder)
    (version,) = client.search_model_versions(f"name='sample' and tags.model_sha256='{known}'")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    # Other files' tests look for the one evaluated run of this model.
    client.delete_model_version("sample", number)
    client.delete_run(version.run_id)


def test_two_dvc_repro_at_once_are_both_right_or_the_second_is_told(repro, run, house, tmp_path):
    clone = tmp_path / "clone"
    assert run("git", "clone", "-q", str(house), str(clone)).returncode == 0
    assert run("dvc", "cache", "dir", "--local", str(house / ".dvc/cache"), cwd=clone).returncode == 0
    command = ("dvc", "repro", "split")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run(*command, cwd=clone, PYTHONPATH=str(clone)), range(2)))
    assert 0 in [done.returncode for done in both], both
    assert all(done.returncode == 0 or "lock" in done.stdout for done in both), both
    assert json.loads((clone / "data/sample/pack/pack.json").read_text()) == json.loads(
        (house / "data/sample/pack/pack.json").read_text()
    )


@pytest.mark.slow
def test_two_processes_stopped_or_killed_end_with_the_same_bytes(repro, run, house):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "model=scratch", "data.epochs=3")
    ddp += ("model.freeze_batchnorm=true",)
    done = run("python", "-m", "pipeline.train", *ddp, "out=runs/single/two")
    assert done.returncode == 0, done.stdout
    for number, kind in enumerate((signal.SIGTERM, signal.SIGKILL)):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.train", *ddp, f"out=runs/single/two{number}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in process.stderr:
            if "epoch 2/3" in line:  # then the first is on the disk
                break
        process.send_signal(kind)
        process.communicate(timeout=120)
        assert process.returncode == (143 if kind == signal.SIGTERM else -signal.SIGKILL)
        again = run("python", "-m", "pipeline.train", *ddp, f"out=runs/single/two{number}")
        assert again.returncode == 0, again.stdout
        assert re.search("resuming after epoch [12]", again.stdout)
        _same(house / "runs/single/two", house / f"runs/single/two{number}")


def test_a_finished_job_of_a_sweep_is_found_before_a_network_is_built(repro, tmp_path, monkeypatch):
    cfg = config.compose(*SCRATCH, "data.epochs=1", f"out={tmp_path / 'swept/0'}")
    metrics = train.train(cfg, "seed=1", "swept")
    monkeypatch.setattr("pipeline.training.build.build", lambda *_: pytest.fail("built"))
    assert train.train(cfg, "seed=1", "swept") == metrics


def test_a_sweep_that_was_broken_off_goes_on_under_the_same_command(repro, run, house):
    command = ("python", "-m", "pipeline.train", "--multirun", *SCRATCH, "data.epochs=1", "seed=61,62")
    others = set((house / "runs/sweeps").glob("*/command.json"))
    assert run(*command).returncode == 0
    (file,) = set((house / "runs/sweeps").glob("*/command.json")) - others
    known = json.loads(file.read_text())
    assert known["ended"]
    file.write_text(json.dumps(known | {"ended": False}))
    second = file.parent / job_outcomes.read(file.parent)[1]["folder"]
    before = (second / "weights.safetensors").read_bytes()
    shutil.rmtree(second)
    done = run(*command)
    assert done.returncode == 0, done.stdout
    assert f"train: resuming the sweep in {file.parent}" in done.stdout
    assert done.stdout.count("is done already") == 1, done.stdout
    assert (second / "weights.safetensors").read_bytes() == before
    assert set((house / "runs/sweeps").glob("*/command.json")) - others == {file}
    assert json.loads(file.read_text())["ended"]
    shutil.rmtree(file.parent)
