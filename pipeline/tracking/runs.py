"""Runs of training, written while they run or brought back from their folders."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline import config
from pipeline.config import ROOT
from pipeline.tracking.folders import digest, read_curves
from pipeline.tracking.store import client, experiment_id, find_run, silent


class Run:
    """A run being written.

    Tracking never stops a training: the first failure is told, and `sync` makes up for it.
    """

    def __init__(self, run_id: str | None):
        self.run_id = run_id
        self.started = time.time()
        self.sent = 0

    def push(self, rows: list[dict]) -> None:
        """Sends the rows of the curves that have not been sent."""
        self._attempt(lambda: self._push(rows))

    def _push(self, rows: list[dict]) -> None:
        _log_curves(self.run_id, rows[self.sent :])
        self.sent = len(rows)

    def finish(self, folder: Path) -> None:
        """Ends the run with all that stands in train's folder."""
        self._attempt(lambda: _complete(self.run_id, folder, {"wall_seconds": time.time() - self.started}))

    def fail(self, reason: str) -> None:
        """Ends the run as failed."""
        self._attempt(lambda: self._fail(reason))

    def _fail(self, reason: str) -> None:
        client().set_tag(self.run_id, "failed_by", reason[:500])
        client().set_terminated(self.run_id, "FAILED")

    def _attempt(self, action) -> None:
        if self.run_id is None:
            return
        try:
            action()
        except Exception as error:
            _warn(error)
            self.run_id = None


def _warn(error: Exception) -> None:
    print(
        f"warning: {silent(error)}; the files are complete, send them later by: "
        "python -m pipeline.tracking sync",
        file=sys.stderr,
    )


def start(card: dict, settings: dict, lineage: dict, name: str, sweep: str | None = None) -> Run:
    """Starts the run of a training; settings as `ensure` finds them in ``config.yaml``."""
    import platform

    run = Run(None)
    try:
        run.run_id = _create(card, settings, lineage, name, sweep)
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
        client().set_tag(run.run_id, "machine", machine)
        for file in ("params.yaml", "dvc.lock"):
            if (ROOT / file).is_file():
                client().log_artifact(run.run_id, ROOT / file)
    except Exception as error:
        _warn(error)
        run.run_id = None
    return run


def device(run: Run, name: str) -> None:
    """Notes what the run was computed on."""
    run._attempt(lambda: client().set_tag(run.run_id, "device", name))


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _create(card: dict, settings: dict, lineage: dict, name: str, sweep: str | None, **tags: str) -> str:
    """A new run with its parameters, its data and its tags."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    experiment = experiment_id(card["data"])
    tags |= {
        "mlflow.runName": name,
        "model": card["name"],
        "seed": str(settings["seed"]),
        "commit": str(lineage["commit"]),
        "dirty": str(lineage["dirty"]).lower(),
        "mlflow.source.name": "pipeline.train",
        "mlflow.source.git.commit": str(lineage["commit"]),
    }
    if sweep:
        tags["mlflow.parentRunId"] = _parent(experiment, sweep)
    run_id = client().create_run(experiment, tags=tags).info.run_id
    # The whole is an artifact; longer values MLflow would cut.
    params = [Param(key, str(value)) for key, value in _flat(settings) if len(str(value)) <= 250]
    client().log_batch(run_id, params=params)
    data = lineage["data"]
    dataset = Dataset(
        name=data["name"],
        digest=data["content"][:32],
        source_type="local",
        source=json.dumps({"uri": f"data/{data['name']}/pack"}),
        profile=json.dumps({key: data[key] for key in ("pictures", "classes", "split")}),
    )
    client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    return run_id


def _parent(experiment: str, sweep: str) -> str:
    """The run that a sweep's jobs are nested under; jobs may start together: one makes it, all find it."""
    from filelock import FileLock

    runs = config.main_checkout() / "runs"
    runs.mkdir(exist_ok=True)
    with FileLock(runs / ".sweep.lock"):
        found = find_run(experiment, sweep=sweep)
        if found:
            return found.info.run_id
        run = client().create_run(experiment, tags={"mlflow.runName": f"sweep {sweep}", "sweep": sweep})
        client().set_terminated(run.info.run_id)
        return run.info.run_id


def _log_curves(run_id: str, rows: list[dict]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key != "step" and value is not None
    ]
    for first in range(0, len(metrics), 1000):  # MLflow's limit a batch
        client().log_batch(run_id, metrics=metrics[first : first + 1000])


def _complete(run_id: str, folder: Path, extra: dict[str, float]) -> None:
    """Final figures and files; the tag `content` comes last, so that it means: all is there."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    final = json.loads((folder / "metrics.json").read_text()) | extra
    # Figures that also have a curve stand under best/, for the last step's need not be the best one's.
    curves = {key for row in read_curves(folder) for key in row}
    metrics = [
        Metric(f"best/{key}" if key in curves else key, float(value), now, 0) for key, value in final.items()
    ]
    client().log_batch(run_id, metrics=metrics)
    client().log_artifacts(run_id, folder, "train")
    client().set_tag(run_id, "content", digest(folder))
    client().set_terminated(run_id, "FINISHED")


def ensure(folder: Path, evaluation: Path | None = None) -> str:
    """Makes MLflow hold the run of a train folder, and its evaluation where there is one.

    Returns:
        The run's id.
    """
    import yaml

    card = json.loads((folder / "model.json").read_text())
    found = find_run(experiment_id(card["data"]), content=digest(folder))
    if found:
        run_id = found.info.run_id
    else:
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        lineage = json.loads((folder / "lineage.json").read_text())
        sweeps = ROOT / "runs/sweeps"
        sweep = folder.parent.name if folder.parent.parent == sweeps else None
        name = f"{card['name']} seed={settings['seed']}"
        run_id = _create(card, settings, lineage, name, sweep, restored="true")
        _log_curves(run_id, read_curves(folder))
        _complete(run_id, folder, {})
    if evaluation:
        _ensure_evaluation(run_id, evaluation)
    return run_id


def _ensure_evaluation(run_id: str, folder: Path) -> None:
    from mlflow.entities import Metric

    content = digest(folder)
    if client().get_run(run_id).data.tags.get("evaluation") == content:
        return
    now = int(time.time() * 1000)
    figures = json.loads((folder / "metrics.json").read_text())
    metrics = [
        Metric(key, float(value), now, 0) for key, value in figures.items() if isinstance(value, int | float)
    ]
    client().log_batch(run_id, metrics=metrics)
    client().log_artifacts(run_id, folder, "evaluation")
    client().set_tag(run_id, "evaluation", content)


def wall_seconds(folder: Path) -> float | None:
    """How long the training of this folder took, where MLflow saw it."""
    try:
        card = json.loads((folder / "model.json").read_text())
        run = find_run(experiment_id(card["data"]), content=digest(folder))
    except Exception as error:
        _warn(error)
        return None
    return run.data.metrics.get("wall_seconds") if run else None
