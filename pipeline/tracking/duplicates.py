"""Runs and versions that MLflow holds twice, from programs that wrote them at the same moment: made one.

What is kept is the oldest, or the run that a version was registered from; what the others alone know (an
evaluation, a wall time, tags of people) moves onto it. Runs that are taken away can be restored in MLflow.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace

from pipeline.tracking import places
from pipeline.tracking.address import local_file
from pipeline.tracking.locks import creating, writing
from pipeline.tracking.promotion import WITHDRAWN, changes
from pipeline.tracking.runs import NOTE, PARENT, UNFINISHED, tell_sweep
from pipeline.tracking.store import client

# MLflow's own tags, and what is said of a run's making: not moved.
OWN = ("mlflow.", "restored", "content")


def merge() -> str:
    """Merges what is there more than once; returns what that was, in a few words, or nothing."""
    with writing(), creating():
        versions = [
            line for model in client().search_registered_models() for line in _merge_versions(model.name)
        ]
        runs = sum(_merge_runs(each.experiment_id) for each in client().search_experiments())
    return ", ".join([*([f"{runs} run{'s' * (runs > 1)}"] if runs else []), *versions])


def _merge_versions(name: str) -> list[str]:
    """Of versions with the same weights and card the lowest number stays."""
    groups = defaultdict(list)
    for version in client().search_model_versions(f"name='{name}'") if "'" not in name else ():
        if model := version.tags.get("model_sha256"):  # others are a person's own
            groups[model].append(version)
    number: dict[str, str] = {}  # of what is taken away, what stands for it
    for same in groups.values():
        first, *others = sorted(same, key=lambda version: int(version.version))
        for other in others:
            number[str(other.version)] = str(first.version)
            _move_tags(name, first, other)
    if not number:
        return []
    aliases = client().get_registered_model(name).aliases
    for alias, of in aliases.items():
        if kept := number.get(str(of)):
            client().set_registered_model_alias(name, alias, kept)
            if alias == "champion":  # in office, whatever was decided about its double
                client().delete_model_version_tag(name, kept, WITHDRAWN)
    _renumber(name, number)
    for gone in number:  # last: whoever is cut off before finds all of it again
        client().delete_model_version(name, gone)
    return [f"version {gone} of {name} (now {kept})" for gone, kept in number.items()]


def _move_tags(name: str, first, other) -> None:
    champion = client().get_registered_model(name).aliases.get("champion")
    for key, value in other.tags.items():
        in_office = key == WITHDRAWN and str(champion) == str(first.version)
        if key not in first.tags and not in_office:
            client().set_model_version_tag(name, first.version, key, value)
            first.tags[key] = value


def _renumber(name: str, number: dict[str, str]) -> None:
    """Lets the history name the versions that stay."""
    for key, change in changes(name).items():
        former = number.get(change.former, change.former)
        renumbered = replace(change, version=number.get(change.version, change.version), former=former)
        if renumbered.version == former:  # from one to its double: no change
            client().delete_registered_model_tag(name, key)
        elif renumbered != change:
            text = json.dumps(asdict(renumbered), ensure_ascii=False)
            client().set_registered_model_tag(name, key, text)


def _merge_runs(experiment: str) -> int:
    """Merges the parents of sweeps, then runs of the same content; returns how many runs are taken away."""
    runs, gone, parents = _all_runs(experiment), 0, set()
    for same in _groups(runs, lambda run: run.data.tags.get("sweep")):
        first, *others = (run.info.run_id for run in same)
        for job in (run for run in runs if run.data.tags.get(PARENT) in others):
            client().set_tag(job.info.run_id, PARENT, first)
            job.data.tags[PARENT] = first
        parents.add(first)
        gone += _delete(others)
    for same in _groups(runs, _identity):
        registered = [run for run in same if client().search_model_versions(f"run_id='{run.info.run_id}'")]
        first = min(registered or same, key=_age_of_knowledge)
        others = [run for run in same if run is not first and run not in registered]  # a person may do so
        for other in others:
            _move(first, other)
        parents.add(first.data.tags.get(PARENT))
        gone += _delete([run.info.run_id for run in others])
    for parent in parents - {None}:
        if job := next((run for run in runs if run.data.tags.get(PARENT) == parent), None):
            tell_sweep(job.info.run_id)
    return gone


def _all_runs(experiment: str) -> list:
    runs = page = client().search_runs([experiment], max_results=1000)
    while page.token:
        page = client().search_runs([experiment], max_results=1000, page_token=page.token)
        runs += page
    return runs


def _groups(runs: list, key: Callable) -> list[list]:
    """Runs with the same key, where there are several, the oldest first; what has no key is in none."""
    groups = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
        if (known := key(run)) is not None:
            groups[known].append(run)
    return [same for same in groups.values() if len(same) > 1]


def _identity(run) -> tuple[str, str | None] | None:
    tags = run.data.tags
    # On this machine nobody writes while `merge` does: what is unfinished was cut off. On a server it may be
    # under way on another machine.
    content = tags.get("content", tags.get(UNFINISHED) if local_file() else None)
    return (content, tags.get(PARENT)) if content else None


def _age_of_knowledge(run) -> tuple:
    """Sorts first what is whole, was evaluated, and was seen by MLflow while it was trained."""
    tags = run.data.tags
    return "content" not in tags, "evaluation" not in tags, "restored" in tags


def _delete(runs: list[str]) -> int:
    for run in runs:
        client().delete_run(run)
    return len(runs)


def _move(first, other) -> None:
    """Gives a run what its double alone knows."""
    import mlflow

    run_id, tags = first.info.run_id, first.data.tags
    if "evaluation" in other.data.tags and "evaluation" not in tags:
        places.check(other.info.run_id)
        places.check(run_id, writing=True)
        with tempfile.TemporaryDirectory() as place:
            mlflow.artifacts.download_artifacts(
                run_id=other.info.run_id, artifact_path="evaluation", dst_path=place
            )
            client().log_artifacts(run_id, f"{place}/evaluation", "evaluation")
    for key, value in other.data.metrics.items():
        if key not in first.data.metrics:
            client().log_metric(run_id, key, value, step=0)
    for key, value in other.data.tags.items():
        if key not in tags and not key.startswith(OWN):
            client().set_tag(run_id, key, value)
    known = tags.get(NOTE, "").splitlines()
    # A generated note has a first line that an evaluation changes, and one on how it was written.
    lines = [line for line in other.data.tags.get(NOTE, "").splitlines()[1:] if line not in known]
    if written := [line for line in lines if not line.startswith("- written from its files")]:
        client().set_tag(run_id, NOTE, "\n".join([*known, "", *written]) + "\n")
