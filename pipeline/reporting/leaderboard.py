"""The table that compares candidates, built from the files of train and evaluate.

``petfaces leaderboard`` syncs MLflow, then prints the table of the data set in ``params.yaml``.
"""

import json
import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import click

from pipeline import config, tasks, tracking
from pipeline.artifacts import seal, untrusted
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.evaluation import ranking
from pipeline.tasks import MetricSpec, Task

_log = logging.getLogger(__name__)

COST = (
    MetricSpec("parameters", "parameters", "{:,}"),
    MetricSpec("multiply_adds", "multiply-adds", "{:,}"),
    MetricSpec("pictures_seen", "pictures seen", "{:,}"),
)
NOISE = 0.05  # p-value from which a difference counts as noise


def task_of(runs: Path, models: list[str]) -> Task:
    """The task of a data set's candidates, from the first one's card.

    Args:
        runs: the data set's folder under ``runs/``.
        models: names of the candidates.
    """
    return tasks.of(untrusted.card(runs / "train" / models[0]).task)


def columns(task: Task, printed: bool = False) -> list[MetricSpec]:
    """The metrics that a table shows, the ranking metric first.

    Args:
        task: the candidates' task.
        printed: whether to return only those that fit a terminal; the report shows all.
    """
    val = replace(task.ranked[0], key=task.monitor, title=f"val {task.title}")
    specs = [*task.test_specs, val, *COST]
    return [spec for spec in specs if spec.key in task.printed] if printed else specs


def rows(runs: Path, models: list[str]) -> list[dict]:
    """The metrics of each candidate.

    Args:
        runs: the data set's folder under ``runs/``.
        models: names of the candidates.

    Returns:
        One row per candidate, best first, ties by cost: `model` and the metrics under their keys.

    Raises:
        UserError: a candidate has not been evaluated, or its files are damaged.
    """
    table = []
    for name in models:
        row: dict = {"model": name}
        for stage in ("train", "evaluate"):
            file = runs / stage / name / "metrics.json"
            if not file.is_file():
                raise UserError(f"{file} is missing; run: dvc repro")
            seal.check(file.parent)
            row |= json.loads(file.read_text(encoding="utf-8"))
        table.append(row)
    test_key = task_of(runs, models).test_key
    return sorted(table, key=lambda row: (-row[test_key], ranking.cost(row)))


def ties(task: Task, table: list[dict]) -> str:
    """A sentence on the candidates that tie in the ranking metric; empty if none do."""
    groups: dict[float, list[str]] = {}
    for row in table:
        groups.setdefault(row[task.test_key], []).append(row["model"])
    tied = [" and ".join(names) for names in groups.values() if len(names) > 1]
    return f"{'; '.join(tied)} tie in {task.title}. {ranking.RULE}" if tied else ""


def cells(row: dict, columns: list[MetricSpec]) -> list[str]:
    """A row as text: the model, its first metric with the interval as the next cell, the other metrics."""
    shown = [spec.template.format(row[spec.key]) if spec.key in row else "–" for spec in columns]
    low, high = (columns[0].template.format(row[f"{columns[0].key}/{end}"]) for end in ("low", "high"))
    shown.insert(1, f"{low}–{high}")
    return [row["model"], *shown]


def headings(columns: list[MetricSpec]) -> list[str]:
    """The headings for `cells`."""
    first, *others = (spec.title for spec in columns)
    return ["model", first, "95 % interval", *others]


def markdown(task: Task, table: list[dict]) -> str:
    """The table as Markdown."""
    shown = columns(task)
    titles = headings(shown)
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|--:" * (len(titles) - 1) + "|"]
    lines += ["| " + " | ".join(map(text.markdown, cells(row, shown))) + " |" for row in table]
    return "\n".join(lines) + "\n"


