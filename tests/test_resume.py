"""A stopped or killed training resumes to the same bytes, in the same MLflow run, each point logged once."""

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
from conftest import PYTHON

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

# With dropout and mixup; batches of 16 give several steps per epoch.
SCRATCH = ("model=scratch", "data.epochs=3", "model.batch_size=16")

# Trains in another process, in which the n-th call of one function kills the process.
KILLED = """
import os, signal, sys
from models import classifier
from pipeline import config, train
from pipeline.artifacts import checkpoints
from pipeline.evaluation import mistakes
from pipeline.tracking import live, runs
from pipeline.training import callbacks, fit
owner, name, number = {owner}, {name!r}, {number}
original, calls = getattr(owner, name), []
def kill(*given, **named):
    calls.append(1)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given, **named)
setattr(owner, name, kill)
mistakes.draw = lambda *given: None
train.train(config.compose(*sys.argv[1:]), "killed")
"""


@pytest.fixture(autouse=True)
def no_resume_states(project, no_plots):
    """No test resumes what another one left."""
    shutil.rmtree(project / "runs/.work", ignore_errors=True)


@pytest.fixture(scope="module")
def trained():
    return {}


@pytest.fixture
def uninterrupted(repro, trained, tmp_path_factory):
    """Trains without interruption, once for equal overrides; returns the folder."""

    def _train(*overrides):
        if overrides not in trained:
            folder = tmp_path_factory.mktemp("undisturbed") / "out"
            train.train(config.compose(f"out={folder}", *overrides))
            trained[overrides] = folder
        return trained[overrides]

    return _train


def _assert_same_files(one: Path, two: Path) -> None:
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def _resume_states() -> set[Path]:
    return {file.parent for file in (paths.ROOT / "runs/.work").glob("*/attempt.json")}


def _runs_named(name: str) -> list:
    client = store.client()
    experiments = [store.experiment_id("sample")]
    return client.search_runs(experiments, f"attributes.run_name = '{name}'")


def _assert_each_point_logged_once(run, folder: Path) -> None:
    rows = curves.read(folder)
    for key in ("val/top1", "val/loss", "train/loss", "lr"):
        points = store.client().get_metric_history(run.info.run_id, key)
        assert [point.step for point in points] == list(range(len(rows))), key
    for key in ("best/val/top1", "parameters", "wall_seconds"):
        assert len(store.client().get_metric_history(run.info.run_id, key)) == 1, key


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        ("callbacks.Curves", "_accumulate_losses", 4),  # during the first epoch
        ("classifier.Classifier", "validation_step", 3),  # during validation
        ("checkpoints.os", "fsync", 3),  # while the second checkpoint is being written
        ("runs", "complete", 1),  # the folder is written, MLflow not updated
    ],
)
def test_a_killed_training_resumes_to_the_same_bytes_in_the_same_run(
    uninterrupted, run, tmp_path, owner, name, number
):
    overrides = (*SCRATCH, f"out={tmp_path / 'out'}", "seed=31")
    program = KILLED.format(owner=owner, name=name, number=number)
    killed = run("python", "-c", program, *overrides)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    (before,) = _runs_named("killed")
    assert before.info.status == "RUNNING"
    store.client().set_tag(before.info.run_id, "mlflow.runName", "found again")
    train.train(config.compose(*overrides), "not a second one")
    assert not _runs_named("not a second one")
    resumed = store.client().get_run(before.info.run_id)
    assert resumed.info.status == "FINISHED"
    _assert_each_point_logged_once(resumed, tmp_path / "out")
    _assert_same_files(uninterrupted(*SCRATCH, overrides[-1]), tmp_path / "out")
    assert not _resume_states()


def _stop_at(monkeypatch, steps: int, validating: bool = False) -> None:
    """Sends SIGTERM after so many steps; during validation if `validating`."""
    name = "on_validation_batch_start" if validating else "on_train_batch_start"
    original = getattr(callbacks.ExactResume, name)

    def hook(self, trainer, *given):
        if trainer.global_step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, *given)

    monkeypatch.setattr(callbacks.ExactResume, name, hook)


