"""Merges runs and versions that MLflow has twice because several programs wrote them at the same time.

The oldest is kept, or the run that a version was registered from. Whatever only the others have (an
evaluation, a wall time, users' tags) is copied to it. Deleted runs can be restored in MLflow.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace

from pipeline.tracking import artifact_locations
from pipeline.tracking.address import local_file
from pipeline.tracking.locks import creation_lock, write_lock
from pipeline.tracking.promotion import WITHDRAWN, changes
from pipeline.tracking.runs import EXPECTED_CONTENT, NOTE, PARENT, update_sweep_note
from pipeline.tracking.store import client, versions_of

# Prefixes of tags that are not copied: MLflow's, and those on how the run was written.
NOT_COPIED = ("mlflow.", "restored", "content")


def merge() -> str:
    """Merges duplicates; returns a short summary, empty if there were none."""
    with write_lock(), creation_lock():
        versions = [
            line for model in client().search_registered_models() for line in _merge_versions(model.name)
        ]
        runs = sum(_merge_runs(each.experiment_id) for each in client().search_experiments())
    return ", ".join([*([f"{runs} run{'s' * (runs > 1)}"] if runs else []), *versions])


def _merge_versions(name: str) -> list[str]:
    """Keeps the lowest number of versions with the same weights and card; returns a line per deletion."""
    groups = defaultdict(list)
    for version in versions_of(name):
        if model := version.tags.get("model_sha256"):  # others were registered by users
            groups[model].append(version)
    replacement: dict[str, str] = {}  # deleted version: kept version
    for same in groups.values():
        first, *others = same
        for other in others:
            replacement[str(other.version)] = str(first.version)
            _copy_tags(name, first, other)
    if not replacement:
        return []
    aliases = client().get_registered_model(name).aliases
    for alias, number in aliases.items():
        if kept := replacement.get(str(number)):
            client().set_registered_model_alias(name, alias, kept)
            if alias == "champion":  # the champion does not count as withdrawn
                client().delete_model_version_tag(name, kept, WITHDRAWN)
    _renumber(name, replacement)
    for deleted in replacement:  # last, so that an interrupted merge is repeated
        client().delete_model_version(name, deleted)
    return [f"version {deleted} of {name} (now {kept})" for deleted, kept in replacement.items()]


def _copy_tags(name: str, first, other) -> None:
    champion = client().get_registered_model(name).aliases.get("champion")
    for key, value in other.tags.items():
        withdraws_champion = key == WITHDRAWN and str(champion) == str(first.version)
        if key not in first.tags and not withdraws_champion:
            client().set_model_version_tag(name, first.version, key, value)
            first.tags[key] = value


def _renumber(name: str, replacement: dict[str, str]) -> None:
    """Replaces deleted versions in the champion history."""
    for key, change in changes(name).items():
        former = replacement.get(change.former, change.former)
        renumbered = replace(change, version=replacement.get(change.version, change.version), former=former)
        if renumbered.version == former:  # between duplicates: not a change
            client().delete_registered_model_tag(name, key)
        elif renumbered != change:
            text = json.dumps(asdict(renumbered), ensure_ascii=False)
            client().set_registered_model_tag(name, key, text)


def _merge_runs(experiment: str) -> int:
    """Merges parent runs of sweeps, then runs with equal content; returns how many runs were deleted."""
    runs, deleted, parents = _all_runs(experiment), 0, set()
    for same in _groups(runs, lambda run: run.data.tags.get("sweep")):
        first, *others = (run.info.run_id for run in same)
        for job in (run for run in runs if run.data.tags.get(PARENT) in others):
            client().set_tag(job.info.run_id, PARENT, first)
            job.data.tags[PARENT] = first
        parents.add(first)
        deleted += _delete(others)
    for same in _groups(runs, _identity):
        registered = [run for run in same if client().search_model_versions(f"run_id='{run.info.run_id}'")]
        first = min(registered or same, key=_merge_order)
        # Versions need the runs they were registered from.
        others = [run for run in same if run is not first and run not in registered]
        for other in others:
            _copy_missing(first, other)
        parents.add(first.data.tags.get(PARENT))
        deleted += _delete([run.info.run_id for run in others])
    for parent in parents - {None}:
        if job := next((run for run in runs if run.data.tags.get(PARENT) == parent), None):
            update_sweep_note(job.info.run_id)
    return deleted


def _all_runs(experiment: str) -> list:
    runs = page = client().search_runs([experiment], max_results=1000)
    while page.token:
        page = client().search_runs([experiment], max_results=1000, page_token=page.token)
        runs += page
    return runs


def _groups(runs: list, key: Callable) -> list[list]:
    """Groups of several runs with the same key, oldest first; runs without a key are left out."""
    groups = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
        if (value := key(run)) is not None:
            groups[value].append(run)
    return [same for same in groups.values() if len(same) > 1]


def _identity(run) -> tuple[str, str | None] | None:
    """Hash of the run's train folder, and its parent run; None for a run that is not complete."""
    tags = run.data.tags
    # `merge` holds the locks of a local store, so an incomplete run there was interrupted; on a server,
    # another machine may still be writing it.
    content = tags.get("content", tags.get(EXPECTED_CONTENT) if local_file() else None)
    return (content, tags.get(PARENT)) if content else None


def _merge_order(run) -> tuple:
    """Sort key: complete runs first, then evaluated ones, then those logged during training."""
    tags = run.data.tags
    return "content" not in tags, "evaluation" not in tags, "restored" in tags


def _delete(runs: list[str]) -> int:
    for run in runs:
        client().delete_run(run)
    return len(runs)


def _copy_missing(first, other) -> None:
    """Copies to a run what only its duplicate has."""
    import mlflow

    run_id, tags = first.info.run_id, first.data.tags
    if "evaluation" in other.data.tags and "evaluation" not in tags:
        artifact_locations.check(other.info.run_id)
        artifact_locations.check(run_id, writing=True)
        with tempfile.TemporaryDirectory() as folder:
            mlflow.artifacts.download_artifacts(
                run_id=other.info.run_id, artifact_path="evaluation", dst_path=folder
            )
            client().log_artifacts(run_id, f"{folder}/evaluation", "evaluation")
    if not first.inputs.dataset_inputs:
        client().log_inputs(run_id, other.inputs.dataset_inputs)
    for key, value in other.data.metrics.items():
        if key not in first.data.metrics:
            client().log_metric(run_id, key, value, step=0)
    for key, value in other.data.tags.items():
        if key not in tags and not key.startswith(NOT_COPIED):
            client().set_tag(run_id, key, value)
    known = tags.get(NOTE, "").splitlines()
    # Skips two lines of generated notes: the first, with the metrics, and the one on how it was written.
    lines = [line for line in other.data.tags.get(NOTE, "").splitlines()[1:] if line not in known]
    if extra := [line for line in lines if not line.startswith("- written from its files")]:
        client().set_tag(run_id, NOTE, "\n".join([*known, "", *extra]) + "\n")
