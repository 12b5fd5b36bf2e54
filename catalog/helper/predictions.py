"""Predictions for a project's images, by a head trained on its labels or by a champion of the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.champions import Champion
from catalog.helper import features
from catalog.helper.evidence import EVIDENCE, Checked
from catalog.helper.heads import MultiLabelHead, SingleLabelHead
from catalog.store.suggestions import Known
from catalog.store.tables import LabelClass

LABELS_PER_CLASS = 10  # on average, before a head's predictions order the pages
MIN_PER_CLASS = 3  # unless each class has so many


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for the images that wait.

    Attributes:
        probabilities: of each class, N×classes.
        present: whether a class is predicted, N×classes; one class per row in a single-label project.
        confidence: probability that `present` is right, N.
    """

    probabilities: np.ndarray
    present: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, task: str, limits: np.ndarray | float = 0.5) -> "Predictions":
        """Decides from probabilities; `limits` are those above which a class of several is present."""
        if task == "multi_label":
            present = probabilities >= limits
            confidence = np.where(present, probabilities, 1 - probabilities).prod(axis=1)
        else:
            present = np.zeros(probabilities.shape, bool)
            present[np.arange(len(present)), probabilities.argmax(axis=1)] = True
            confidence = probabilities.max(axis=1, initial=0)
        return cls(probabilities, present, confidence)

    def __getitem__(self, rows: np.ndarray) -> "Predictions":
        return Predictions(self.probabilities[rows], self.present[rows], self.confidence[rows])


@dataclass(frozen=True)
class Images:
    """A project's images as models need them.

    Attributes:
        known: all images, in the order of `x`.
        x: components of their features, N×D.
        class_ids, class_names: of the project's classes.
        waiting: indices of images to predict.
        learned: indices of labeled images; test images are in neither.
        targets: 0 or 1 for each of `learned`, N×classes.
    """

    known: list[Known]
    x: np.ndarray
    class_ids: list[int]
    class_names: list[str]
    waiting: np.ndarray
    learned: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, known: list[Known], x: np.ndarray, classes: list[LabelClass]) -> "Images":
        """Sorts a project's images by what is done with them."""
        shown = [index for index, image in enumerate(known) if not image.is_test]
        waiting = np.array([index for index in shown if known[index].waiting], int)
        learned = np.array([index for index in shown if known[index].classes is not None], int)
        columns = {found.id: column for column, found in enumerate(classes)}
        targets = np.zeros((len(learned), len(classes)), int)
        for row, index in enumerate(learned):
            targets[row, [columns[class_id] for class_id in known[index].classes]] = 1
        names = [found.name for found in classes]
        return cls(known, x, list(columns), names, waiting, learned, targets)

    @property
    def are_enough(self) -> bool:
        """Whether a head that is trained on the labels knows all classes well enough to be of use."""
        least = self.targets.sum(axis=0).min(initial=0)
        return bool(least >= MIN_PER_CLASS or len(self.learned) >= LABELS_PER_CLASS * len(self.class_ids))


def train_head(task: str, images: Images) -> SingleLabelHead | MultiLabelHead | None:
    """A head trained on the labeled images; None if too little is known to train one."""
    x, y = images.x[images.learned], images.targets
    if task == "multi_label":
        return MultiLabelHead(x, y) if len(y) >= 2 * LABELS_PER_CLASS else None
    classes = y.argmax(axis=1)
    return SingleLabelHead(x, classes, y.shape[1]) if len(set(classes)) > 1 and len(y) >= 18 else None


class ChampionPredictions:
    """Predictions of a champion for all images of a project.

    Args:
        champion: the champion.
        folder: below which probabilities are kept by image hash.
        files: image files by hash.
        images: the project's.
        report: called with the number of finished and of all images without probabilities.
    """

    def __init__(
        self,
        champion: Champion,
        folder: Path,
        files: dict[str, Path],
        images: Images,
        report: Callable[[int, int], None],
    ):
        store, network = features.of_champion(folder, champion)
        features.compute(store, network, files, report)
        own = store.get([image.sha256 for image in images.known])
        columns = {name: column for column, name in enumerate(network.card.classes)}
        names = images.class_names
        probabilities, limits = np.zeros((len(own), len(names))), np.full(len(names), 0.5)
        for column, name in enumerate(names):
            if name in columns:
                probabilities[:, column] = own[:, columns[name]]
                if network.card.several:
                    limits[column] = network.card.thresholds[columns[name]]
        everything = Predictions.of(probabilities, network.card.task, limits)
        self.waiting = everything[images.waiting]
        hashes = [images.known[index].sha256 for index in images.learned]
        #: Rows of `images.learned` that were labeled without a suggestion, and that it was not trained on.
        self.held_out = np.array(
            [
                row
                for row, (index, key) in enumerate(zip(images.learned, hashes, strict=True))
                if images.known[index].is_evidence and key not in champion.trained_on
            ],
            int,
        )
        checked = everything[images.learned[self.held_out]]
        right = (checked.present == images.targets[self.held_out]).all(axis=1)
        self.checked = [
            Checked(float(confidence), bool(is_right))
            for confidence, is_right in zip(checked.confidence, right, strict=True)
        ]

    def is_beaten_by(self, task: str, head: SingleLabelHead | MultiLabelHead, images: Images) -> bool:
        """Whether a head is right more often, cross-validated, on the images that neither was trained on."""
        if len(self.held_out) < EVIDENCE:
            return False
        predicted = Predictions.of(head.cross_validated()[self.held_out], task)
        right = (predicted.present == images.targets[self.held_out]).all(axis=1)
        return int(right.sum()) > sum(each.right for each in self.checked)
