"""State of an unfinished training run; the same command finds it and resumes."""

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


def effective(settings: dict) -> dict:
    """The settings without those that don't change the result (IGNORED_TRAINER_KEYS)."""
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
        effective(settings),
        *(lineage.get(key) for key in ("data", "code", "environment", "start")),
        sweep,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def finished(out: Path, known: str, sweep: str | None) -> dict | None:
    """``metrics.json`` of `out` if it holds a finished training run with the identity `known`, else None."""
    try:
        settings = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        lineage = json.loads((out / "lineage.json").read_text(encoding="utf-8"))
        if identity(settings, lineage, sweep) == known:
            seal.check(out)
            return json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, UserError):
        pass
    return None


def attempt_of(settings: dict, lineage: dict, sweep: str | None) -> str | None:
    """Name of this training run's attempt that is not yet marked as ended in MLflow, or None."""
    return _attempt(_work_dir() / identity(settings, lineage, sweep)[:16])


def clear_attempt(settings: dict, lineage: dict, sweep: str | None) -> None:
    """Deletes the attempt's name once MLflow knows that it ended; keeps it while there are checkpoints."""
    folder = _work_dir() / identity(settings, lineage, sweep)[:16]
    if not Checkpoints(folder / "checkpoints").any():
        shutil.rmtree(folder, ignore_errors=True)


def discard_resume_state(train: Path) -> None:
    """Deletes what `ResumeState.clear` kept; for stages after `train`, when DVC has cached its output."""
    settings = yaml_files.read(train / "config.yaml")
    lineage = json.loads((train / "lineage.json").read_text(encoding="utf-8"))
    shutil.rmtree(_work_dir() / identity(settings, lineage, None)[:16], ignore_errors=True)


def _work_dir() -> Path:
    return paths.main_checkout() / "runs/.work"


def _attempt(folder: Path) -> str | None:
    try:
        return json.loads((folder / "attempt.json").read_text(encoding="utf-8"))["attempt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ResumeState:
    """A run's folder under ``runs/.work/``, outside DVC's outs, which DVC deletes before a stage runs.

    Attributes:
        folder: may be deleted at any time; training then starts over.
        checkpoints: the run's checkpoints.
    """

    def __init__(self, identity: str, out: Path):
        self.work = _work_dir()
        self.folder, self.out = self.work / identity[:16], out
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Locks the identity and the output folder against concurrent training.

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

    def attempt(self) -> str:
        """A unique name by which a restart finds its MLflow run.

        Saved before that run is created, so a process killed in between never leads to a second run.
        """
        if known := _attempt(self.folder):
            return known
        file, name = self.folder / "attempt.json", uuid.uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.replace_text(file, json.dumps({"attempt": name, "out": str(self.out)}) + "\n")
        return name

    def others(self) -> list[Path]:
        """Folders of unfinished runs into the same `out` that can't resume because something changed."""
        found = []
        for file in self.work.glob("*/attempt.json"):
            try:
                same = json.loads(file.read_text(encoding="utf-8"))["out"] == str(self.out)
            except (OSError, ValueError, KeyError):
                continue
            kept = Checkpoints(file.parent / "checkpoints").any()
            if same and kept and file.parent != self.folder:
                found.append(file.parent)
        return found

    def clear(self, synced: bool) -> None:
        """Deletes the state of a finished run; keeps the attempt's name unless MLflow has its end (`synced`).

        A DVC stage keeps everything until the next stage starts (`discard_resume_state`): DVC caches the
        output only after this process ends. If DVC is killed before that, it trains again, in seconds.
        """
        if "DVC_STAGE" not in os.environ:
            shutil.rmtree(self.folder if synced else self.checkpoints.folder, ignore_errors=True)