STOPPED = {
    "two workers, dropout, mixup, cutmix, growing images, outliers": (
        *("runtime.workers=2", "augment.cutmix=1.0", "model.shares=[0.5,1.0]", "model.outliers=0.2"),
    ),
    "moving average": ("model.ema=0.9", "model.balance=sampler"),
    "early stopping": ("model.patience=1", "data.epochs=5", "model.lr=1e-12"),
}
# (steps, validating); an epoch has eleven training batches of 16 and two full ones of validation.
STOPS = [(1, False), (11, False), (11, True), (14, False)]


@pytest.mark.parametrize(
    ("overrides", "steps", "validating"),
    [
        pytest.param(
            (*SCRATCH, *extra),
            *stop,
            # Each kind of training is stopped in mid-epoch, one of them at every point.
            marks=[] if name == "moving average" or stop == (14, False) else pytest.mark.slow,
            id=f"{name}-{stop[0]}-{stop[1]}",
        )
        for name, extra in STOPPED.items()
        for stop in STOPS
    ],
)
def test_a_training_stopped_by_sigterm_resumes_to_the_same_bytes(
    uninterrupted, tmp_path, monkeypatch, overrides, steps, validating
):
    cfg = [*overrides, f"out={tmp_path / 'out'}"]
    _stop_at(monkeypatch, steps, validating)
    message = r"\d is trained and not yet validated" if validating else r"\d is saved at batch \d+ of"
    with pytest.raises(StoppedError, match=f"SIGTERM; epoch {message}"):
        train.train(config.compose(*cfg), "stopped")
    monkeypatch.undo()
    (folder,) = _resume_states()
    last = Checkpoints(folder / "checkpoints").latest()
    # No checkpoint is written during validation: the last minutes are retrained.
    assert last is None if validating else load_checkpoint(last)["global_step"] == steps
    train.train(config.compose(*cfg))
    _assert_same_files(uninterrupted(*overrides), tmp_path / "out")


def test_a_resumed_finetuning_does_not_fit_the_head_again(uninterrupted, tmp_path, monkeypatch):
    overrides = ("model=finetune", "model.batch_size=64")
    _stop_at(monkeypatch, 1)
    with pytest.raises(StoppedError):
        train.train(config.compose(*overrides, f"out={tmp_path / 'out'}"))
    monkeypatch.undo()
    monkeypatch.setattr(fit, "fit_head", None)  # the checkpoint holds the head
    train.train(config.compose(*overrides, f"out={tmp_path / 'out'}"))
    monkeypatch.undo()
    _assert_same_files(uninterrupted(*overrides), tmp_path / "out")