def compare(predictions: dict[str, list[dict]]) -> list[dict]:
    """Whether candidates differ by more than chance, by exact McNemar tests on the same test images.

    Args:
        predictions: by model, best first; each with the same test images in the same order.

    Returns:
        A row for each candidate against the best and against the next better one: `first`, `second`, `wins`
        and `losses` of the first, `pictures`, `p`, and `noise` (whether p is at least `NOISE`).
    """
    import numpy as np

    from pipeline.tasks import metrics

    correct = {
        name: np.array([row["label"] == row["predicted"] for row in rows], dtype=bool)
        for name, rows in predictions.items()
    }
    best, *others = predictions
    rows = []
    for first, second in dict.fromkeys([*((best, other) for other in others), *pairwise(predictions)]):
        wins, losses, p = metrics.mcnemar(correct[first], correct[second])
        images = len(correct[first])
        rows.append({"first": first, "second": second, "wins": wins, "losses": losses, "pictures": images})
        rows[-1] |= {"p": p, "noise": p >= NOISE}
    return rows


def verdict(row: dict) -> str:
    """A row of `compare` as text."""
    first, second = row["first"], row["second"]
    within, beyond = f"{first} and {second}: within the noise", f"{first} before {second}: more than noise"
    result = within if row["noise"] else beyond
    return (
        f"{result}. Of {row['pictures']:,} test pictures {row['wins']} are right with {first} alone and "
        f"{row['losses']} with {second} alone (exact McNemar p = {row['p']:.2g})."
    )


def caution(verdicts: list[dict]) -> str:
    """What the verdicts don't cover, as text: other seeds and splits, and the number of tests."""
    if not verdicts:
        return "One candidate only: nothing is compared."
    uncorrected = ", and none is corrected for their number" if len(verdicts) > 1 else ""
    test = "A test compares two trained models on this split: another seed or split may turn the order"
    return f"{test}{uncorrected}."


def show(runs: Path, models: list[str], timed: bool = True) -> None:
    """Prints the table with training times, the champion, and what to run next.

    Args:
        runs: the data set's folder under ``runs/``.
        models: names of the candidates.
        timed: whether to query MLflow for training times.
    """
    name, task, ranked = runs.name, task_of(runs, models), rows(runs, models)
    shown = columns(task, printed=True)
    table = []
    for row in ranked:
        seconds = tracking.wall_seconds(runs / "train" / row["model"]) if timed else None
        table.append([*cells(row, shown), f"{seconds:,.0f} s" if seconds else "–"])
    title = f"{name}: test split, with the 95 % interval of {task.title}"
    titles = [*headings(shown), "training time"]
    text.print_table(titles, table, title, right=titles[1:], width=120)
    if tied := ties(task, ranked):
        print(text.printable(tied))
    decision = json.loads((runs / "register/decision.json").read_text(encoding="utf-8"))
    card = untrusted.card(runs / "register/champion/train")
    reason = text.shortened(decision["champion"]["reason"], 300)
    print(f"Champion of {name}: {text.printable(card.name)} ({reason}).")
    if card.drawings:
        print("It was trained on drawings, not photographs; to train on photos, run: make petfaces")
    print(f"Report, with all figures: reports/{name}/index.html")
    print("Runs and curves:          make ui")
    print("Predict a photo:          .venv/bin/petfaces predict PHOTO")


def _sync() -> bool:
    """Syncs MLflow with the files; returns whether that worked. If not, only training times are missing."""
    try:
        tracking.sync()
    except UserError as error:
        _log.warning("%s; the table is printed without MLflow's training times", error)
        return False
    return True


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all metrics as JSON.")
def main(as_json: bool) -> None:
    """Compare the candidates of params.yaml's data set on the test split."""
    cfg = config.compose()
    runs = ROOT / "runs" / cfg.data.name
    if not (runs / "register/decision.json").is_file():
        raise UserError(f"no model is registered for {cfg.data.name} yet; run: dvc repro")
    if as_json:
        print(json.dumps(rows(runs, list(cfg.models))))
        return
    show(runs, list(cfg.models), timed=_sync())
