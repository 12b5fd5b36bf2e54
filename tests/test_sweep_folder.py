"""A sweep has a folder that no other writes to, and its exit status tells of failed jobs."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ended
from omegaconf import OmegaConf

from pipeline.artifacts import job_outcomes
from pipeline.common.errors import StoppedError, UserError
from pipeline.stage import stage
from pipeline.sweeps import jobs, resume


@pytest.fixture
def sweeps(house):
    """Folder of the sweeps, empty before and after."""
    folder = house / "runs/sweeps"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    _end()
    shutil.rmtree(folder, ignore_errors=True)


def _end() -> None:
    """Gives up the locks, as the end of a process does."""
    while resume._held:
        resume._held.pop().release()


def _sweep(monkeypatch, function, *words: str) -> str | int | None:
    """Exit status of a sweep in this process, whose locks stay."""
    monkeypatch.setattr(sys, "argv", ["stage.py", "--multirun", *words])
    return ended(stage(function))


def _nothing(cfg) -> None:
    pass


def _fails(error: BaseException, *seeds: int):
    def job(cfg) -> float:
        if cfg.seed in seeds:
            raise error
        return 1.0

    return job


def test_two_sweeps_in_one_second_have_two_folders(sweeps, monkeypatch):
    assert _sweep(monkeypatch, _nothing, "seed=1,2") is None
    (first,) = sweeps.iterdir()
    claimed = [resume._claim(first) for _ in range(3)]
    assert [folder.name for folder in claimed] == [f"{first.name}-{number}" for number in (2, 3, 4)]


def test_a_sweep_that_runs_shares_its_folder_with_none(sweeps, monkeypatch):
    assert _sweep(monkeypatch, _fails(UserError("no"), 1), "seed=1,2").startswith(
        "test_sweep_folder: error: "
    )
    (first,) = sweeps.iterdir()
    # Its locks are held: it runs still.
    assert _sweep(monkeypatch, _nothing, "seed=1,2") is None
    assert len(list(sweeps.iterdir())) == 2
    assert [json.loads((first / f".outcomes/{number}.json").read_text())["error"] for number in (0, 1)] == [
        "no",
        "",
    ]


def test_the_same_command_goes_on_with_a_sweep_that_was_broken_off(sweeps, monkeypatch, capsys):
    assert _sweep(monkeypatch, _fails(StoppedError("now"), 2), "seed=1,2") == 143
    (first,) = sweeps.iterdir()
    _end()
    assert _sweep(monkeypatch, _nothing, "seed=1,2,3") is None
    assert len(list(sweeps.iterdir())) == 2
    assert _sweep(monkeypatch, _nothing, "seed=1,2") is None
    assert f"resuming the sweep in {first}" in capsys.readouterr().err
    assert len(list(sweeps.iterdir())) == 2
    _end()
    assert _sweep(monkeypatch, _nothing, "seed=1,2") is None
    assert len(list(sweeps.iterdir())) == 3


def test_two_sweeps_at_once_in_one_given_folder_are_refused(sweeps, monkeypatch, tmp_path):
    where = f"hydra.sweep.dir={tmp_path / 'mine'}"
    assert _sweep(monkeypatch, _nothing, "seed=1,2", where) is None
    assert _sweep(monkeypatch, _nothing, "seed=3", where) == (
        f"test_sweep_folder: error: another sweep runs in {tmp_path / 'mine'}; wait for it, or name another "
        "hydra.sweep.dir"
    )
    _end()
    assert _sweep(monkeypatch, _nothing, "seed=3", where) is None


def test_jobs_write_where_the_sweep_is(sweeps, monkeypatch):
    from hydra.core.hydra_config import HydraConfig

    seen = []
    for _ in range(2):
        _sweep(monkeypatch, lambda cfg: seen.append(HydraConfig.get().sweep.dir), "seed=1,2")
    assert len(set(seen)) == 2
    assert {Path(folder) for folder in seen} == set(sweeps.iterdir())


@pytest.mark.parametrize("error", [UserError("said so"), ValueError("a mistake")])
def test_failed_jobs_are_counted_and_end_no_other(sweeps, monkeypatch, capsys, error):
    done = []

    def job(cfg):
        done.append(cfg.seed)
        return _fails(error, 1, 3)(cfg)

    last = _sweep(monkeypatch, job, "seed=1,2,3,4")
    assert "error: 2 of 4 jobs failed (0, 2)" in last
    assert done == [1, 2, 3, 4]
    said = capsys.readouterr().err
    assert str(error) in said
    assert ("Traceback" in said) == isinstance(error, ValueError)
    (folder,) = sweeps.iterdir()
    reasons = {number: noted["error"] for number, noted in job_outcomes.read(folder).items()}
    assert str(error) in reasons[0] and reasons[1] == ""


def test_a_job_with_an_invalid_value_fails_alone(sweeps, monkeypatch, capsys):
    done = []
    last = _sweep(monkeypatch, lambda cfg: done.append(cfg.seed), "seed=1,-1,abc,2")
    assert done == [1, 2]
    assert "error: 2 of 4 jobs failed (1, 2)" in last
    assert "error: seed=-1: must be" in capsys.readouterr().err


def test_a_failed_job_returns_no_number_that_could_win(sweeps):
    hydra = OmegaConf.create({"sweep": {"dir": str(sweeps)}, "job": {"num": 0}, "overrides": {"task": []}})
    hydra.runtime = {"output_dir": str(sweeps / "x")}
    cfg = OmegaConf.create({"seed": 1})
    assert math.isnan(resume.run_job(lambda: _fails(UserError("no"), 1)(cfg), hydra))


def test_the_sweeps_page_says_why_a_job_failed(sweeps, monkeypatch):
    _sweep(monkeypatch, _fails(UserError("no pictures"), 1), "seed=1,2", "hydra.sweep.dir=runs/sweeps/mine")
    first, second = jobs.read("mine", details=False).jobs
    assert (first.status, first.reason) == ("failed", "no pictures")
    assert second.status == "no result"


@pytest.mark.parametrize("content", ["", "[", "a: [", "\x00", "hydra: 3"])
def test_a_broken_record_of_a_sweep_is_no_traceback(sweeps, monkeypatch, content):
    _sweep(monkeypatch, _nothing, "seed=1,2", "hydra.sweep.dir=runs/sweeps/mine")
    _end()
    for name in ("command.json", "multirun.yaml", ".outcomes/0.json"):
        (sweeps / "mine" / name).write_text(content)
    assert jobs.read("mine", details=False).jobs
    assert _sweep(monkeypatch, _nothing, "seed=1,2") is None


def test_a_folder_that_cannot_be_made_is_told(sweeps, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    last = _sweep(monkeypatch, _nothing, "seed=1,2", f"hydra.sweep.dir={tmp_path / 'file/mine'}")
    assert "error: " in last
    assert "Not a directory" in last


def test_sweeps_started_together_lose_no_job(sweeps, house):
    command = [sys.executable, "-m", "pipeline.split", "--multirun", "seed=-1,-2"]
    running = [subprocess.Popen(command, cwd=house, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert all("2 of 2 jobs failed" in text for text in said)
    folders = list(sweeps.iterdir())
    assert len(folders) == 2
    assert all(len(list(folder.glob(".outcomes/*.json"))) == 2 for folder in folders)


def test_a_job_is_known_by_what_it_trains_and_not_by_its_number(sweeps, monkeypatch):
    from hydra.core.hydra_config import HydraConfig

    seen: dict[tuple, set] = {}

    def job(cfg) -> None:
        hydra = HydraConfig.get()
        seen.setdefault((cfg.seed, cfg.model.name), set()).add(
            (Path(hydra.runtime.output_dir), hydra.job.num)
        )

    where = "hydra.sweep.dir=runs/sweeps/mine"
    for words in (
        ("seed=1,2",),
        ("seed=2,1",),
        ("seed=1", "runtime.workers=0,1"),
        ("seed=3,2", "model=probe"),
    ):
        assert _sweep(monkeypatch, job, *words, where) is None
        _end()
    folders = [{folder for folder, _ in found} for found in seen.values()]
    assert all(len(found) == 1 for found in folders)
    assert len(set.union(*folders)) == len(seen) == 4
    assert {number for _, number in seen[1, "scratch"]} == {0, 1}


def test_a_jobs_folder_is_one_folder(sweeps, run):
    words = (
        "--multirun",
        "seed=1,2",
        "hydra.sweep.dir=runs/sweeps/mine",
        "hydra.sweep.subdir=a/${hydra:job.num}",
    )
    done = run("python", "-m", "pipeline.train", *words)
    assert "hydra.sweep.subdir must be one folder's name, without a slash" in done.stdout
    assert done.returncode == 1


def test_a_jobs_folder_can_still_be_named_by_its_overrides(sweeps, monkeypatch):
    words = (
        "seed=1,2",
        "hydra.sweep.dir=runs/sweeps/mine",
        "hydra.sweep.subdir=${hydra:job.override_dirname}",
    )
    assert _sweep(monkeypatch, _fails(UserError("no"), 1), *words).startswith(
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
