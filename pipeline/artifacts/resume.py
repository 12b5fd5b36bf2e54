"""Where a training keeps what it has reached until it is done: the same command finds it and goes on."""

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

# Of the groups `trainer` and `runtime`: how fast it goes, what is shown and kept, not what comes out.
WITHOUT_EFFECT = (
    *("workers", "checkpoint_minutes"),
    *("profiler", "enable_progress_bar", "enable_model_summary", "detect_anomaly"),
)


def effective(settings: dict) -> dict:
    """The settings less those that change how fast a training goes and what it shows."""
    groups = {
        group: {key: value for key, value in settings.get(group, {}).items() if key not in WITHOUT_EFFECT}
        for group in ("trainer", "runtime")  # older trainings have no runtime
    }
    return settings | groups


def identity(settings: dict, lineage: dict, sweep: str | None) -> str:
    """What a training is known by: two with the same one would end with the same bytes.

    Args:
        settings: the resolved configuration.
        lineage: its commit does not count, for a commit may change a page only; the code's hash does.
        sweep: jobs of different sweeps are different runs in MLflow.
    """
    parts = [
        effective(settings),
        *(lineage.get(key) for key in ("data", "code", "environment", "start")),
        sweep,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def finished(out: Path, known: str, sweep: str | None) -> dict | None:
    """What ``metrics.json`` says of a finished training of this identity in `out`, or None."""
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
    """Name of the attempt at this training whose end MLflow has not been told, or None."""
    return _attempt(_work() / identity(settings, lineage, sweep)[:16])


def told(settings: dict, lineage: dict, sweep: str | None) -> None:
    """MLflow knows the end of this training: its attempt's name is not needed any more."""
    folder = _work() / identity(settings, lineage, sweep)[:16]
    if not Checkpoints(folder / "checkpoints").any():
        shutil.rmtree(folder, ignore_errors=True)


def taken(train: Path) -> None:
    """A stage behind `train` runs, so DVC holds train's folder: what `forget` has kept for it can go."""
    settings = yaml_files.read(train / "config.yaml")
    lineage = json.loads((train / "lineage.json").read_text(encoding="utf-8"))
    shutil.rmtree(_work() / identity(settings, lineage, None)[:16], ignore_errors=True)


def _work() -> Path:
    return paths.main_checkout() / "runs/.work"


def _attempt(folder: Path) -> str | None:
    try:
        return json.loads((folder / "attempt.json").read_text(encoding="utf-8"))["attempt"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ResumeState:
    """A training's folder under ``runs/.work/``, outside DVC's outs, which DVC deletes before it trains.

    Attributes:
        folder: may be deleted at any time; the training then begins anew.
        checkpoints: what was reached.
    """

    def __init__(self, identity: str, out: Path):
        self.work = _work()
        self.folder, self.out = self.work / identity[:16], out
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps a second training of the same, or into the same folder, away.

        Raises:
            UserError: one is under way.
        """
        from filelock import FileLock, Timeout

        place = hashlib.sha256(str(self.out.resolve()).encode()).hexdigest()[:16]
        names = (self.folder.name, place)
        (self.work / "locks").mkdir(parents=True, exist_ok=True)
        one, two = (FileLock(self.work / "locks" / f"{name}.lock", timeout=0) for name in names)
        try:
            one.acquire()
            two.acquire()
        except Timeout as error:
            one.release()
            raise UserError(
                f"another process trains this already, or into {self.out}; wait for it, or name another out="
            ) from error
        try:
            yield
        finally:
            two.release()
            one.release()

    def attempt(self) -> str:
        """A name that is this training's alone: its run in MLflow bears it, so that a restart finds it.

        Kept before the run is made: killed in between, the restart makes it, and never a second one.
        """
        if known := _attempt(self.folder):
            return known
        file, name = self.folder / "attempt.json", uuid.uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.replace_text(file, json.dumps({"attempt": name, "out": str(self.out)}) + "\n")
        return name

    def others(self) -> list[Path]:
        """Folders of unfinished trainings into the same `out` that can't go on: something has changed."""
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

    def forget(self, told: bool) -> None:
        """It is finished; its name stays until MLflow was told.

        Within a stage all stays until the next one has begun: DVC takes the result when this process has
        ended, and killed before that it deletes it and trains again, which then is a matter of seconds.
        """
        if "DVC_STAGE" not in os.environ:
            shutil.rmtree(self.folder if told else self.checkpoints.folder, ignore_errors=True)
