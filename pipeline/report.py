"""Stage report: page, tables and plots of a data set's candidates in ``reports/<data>/``, kept in git.

The folder is not a DVC out, because DVC deletes outs that another choice of data no longer names. It contains
no timestamp, host name or run id, so that equal runs give equal files. Images are in ``pictures/``; git
tracks those of drawings, and ignores those of real pets.
"""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote

from omegaconf import DictConfig

from pipeline import portable
from pipeline.artifacts import untrusted
from pipeline.common import log, tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.portable import ModelCard
from pipeline.reporting import leaderboard
from pipeline.stage import stage
from pipeline.tasks import Task

CURVES = ("model", "epoch", "score", "val/loss")  # columns that dvc.yaml's plots use

ENDS = ("/low", "", "/high")  # lower bound, value and upper bound of an interval
REASON = 300  # characters shown of a user's reason for a champion


def report(runs: Path, place: Path, models: list[str], target: Path) -> None:
    """Writes a data set's report.

    Args:
        runs: its folder under ``runs/``.
        place: its folder under ``data/``.
        models: names of the candidates.
        target: the report's folder, replaced.

    Raises:
        UserError: an earlier stage has not run.
    """
    if not (place / "audit.csv").is_file():
        raise UserError(f"{place}/audit.csv is missing; run: dvc repro audit")
    table, task = leaderboard.rows(runs, models), leaderboard.task_of(runs, models)
    decision = json.loads((runs / "register/decision.json").read_text(encoding="utf-8"))
    predictions = {
        row["model"]: tables.read(runs / "evaluate" / row["model"] / "predictions.csv") for row in table
    }
    verdicts = leaderboard.compare(predictions)

    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _tables(runs, place, task, table, unfinished)
    _plots(runs, task, table, predictions, unfinished)
    _page(runs, place, task, table, predictions, verdicts, decision, unfinished)
    (unfinished / "README.md").write_text(_readme(runs, task, table, verdicts, decision), encoding="utf-8")
    _keep_others(target, unfinished)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)


def _keep_others(old: Path, new: Path) -> None:
    """Moves files that a user added to the old report into the new one; reports are in git, not sealed."""
    for name in portable.entries(old):
        is_generated = re.fullmatch(r"confusion-[^/]*\.png|pictures/[0-9a-f]{16}\.jpg", name)
        if not is_generated and not portable.is_litter(name) and not os.path.lexists(new / name):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (old / name).rename(new / name)


def _tables(runs: Path, place: Path, task: Task, table: list[dict], folder: Path) -> None:
    """Writes the candidates' metrics: a few in JSON for `dvc exp show`, all in CSV."""
    from pipeline.artifacts import curves

    tables.write(folder / "leaderboard.csv", table)
    metrics = {row["model"]: {key: row[key] for key in task.compared if key in row} for row in table}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    for name in ("classes", "confusions"):
        rows = {row["model"]: tables.read(runs / "evaluate" / row["model"] / f"{name}.csv") for row in table}
        tables.write(
            folder / f"{name}.csv", [{"model": model, **row} for model in rows for row in rows[model]]
        )
    points = {row["model"]: curves.read(runs / "train" / row["model"]) for row in table}
    rows = [
        {"model": model, **row, "score": row.get(task.monitor)} for model in points for row in points[model]
    ]
    # Columns that dvc.yaml's plots use must exist even if no row has them.
    tables.write(
        folder / "curves.csv", rows, list(dict.fromkeys([*CURVES, *(key for row in rows for key in row)]))
    )
    shutil.copyfile(place / "audit.csv", folder / "audit.csv")


def _plots(
    runs: Path, task: Task, table: list[dict], predictions: dict[str, list[dict]], folder: Path
) -> None:
    import numpy as np

    from pipeline.artifacts import curves
    from pipeline.evaluation import plots

    names = list(predictions)
    points = {name: curves.read(runs / "train" / name) for name in names}
    plots.curves(points, task.monitor, f"val {task.title}", folder / "curves.png")
    percent = [[100 * row[f"{task.test_key}{end}"] for row in table] for end in ("", "/low", "/high")]
    plots.leaderboard(names, *percent, f"test {task.title}", runs.name, folder / "leaderboard.png")
    confidences = {
        name: (
            np.array([float(row["probability"]) for row in rows]),
            np.array([row["label"] == row["predicted"] for row in rows], dtype=float),
        )
        for name, rows in predictions.items()
    }
    plots.calibration(confidences, folder / "calibration.png")
    for name in names:
        shutil.copyfile(runs / "evaluate" / name / "confusion.png", folder / f"confusion-{name}.png")


