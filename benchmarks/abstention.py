"""How stable the abstention threshold is over seeds, and whether it meets its targets on unseen images.

``python -m benchmarks.abstention data=petfaces model=probe --seeds 10``. Each seed sets both the training and
the split. Trained folders stay in ``runs/abstention/``; a model that is already there is not trained again.
Each model is evaluated with two rules:

- "current": `pipeline.tasks.calibration.abstain_below`
- "previous": the lowest threshold at which the counts on validation meet both targets, with 60 patterns of
  five kinds
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine
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
PHOTO_CROPS = 200  # out-of-domain test images, which neither rule uses


def previous_rule(
    confidence: np.ndarray, correct: np.ndarray, ood: np.ndarray, min_precision: float, max_ood_rate: float
) -> float:
    """The previous rule's threshold; 1 if none meets both targets.

    Args:
        confidence: highest probability of each validation image.
        correct: whether its class is right.
        ood: highest probability of each out-of-domain image.
        min_precision: minimum precision of the answers.
        max_ood_rate: maximum fraction of out-of-domain images that get an answer.
    """
    for threshold in np.unique(np.concatenate([[0.0], confidence, np.nextafter(ood, 2)])):
        is_answered = confidence >= threshold
        if not is_answered.any():
            break
        if correct[is_answered].mean() >= min_precision and (ood >= threshold).mean() <= max_ood_rate:
            return float(threshold)
    return 1.0


# Name of a rule, the rule, and the key of its out-of-domain confidences in `confidences`.
RULES = (("previous", previous_rule, "former"), ("current", calibration.abstain_below, "patterns"))


def trained(overrides: list[str], seed: int, name: str) -> tuple[Path, Path, DictConfig]:
    """Trains with one seed on a split of its own, unless that is done.

    Returns:
        The train folder, the data set's folder, and the configuration.
    """
    folder = FOLDER / name / str(seed)
    cfg = compose(*overrides, f"seed={seed}", f"split.seed={seed}")
    cfg.out = str(folder / "model")
    data_dir = folder / "data" / cfg.data.name
    if not (folder / "model/model.json").is_file():
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / "pack").exists():
            (data_dir / "pack").symlink_to(ROOT / "data" / cfg.data.name / "pack")
        split.split(data_dir / "pack", data_dir / "split.csv", cfg.split)
        train.ROOT = folder  # train looks for its data there
        train.train(cfg)
    return folder / "model", data_dir, cfg


def confidences(folder: Path, data_dir: Path, cfg: DictConfig) -> dict[str, np.ndarray]:
    """Highest probabilities of a trained model, cached in ``judged.npz`` beside it.

    Returns:
        `val` and `test`, and as `val_right` and `test_right` whether the class is correct; of out-of-domain
        images: `patterns`, `former` (the patterns for the previous rule) and `unseen` (photographs).
    """
    file = folder.with_name("judged.npz")
    if not file.is_file():
        model, card = classifier.load(folder)
        pack, found = PackedDataset.open(data_dir), {}
        training = Training(cfg, pack, model, card)
        for part in ("val", "test"):
            images = ImageDataset(pack, pack.rows(part), eval_transform(card.input))
            probabilities = assess.predict(training, images)
            found[part] = probabilities.max(axis=1)
            found[f"{part}_right"] = probabilities.argmax(axis=1) == images.targets
        out_of_domain_images = {
            "patterns": out_of_domain.generated_patterns(assess.OOD_IMAGES, seed=0),
            "former": out_of_domain.generated_patterns(72, seed=0),
            "unseen": out_of_domain.photo_crops(PHOTO_CROPS, seed=5),
        }
        for name, images in out_of_domain_images.items():
            found[name] = assess.predict(training, LooseImages(images, card.input)).max(axis=1)
        found["former"] = found["former"][np.arange(72) % 6 < 5]  # the sixth kind is newer than that rule
        np.savez(file, **found)
    with np.load(file) as stored:
        return dict(stored)


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--seeds", type=int, default=10)
    args = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{FOLDER / 'mlflow.db'}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = "-".join(args.overrides).replace("/", "_") or "defaults"
    console = Console(width=120)
    console.print(describe_machine("torch", "scipy"))
    columns = ("test top-1", "threshold", "answered", "correct when answered", "photographs answered")
    table = Table("rule", "seed", *columns)
    for title, rule, ood in RULES:
        results = []
        for seed in range(1, args.seeds + 1):
            folder, data_dir, cfg = trained(args.overrides, seed, name)
            torch.set_num_threads(cfg.runtime.threads)
            found = confidences(folder, data_dir, cfg)
            targets = (cfg.unsure.min_precision, cfg.unsure.max_ood_rate)
            threshold = rule(found["val"], found["val_right"], found[ood], *targets)
            is_answered, correct = found["test"] >= threshold, found["test_right"]
            hits, photos = correct[is_answered].sum(), (found["unseen"] >= threshold).mean()
            results.append((is_answered.mean(), is_answered.sum(), hits, photos))
            precision = f"{correct[is_answered].mean():.1%}" if is_answered.any() else "–"
            cells = (f"{is_answered.mean():.1%}", precision, f"{photos:.1%}")
            table.add_row(title, str(seed), f"{correct.mean():.1%}", f"{threshold:.3f}", *cells)
        answered, count, hits, photos = np.array(results).T
        ranges = [f"{each.mean():.1%} ({each.min():.1%}–{each.max():.1%})" for each in (answered, photos)]
        pooled = f"{hits.sum() / count.sum():.1%} of {count.sum():,.0f}" if count.sum() else "–"
        table.add_row(title, "mean (range)", "", "", ranges[0], pooled, ranges[1], end_section=True)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except errors.UserError as error:
        sys.exit(f"error: {error}")
