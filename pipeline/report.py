"""Stage report: tables and plots of a data set's candidates into ``reports/<data>/``, small enough for git.

The folder is no DVC out: DVC deletes outs that a new choice of data no longer names. Nothing in it tells a
time, a host or a run, so that equal runs give equal files. No picture of a real pet goes in.
"""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from pipeline import config, leaderboard
from pipeline.config import ROOT


def _read(file: Path) -> list[dict]:
    with open(file, newline="") as stream:
        return list(csv.DictReader(stream))


def _write(file: Path, rows: list[dict]) -> None:
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(
            stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)


def report(runs: Path, place: Path, models: list[str], target: Path) -> None:
    """Writes a data set's report.

    Args:
        runs: its folder under ``runs/``.
        place: its folder under ``data/``.
        models: names of the candidates.
        target: the folder, made anew.
    """
    import numpy as np

    from pipeline import curves as curve_files
    from pipeline import figures

    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    table = leaderboard.rows(runs, models)
    order = [row["model"] for row in table]
    _write(unfinished / "leaderboard.csv", table)
    metrics = {row["model"]: {key: value for key, value in row.items() if key != "model"} for row in table}
    (unfinished / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")

    curves = {name: curve_files.read(runs / "train" / name) for name in order}
    _write(unfinished / "curves.csv", [{"model": name, **row} for name in order for row in curves[name]])
    figures.curves(curves, unfinished / "curves.png")
    percent = [[100 * row[f"test/top1{end}"] for row in table] for end in ("", "/low", "/high")]
    figures.leaderboard(order, *percent, runs.name, unfinished / "leaderboard.png")

    classes, confusions, sure = [], [], {}
    for name in order:
        evaluation = runs / "evaluate" / name
        classes += [{"model": name, **row} for row in _read(evaluation / "classes.csv")]
        confusions += [{"model": name, **row} for row in _read(evaluation / "confusions.csv")]
        shutil.copyfile(evaluation / "confusion.png", unfinished / f"confusion-{name}.png")
        predictions = _read(evaluation / "predictions.csv")
        right = np.array([row["label"] == row["predicted"] for row in predictions], dtype=float)
        sure[name] = (np.array([float(row["probability"]) for row in predictions]), right)
    _write(unfinished / "classes.csv", classes)
    _write(unfinished / "confusions.csv", confusions)
    figures.calibration(sure, unfinished / "calibration.png")
    (unfinished / "README.md").write_text(_page(runs, place, table, classes, confusions, sure))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)


def _noise(table: list[dict], sure: dict) -> str:
    """A frank line on whether the two best differ, by their paired intervals."""
    from scipy.stats import binomtest

    if len(table) < 2:
        return "One candidate only: nothing is compared.\n"
    first, second = (row["model"] for row in table[:2])
    wins = int(((sure[first][1] == 1) & (sure[second][1] == 0)).sum())
    losses = int(((sure[first][1] == 0) & (sure[second][1] == 1)).sum())
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    within = "within the noise of this test split" if p >= 0.05 else "more than the noise of this test split"
    return (
        f"`{first}` before `{second}`: of {len(sure[first][1])} test pictures {wins} are right with the "
        f"first alone and {losses} with the second alone (exact McNemar p = {p:.2g}), {within}.\n"
    )


def _challenger(decision: dict) -> str:
    """The best on validation, and what became of it."""
    if decision["promoted"]:
        return "the same"
    return f"`{decision['challenger']}` ({decision['reason']})"


def _page(
    runs: Path, place: Path, table: list[dict], classes: list[dict], confusions: list[dict], sure: dict
) -> str:
    """``README.md`` of the folder: what a forge shows when it is opened."""
    name = runs.name
    decision = json.loads((runs / "register/decision.json").read_text())
    card = json.loads((runs / "train" / table[0]["model"] / "model.json").read_text())
    summary = json.loads((place / "pack/pack.json").read_text())
    quarantine = _read(place / "pack/quarantine.csv")
    split = Counter(row["split"] for row in _read(place / "split.csv"))
    groups = Counter(row["group"] for row in _read(place / "split.csv"))
    repeated = sum(count > 1 for count in groups.values())
    best = table[0]["model"]
    weakest = sorted((row for row in classes if row["model"] == best), key=lambda row: float(row["recall"]))[
        :5
    ]
    pairs = [row for row in confusions if row["model"] == best][:5]
    lines = [
        f"# {name}",
        "",
        "Drawn by `dvc repro report`; change nothing here by hand.",
        *(
            [
                "",
                "**Drawings, not photographs**: these figures say that the pipeline works, "
                "nothing about real pets.",
            ]
            if card["drawings"]
            else []
        ),
        "",
        "## Leaderboard",
        "",
        leaderboard.markdown(table),
        "Test split; the interval is top-1's, by bootstrap. Per class: mean recall of the classes. "
        "Calibration: expected error, lower is better. Multiply-adds are of one picture; pictures seen are "
        "shown in training.",
        "",
        _noise(table, sure),
        f"Champion: `{decision['champion']['model']}` ({decision['champion']['reason']}). "
        f"Challenger: {_challenger(decision)}. "
        f"Paired tests made on this test split: {decision['looks']}.",
        "",
        "![test top-1 with intervals](leaderboard.png)",
        "![learning curves](curves.png)",
        "![calibration](calibration.png)",
        "",
        f"## Where `{best}` errs",
        "",
        "Weakest classes: "
        + ", ".join(f"{row['label']} {float(row['recall']):.0%} of {row['pictures']}" for row in weakest)
        + ".",
        "",
        "Most confused: "
        + (
            ", ".join(f"{row['label']} taken for {row['taken_for']} ({row['pictures']})" for row in pairs)
            or "none"
        )
        + ".",
        "",
        f"![confusions](confusion-{best}.png)",
        "",
        "## Data",
        "",
        f"{summary['pictures']:,} pictures in {summary['classes']} classes: {split['train']:,} train, "
        f"{split['val']:,} val, {split['test']:,} test; {repeated} groups of near-duplicates, none "
        f"across splits. Content `{summary['content'][:16]}`.",
        "",
        f"Quarantined: {len(quarantine)}.",
        *(f"- `{row['path']}`: {row['reason']}" for row in quarantine),
    ]
    return "\n".join(lines) + "\n"


@config.stage
def main(cfg: DictConfig) -> None:
    name = cfg.data.name
    report(ROOT / "runs" / name, ROOT / "data" / name, list(cfg.models), ROOT / "reports" / name)
    print(f"report: reports/{name}/README.md")


if __name__ == "__main__":
    main()