def _confidence(predictions: list[dict]) -> dict:
    """A model's mean confidence on its test images, and its accuracy."""
    confidence = sum(float(row["probability"]) for row in predictions) / len(predictions)
    accuracy = sum(row["label"] == row["predicted"] for row in predictions) / len(predictions)
    return {"sure": confidence, "right": accuracy}


def _page(
    runs: Path,
    place: Path,
    task: Task,
    table: list[dict],
    predictions: dict[str, list[dict]],
    verdicts: list[dict],
    decision: dict,
    folder: Path,
) -> None:
    """Writes ``index.html`` with its images."""
    from pipeline.data.dataset import PackedDataset
    from pipeline.reporting import page

    pack, columns = PackedDataset.open(place), leaderboard.columns(task)
    thumbnail = page.Thumbnails(pack, folder)
    best = table[0]["model"]
    recalls = {
        row["label"]: float(row["recall"]) for row in tables.read(runs / "evaluate" / best / "classes.csv")
    }
    doubted = tables.read(place / "audit.csv")
    dropped = pack.table[pack.table["split"] == "dropped"]
    classes = page.counts(pack, recalls)
    tested = [row for row in classes["rows"] if row["recall"] is not None]
    pairs = tables.read(runs / "evaluate" / best / "confusions.csv")
    page.write(
        folder,
        name=runs.name,
        drawings=_card(runs, best).drawings,
        summary=pack.summary,
        split_sha256=pack.split_sha256,
        best=best,
        title=task.title,
        display=task.display,
        headings=leaderboard.headings(columns),
        rows=[leaderboard.cells(row, columns) for row in table],
        intervals=page.intervals([[row[f"{task.test_key}{end}"] for end in ENDS] for row in table]),
        about=" ".join(filter(None, [leaderboard.ties(task, table), task.about])),
        verdicts=[{**row, "words": leaderboard.verdict(row)} for row in verdicts],
        caution=leaderboard.caution(verdicts),
        decision=decision,
        challenger=_challenger(decision),
        confused=page.confused(predictions[best], pairs, thumbnail),
        wrong=sum(row["label"] != row["predicted"] for row in predictions[best]),
        judged=len(predictions[best]),
        mistakes=page.mistakes(predictions[best], thumbnail),
        weakest=sorted(tested, key=lambda row: row["recall"])[:5],
        confidence={name: _confidence(rows) for name, rows in predictions.items()},
        classes=classes,
        quarantine=tables.read(place / "pack/quarantine.csv"),
        dropped=list(dropped["path"]),
        near_duplicates=page.near_duplicates(pack, thumbnail),
        doubted=doubted,
        suspicious=[{**row, **thumbnail(row["path"])} for row in doubted[: page.SUSPICIOUS]],
    )


def _card(runs: Path, model: str) -> ModelCard:
    return untrusted.card(runs / "train" / model)


def _challenger(decision: dict) -> str:
    """The challenger and why it was not promoted, or "the same" as the champion."""
    if decision["promoted"]:
        return "the same"
    return f"{decision['challenger']} ({text.shortened(decision['reason'], REASON)})"


def _readme(runs: Path, task: Task, table: list[dict], verdicts: list[dict], decision: dict) -> str:
    """The folder's ``README.md``, which GitHub shows."""
    best = table[0]["model"]
    champion = decision["champion"]
    drawings = (
        "**Drawings, not photographs**: these figures say that the pipeline works, "
        "nothing about real pets.\n\n"
    )
    lines = [
        f"# {text.markdown(runs.name)}",
        "",
        (drawings if _card(runs, best).drawings else "")
        + "Drawn by `dvc repro report`; change nothing here by hand. The whole report, with mistakes, labels "
        "to check and the state of the data, is the page [index.html](index.html): open it from disk.",
        "",
        leaderboard.markdown(task, table),
        *([leaderboard.ties(task, table), ""] if leaderboard.ties(task, table) else []),
        task.about,
        "",
        *(f"- {text.markdown(leaderboard.verdict(row))}" for row in verdicts),
        *([""] if verdicts else []),
        leaderboard.caution(verdicts),
        "",
        f"Champion: {text.code(champion['model'])} ({text.markdown(champion['reason'][:REASON])}). "
        f"Challenger: {text.markdown(_challenger(decision))}. "
        f"Paired tests made on this test split: {decision['looks']}.",
        "",
        f"![test {task.title} with intervals](leaderboard.png)",
        "![learning curves](curves.png)",
        "![calibration](calibration.png)",
        f"![confusions of {text.markdown(best)}](confusion-{quote(best)}.png)",
    ]
    return "\n".join(lines) + "\n"


@stage
def main(cfg: DictConfig) -> None:
    name = cfg.data.name
    report(ROOT / "runs" / name, ROOT / "data" / name, list(cfg.models), ROOT / "reports" / name)
    log.result(f"reports/{name}/index.html")


if __name__ == "__main__":
    main()