def test_sigterm_ends_the_program_with_status_143_and_one_line(repro, project):
    process = subprocess.Popen(
        [PYTHON, "-m", "pipeline.train", *SCRATCH, "data.epochs=500", "out=runs/single/terminated"],
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
    assert line.endswith("run the same command again to continue there")
    (folder,) = _resume_states()
    assert Checkpoints(folder / "checkpoints").latest()


def test_a_single_run_without_out_is_found_by_its_config(repro, run, project, monkeypatch):
    _stop_at(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train.train(config.compose(*SCRATCH, "seed=41", "out=runs/single/first"))
    monkeypatch.undo()
    done = run("python", "-m", "pipeline.train", *SCRATCH, "seed=41")
    assert done.returncode == 0, done.stdout
    assert "train: resuming after epoch 0, batch 3" in done.stdout


def test_a_changed_config_starts_over_with_a_message(repro, tmp_path, monkeypatch, capsys):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    _stop_at(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    train.train(config.compose(*cfg, "seed=5"))
    messages = capsys.readouterr().err
    assert "starting over: config, data or code differ from " in messages
    assert "resuming after" not in messages


def test_runtime_settings_may_change_before_resuming(repro, tmp_path, monkeypatch, capsys):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}", "seed=6")
    _stop_at(monkeypatch, 3)
    with pytest.raises(StoppedError):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    speed = ("trainer.enable_progress_bar=false", "trainer.profiler=simple")
    train.train(config.compose(*cfg, "runtime.workers=1", "runtime.checkpoint_minutes=60", *speed))
    assert "resuming after epoch 0, batch 3" in capsys.readouterr().err


def test_a_changed_byte_of_code_starts_over(project):
    settings = {"trainer": {}, "runtime": {}}
    before = resume_state.identity(settings, {"code": code_hash()}, None)
    file = project / "pipeline/artifacts/curves.py"
    text = file.read_text()
    try:
        file.write_text(text + "\n")
        assert resume_state.identity(settings, {"code": code_hash()}, None) != before
    finally:
        file.write_text(text)
    assert resume_state.identity(settings, {"code": code_hash()}, None) == before


def test_a_damaged_checkpoint_is_reported_and_the_previous_used(uninterrupted, tmp_path, monkeypatch, capsys):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    _stop_at(monkeypatch, 14)
    with pytest.raises(StoppedError):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    (folder,) = _resume_states()
    _, second = sorted((folder / "checkpoints").iterdir())
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    train.train(config.compose(*cfg))
    output = capsys.readouterr()
    assert f"the checkpoint {second} is damaged" in output.err
    assert "resuming after epoch 1\n" in output.err
    _assert_same_files(uninterrupted(*SCRATCH), tmp_path / "out")


def test_without_an_intact_checkpoint_the_head_is_fitted_again(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(1, {}).write_bytes(b"damaged")
    fitted = []
    monkeypatch.setattr(fit, "fit_head", lambda training: ["a row of the head"])
    monkeypatch.setattr(fit, "ImageData", lambda training: None)

    def start(rows, *_):
        fitted.append(rows)
        raise StoppedError("the epochs begin")

    monkeypatch.setattr(fit.callbacks, "Curves", start)
    training = SimpleNamespace(
        cfg=config.compose("model=finetune"), model=None, card=SimpleNamespace(name="")
    )
    with pytest.raises(StoppedError, match="the epochs begin"):
        fit.fit(training, checkpoints, started_at=0.0)
    assert fitted == [["a row of the head"]]


def test_checkpoints_are_named_by_sha256_and_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in range(4):
        file = checkpoints.write(step, {"weights": torch.full((3,), float(step))})
        output = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout
        assert output.split()[0] in file.name
    assert len(list(checkpoints.folder.iterdir())) == 2
    assert load_checkpoint(checkpoints.latest())["weights"].tolist() == [3, 3, 3]


def test_a_full_disk_keeps_the_last_checkpoint_to_resume_from(uninterrupted, tmp_path, monkeypatch):
    from pipeline.artifacts import checkpoints

    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    original, calls = os.fsync, []

    def full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # file and directory of the first checkpoint, file of the second
            raise OSError(28, "No space left on device", "checkpoint")
        original(descriptor)

    monkeypatch.setattr(checkpoints.os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"No space left on device"), errors.os_errors_as_user_errors():
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    (folder,) = _resume_states()
    (file,) = (folder / "checkpoints").iterdir()  # the partial one is deleted
    assert load_checkpoint(file)["epoch"] == 1
    train.train(config.compose(*cfg))
    _assert_same_files(uninterrupted(*SCRATCH), tmp_path / "out")


def test_a_result_that_dvc_did_not_commit_is_restored_without_training(
    uninterrupted, tmp_path, monkeypatch, capsys
):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    monkeypatch.setenv("DVC_STAGE", "train")
    train.train(config.compose(*cfg), "not taken yet")
    shutil.rmtree(tmp_path / "out")  # as DVC does with an uncommitted out
    train.train(config.compose(*cfg), "not taken yet")
    assert "resuming after epoch 3" in capsys.readouterr().err
    assert len(_runs_named("not taken yet")) == 1
    _assert_same_files(uninterrupted(*SCRATCH), tmp_path / "out")
    resume_state.discard(tmp_path / "out")  # called by the next stage
    assert not _resume_states()


def test_a_concurrent_training_is_an_error_and_the_first_is_unaffected(uninterrupted, tmp_path, monkeypatch):
    cfg = (*SCRATCH, f"out={tmp_path / 'out'}")
    refused = []

    def train_again(*_):
        for other in ("seed=1", "seed=2"):  # the same training, and another one with the same out
            with pytest.raises(UserError, match="another process is already training this or writing to"):
                train.train(config.compose(*cfg, other))
            refused.append(other)

    monkeypatch.setattr(Run, "push", train_again)
    train.train(config.compose(*cfg))
    assert refused
    monkeypatch.undo()
    _assert_same_files(uninterrupted(*SCRATCH), tmp_path / "out")


def test_a_nan_loss_reports_the_batchs_images_and_the_last_checkpoint(repro, project, tmp_path, monkeypatch):
    cfg = config.compose(*SCRATCH, f"out={tmp_path / 'out'}", "seed=9")
    seen, original = [], datamodule.ImageDataset.__getitem__

    def record(self, item):
        if isinstance(item, tuple):
            seen.append((item[0], self.rows[item[1]]))
        return original(self, item)

    monkeypatch.setattr(datamodule.ImageDataset, "__getitem__", record)
    original_step, calls = Classifier.training_step, []

    def nan_loss(self, batch, batch_idx):
        calls.append(batch_idx)
        loss = original_step(self, batch, batch_idx)
        return loss * float("nan") if len(calls) == 13 else loss

    monkeypatch.setattr(Classifier, "training_step", nan_loss)
    with pytest.raises(UserError, match=r"epoch 2, batch 2: the loss is nan") as error:
        train.train(cfg)
    from pipeline.data.dataset import PackedDataset

    paths = PackedDataset.open(project / "data/sample").table["path"]
    batch = [row for epoch, row in seen if epoch == 1][16:32]
    assert f"its pictures: {', '.join(paths.iloc[batch])}; last good checkpoint: " in str(error.value)
    file = Path(str(error.value).partition("last good checkpoint: ")[2].partition(";")[0])
    assert load_checkpoint(file)["epoch"] == 1


def test_a_killed_worker_is_an_error_and_the_training_resumes(uninterrupted, tmp_path, monkeypatch):
    cfg = (*SCRATCH, "runtime.workers=2", f"out={tmp_path / 'out'}")
    original, trainer = datamodule.ImageDataset.__getitem__, os.getpid()

    def kill_worker(self, item):
        if isinstance(item, tuple) and item[0] == 1 and os.getpid() != trainer:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, item)

    monkeypatch.setattr(datamodule.ImageDataset, "__getitem__", kill_worker)
    with pytest.raises(UserError, match=r"a DataLoader worker was killed.*fewer runtime\.workers"):
        train.train(config.compose(*cfg))
    monkeypatch.undo()
    train.train(config.compose(*cfg))
    _assert_same_files(uninterrupted(*SCRATCH, "runtime.workers=2"), tmp_path / "out")


def test_nothing_is_lost_if_the_server_stops_answering(repro, tmp_path, monkeypatch, capsys):
    cfg = config.compose(*SCRATCH, f"out={tmp_path / 'out'}", "seed=12")
    client, original, calls = store.client(), store.client().log_batch, []

    def fail(*given, **named):
        calls.append(1)
        if len(calls) == 3:  # after parameters and epoch 1: the response is lost
            original(*given, **named)
        if len(calls) >= 3:
            raise ConnectionError("no answer")
        return original(*given, **named)

    monkeypatch.setattr(client, "log_batch", fail)
    train.train(cfg, "silent")
    assert capsys.readouterr().err.count("warning: ") == 1
    (folder,) = _resume_states()
    assert not (folder / "checkpoints").exists()
    monkeypatch.undo()
    from pipeline import tracking

    tracking.ensure(tmp_path / "out")
    tracking.ensure(tmp_path / "out")
    (run,) = _runs_named("silent")
    assert run.info.status == "FINISHED"
    rows = curves.read(tmp_path / "out")
    for key in ("val/top1", "train/loss"):
        points = store.client().get_metric_history(run.info.run_id, key)
        assert [point.step for point in points] == list(range(len(rows)))
    assert not _resume_states()


def test_a_server_that_never_answers_delays_a_training_by_seconds(repro, tmp_path, run):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers
        started = time.monotonic()
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
        assert time.monotonic() - started < 60


def test_a_version_is_registered_once_after_a_kill(repro, run, project, tmp_path):
    from pipeline import tracking

    folder = tmp_path / "runs/sample/train/again"
    train.train(config.compose(*SCRATCH, "seed=15", f"out={folder}"))
    evaluation = project / "runs/sample/evaluate/scratch"
    portable = project / "runs/sample/register/candidates/scratch"
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from pipeline import tracking\n"
        "from pipeline.tracking import store\n"
        "store.client().create_model_version = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "tracking.ensure_version(*map(Path, sys.argv[1:]))\n"
    )
    folders = (folder, evaluation, portable)
    killed = run("python", "-c", program, *map(str, folders))
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    number = tracking.ensure_version(*folders)
    assert tracking.ensure_version(*folders) == number
    client = store.client()
    sha256 = model_hash(folder)
    (version,) = client.search_model_versions(f"name='sample' and tags.model_sha256='{sha256}'")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    # Tests in other files expect one evaluated run of this model.
    client.delete_model_version("sample", number)
    client.delete_run(version.run_id)


def test_of_two_dvc_repro_at_once_the_second_succeeds_or_is_locked_out(repro, run, project, tmp_path):
    clone = tmp_path / "clone"
    assert run("git", "clone", "-q", str(project), str(clone)).returncode == 0
    assert run("dvc", "cache", "dir", "--local", str(project / ".dvc/cache"), cwd=clone).returncode == 0
    command = ("dvc", "repro", "split")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run(*command, cwd=clone, PYTHONPATH=str(clone)), range(2)))
    assert 0 in [done.returncode for done in both], both
    assert all(done.returncode == 0 or "lock" in done.stdout for done in both), both
    assert json.loads((clone / "data/sample/pack/pack.json").read_text()) == json.loads(
        (project / "data/sample/pack/pack.json").read_text()
    )


