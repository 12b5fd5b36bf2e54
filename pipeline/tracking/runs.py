"""Runs of trainings as MLflow holds them: made, filled, brought back from their folders."""

import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pipeline import tasks
from pipeline.artifacts import curves, resume, seal, untrusted
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import BESIDE, Provenance
from pipeline.artifacts.seal import digest
from pipeline.artifacts.untrusted import json_object
from pipeline.portable import ModelCard
from pipeline.tracking import descriptions, places
from pipeline.tracking.locks import creating, writing
from pipeline.tracking.naming import name_of, params
from pipeline.tracking.store import (
    client,
    experiment_id,
    find_experiment,
    find_or_create_run,
    find_run,
    silent,
)

NOTE = "mlflow.note.content"  # the description that MLflow's page shows
PARENT = "mlflow.parentRunId"
UNFINISHED = "content_expected"  # tag of a run that is being written from files: what `content` will be
DIGITS = 5  # of final figures: a table's cell holds them, and single precision is not shown as a difference
COUNTERS = ("step", "epoch", "pictures_seen")  # of curves.csv: a chart of them is a straight line


def _discard(run_id: str | None) -> None:
    """Takes a half-written run away: `sync` writes the whole one."""
    if run_id:
        with suppress(Exception):  # what could not be written may not be reachable either
            client().set_terminated(run_id, "KILLED")
            client().delete_run(run_id)


def new(
    card: ModelCard, settings: dict, provenance: Provenance, name: str, sweep: str | None, **tags: str
) -> str:
    """A new run with its tags; returns its id."""
    experiment = experiment_id(card.data)
    tags |= {
        "mlflow.runName": name,
        "model": card.name,
        "task": card.task,
        "seed": str(settings["seed"]),
        **provenance.tags(),
        "mlflow.source.name": "pipeline.train",
    }
    if provenance.commit:
        tags["mlflow.source.git.commit"] = provenance.commit
    if sweep:
        tags[PARENT] = _parent(experiment, sweep)
    return client().create_run(experiment, tags=tags).info.run_id


def describe(run_id: str, settings: dict, lineage: dict) -> None:
    """Writes a run's parameters and its data; twice is as once."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    # What is there stays: MLflow refuses another value, as a choice may be after conf/ has changed.
    there = client().get_run(run_id).data.params
    new = [Param(key, value) for key, value in params(settings).items() if key not in there]
    client().log_batch(run_id, params=new)
    data = lineage["data"]
    dataset = Dataset(
        name=data["name"],
        digest=data["content"][:12],
        source_type="local",
        source=json.dumps({"uri": f"data/{data['name']}/pack"}),
        profile=json.dumps({key: data[key] for key in ("pictures", "classes", "split")}),
    )
    client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    tell_sweep(run_id)


def _parent(experiment: str, sweep: str) -> str:
    """The run that a sweep's jobs are nested under; one that somebody deleted is restored."""

    def create() -> str:
        if deleted := find_run(experiment, deleted=True, sweep=sweep):
            client().restore_run(deleted.info.run_id)
            return deleted.info.run_id
        run = client().create_run(experiment, tags={"mlflow.runName": f"sweep {sweep}", "sweep": sweep})
        client().set_terminated(run.info.run_id)
        return run.info.run_id

    return find_or_create_run(experiment, create, sweep=sweep)[0]


def tell_sweep(run_id: str) -> None:
    """Sums up, on the parent of a sweep's job, what its jobs have reached so far."""
    run = client().get_run(run_id)
    parent, experiment = run.data.tags.get(PARENT), run.info.experiment_id
    if parent is None or not is_active(parent):
        return
    with creating():  # each job tells what the others have reached
        found = client().search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", max_results=1000)
        found.sort(key=lambda job: job.info.start_time)
        task = tasks.of_tag(run.data.tags.get("task"))
        best = f"best/{task.monitor}"
        jobs = [
            (
                job.info.run_name,
                job.info.run_id,
                job.data.metrics.get(best) if job.info.status == "FINISHED" else None,
                job.info.status,
            )
            for job in found
        ]
        name, note = descriptions.sweep(experiment, jobs, task.title)
        for key, value in (("mlflow.runName", name), (NOTE, note), ("jobs", str(len(jobs)))):
            client().set_tag(parent, key, value)
        if reached := [figure for _, _, figure, _ in jobs if figure is not None]:
            client().log_metric(parent, best, max(reached), step=len(reached))
        ended = max((job.info.end_time or 0 for job in found), default=0)
        client().set_terminated(parent, end_time=ended or None)


def is_active(run_id: str) -> bool:
    """Whether a run is there and nobody deleted it."""
    import mlflow

    try:
        return client().get_run(run_id).info.lifecycle_stage == "active"
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def log_curves(run_id: str, rows: list[dict], held: bool, at: int | None = None) -> None:
    """Writes rows of the curves.

    Args:
        run_id: of the run.
        rows: new ones.
        held: whether the run may hold some of their points already; each is written once.
        at: their time in milliseconds; None: now. MLflow keeps two equal points of the same time as one.
    """
    from mlflow.entities import Metric

    keys = {key for row in rows for key in row} - set(COUNTERS)
    there = {key: _steps(run_id, key) if held else set() for key in keys}
    at = at or int(time.time() * 1000)
    metrics = [
        Metric(key, float(row[key]), at, int(row["step"]))
        for row in rows
        for key in row
        if key in keys and row[key] is not None and int(row["step"]) not in there[key]
    ]
    for first in range(0, len(metrics), 1000):  # MLflow's limit a batch
        client().log_batch(run_id, metrics=metrics[first : first + 1000])


