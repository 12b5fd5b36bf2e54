"""Plots of a model's confusions and worst mistakes."""

from pathlib import Path

import numpy as np

from pipeline.data.dataset import ImageDataset, PackedDataset
from pipeline.evaluation import plots
from pipeline.tasks import Assessment

SHOWN = 24  # mistakes in the plot


def draw(pack: PackedDataset, rows: np.ndarray, assessed: Assessment, title: str, folder: Path) -> None:
    """Writes ``confusion.png``, and ``mistakes.png`` with the most confident wrong predictions.

    Args:
        pack: the packed data set.
        rows: indices into the pack's table of the evaluated images.
        assessed: the predictions for these images.
        title: title of both plots.
        folder: the folder to write to.
    """
    counts = np.array([row["pictures"] for row in assessed.classes])
    plots.confusion(assessed.matrix, counts, pack.classes, title, folder / "confusion.png")
    images = ImageDataset(pack, rows, lambda image, *_: image)
    wrong = np.flatnonzero(np.array(assessed.labels) != np.array(assessed.predicted))
    worst = wrong[np.argsort(-assessed.certainty[wrong], kind="stable")][:SHOWN]
    display = pack.task.display
    captions = [
        f"{display(assessed.labels[index])}\ntaken for {display(assessed.predicted[index])}\n"
        f"{assessed.certainty[index]:.0%}"
        for index in worst
    ]
    title = f"{title}: surest mistakes"
    plots.mistakes([images.image(index) for index in worst], captions, title, folder / "mistakes.png")
