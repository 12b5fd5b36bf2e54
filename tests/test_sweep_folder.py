"""Each sweep has its own folder and can be resumed; its exit status is 1 if jobs failed."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PYTHON, outcome
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from pipeline.artifacts import job_outcomes
from pipeline.common.errors import StoppedError, UserError
from pipeline.stage import stage
from pipeline.sweeps import jobs, resume

pytestmark = pytest.mark.integration  # each runs a sweep


@pytest.fixture(autouse=True)
def composed_once(monkeypatch):
    """Hydra composes each job before the sweep, too, to refuse what can't be composed; here all can."""
    monkeypatch.setattr(BasicSweeper, "validate_batch_is_legal", lambda *_: None)


@pytest.fixture
def sweeps(project):
    """The folder of all sweeps, empty before and after."""
    folder = project / "runs/sweeps"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    _release_locks()
    shutil.rmtree(folder, ignore_errors=True)


def _release_locks() -> None:
    """Releases the locks, as the end of a process does."""
    while resume._held:
        resume._held.pop().release()


def _sweep(monkeypatch, function, *overrides: str) -> str | int | None:
    """Last message or exit status of a sweep in this process, which keeps its locks."""
    monkeypatch.setattr(sys, "argv", ["stage.py", "--multirun", *overrides])
    return outcome(stage(function))


def _succeed(cfg) -> None:
    pass


def _failing(error: BaseException, *seeds: int):
    def job(cfg) -> float:
        if cfg.seed in seeds:
            raise error
        return 1.0

    return job


def test_sweeps_started_in_the_same_second_get_different_folders(sweeps, monkeypatch):
    assert _sweep(monkeypatch, _succeed, "seed=1") is None
    (first,) = sweeps.iterdir()
    claimed = [resume._claim(first) for _ in range(3)]
    assert [folder.name for folder in claimed] == [f"{first.name}-{number}" for number in (2, 3, 4)]


def test_a_running_sweep_does_not_share_its_folder(sweeps, monkeypatch):
    assert _sweep(monkeypatch, _failing(UserError("no"), 1), "seed=1,2").startswith(
        "test_sweep_folder: error: "
    )
    (first,) = sweeps.iterdir()
    # Its locks are held, so it counts as running.
    assert _sweep(monkeypatch, _succeed, "seed=1,2") is None
    assert len(list(sweeps.iterdir())) == 2
    assert [json.loads((first / f".outcomes/{number}.json").read_text())["error"] for number in (0, 1)] == [
        "no",
        "",
    ]


def test_the_same_command_resumes_an_interrupted_sweep(sweeps, monkeypatch, capsys):
    assert _sweep(monkeypatch, _failing(StoppedError("now"), 2), "seed=1,2") == 143
    (first,) = sweeps.iterdir()
    _release_locks()
    assert _sweep(monkeypatch, _succeed, "seed=1,2,3") is None
    assert len(list(sweeps.iterdir())) == 2
    assert _sweep(monkeypatch, _succeed, "seed=1,2") is None
    assert f"resuming the sweep in {first}" in capsys.readouterr().err
    assert len(list(sweeps.iterdir())) == 2
    _release_locks()
    assert _sweep(monkeypatch, _succeed, "seed=1,2") is None
    assert len(list(sweeps.iterdir())) == 3


def test_two_sweeps_at_once_in_a_named_folder_are_an_error(sweeps, monkeypatch, tmp_path):
    sweep_dir = f"hydra.sweep.dir={tmp_path / 'mine'}"
    assert _sweep(monkeypatch, _succeed, "seed=1", sweep_dir) is None
    assert _sweep(monkeypatch, _succeed, "seed=3", sweep_dir) == (
        f"test_sweep_folder: error: another sweep runs in {tmp_path / 'mine'}; wait for it, or name another "
        "hydra.sweep.dir"
    )
    _release_locks()
    assert _sweep(monkeypatch, _succeed, "seed=3", sweep_dir) is None


def test_jobs_write_into_their_sweeps_folder(sweeps, monkeypatch):
    from hydra.core.hydra_config import HydraConfig

    seen = []
    for _ in range(2):
        _sweep(monkeypatch, lambda cfg: seen.append(HydraConfig.get().sweep.dir), "seed=1,2")
    assert len(set(seen)) == 2
    assert {Path(folder) for folder in seen} == set(sweeps.iterdir())


@pytest.mark.parametrize("error", [UserError("said so"), ValueError("a mistake")])
def test_failed_jobs_are_counted_and_the_others_run(sweeps, monkeypatch, capsys, error):
    done = []

    def job(cfg):
        done.append(cfg.seed)
        return _failing(error, 1, 3)(cfg)

    message = _sweep(monkeypatch, job, "seed=1,2,3,4")
    assert "error: 2 of 4 jobs failed (0, 2)" in message
    assert done == [1, 2, 3, 4]
    output = capsys.readouterr().err
    assert str(error) in output
    assert ("Traceback" in output) == isinstance(error, ValueError)
    (folder,) = sweeps.iterdir()
    reasons = {number: noted["error"] for number, noted in job_outcomes.read(folder).items()}
    assert str(error) in reasons[0] and reasons[1] == ""


