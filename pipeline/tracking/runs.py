"""Runs of training, written while they run or brought back from their folders."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from pipeline import config, curves
from pipeline.config import ROOT
from pipeline.tracking import notes
from pipeline.tracking.folders import Trained, digest, name_job, read
from pipeline.tracking.store import client, experiment_id, find_run, silent

NOTE = "mlflow.note.content"  # the description that MLflow's page shows
PARENT = "mlflow.parentRunId"
DIGITS = 5  # of final figures: a table's cell holds them, and single precision is not shown as a difference
COUNTERS = ("step", "epoch", "pictures_seen")  # of curves.csv: a chart of them is a straight line


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
        seconds = time.time() - self.started
        self._attempt(lambda: _complete(self.run_id, Trained.open(folder), {"wall_seconds": seconds}))

    def fail(self, reason: str) -> None:
        """Ends the run as failed."""
        self._attempt(lambda: self._fail(reason))

    def _fail(self, reason: str) -> None:
        reason = notes.without_paths(reason)[:500]
        client().set_tag(self.run_id, "failed_by", reason)
        client().set_tag(self.run_id, NOTE, notes.failed(reason))
        client().set_terminated(self.run_id, "FAILED")
        _tell_sweep(self.run_id)

    def _attempt(self, action) -> None:
        if self.run_id is None:
            return
        try:
            action()
        except Exception as error:
            _warn(error)
            _discard(self.run_id)
            self.run_id = None


def _discard(run_id: str | None) -> None:
    """Takes a half-written run away: `sync` writes the whole one."""
    if run_id:
        with suppress(Exception):  # what could not be written may not be reachable either
            client().set_terminated(run_id, "KILLED")
            client().delete_run(run_id)


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
        if sweep:
            with _sweep_lock():
                name_job(sweep, settings, name)
        run.run_id = _create(card, settings, lineage, name, sweep)
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
        client().set_tag(run.run_id, "machine", machine)
        for file in ("params.yaml", "dvc.lock"):
            if (ROOT / file).is_file():
                client().log_artifact(run.run_id, ROOT / file)
    except Exception as error:
        _warn(error)
        _discard(run.run_id)
        run.run_id = None
    return run


def device(run: Run, name: str) -> None:
    """Notes what the run was computed on."""
    run._attempt(lambda: client().set_tag(run.run_id, "device", name))


def params(settings: dict) -> dict[str, str]:
    """A configuration as MLflow's parameters; the whole is an artifact.

    MLflow would cut longer values, and where the data are from is the data's.
    """
    return {
        key: str(value)
        for key, value in config.flat(settings)
        if len(str(value)) <= 250 and not key.startswith("data.source.")
    }


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
        tags[PARENT] = _parent(experiment, sweep)
    run_id = client().create_run(experiment, tags=tags).info.run_id
    try:
        client().log_batch(run_id, params=[Param(key, value) for key, value in params(settings).items()])
        data = lineage["data"]
        dataset = Dataset(
            name=data["name"],
            digest=data["content"][:12],
            source_type="local",
            source=json.dumps({"uri": f"data/{data['name']}/pack"}),
            profile=json.dumps({key: data[key] for key in ("pictures", "classes", "split")}),
        )
        context = [InputTag("mlflow.data.context", "training")]
        client().log_inputs(run_id, [DatasetInput(dataset, context)])
        _tell_sweep(run_id)
    except Exception:
        _discard(run_id)
        raise
    return run_id


def _sweep_lock():
    """Jobs may run together: one makes their parent and all find it; each tells on it what the others did."""
    from filelock import FileLock

    runs = config.main_checkout() / "runs"
    runs.mkdir(exist_ok=True)
    return FileLock(runs / ".sweep.lock")


def _parent(experiment: str, sweep: str) -> str:
    """The run that a sweep's jobs are nested under."""
    with _sweep_lock():
        found = find_run(experiment, sweep=sweep)
        if found:
            return found.info.run_id
        run = client().create_run(experiment, tags={"mlflow.runName": f"sweep {sweep}", "sweep": sweep})
        client().set_terminated(run.info.run_id)
        return run.info.run_id