def _steps(run_id: str, key: str) -> set[int]:
    return {point.step for point in client().get_metric_history(run_id, key)}


def complete(run_id: str, trained: ModelFolder, extra: dict[str, float]) -> None:
    """Final figures and files; the tag `content` comes last, so that it means: all is there."""
    # val/… is a curve, whose last point need not be that of the kept weights.
    figures = {
        f"best/{key}" if key.startswith("val/") else key: value
        for key, value in (trained.metrics | extra).items()
    }
    _log_figures(run_id, figures)
    places.check(run_id, writing=True)
    client().log_artifacts(run_id, trained.train, "train")
    if "commit" not in trained.lineage and trained.provenance.commit:
        with tempfile.TemporaryDirectory() as folder:
            trained.provenance.write(Path(folder))
            client().log_artifacts(run_id, folder, BESIDE)
    _note(run_id, trained, None)
    client().set_tag(run_id, "content", digest(trained.train))
    client().set_terminated(run_id, "FINISHED")
    tell_sweep(run_id)


def _log_figures(run_id: str, figures: dict[str, float]) -> None:
    """Writes final figures; what an earlier attempt that was cut off has written is not written again."""
    from mlflow.entities import Metric

    there, now = client().get_run(run_id).data.metrics, int(time.time() * 1000)
    final = {key: round(float(value), DIGITS) for key, value in figures.items()}
    metrics = [Metric(key, value, now, 0) for key, value in final.items() if there.get(key) != value]
    client().log_batch(run_id, metrics=metrics)


def _note(run_id: str, trained: ModelFolder, test: dict | None) -> None:
    """Writes a run's note and its experiment's, unless a person has written another."""
    tags = client().get_run(run_id).data.tags
    note = descriptions.run(trained, test, restored="restored" in tags)
    # Only the first line, the figures, differs between before and after an evaluation.
    if NOTE not in tags or tags[NOTE].partition("\n")[2] == note.partition("\n")[2]:
        client().set_tag(run_id, NOTE, note)
    experiment = client().get_experiment(experiment_id(trained.card.data))
    if NOTE not in experiment.tags:
        client().set_experiment_tag(experiment.experiment_id, NOTE, descriptions.experiment(trained))


def ensure(folder: Path, evaluation: Path | None = None) -> str:
    """Makes MLflow hold the run of a train folder, and its evaluation where there is one.

    Returns:
        The run's id.

    Raises:
        UserError: a file of the folder is missing, damaged or of an older form.
    """
    trained = ModelFolder.open(folder)
    with writing():
        run_id = _ensure_run(trained)
        if evaluation:
            _ensure_evaluation(run_id, trained, evaluation)
    return run_id


def _ensure_run(trained: ModelFolder) -> str:
    folder, content = trained.train, digest(trained.train)
    experiment = experiment_id(trained.card.data)
    # An equal run outside its sweep does not stand for a job.
    within = {PARENT: _parent(experiment, trained.sweep)} if trained.sweep else {}
    if found := find_run(experiment, content=content, **within) or _restore(experiment, content, within):
        return found.info.run_id
    described = (trained.card, trained.settings, trained.provenance, name_of(trained), trained.sweep)
    # Live, but cut off before its end; or cut off while it was written from files; or never seen.
    begun = resume.attempt_of(trained.settings, trained.lineage, trained.sweep)
    live = find_run(experiment, attempt=begun) if begun else None
    created, at = False, None
    if live:
        run_id = live.info.run_id
    else:
        tags = {UNFINISHED: content}
        run_id, created = find_or_create_run(
            experiment, lambda: new(*described, restored="true", **tags), **tags, **within
        )
        # On a server two machines may write the same run: with the same time their points are the same.
        at = client().get_run(run_id).info.start_time
    try:
        describe(run_id, trained.settings, trained.lineage)
        log_curves(run_id, curves.read(folder), held=not created, at=at)
        complete(run_id, trained, {})
        resume.told(trained.settings, trained.lineage, trained.sweep)
        if UNFINISHED in client().get_run(run_id).data.tags:
            client().delete_tag(run_id, UNFINISHED)
    except Exception:
        if created:
            _discard(run_id)
        raise
    return run_id


def _restore(experiment: str, content: str, within: dict[str, str]):
    """A run that somebody deleted although a registered version needs its files: it comes back; or None."""
    found = find_run(experiment, deleted=True, content=content, **within)
    if found is None or not client().search_model_versions(f"run_id='{found.info.run_id}'"):
        return None
    client().restore_run(found.info.run_id)
    return found


def _ensure_evaluation(run_id: str, trained: ModelFolder, folder: Path) -> None:
    seal.check(folder)
    content = digest(folder)
    if client().get_run(run_id).data.tags.get("evaluation") == content:
        return
    figures = json_object(folder / "metrics.json", trained.task.test_key)
    shown = {
        key: value
        for key, value in figures.items()
        if isinstance(value, int | float) and not key.endswith(("/low", "/high"))  # six charts nobody opens
    }
    _log_figures(run_id, shown)
    places.check(run_id, writing=True)
    client().log_artifacts(run_id, folder, "evaluation")
    _note(run_id, trained, figures)
    client().set_tag(run_id, "evaluation", content)


def wall_seconds(folder: Path) -> float | None:
    """How long the training of this folder took, where MLflow saw it."""
    try:
        card = untrusted.card(folder)
        experiment = find_experiment(card.data)
        run = find_run(experiment, content=digest(folder)) if experiment else None
    except Exception as error:
        print(f"warning: {silent(error)}; how long trainings took is not shown", file=sys.stderr)
        return None
    return run.data.metrics.get("wall_seconds") if run else None
