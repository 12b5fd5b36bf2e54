"""What runs, sweeps and versions say of themselves on MLflow's page; no path, no host, no clock."""

from pathlib import Path

from pipeline.config import ROOT
from pipeline.tracking.folders import Trained

JOBS = 20  # of a sweep that its note lists, best first
VALUES = 4  # of a key that its name spells out


def run_link(experiment: str, run_id: str) -> str:
    """Of a run's page, from any other page of the same MLflow."""
    return f"#/experiments/{experiment}/runs/{run_id}"


def experiment(trained: Trained) -> str:
    """What the runs of a data set have in common, and which figure is which."""
    data, drawings = trained.lineage["data"], trained.card["drawings"]
    return (
        f"Breeds of **{data['name']}**: {data['pictures']:,} {'drawn ' if drawings else ''}pictures of "
        f"{data['classes']} classes.\n\n"
        "- `best/val/…`: the kept weights on the validation split; choices look at `best/val/top1`\n"
        "- `val/…`, `train/…`: curves, a point an epoch (of a probe: a strength of regularisation)\n"
        "- `test/…`: the test split, looked at once per candidate\n"
        "- a sweep is one run that holds its jobs\n\n"
        f"Registered versions: [{data['name']}](#/models/{data['name']})\n"
    )


def run(trained: Trained, test: dict | None, restored: bool = False) -> str:
    """A finished run; its figures first.

    Args:
        trained: of its folder.
        test: evaluate's figures, where it was judged.
        restored: whether it was written from the files alone.
    """
    parts = [_summary(trained, test), "", *_origin(trained)]
    if restored:
        parts.append("- written from its files afterwards: created and duration are of the writing")
    return "\n".join(parts) + "\n"


def version(trained: Trained, test: dict, experiment: str, run_id: str) -> str:
    """A registered version: figures, data, commit, and where it was trained."""
    rows = [
        f"| top-{k} | {_percent(test, f'test/top{k}')} | {_interval(test, f'test/top{k}')} "
        f"| {_percent(trained.metrics, f'val/top{k}')} |"
        for k in (1, 3, 5)
        if f"test/top{k}" in test
    ]
    parts = [
        _summary(trained, test),
        "",
        "| | test | 95 % interval | validation |",
        "|---|--:|--:|--:|",
        *rows,
        "",
        *_origin(trained),
        f"- trained in the run [{trained.name}]({run_link(experiment, run_id)})",
    ]
    return "\n".join(parts) + "\n"


def sweep(experiment: str, jobs: list[tuple[str, str, float | None, str]]) -> tuple[str, str]:
    """A sweep's name and note.

    Args:
        experiment: the id.
        jobs: name, run id, top-1 of the kept weights on validation (None: none yet) and status of each.
    """
    chosen: dict[str, list[str]] = {}
    for name, *_ in jobs:
        for override in name.split():
            key, _, value = override.partition("=")
            if value and value not in chosen.setdefault(key, []):
                chosen[key].append(value)
    title = " ".join(f"{key}={_values(values)}" for key, values in chosen.items())
    done = sorted((job for job in jobs if job[2] is not None), key=lambda job: -job[2])
    counts = [f"{len(done)} of {len(jobs)} jobs finished"]
    for status in ("RUNNING", "FAILED"):
        if number := sum(job[3] == status for job in jobs):
            counts.append(f"{number} {status.lower()}")
    parts = [", ".join(counts) + "."]
    if done:
        name, run_id, top1, _ = done[0]
        parts[0] += (
            f" Best on validation: [{name}]({run_link(experiment, run_id)}), top-1 **{top1:.1%}**"
            f" (the worst: {done[-1][2]:.1%})."
        )
        parts += ["", "| job | validation top-1 |", "|---|--:|"]
        parts += [
            f"| [{name}]({run_link(experiment, run_id)}) | {top1:.1%} |"
            for name, run_id, top1, _ in done[:JOBS]
        ]
        if len(done) > JOBS:
            parts += ["", f"and {len(done) - JOBS} more"]
    return f"sweep {title}".strip(), "\n".join(parts) + "\n"


def failed(reason: str) -> str:
    """A run that broke off."""
    return f"Broke off: {reason}\n"


def without_paths(text: str) -> str:
    """A message as it may stand on a page that others see."""
    for folder, short in ((f"{ROOT}/", ""), (str(ROOT), "."), (str(Path.home()), "~")):
        text = text.replace(folder, short)
    return text


def _values(values: list[str]) -> str:
    if len(values) <= VALUES:
        return ",".join(values)
    return f"{values[0]}…{values[-1]}({len(values)})"


def _summary(trained: Trained, test: dict | None) -> str:
    card, metrics = trained.card, trained.metrics
    text = f"**{card['name']}** on {card['data']}, seed {trained.settings['seed']}: "
    if test:
        text += f"test top-1 **{_percent(test, 'test/top1')}**"
        if interval := _interval(test, "test/top1"):
            text += f" (95 % interval {interval})"
        text += f", top-3 {_percent(test, 'test/top3')}; "
    text += f"validation top-1 {'' if test else '**'}{metrics['val/top1']:.1%}{'' if test else '**'}"
    if "val/top3" in metrics:
        text += f", top-3 {metrics['val/top3']:.1%}"
    if card["drawings"]:
        text += ". Trained on drawings: it knows no photographs"
    return text + "."


def _origin(trained: Trained) -> list[str]:
    data, metrics = trained.lineage["data"], trained.metrics
    commit = str(trained.lineage["commit"] or "unknown")[:8]
    cost = [f"{metrics['parameters']:,} parameters"] if "parameters" in metrics else []
    if "multiply_adds" in metrics:
        cost.append(f"{metrics['multiply_adds']:,} multiply-adds a picture")
    if metrics.get("epochs"):
        cost.append(f"{metrics['epochs']} epochs")
    return [
        f"- data: {data['name']}, {data['pictures']:,} pictures, {data['classes']} classes, "
        f"content `{data['content'][:12]}`, split `{data['split'][:12]}`",
        f"- commit: `{commit}`{' with uncommitted changes' if trained.lineage['dirty'] else ''}",
        *([f"- cost: {', '.join(cost)}"] if cost else []),
    ]


def _percent(figures: dict, key: str) -> str:
    return f"{figures[key]:.1%}" if key in figures else "–"


def _interval(figures: dict, key: str) -> str:
    low, high = figures.get(f"{key}/low"), figures.get(f"{key}/high")
    return f"{low:.1%}–{high:.1%}" if low is not None and high is not None else ""
