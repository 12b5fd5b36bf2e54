"""How stable the abstention threshold is over seeds, and whether it meets its targets on unseen images.

``python -m benchmarks.abstention data=petfaces model=probe --seeds 10``. Each seed sets both the training and
the split. Trained folders stay in ``runs/abstention/``; a model that is already there is not trained again.
Each model is evaluated with two rules:

- "today's": the current rule
- "former": the previous rule, the lowest threshold at which the counts on validation meet both targets,
  with 60 patterns of five kinds
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described
from models import classifier
from pipeline import split, train
from pipeline.common import errors
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import ImageDataset, LooseImages, PackedDataset, eval_transform
from pipeline.evaluation import out_of_domain
from pipeline.tasks import calibration
from pipeline.training import assess
from pipeline.training.build import Training

FOLDER = ROOT / "runs/abstention"
JUDGED_BY = 200  # cut-outs of photographs, of which no rule sees one


def former(sure, right, others, wanted: float, named: float) -> float:
    """The rule before today's."""
    for bound in np.unique(np.concatenate([[0.0], sure, np.nextafter(others, 2)])):
        answers = sure >= bound
        if not answers.any():
            break
        if right[answers].mean() >= wanted and (others >= bound).mean() <= named:
            return float(bound)
    return 1.0


def trained(overrides: list[str], seed: int, name: str) -> tuple[Path, Path, DictConfig]:
    """Trains one seed on a split of its own, unless that is done; returns its folder and its data's."""
    folder = FOLDER / name / str(seed)
    cfg = compose(*overrides, f"seed={seed}", f"split.seed={seed}")
    cfg.out = str(folder / "model")
    place = folder / "data" / cfg.data.name
    if not (folder / "model/model.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "pack").exists():
            (place / "pack").symlink_to(ROOT / "data" / cfg.data.name / "pack")
        split.split(place / "pack", place / "split.csv", cfg.split)
        train.ROOT = folder  # where train looks for its data
        train.train(cfg)
    return folder / "model", place, cfg


def judged(folder: Path, place: Path, cfg: DictConfig) -> dict[str, np.ndarray]:
    """Highest probabilities, and whether they are right, kept beside the model."""
    file = folder.with_name("judged.npz")
    if not file.is_file():
        model, card = classifier.load(folder)
        pack, found = PackedDataset.open(place), {}
        training = Training(cfg, pack, model, card)
        for part in ("val", "test"):
            pictures = ImageDataset(pack, pack.rows(part), eval_transform(card.input))
            shares = assess.predict(training, pictures)
            found[part] = shares.max(axis=1)
            found[f"{part}_right"] = shares.argmax(axis=1) == pictures.targets
        others = {
            "patterns": out_of_domain.drawn(assess.OOD_IMAGES, seed=0),
            "former": out_of_domain.drawn(72, seed=0),
            "unseen": out_of_domain.photographed(JUDGED_BY, seed=5),
        }
        for name, images in others.items():
            found[name] = assess.predict(training, LooseImages(images, card.input)).max(axis=1)
        found["former"] = found["former"][np.arange(72) % 6 < 5]  # the kinds that there were
        np.savez(file, **found)
    with np.load(file) as stored:
        return dict(stored)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.abstention", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("overrides", nargs="*", help="choices, as for pipeline.train")
    given = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{FOLDER / 'mlflow.db'}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = "-".join(given.overrides).replace("/", "_") or "defaults"
    console = Console(width=120)
    console.print(described("torch", "scipy"))
    table = Table("rule", "seed", "test top-1", "bound", "answered", "right then", "photographs named")
    for title, rule, patterns in (
        ("former", former, "former"),
        ("today's", calibration.abstain_below, "patterns"),
    ):
        shown = []
        for seed in range(1, given.seeds + 1):
            folder, place, cfg = trained(given.overrides, seed, name)
            torch.set_num_threads(cfg.runtime.threads)
            found = judged(folder, place, cfg)
            promised = (cfg.unsure.answers_right, cfg.unsure.others_named)
            bound = rule(found["val"], found["val_right"], found[patterns], *promised)
            answers, right = found["test"] >= bound, found["test_right"]
            shown.append(
                (answers.mean(), answers.sum(), right[answers].sum(), (found["unseen"] >= bound).mean())
            )
            then = f"{right[answers].mean():.1%}" if answers.any() else "–"
            shares = (f"{shown[-1][0]:.1%}", then, f"{shown[-1][3]:.1%}")
            table.add_row(title, str(seed), f"{right.mean():.1%}", f"{bound:.3f}", *shares)
        answered, count, hits, named = np.array(shown).T
        ranges = [f"{each.mean():.1%} ({each.min():.1%}–{each.max():.1%})" for each in (answered, named)]
        together = f"{hits.sum() / count.sum():.1%} of {count.sum():,.0f}" if count.sum() else "–"
        table.add_row(title, "mean (range)", "", "", ranges[0], together, ranges[1], end_section=True)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except errors.UserError as error:
        sys.exit(f"error: {error}")
