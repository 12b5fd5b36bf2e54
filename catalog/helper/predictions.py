"""Predictions for a project's images, by a head trained on its labels or by a champion of the pipeline."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.champions import Champion
from catalog.helper import evidence, features
from catalog.helper.evidence import Checked
from catalog.helper.heads import MultiLabelHead, SingleLabelHead
from catalog.store.suggestions import Known
from catalog.store.tables import LabelClass

# A head is ready when each class has MIN_PER_CLASS labels, or all together have LABELS_PER_CLASS on average.
MIN_PER_CLASS, LABELS_PER_CLASS = 3, 10
MIN_LABELS = {"single_label": 18, "multi_label": 20}  # to train a head at all: six for each fold and more


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for some images.

    Attributes:
        probabilities: of each class, N×classes.
        predicted: whether a class is predicted, N×classes; one class per row in a single-label project.
        confidence: probability that `predicted` is right, N.
    """

    probabilities: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, task: str, thresholds: np.ndarray | float = 0.5) -> "Predictions":
        """Decides from probabilities, N×classes; `thresholds` are those of a multi-label model's classes."""
        if task == "multi_label":
            predicted = probabilities >= thresholds
            confidence = np.where(predicted, probabilities, 1 - probabilities).prod(axis=1)
        else:
            predicted = np.zeros(probabilities.shape, bool)
            predicted[np.arange(len(predicted)), probabilities.argmax(axis=1)] = True
            confidence = probabilities.max(axis=1, initial=0)
        return cls(probabilities, predicted, confidence)

    def __getitem__(self, rows: np.ndarray) -> "Predictions":
        return Predictions(self.probabilities[rows], self.predicted[rows], self.confidence[rows])

    def __len__(self) -> int:
        return len(self.confidence)


@dataclass(frozen=True)
class Images:
    """A project's images as models need them. Test images are neither `unlabeled` nor `labeled`.

    Attributes:
        everything: all images.
        x: components of their features, N×D.
        class_ids, class_names: of the project's classes.
        unlabeled: indices of images to predict, those that were skipped too.
        labeled: indices of labeled images.
        targets: 0 or 1 for each of `labeled`, L×classes.
    """

    everything: list[Known]
    x: np.ndarray
    class_ids: list[int]
    class_names: list[str]
    unlabeled: np.ndarray
    labeled: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, everything: list[Known], x: np.ndarray, classes: list[LabelClass]) -> "Images":
        """Sorts a project's images by what is done with them."""
        others = [index for index, image in enumerate(everything) if not image.is_test]
        unlabeled = np.array([index for index in others if everything[index].waiting], int)
        labeled = np.array([index for index in others if everything[index].classes is not None], int)
        columns = {found.id: column for column, found in enumerate(classes)}
        targets = np.zeros((len(labeled), len(classes)), int)
        for row, index in enumerate(labeled):
            targets[row, [columns[class_id] for class_id in everything[index].classes]] = 1
        names = [found.name for found in classes]
        return cls(everything, x, list(columns), names, unlabeled, labeled, targets)

    @property
    def are_enough(self) -> bool:
        """Whether a head that is trained on the labels knows all classes well enough to be of use."""
        least = self.targets.sum(axis=0).min(initial=0)
        return bool(least >= MIN_PER_CLASS or len(self.labeled) >= LABELS_PER_CLASS * len(self.class_ids))


def train_head(task: str, images: Images) -> SingleLabelHead | MultiLabelHead | None:
    """A head trained on the labeled images; None if too little is known to train one."""
    x, y = images.x[images.labeled], images.targets
    if len(y) < MIN_LABELS[task]:
        return None
    if task == "multi_label":
        return MultiLabelHead(x, y)
    classes = y.argmax(axis=1)
    return SingleLabelHead(x, classes, y.shape[1]) if len(set(classes)) > 1 else None


def by_champion(
    champion: Champion,
    folder: Path,
    files: features.ImageFiles,
    images: Images,
    report: Callable[[int, int], None],
) -> Predictions:
    """A champion's predictions for all images of a project.

    Args:
        champion: the champion.
        folder: below which its probabilities are kept by image hash.
        files: of the images.
        images: the project's.
        report: called with the number of finished and of all images without probabilities.

    Returns:
        Probabilities are 0 for classes that the champion doesn't know, and for images whose file is missing.

    Raises:
        UserError: the champion or an image is damaged.
    """
    store, network = features.of_champion(folder, champion)
    features.compute(store, network, files, report)
    rows = [row for row, image in enumerate(images.everything) if image.sha256 in store]
    found = store.get([images.everything[row].sha256 for row in rows])
    columns = {name: column for column, name in enumerate(network.card.classes)}
    probabilities = np.zeros((len(images.everything), len(images.class_names)))
    thresholds = np.full(len(images.class_names), 0.5)
    for column, name in enumerate(images.class_names):
        if name in columns:
            probabilities[rows, column] = found[:, columns[name]]
            if network.card.several:
                thresholds[column] = network.card.thresholds[columns[name]]
    return Predictions.of(probabilities, network.card.task, thresholds)


def checked(champion: Champion, predictions: Predictions, images: Images) -> list[Checked]:
    """The predictions of a champion that people have checked without seeing them.

    A prediction for an image that nobody could name is wrong.

    Args:
        champion: images that it was trained on don't count.
        predictions: its predictions for all images.
        images: the project's.
    """
    targets = dict(zip(images.labeled, images.targets, strict=True))
    return [
        Checked(
            float(predictions.confidence[index]),
            index in targets and bool((predictions.predicted[index] == targets[index]).all()),
        )
        for index, image in enumerate(images.everything)
        if image.weight and not image.is_test and image.sha256 not in champion.trained_on
    ]


def head_is_better(
    task: str,
    head: SingleLabelHead | MultiLabelHead,
    champion: Champion,
    predictions: Predictions,
    images: Images,
    has_replaced: bool,
) -> bool:
    """Whether a head predicts from now on, and not the champion.

    The one that predicts now stays, unless the other is significantly more often right on images that neither
    was trained on: the head is cross-validated.

    Args:
        task: of the project.
        head: trained on the project's labels.
        champion: the champion.
        predictions: its predictions for all images.
        images: the project's.
        has_replaced: whether a head predicts now.
    """
    weights = np.array([images.everything[index].weight for index in images.labeled])
    unseen = np.array(
        [images.everything[index].sha256 not in champion.trained_on for index in images.labeled], bool
    )
    rows = np.flatnonzero((weights > 0) & unseen)
    targets, weights = images.targets[rows], weights[rows]
    of_head = Predictions.of(head.cross_validated()[rows], task)
    head_right = (of_head.predicted == targets).all(axis=1)
    champion_right = (predictions.predicted[images.labeled[rows]] == targets).all(axis=1)
    if has_replaced:
        return not evidence.is_better(champion_right, head_right, weights)
    return evidence.is_better(head_right, champion_right, weights)
