"""MLflow runs of trainings: created, logged, and restored from train folders."""

import json
import logging
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from pipeline import tasks
from pipeline.artifacts import curves, resume_state, seal, untrusted
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import ARTIFACT_DIR, Provenance
from pipeline.artifacts.seal import digest
from pipeline.artifacts.untrusted import json_object
from pipeline.portable import ModelCard
from pipeline.tracking import artifact_locations, descriptions
from pipeline.tracking.locks import creation_lock, write_lock
from pipeline.tracking.naming import name_of, params
from pipeline.tracking.store import (
    client,
    error_message,
    experiment_id,
    find_experiment,
    find_or_create_run,
    find_run,
    or_none,
)

_log = logging.getLogger(__name__)

NOTE = "mlflow.note.content"  # the description in MLflow's UI
PARENT = "mlflow.parentRunId"
EXPECTED_CONTENT = "content_expected"  # tag of a run being written from files: the `content` it will have
METRIC_DIGITS = 5  # of final metrics: fits a table cell and hides float32 rounding errors
COUNTERS = ("step", "epoch", "pictures_seen")  # columns of curves.csv whose charts would be straight lines


def new(
    card: ModelCard, settings: dict, provenance: Provenance, name: str, sweep: str | None, **tags: str
) -> str:
    """Creates a run with its tags, in the experiment of its data set; returns its id."""
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
    """Logs a run's parameters and data set; idempotent."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    # MLflow refuses to change a parameter, and the selected files may differ after conf/ has changed.
    existing = client().get_run(run_id).data.params
    missing = [Param(key, value) for key, value in params(settings).items() if key not in existing]
    client().log_batch(run_id, params=missing)
    data = lineage["data"]
    dataset = Dataset(
        name=data["name"],
        digest=data["content"][:12],
        source_type="local",
        source=json.dumps({"uri": f"data/{data['name']}/pack"}),
        profile=json.dumps({key: data[key] for key in ("pictures", "classes", "split")}),
    )
    client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    update_sweep_note(run_id)


def _parent(experiment: str, sweep: str) -> str:
    """Id of the parent run of a sweep's jobs; a deleted one is restored."""

    def create() -> str:
        if deleted := find_run(experiment, deleted=True, sweep=sweep):
            client().restore_run(deleted.info.run_id)
            return deleted.info.run_id
        run = client().create_run(experiment, tags={"mlflow.runName": f"sweep {sweep}", "sweep": sweep})
        client().set_terminated(run.info.run_id)
        return run.info.run_id

    return find_or_create_run(experiment, create, sweep=sweep)[0]


def update_sweep_note(run_id: str) -> None:
    """Updates the summary of all jobs on the parent run of a sweep's job."""
    run = client().get_run(run_id)
    parent, experiment = run.data.tags.get(PARENT), run.info.experiment_id
    if parent is None or not is_active(parent):
        return
    with creation_lock():  # each job writes the summary of all jobs
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
        if results := [result for _, _, result, _ in jobs if result is not None]:
            client().log_metric(parent, best, max(results), step=len(results))
        end_time = max((job.info.end_time or 0 for job in found), default=0)
        client().set_terminated(parent, end_time=end_time or None)


def is_active(run_id: str) -> bool:
    """Whether a run exists and is not deleted."""
    run = or_none(client().get_run, run_id)
    return run is not None and run.info.lifecycle_stage == "active"


def log_curves(run_id: str, rows: list[dict], may_exist: bool, timestamp: int | None = None) -> None:
    """Logs rows of the training curves.

    Args:
        run_id: the run.
        rows: new rows.
        may_exist: whether the run may already have some of their points, which are then skipped.
        timestamp: in milliseconds; None: now. MLflow stores equal points with equal timestamps once.
    """
    from mlflow.entities import Metric

    keys = {key for row in rows for key in row} - set(COUNTERS)
    history = client().get_metric_history
    logged = {key: {point.step for point in history(run_id, key)} if may_exist else set() for key in keys}
    timestamp = timestamp or int(time.time() * 1000)
    metrics = [
        Metric(key, float(row[key]), timestamp, int(row["step"]))
        for row in rows
        for key in row
        if key in keys and row[key] is not None and int(row["step"]) not in logged[key]
    ]
    for first in range(0, len(metrics), 1000):  # MLflow's limit per batch
        client().log_batch(run_id, metrics=metrics[first : first + 1000])


def complete(run_id: str, trained: ModelFolder, extra: dict[str, float]) -> None:
    """Logs final metrics and files; the tag `content` is set last and marks the run as complete.

    Args:
        run_id: the run.
        trained: its model folder.
        extra: further metrics.
    """
    # Logged as best/val/…, since the last point of the curve val/… may not belong to the kept weights.
    final = {
        f"best/{key}" if key.startswith("val/") else key: value
        for key, value in (trained.metrics | extra).items()
    }
    _log_final_metrics(run_id, final)
    artifact_locations.check(run_id, writing=True)
    client().log_artifacts(run_id, trained.train, "train")
    if "commit" not in trained.lineage and trained.provenance.commit:
        with tempfile.TemporaryDirectory() as folder:
            trained.provenance.write(Path(folder))
            client().log_artifacts(run_id, folder, ARTIFACT_DIR)
    _note(run_id, trained, None)
    client().set_tag(run_id, "content", digest(trained.train))
    client().set_terminated(run_id, "FINISHED")
    update_sweep_note(run_id)


