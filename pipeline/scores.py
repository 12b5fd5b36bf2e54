"""Answers of a model to packed images, and its mistakes as pictures."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.classifier import Classifier
from pipeline import figures, portable
from pipeline.data import Pack, Pictures, loader, still
from pipeline.portable import ModelCard
from pipeline.tasks import Assessment

SHOWN = 24  # worst mistakes on one sheet


def predict(
    model: Classifier, card: ModelCard, pack: Pack, rows: np.ndarray, batch_size: int, workers: int
) -> np.ndarray:
    """Probabilities, rows × classes float32, from one process; the same code for validation and test."""
    pictures = loader(Pictures(pack, rows, still(card.input), seed=0), batch_size, workers)
    return _answers(model, (batch for batch, _ in pictures))


def predict_loose(
    model: Classifier, card: ModelCard, pictures: list[np.ndarray], batch_size: int
) -> np.ndarray:
    """The same of pictures of no data set, uint8 H×W×3 of any size each."""
    size = still(card.input)
    sized = [size(portable.shrink(Image.fromarray(each), card.input.max_side)) for each in pictures]
    starts = range(0, len(sized), batch_size)
    return _answers(model, (torch.from_numpy(np.stack(sized[at : at + batch_size])) for at in starts))


def _answers(model: Classifier, batches: Iterable[torch.Tensor]) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        logits = (model(batch.to(model.device)) for batch in batches)
        parts = [model.task.probabilities(each).float().cpu().numpy() for each in logits]
    return np.concatenate(parts)


def draw(pack: Pack, rows: np.ndarray, assessed: Assessment, title: str, folder: Path) -> None:
    """Writes ``confusion.png`` and ``mistakes.png``, the wrong answers that were surest, into a folder.

    Args:
        pack: the pictures.
        rows: which of them were judged.
        assessed: of the answers to these.
        title: of both figures.
        folder: where to.
    """
    counts = np.array([row["pictures"] for row in assessed.classes])
    figures.confusion(assessed.matrix, counts, pack.classes, title, folder / "confusion.png")
    pictures = Pictures(pack, rows, lambda picture, *_: picture, seed=0)
    wrong = np.flatnonzero(np.array(assessed.labels) != np.array(assessed.predicted))
    worst = wrong[np.argsort(-assessed.certainty[wrong], kind="stable")][:SHOWN]
    display = pack.task.display
    captions = [
        f"{display(assessed.labels[index])}\ntaken for {display(assessed.predicted[index])}\n"
        f"{assessed.certainty[index]:.0%}"
        for index in worst
    ]
    figures.mistakes(
        [pictures.picture(index) for index in worst],
        captions,
        f"{title}: surest mistakes",
        folder / "mistakes.png",
    )
