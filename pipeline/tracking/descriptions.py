"""Descriptions of runs, sweeps and versions in MLflow's UI; they contain no paths, hosts or times."""

from pathlib import Path
from urllib.parse import quote

from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import ARTIFACT_DIR, CHANGES
from pipeline.common import text
from pipeline.common.paths import ROOT
from pipeline.tracking.naming import name_of

MAX_JOBS = 20  # listed in a sweep's description, best first
MAX_VALUES = 4  # listed per key in a sweep's name
# MLflow's version table shows the first thirty characters of a description without Markdown, so metrics come
# first and are not bold. MLflow renders Markdown tables without column spacing, so these are lists.
WORKFLOW = "workflowType=machine_learning"  # in URLs; MLflow opens its GenAI pages by default


def run_link(experiment: str, run_id: str) -> str:
    """Relative link to a run's page from any page of the same MLflow."""
    return f"#/experiments/{experiment}/runs/{run_id}?{WORKFLOW}"


def experiment(trained: ModelFolder) -> str:
    """Description of a data set's experiment: the data, and what the metric keys mean."""
    data, drawings = trained.lineage["data"], trained.card.drawings
    name = text.markdown(data["name"])
    monitor = f"best/{trained.task.monitor}"
    return (
        f"Breeds of **{name}**: {data['pictures']:,} {'drawn ' if drawings else ''}pictures of "
        f"{data['classes']} classes.\n\n"
        f"- `best/val/…`: the kept weights on the validation split; choices look at `{monitor}`\n"
        "- `val/…`, `train/…`: curves, a point an epoch (of a probe: a strength of regularisation)\n"
        "- `test/…`: the test split, looked at once per candidate\n"
        "- a sweep is one run that holds its jobs\n\n"
        f"Registered versions: [{name}](#/models/{quote(data['name'])}?{WORKFLOW})\n"
    )


def run(trained: ModelFolder, test: dict | None, restored: bool = False) -> str:
    """Description of a finished run, metrics first.

    Args:
        trained: the run's model folder.
        test: test metrics, if evaluated.
        restored: whether the run was written from the files only.
    """
    parts = [_summary(trained, test), "", *_origin(trained)]
    if restored:
        parts.append("- written from its files afterwards: created and duration are of the writing")
    return "\n".join(parts) + "\n"


def version(trained: ModelFolder, test: dict, experiment: str, run_id: str) -> str:
    """Description of a registered version: metrics, data, commit and training run."""
    trained_in = f"- trained in the run [{text.markdown(name_of(trained))}]({run_link(experiment, run_id)})"
    return "\n".join([_summary(trained, test), "", *_origin(trained), trained_in]) + "\n"


def sweep(
    experiment: str, jobs: list[tuple[str, str, float | None, str]], metric_title: str
) -> tuple[str, str]:
    """A sweep's name and description.

    Args:
        experiment: its id.
        jobs: name, run id, validation metric of the kept weights (None if unfinished) and status of each.
        metric_title: title of the metric.
    """
    choices: dict[str, list[str]] = {}
    for name, *_ in jobs:
        for override in name.split():
            key, _, value = override.partition("=")
            if value not in choices.setdefault(key, []):
                choices[key].append(value)
    varied = [key for key, values in choices.items() if len(values) > 1]
    constant = [key for key in choices if key not in varied]
    title = " ".join(["sweep", *(f"{key}={_values(choices[key])}" for key in (*varied, *constant))])

    def linked(name: str, run_id: str) -> str:
        differs = [override for override in name.split() if override.partition("=")[0] in varied]
        return f"[{text.markdown(' '.join(differs) or name)}]({run_link(experiment, run_id)})"

    done = sorted((job for job in jobs if job[2] is not None), key=lambda job: -job[2])
    summary = f"{len(done)} of {len(jobs)} jobs finished"
    for status in ("RUNNING", "FAILED"):
        if number := sum(job[3] == status for job in jobs):
            summary += f", {number} {status.lower()}"
    if not done:
        return title, f"{summary}.\n"
    best, *_ = done
    parts = [f"{summary}. Best on validation: {metric_title} **{best[2]:.1%}** with {linked(*best[:2])}.", ""]
    parts += [f"1. {value:.1%} {linked(name, run_id)}" for name, run_id, value, _ in done[:MAX_JOBS]]
    if len(done) > MAX_JOBS:
        parts += ["", f"and {len(done) - MAX_JOBS} more, down to {done[-1][2]:.1%}"]
    return title, "\n".join(parts) + "\n"


def failed(reason: str) -> str:
    """Description of a run that failed or was stopped."""
    return f"Broke off: {text.markdown(reason)}\n"


def without_paths(message: str) -> str:
    """A message with local paths shortened, since others can read the UI."""
    for folder, short in ((f"{ROOT}/", ""), (str(ROOT), "."), (str(Path.home()), "~")):
        message = message.replace(folder, short)
    return message


def _values(values: list[str]) -> str:
    """The values of a key that the jobs have, shortened."""
    if len(values) <= MAX_VALUES:
        return ",".join(values)
    return f"{values[0]}…{values[-1]}({len(values)})"


def _summary(trained: ModelFolder, test: dict | None) -> str:
    metrics = ["test " + trained.task.describe(test, "test")] if test else []
    metrics.append("validation " + trained.task.describe(trained.metrics, "val"))
    warning = " Trained on drawings: it knows no photographs." if trained.card.drawings else ""
    return f"{text.markdown(trained.card.name)}: {'; '.join(metrics)}.{warning}"


def _origin(trained: ModelFolder) -> list[str]:
    """Markdown list items: data, commit and cost."""
    data, metrics = trained.lineage["data"], trained.metrics
    provenance = trained.provenance
    commit = f"`{provenance.commit[:8]}`" if provenance.commit else "unknown"
    if provenance.inferred:
        commit += " (its own record is lost; this one has the same training code)"
    if provenance.dirty:
        folder = "train" if "commit" in trained.lineage else ARTIFACT_DIR
        location = f" (the run keeps them: `{folder}/{CHANGES}`)" if provenance.changes else ""
        commit += f" with uncommitted changes{location}"
    cost = [f"{metrics['parameters']:,} parameters"] if "parameters" in metrics else []
    if "multiply_adds" in metrics:
        cost.append(f"{metrics['multiply_adds']:,} multiply-adds a picture")
    if metrics.get("epochs"):
        cost.append(f"{metrics['epochs']} epochs")
    return [
        f"- data: {text.markdown(data['name'])}, {data['pictures']:,} pictures of {data['classes']} classes, "
        f"content {text.code(data['content'][:12])}, split {text.code(data['split'][:12])}",
        f"- commit: {commit}; seed {trained.settings['seed']}",
        *([f"- cost: {', '.join(cost)}"] if cost else []),
    ]
