"""A model's confusions and worst mistakes as pictures."""

from pathlib import Path

import numpy as np

from pipeline.data.dataset import ImageDataset, PackedDataset
from pipeline.evaluation import plots
from pipeline.tasks import Assessment

SHOWN = 24  # worst mistakes on one sheet


def draw(pack: PackedDataset, rows: np.ndarray, assessed: Assessment, title: str, folder: Path) -> None:
    """Writes ``confusion.png`` and ``mistakes.png``, the wrong answers that were surest, into a folder.

    Args:
        pack: the pictures.
        rows: which of them were judged.
        assessed: of the answers to these.
        title: of both figures.
        folder: where to.
    """
    counts = np.array([row["pictures"] for row in assessed.classes])
    plots.confusion(assessed.matrix, counts, pack.classes, title, folder / "confusion.png")
    pictures = ImageDataset(pack, rows, lambda picture, *_: picture, seed=0)
    wrong = np.flatnonzero(np.array(assessed.labels) != np.array(assessed.predicted))
    worst = wrong[np.argsort(-assessed.certainty[wrong], kind="stable")][:SHOWN]
    display = pack.task.display
    captions = [
        f"{display(assessed.labels[index])}\ntaken for {display(assessed.predicted[index])}\n"
        f"{assessed.certainty[index]:.0%}"
        for index in worst
    ]
    plots.mistakes(
        [pictures.picture(index) for index in worst],
        captions,
        f"{title}: surest mistakes",
        folder / "mistakes.png",
    )