@pytest.mark.slow
def test_ddp_stopped_or_killed_resumes_to_the_same_bytes(repro, run, project):
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
            if "epoch 2/3" in line:  # epoch 1 has been saved
                break
        process.send_signal(kind)
        process.communicate(timeout=120)
        assert process.returncode == (143 if kind == signal.SIGTERM else -signal.SIGKILL)
        resumed = run("python", "-m", "pipeline.train", *ddp, f"out=runs/single/two{number}")
        assert resumed.returncode == 0, resumed.stdout
        assert re.search("resuming after epoch [12]", resumed.stdout)
        _assert_same_files(project / "runs/single/two", project / f"runs/single/two{number}")


def test_a_finished_job_of_a_sweep_builds_no_network(repro, tmp_path, monkeypatch):
    cfg = config.compose(*SCRATCH, "data.epochs=1", f"out={tmp_path / 'swept/0'}")
    metrics = train.train(cfg, "seed=1", "swept")
    monkeypatch.setattr("pipeline.training.build.build", lambda *_: pytest.fail("built"))
    assert train.train(cfg, "seed=1", "swept") == metrics


def test_an_interrupted_sweep_is_resumed_by_the_same_command(repro, run, project):
    command = ("python", "-m", "pipeline.train", "--multirun", *SCRATCH, "data.epochs=1", "seed=61,62")
    others = set((project / "runs/sweeps").glob("*/command.json"))
    assert run(*command).returncode == 0
    (file,) = set((project / "runs/sweeps").glob("*/command.json")) - others
    record = json.loads(file.read_text())
    assert record["ended"]
    file.write_text(json.dumps(record | {"ended": False}))
    second = file.parent / job_outcomes.read(file.parent)[1]["folder"]
    before = (second / "weights.safetensors").read_bytes()
    shutil.rmtree(second)
    done = run(*command)
    assert done.returncode == 0, done.stdout
    assert f"train: resuming the sweep in {file.parent}" in done.stdout
    assert done.stdout.count("is done already") == 1, done.stdout
    assert (second / "weights.safetensors").read_bytes() == before
    assert set((project / "runs/sweeps").glob("*/command.json")) - others == {file}
    assert json.loads(file.read_text())["ended"]
    shutil.rmtree(file.parent)