def test_a_job_with_an_invalid_value_fails_alone(sweeps, monkeypatch, capsys):
    done = []
    message = _sweep(monkeypatch, lambda cfg: done.append(cfg.seed), "seed=1,-1,abc,2")
    assert done == [1, 2]
    assert "error: 2 of 4 jobs failed (1, 2)" in message
    assert "error: seed=-1: must be" in capsys.readouterr().err


def test_a_failed_job_returns_nan(sweeps):
    hydra = OmegaConf.create({"sweep": {"dir": str(sweeps)}, "job": {"num": 0}, "overrides": {"task": []}})
    hydra.runtime = {"output_dir": str(sweeps / "x")}
    cfg = OmegaConf.create({"seed": 1})
    assert math.isnan(resume.run_job(lambda: _failing(UserError("no"), 1)(cfg), hydra))


def test_a_failed_jobs_reason_is_read_back(sweeps, monkeypatch):
    _sweep(monkeypatch, _failing(UserError("no pictures"), 1), "seed=1,2", "hydra.sweep.dir=runs/sweeps/mine")
    first, second = jobs.read("mine", details=False).jobs
    assert (first.status, first.reason) == ("failed", "no pictures")
    assert second.status == "no result"


@pytest.mark.parametrize("content", ["", "[", "a: [", "\x00", "hydra: 3"])
def test_a_broken_record_of_a_sweep_gives_no_traceback(sweeps, monkeypatch, content):
    _sweep(monkeypatch, _succeed, "seed=1", "hydra.sweep.dir=runs/sweeps/mine")
    _release_locks()
    for name in ("command.json", "multirun.yaml", ".outcomes/0.json"):
        (sweeps / "mine" / name).write_text(content)
    assert jobs.read("mine", details=False).jobs
    assert _sweep(monkeypatch, _succeed, "seed=1") is None


def test_a_folder_that_cannot_be_created_is_an_error(sweeps, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    message = _sweep(monkeypatch, _succeed, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'file/mine'}")
    assert "error: " in message
    assert "Not a directory" in message


def test_sweeps_started_together_run_all_jobs(sweeps, project):
    command = [PYTHON, "-m", "pipeline.split", "--multirun", "seed=-1,-2"]
    running = [subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    output = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert all("2 of 2 jobs failed" in text for text in output)
    folders = list(sweeps.iterdir())
    assert len(folders) == 2
    assert all(len(list(folder.glob(".outcomes/*.json"))) == 2 for folder in folders)


def test_a_jobs_folder_follows_from_its_config_and_not_its_number(sweeps, monkeypatch):
    from hydra.core.hydra_config import HydraConfig

    seen: dict[tuple, set] = {}

    def job(cfg) -> None:
        hydra = HydraConfig.get()
        seen.setdefault((cfg.seed, cfg.model.name), set()).add(
            (Path(hydra.runtime.output_dir), hydra.job.num)
        )

    sweep_dir = "hydra.sweep.dir=runs/sweeps/mine"
    for overrides in (
        ("seed=1,2",),
        ("seed=2,1",),
        ("seed=1", "runtime.workers=0,1"),
        ("seed=3,2", "model=probe"),
    ):
        assert _sweep(monkeypatch, job, *overrides, sweep_dir) is None
        _release_locks()
    folders = [{folder for folder, _ in found} for found in seen.values()]
    assert all(len(found) == 1 for found in folders)
    assert len(set.union(*folders)) == len(seen) == 4
    assert {number for _, number in seen[1, "scratch"]} == {0, 1}


def test_a_jobs_folder_with_a_slash_is_an_error(sweeps, run):
    overrides = (
        "--multirun",
        "seed=1,2",
        "hydra.sweep.dir=runs/sweeps/mine",
        "hydra.sweep.subdir=a/${hydra:job.num}",
    )
    done = run("python", "-m", "pipeline.train", *overrides)
    assert "hydra.sweep.subdir must be one folder's name, without a slash" in done.stdout
    assert done.returncode == 1


def test_a_jobs_folder_can_be_named_by_its_overrides(sweeps, monkeypatch):
    overrides = (
        "seed=1,2",
        "hydra.sweep.dir=runs/sweeps/mine",
        "hydra.sweep.subdir=${hydra:job.override_dirname}",
    )
    assert _sweep(monkeypatch, _failing(UserError("no"), 1), *overrides).startswith(
        "test_sweep_folder: error: 1 of 2"
    )
    first, second = jobs.read("mine", details=False).jobs
    assert (first.folder.name, first.name, first.override_text, first.status) == (
        "seed=1",
        "0",
        "seed=1",
        "failed",
    )
    assert (second.folder.name, second.name, second.override_text) == ("seed=2", "1", "seed=2")
