"""How right a table of probabilities is, in figures and in pictures."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline import figures, portable
from pipeline.data import Pack, Pictures, loader, still
from pipeline.portable import ModelCard

SHOWN = 24  # worst mistakes on one sheet


def predict(
    model, card: ModelCard, pack: Pack, rows: np.ndarray, batch_size: int, workers: int
) -> np.ndarray:
    """Probabilities, rows × classes float32, from one process; the same code for validation and test."""
    pictures = loader(Pictures(pack, rows, still(card.input), seed=0), batch_size, workers)
    return _answers(model, (batch for batch, _ in pictures))


def predict_loose(model, card: ModelCard, pictures: list[np.ndarray], batch_size: int) -> np.ndarray:
    """The same of pictures of no data set, uint8 H×W×3 of any size each."""
    size = still(card.input)
    sized = [size(portable.shrink(Image.fromarray(each), card.input.max_side)) for each in pictures]
    starts = range(0, len(sized), batch_size)
    return _answers(model, (torch.from_numpy(np.stack(sized[at : at + batch_size])) for at in starts))


def _answers(model, batches: Iterable[torch.Tensor]) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        parts = [model(batch.to(model.device)).softmax(dim=1).float().cpu().numpy() for batch in batches]
    return np.concatenate(parts)


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts, rows true and columns predicted, classes × classes."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def interval(right: np.ndarray) -> tuple[float, float]:
    """95 % Wilson interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    It holds at the edges: of 42 images that are all right it says 91.6 to 100 %.

    Args:
        right: 0/1 values of independent images, at least one.
    """
    from scipy.stats import binomtest

    found = binomtest(int(np.count_nonzero(right)), len(right)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """McNemar's test, exact, of two models on the same pictures.

    Only the pictures on which they differ count: were both equally good, each would win half of them.

    Args:
        first: whether each picture's class was found, N bool.
        second: the same of the other model.

    Returns:
        Pictures that the first alone found, that the second alone found, and the two-sided p-value.
    """
    from scipy.stats import binomtest

    wins, losses = int((first & ~second).sum()), int((~first & second).sum())
    return wins, losses, float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def topk(probabilities: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """Whether each picture's class is among its k most probable, N bool."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return (best == targets[:, None]).any(axis=1)


def species_right(probabilities: np.ndarray, targets: np.ndarray, species: list[str]) -> np.ndarray | None:
    """Whether the more probable species is the true one, N bool; None without two known species."""
    kinds = sorted(set(species))
    if "" in kinds or len(kinds) < 2:
        return None
    member = np.array([[name == kind for kind in kinds] for name in species], dtype=float)
    return (probabilities @ member).argmax(axis=1) == member[targets].argmax(axis=1)


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error with 15 equal bins (Guo et al. 2017, arXiv:1706.04599)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    error = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        torch.from_numpy(targets),
        probabilities.shape[1],
        n_bins=15,
        norm="l1",
    )
    return float(error)


def worst(probabilities: np.ndarray, targets: np.ndarray, count: int = SHOWN) -> np.ndarray:
    """Places of the wrong predictions, surest first."""
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    return wrong[np.argsort(-sure[wrong], kind="stable")][:count]


def draw(pack: Pack, rows: np.ndarray, probabilities: np.ndarray, title: str, folder: Path) -> None:
    """Writes ``confusion.png`` and ``mistakes.png`` into a folder.

    Args:
        pack: the pictures.
        rows: which of them were judged.
        probabilities: rows × classes.
        title: of both figures.
        folder: where to.
    """
    targets = pack.table["target"].to_numpy()[rows]
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(targets, predicted, len(pack.classes))
    figures.confusion(matrix, pack.classes, title, folder / "confusion.png")
    pictures = Pictures(pack, rows, lambda picture, *_: picture, seed=0)
    shown = worst(probabilities, targets)
    captions = [
        f"{pack.classes[targets[place]]}\ntaken for {pack.classes[predicted[place]]}\n"
        f"{probabilities[place].max():.0%}"
        for place in shown
    ]
    figures.mistakes(
        [pictures.picture(place) for place in shown],
        captions,
        f"{title}: surest mistakes",
        folder / "mistakes.png",
    )
