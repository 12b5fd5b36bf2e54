"""Stage report: page, tables and plots of a data set's candidates in ``reports/<data>/``, kept in git.

The folder is not a DVC out, because DVC would delete it when another data set is chosen. It contains
no timestamp, host name or run id, so that equal runs give equal files. Images are in ``pictures/``; git
tracks those of drawings, and ignores those of real pets.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from pipeline import portable
from pipeline.artifacts import untrusted
from pipeline.common import log, pages, tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.reporting import leaderboard
from pipeline.stage import stage
from pipeline.tasks import Task

README = Path(__file__).parent / "reporting/readme.md"
CURVES = ("model", "epoch", "score", "val/loss")  # columns that dvc.yaml's plots use
BOUNDS = ("/low", "", "/high")  # lower bound, value and upper bound of an interval
REASON = 300  # characters shown of a user's reason for a champion


def report(runs: Path, data_dir: Path, models: list[str], target: Path) -> None:
    """Writes a data set's report: page, README, tables and plots.

    Args:
        runs: ``runs/<name>``.
        data_dir: ``data/<name>``.
        models: names of the candidates.
        target: the folder to write; an older report there is replaced.

    Raises:
        UserError: an earlier stage has not run.
    """
    from pipeline.data.dataset import PackedDataset
    from pipeline.reporting import report_page

    if not (data_dir / "audit.csv").is_file():
        raise UserError(f"{data_dir}/audit.csv is missing; run: dvc repro audit")
    table, task = leaderboard.rows(runs, models), leaderboard.task_of(runs, models)
    best, columns = table[0]["model"], leaderboard.columns(task)
    drawings = untrusted.card(runs / "train" / best).drawings
    decision = json.loads((runs / "register/decision.json").read_text(encoding="utf-8"))
    predictions = {
        row["model"]: tables.read(runs / "evaluate" / row["model"] / "predictions.csv") for row in table
    }
    confidences = {
        name: (
            np.array([float(row["probability"]) for row in rows]),
            np.array([row["label"] == row["predicted"] for row in rows], dtype=float),
        )
        for name, rows in predictions.items()
    }
    verdicts = leaderboard.compare(predictions)
    pairs = tables.read(runs / "evaluate" / best / "confusions.csv")
    recalls = {
        row["label"]: float(row["recall"]) for row in tables.read(runs / "evaluate" / best / "classes.csv")
    }
    doubted = tables.read(data_dir / "audit.csv")
    pack = PackedDataset.open(data_dir)
    classes = report_page.counts(pack, recalls)
    tested = [row for row in classes["rows"] if row["recall"] is not None]

    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _tables(runs, data_dir, task, table, part)
    _plots(runs, task, table, confidences, part)
    thumbnail = report_page.Thumbnails(pack, part)
    report_page.write(
        part,
        name=runs.name,
        drawings=drawings,
        summary=pack.summary,
        split_sha256=pack.split_sha256,
        best=best,
        title=task.title,
        display=task.display,
        headings=leaderboard.headings(columns),
        rows=[leaderboard.cells(row, columns) for row in table],
        intervals=report_page.intervals(
            [[row[f"{task.test_key}{bound}"] for bound in BOUNDS] for row in table]
        ),
        about=" ".join(filter(None, [leaderboard.ties(task, table), task.about])),
        verdicts=[{**row, "words": leaderboard.verdict(row)} for row in verdicts],
        caution=leaderboard.caution(verdicts),
        decision=decision,
        challenger=_challenger(decision),
        confused=report_page.confused(predictions[best], pairs, thumbnail),
        wrong=sum(row["label"] != row["predicted"] for row in predictions[best]),
        judged=len(predictions[best]),
        mistakes=report_page.mistakes(predictions[best], thumbnail),
        weakest=sorted(tested, key=lambda row: row["recall"])[:5],
        confidence={
            name: {"sure": probabilities.mean(), "right": correct.mean()}
            for name, (probabilities, correct) in confidences.items()
        },
        classes=classes,
        quarantine=tables.read(data_dir / "pack/quarantine.csv"),
        dropped=list(pack.table["path"][pack.table["split"] == "dropped"]),
        near_duplicates=report_page.near_duplicates(pack, thumbnail),
        doubted=doubted,
        suspicious=[{**row, **thumbnail(row["path"])} for row in doubted[: report_page.SUSPICIOUS]],
    )
    readme = _readme(runs, task, table, verdicts, decision, drawings)
    (part / "README.md").write_text(readme, encoding="utf-8")
    _keep_user_files(target, part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)


def _keep_user_files(old: Path, new: Path) -> None:
    """Moves files that a user added from the old report to the new one."""
    for name in portable.entries(old):
        is_generated = re.fullmatch(r"confusion-[^/]*\.png|pictures/[0-9a-f]{16}\.jpg", name)
        if not is_generated and not portable.is_litter(name) and not os.path.lexists(new / name):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (old / name).rename(new / name)


def _tables(runs: Path, data_dir: Path, task: Task, table: list[dict], folder: Path) -> None:
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
    shutil.copyfile(data_dir / "audit.csv", folder / "audit.csv")


def _plots(runs: Path, task: Task, table: list[dict], confidences: dict[str, tuple], folder: Path) -> None:
    """Draws the candidates' curves, intervals and calibration, and copies their confusion matrices.

    Args:
        runs: see `report`.
        task: the candidates' task.
        table: their metrics, see `leaderboard.rows`.
        confidences: by model, the test images' highest probabilities, and whether they are right (0 or 1).
        folder: the report's.
    """
    from pipeline.artifacts import curves
    from pipeline.evaluation import plots

    names = list(confidences)
    points = {name: curves.read(runs / "train" / name) for name in names}
    plots.curves(points, task.monitor, f"val {task.title}", folder / "curves.png")
    percent = [[100 * row[f"{task.test_key}{bound}"] for row in table] for bound in ("", "/low", "/high")]
    plots.leaderboard(names, *percent, f"test {task.title}", runs.name, folder / "leaderboard.png")
    plots.calibration(confidences, folder / "calibration.png")
    for name in names:
        shutil.copyfile(runs / "evaluate" / name / "confusion.png", folder / f"confusion-{name}.png")


def _challenger(decision: dict) -> str:
    """The challenger and why it was not promoted, or "the same" as the champion."""
    if decision["promoted"]:
        return "the same"
    return f"{decision['challenger']} ({text.shortened(decision['reason'], REASON)})"


def _readme(
    runs: Path, task: Task, table: list[dict], verdicts: list[dict], decision: dict, drawings: bool
) -> str:
    """The folder's ``README.md``, which GitHub shows."""
    readme = pages.render(
        README,
        name=runs.name,
        drawings=drawings,
        table=leaderboard.markdown(task, table),
        ties=leaderboard.ties(task, table),
        task=task,
        verdicts=[leaderboard.verdict(row) for row in verdicts],
        caution=leaderboard.caution(verdicts),
        champion=decision["champion"],
        challenger=_challenger(decision),
        looks=decision["looks"],
        best=table[0]["model"],
        REASON=REASON,
    )
    return f"{readme}\n"


@stage
def main(cfg: DictConfig) -> None:
    name = cfg.data.name
    report(ROOT / "runs" / name, ROOT / "data" / name, list(cfg.models), ROOT / "reports" / name)
    log.result(f"reports/{name}/index.html")


if __name__ == "__main__":
    main()
