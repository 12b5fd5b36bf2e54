"""State of an unfinished training run, under ``runs/.work/``, from which the same command resumes."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from pipeline.artifacts import atomic, seal
from pipeline.artifacts.checkpoints import Checkpoints
from pipeline.common import paths, yaml_files
from pipeline.common.errors import UserError

# Keys of `trainer` and `runtime` that change speed, output or checkpointing, but not the result.
IGNORED_TRAINER_KEYS = (
    *("workers", "checkpoint_minutes"),
    *("profiler", "enable_progress_bar", "enable_model_summary", "detect_anomaly"),
)


def result_settings(settings: dict) -> dict:
    """The settings that determine the result, without IGNORED_TRAINER_KEYS."""
    groups = {
        group: {
            key: value for key, value in settings.get(group, {}).items() if key not in IGNORED_TRAINER_KEYS
        }
        for group in ("trainer", "runtime")  # older runs have no runtime group
    }
    return settings | groups


def identity(settings: dict, lineage: dict, sweep: str | None) -> str:
    """SHA-256 that identifies a training run: equal identities give the same bytes.

    Args:
        settings: the resolved config.
        lineage: its code hash counts, its commit doesn't, since a commit may change only documentation.
        sweep: counts because jobs of different sweeps are different MLflow runs.
    """
    parts = [
        result_settings(settings),
        *(lineage.get(key) for key in ("data", "code", "environment", "start")),
        sweep,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def finished_metrics(out: Path, run_identity: str, sweep: str | None) -> dict | None:
    """``metrics.json`` of a train folder if it holds a finished run of this identity, else None."""
    try:
        settings = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        lineage = json.loads((out / "lineage.json").read_text(encoding="utf-8"))
        if identity(settings, lineage, sweep) == run_identity:
            seal.check(out)
            return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, UserError):
        pass
    return None


def attempt_of(settings: dict, lineage: dict, sweep: str | None) -> str | None:
    """Id of this training's attempt if MLflow does not have the end of its run yet, else None."""
    return _read_attempt(_work_dir() / identity(settings, lineage, sweep)[:16])


def clear_attempt(settings: dict, lineage: dict, sweep: str | None) -> None:
    """Deletes the attempt's id when MLflow has the complete run; keeps it while there are checkpoints."""
    folder = _work_dir() / identity(settings, lineage, sweep)[:16]
    if not Checkpoints(folder / "checkpoints").exist():
        shutil.rmtree(folder, ignore_errors=True)


def discard(train: Path) -> None:
    """Deletes what `ResumeState.clear` kept; for stages after `train`, when DVC has cached its output."""
    settings = yaml_files.read(train / "config.yaml")
    lineage = json.loads((train / "lineage.json").read_text(encoding="utf-8"))
    shutil.rmtree(_work_dir() / identity(settings, lineage, None)[:16], ignore_errors=True)


def _work_dir() -> Path:
    return paths.main_checkout() / "runs/.work"


def _read_attempt(folder: Path) -> str | None:
    try:
        return json.loads((folder / "attempt.json").read_text(encoding="utf-8"))["attempt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ResumeState:
    """An unfinished run's folder; outside DVC's outs, since DVC deletes those before a stage runs.

    Args:
        run_identity: see `identity`.
        out: the train folder to write.

    Attributes:
        folder: may be deleted at any time; training then starts over.
        checkpoints: the run's checkpoints.
    """

    def __init__(self, run_identity: str, out: Path):
        self.work = _work_dir()
        self.folder, self.out = self.work / run_identity[:16], out
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the identity and the output folder against concurrent training, within the context.

        Raises:
            UserError: another process holds one of the locks.
        """
        from filelock import FileLock, Timeout

        out_hash = hashlib.sha256(str(self.out.resolve()).encode()).hexdigest()[:16]
        names = (self.folder.name, out_hash)
        (self.work / "locks").mkdir(parents=True, exist_ok=True)
        same_run, same_out = (FileLock(self.work / "locks" / f"{name}.lock", timeout=0) for name in names)
        try:
            same_run.acquire()
            same_out.acquire()
        except Timeout as error:
            same_run.release()
            raise UserError(
                f"another process is already training this or writing to {self.out}; wait for it, or name "
                "another out="
            ) from error
        try:
            yield
        finally:
            same_out.release()
            same_run.release()

    def attempt_id(self) -> str:
        """A unique id by which a restart finds its MLflow run.

        Saved before that run is created, so a process killed in between never leads to a second run.
        """
        if saved := _read_attempt(self.folder):
            return saved
        attempt = uuid.uuid4().hex
        record = {"attempt": attempt, "out": str(self.out)}
        atomic.replace_text(self.folder / "attempt.json", json.dumps(record) + "\n")
        return attempt

    def superseded(self) -> list[Path]:
        """Folders of unfinished runs into the same `out` that can't resume: config, data or code changed."""
        found = []
        for file in self.work.glob("*/attempt.json"):
            try:
                same = json.loads(file.read_text(encoding="utf-8"))["out"] == str(self.out)
            except (OSError, ValueError, KeyError):
                continue
            if same and file.parent != self.folder and Checkpoints(file.parent / "checkpoints").exist():
                found.append(file.parent)
        return found

    def clear(self, synced: bool) -> None:
        """Deletes the state of a finished run; keeps the attempt's id unless MLflow has its end (`synced`).

        In a DVC stage everything stays until the next stage calls `discard`: DVC caches the output only after
        this process ends. If DVC is killed before that, the stage runs again and resumes at the end.
        """
        if "DVC_STAGE" not in os.environ:
            shutil.rmtree(self.folder if synced else self.checkpoints.folder, ignore_errors=True)