def _tell_sweep(run_id: str) -> None:
    """Sums up, on the parent of a sweep's job, what its jobs have reached so far."""
    run = client().get_run(run_id)
    parent, experiment = run.data.tags.get(PARENT), run.info.experiment_id
    if parent is None:
        return
    with _sweep_lock():
        found = client().search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", max_results=1000)
        found.sort(key=lambda job: job.info.start_time)
        jobs = [
            (
                job.info.run_name,
                job.info.run_id,
                job.data.metrics.get("best/val/top1") if job.info.status == "FINISHED" else None,
                job.info.status,
            )
            for job in found
        ]
        name, note = notes.sweep(experiment, jobs)
        for key, value in (("mlflow.runName", name), (NOTE, note), ("jobs", str(len(jobs)))):
            client().set_tag(parent, key, value)
        if reached := [top1 for _, _, top1, _ in jobs if top1 is not None]:
            client().log_metric(parent, "best/val/top1", max(reached), step=len(reached))
        ended = max((job.info.end_time or 0 for job in found), default=0)
        client().set_terminated(parent, end_time=ended or None)


def _log_curves(run_id: str, rows: list[dict]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key not in COUNTERS and value is not None
    ]
    for first in range(0, len(metrics), 1000):  # MLflow's limit a batch
        client().log_batch(run_id, metrics=metrics[first : first + 1000])


def _complete(run_id: str, trained: Trained, extra: dict[str, float]) -> None:
    """Final figures and files; the tag `content` comes last, so that it means: all is there."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    # val/… is a curve, whose last point need not be that of the kept weights.
    metrics = [
        Metric(f"best/{key}" if key.startswith("val/") else key, round(float(value), DIGITS), now, 0)
        for key, value in (trained.metrics | extra).items()
    ]
    client().log_batch(run_id, metrics=metrics)
    client().log_artifacts(run_id, trained.folder, "train")
    _describe(run_id, trained, None)
    client().set_tag(run_id, "content", digest(trained.folder))
    client().set_terminated(run_id, "FINISHED")
    _tell_sweep(run_id)


def _describe(run_id: str, trained: Trained, test: dict | None) -> None:
    """Writes a run's note and its experiment's, unless a person has written another."""
    tags = client().get_run(run_id).data.tags
    note = notes.run(trained, test, restored="restored" in tags)
    # Only the first line, the figures, differs between before and after an evaluation.
    if NOTE not in tags or tags[NOTE].partition("\n")[2] == note.partition("\n")[2]:
        client().set_tag(run_id, NOTE, note)
    experiment = client().get_experiment(experiment_id(trained.card["data"]))
    if NOTE not in experiment.tags:
        client().set_experiment_tag(experiment.experiment_id, NOTE, notes.experiment(trained))


def ensure(folder: Path, evaluation: Path | None = None) -> str:
    """Makes MLflow hold the run of a train folder, and its evaluation where there is one.

    Returns:
        The run's id.

    Raises:
        UserError: a file of the folder is missing, damaged or of an older form.
    """
    trained = Trained.open(folder)
    experiment = experiment_id(trained.card["data"])
    known = {"content": digest(folder)}
    if trained.sweep:  # an equal run outside its sweep does not stand for a job
        known[PARENT] = _parent(experiment, trained.sweep)
    found = find_run(experiment, **known)
    if found:
        run_id = found.info.run_id
    else:
        run_id = _create(
            trained.card, trained.settings, trained.lineage, trained.name, trained.sweep, restored="true"
        )
        try:
            _log_curves(run_id, curves.read(folder))
            _complete(run_id, trained, {})
        except Exception:
            _discard(run_id)
            raise
    if evaluation:
        _ensure_evaluation(run_id, trained, evaluation)
    return run_id


def _ensure_evaluation(run_id: str, trained: Trained, folder: Path) -> None:
    from mlflow.entities import Metric

    content = digest(folder)
    if client().get_run(run_id).data.tags.get("evaluation") == content:
        return
    now = int(time.time() * 1000)
    figures = read(folder / "metrics.json", "test/top1")
    metrics = [
        Metric(key, round(float(value), DIGITS), now, 0)
        for key, value in figures.items()
        if isinstance(value, int | float) and not key.endswith(("/low", "/high"))  # six charts nobody opens
    ]
    client().log_batch(run_id, metrics=metrics)
    client().log_artifacts(run_id, folder, "evaluation")
    _describe(run_id, trained, figures)
    client().set_tag(run_id, "evaluation", content)


def wall_seconds(folder: Path) -> float | None:
    """How long the training of this folder took, where MLflow saw it."""
    try:
        card = json.loads((folder / "model.json").read_text())
        run = find_run(experiment_id(card["data"]), content=digest(folder))
    except Exception as error:
        print(f"warning: {silent(error)}; how long trainings took is not shown", file=sys.stderr)
        return None
    return run.data.metrics.get("wall_seconds") if run else None