def _log_final_metrics(run_id: str, values: dict[str, float]) -> None:
    """Logs final metrics, except those that an interrupted attempt has already logged."""
    from mlflow.entities import Metric

    logged, now = client().get_run(run_id).data.metrics, int(time.time() * 1000)
    final = {key: round(float(value), METRIC_DIGITS) for key, value in values.items()}
    metrics = [Metric(key, value, now, 0) for key, value in final.items() if logged.get(key) != value]
    client().log_batch(run_id, metrics=metrics)


def _note(run_id: str, trained: ModelFolder, test: dict | None) -> None:
    """Writes the descriptions of a run and its experiment, unless a user has edited them."""
    tags = client().get_run(run_id).data.tags
    note = descriptions.run(trained, test, restored="restored" in tags)
    # An evaluation changes only the first line, the metrics.
    if NOTE not in tags or tags[NOTE].partition("\n")[2] == note.partition("\n")[2]:
        client().set_tag(run_id, NOTE, note)
    experiment = client().get_experiment(experiment_id(trained.card.data))
    if NOTE not in experiment.tags:
        client().set_experiment_tag(experiment.experiment_id, NOTE, descriptions.experiment(trained))


def ensure(folder: Path, evaluation: Path | None = None) -> str:
    """Ensures that MLflow has the run of a train folder and, if given, its evaluation.

    Returns:
        The run's id.

    Raises:
        UserError: a file of the folder is missing, damaged or in an older format.
    """
    trained = ModelFolder.open(folder)
    with write_lock():
        run_id = _ensure_run(trained)
        if evaluation:
            _ensure_evaluation(run_id, trained, evaluation)
    return run_id


def _ensure_run(trained: ModelFolder) -> str:
    folder, content = trained.train, digest(trained.train)
    experiment = experiment_id(trained.card.data)
    # An equal run outside the sweep does not count as its job.
    parent = {PARENT: _parent(experiment, trained.sweep)} if trained.sweep else {}
    if found := find_run(experiment, content=content, **parent) or _restore(experiment, content, parent):
        return found.info.run_id
    run_args = (trained.card, trained.settings, trained.provenance, name_of(trained), trained.sweep)
    # The run was interrupted in training or while being written from files, or was never logged.
    attempt = resume_state.attempt_of(trained.settings, trained.lineage, trained.sweep)
    live = find_run(experiment, attempt=attempt) if attempt else None
    created, timestamp = False, None
    if live:
        run_id = live.info.run_id
    else:
        tags = {EXPECTED_CONTENT: content}
        run_id, created = find_or_create_run(
            experiment, lambda: new(*run_args, restored="true", **tags), **tags, **parent
        )
        # Two machines may write this run to a server: equal timestamps make their points identical.
        timestamp = client().get_run(run_id).info.start_time
    try:
        describe(run_id, trained.settings, trained.lineage)
        log_curves(run_id, curves.read(folder), may_exist=not created, timestamp=timestamp)
        complete(run_id, trained, {})
        resume_state.clear_attempt(trained.settings, trained.lineage, trained.sweep)
        if EXPECTED_CONTENT in client().get_run(run_id).data.tags:
            client().delete_tag(run_id, EXPECTED_CONTENT)
    except Exception:
        if created:  # partly written; `sync` writes a complete one
            with suppress(Exception):  # MLflow may be unreachable
                client().set_terminated(run_id, "KILLED")
                client().delete_run(run_id)
        raise
    return run_id


def _restore(experiment: str, content: str, parent: dict[str, str]):
    """Restores and returns a deleted run if a registered version needs its files; else None."""
    found = find_run(experiment, deleted=True, content=content, **parent)
    if found is None or not client().search_model_versions(f"run_id='{found.info.run_id}'"):
        return None
    client().restore_run(found.info.run_id)
    return found


def _ensure_evaluation(run_id: str, trained: ModelFolder, folder: Path) -> None:
    seal.check(folder)
    content = digest(folder)
    if client().get_run(run_id).data.tags.get("evaluation") == content:
        return
    metrics = json_object(folder / "metrics.json", trained.task.test_key)
    scalars = {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and not key.endswith(("/low", "/high"))  # no use as charts
    }
    _log_final_metrics(run_id, scalars)
    artifact_locations.check(run_id, writing=True)
    client().log_artifacts(run_id, folder, "evaluation")
    _note(run_id, trained, metrics)
    client().set_tag(run_id, "evaluation", content)


def wall_seconds(folder: Path) -> float | None:
    """Training time of this folder in seconds; None if MLflow did not record it."""
    try:
        card = untrusted.card(folder)
        experiment = find_experiment(card.data)
        run = find_run(experiment, content=digest(folder)) if experiment else None
    except Exception as error:
        _log.warning("%s; how long trainings took is not shown", error_message(error))
        return None
    return run.data.metrics.get("wall_seconds") if run else None
