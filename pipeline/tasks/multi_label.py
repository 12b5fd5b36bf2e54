"""Multi-label classification: a sigmoid and a threshold per class, mean average precision."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.portable import ModelCard
from pipeline.tasks import calibration, metrics
from pipeline.tasks.base import SEPARATOR, Assessment, MetricSpec, Task, class_rows, confusions

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

RESAMPLES = 1000  # bootstrap resamples of the test images, for the intervals
# Pseudo-count, in images, that shrinks a class's threshold towards half its best F1, the optimum for
# calibrated probabilities (Lipton et al. 2014, arXiv:1402.1892): on few images the best threshold is noise.
PRIOR = 5


class MultiLabel(Task):
    """Any number of classes per image, including none."""

    name, is_multi_label = "multi_label", True
    ranked = (MetricSpec("map", "mAP"),)
    test_only = (
        MetricSpec("test/f1", "macro F1"),
        MetricSpec("test/f1/micro", "micro F1"),
        MetricSpec("test/exact", "exact match"),
        MetricSpec("test/brier", "Brier", "{:.3f}"),
        MetricSpec("others/named", "other things named"),
    )
    printed = ("test/map", "test/f1", "test/exact", "parameters")
    compared = ("test/map", "test/f1", "test/exact")
    about = (
        "Test split; the interval (95 %, by resampling the images) is mAP's, leaderboard.csv has macro F1's. "
        "mAP: mean over the classes of the average precision. F1 is at the thresholds that were chosen on "
        "validation. Exact match: images of which every class is right; the paired test compares these. "
        "Brier: mean squared error of the probabilities, lower is better. Other things: cut-outs of two "
        "photographs without an animal that get any class. Multiply-adds are of one picture; "
        "pictures seen are shown in training."
    )
    purpose = "Names which of its classes a photo shows: none, one or several."

    def display(self, label: str) -> str:
        return label.replace(SEPARATOR, ", ") or "none"

    def classes(self, labels: list[str]) -> list[str]:
        return sorted({name for label in set(labels) for name in _names(label)})

    def targets(self, labels: list[str], classes: list[str]) -> np.ndarray:
        """Multi-hot targets, float32, images × classes."""
        indices = {name: index for index, name in enumerate(classes)}
        targets = np.zeros((len(labels), len(classes)), dtype=np.float32)
        for row, label in enumerate(labels):
            targets[row, [indices[name] for name in _names(label)]] = 1
        return targets

    def counts(self, targets: np.ndarray, num_classes: int) -> np.ndarray:
        return targets.sum(axis=0).astype(np.int64)

    def metrics(self, num_classes: int) -> "dict[str, Metric]":
        from torchmetrics.classification import MultilabelAveragePrecision
        from torchmetrics.utilities import dim_zero_cat

        class MeanAveragePrecision(MultilabelAveragePrecision):
            """Averages over the classes that occur; torchmetrics counts absent classes as 0."""

            def compute(self) -> "Tensor":
                occurs = dim_zero_cat(self.target).sum(dim=0) > 0
                return super().compute()[occurs].mean()

        return {"map": MeanAveragePrecision(num_classes, average="none")}

    def score(self, probabilities: np.ndarray, targets: np.ndarray) -> float:
        return _map(probabilities, targets)

    def dense(self, targets: "Tensor", num_classes: int) -> "Tensor":
        return targets

    def smooth(self, targets: "Tensor", smoothing: float) -> "Tensor":
        return targets * (1 - smoothing) + smoothing / 2

    def outlier_targets(self, count: int, like: "Tensor") -> "Tensor":
        """All zeros."""
        return like.new_zeros((count, like.shape[1]))

    def class_weights(self, targets: np.ndarray, num_classes: int) -> list[float]:
        """Positive weights, which give the positives of a class the same total weight as the negatives."""
        positives = np.maximum(targets.sum(axis=0), 1)
        return ((len(targets) - positives) / positives).clip(min=1e-3).tolist()

    def loss(
        self, logits: "Tensor", targets: "Tensor", weights: "Tensor | None" = None, smoothing: float = 0.0
    ) -> "Tensor":
        """Binary cross-entropy, averaged over images and classes."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, self.smooth(targets, smoothing), pos_weight=weights)

    def metric_inputs(self, logits: "Tensor") -> "Tensor":
        """Probabilities: torchmetrics mistakes logits for them if those of a batch all lie in 0–1."""
        return self.probabilities(logits)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        return logits.sigmoid()

    def calibrate(
        self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray
    ) -> tuple[ModelCard, np.ndarray]:
        """One temperature for all classes (Guo et al. 2017, arXiv:1706.04599)."""
        from scipy.special import expit

        logits = calibration.binary_logits(probabilities)
        signs = np.where(targets > 0, 1.0, -1.0)
        temperature = calibration.best_temperature(
            lambda scale: float(np.logaddexp(0, -signs * logits / scale).mean())
        )
        calibrated = expit(logits / temperature).astype(probabilities.dtype)
        return replace(card, temperature=temperature), calibrated

    def choose_thresholds(
        self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray, *_: object
    ) -> ModelCard:
        """Chooses each class's threshold by F1; ignores the arguments on out-of-domain images."""
        thresholds = [_best_threshold(*pair) for pair in zip(probabilities.T, targets.T, strict=True)]
        return replace(card, thresholds=thresholds)

    def answers(self, card: ModelCard, probabilities: np.ndarray) -> np.ndarray:
        return self.predicted(card, probabilities).any(axis=1)

    def predicted(self, card: ModelCard, probabilities: np.ndarray) -> np.ndarray:
        return probabilities >= np.array(card.thresholds)

    def assess(self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray) -> Assessment:
        predicted, true = self.predicted(card, probabilities), targets > 0
        names = np.array(card.classes, dtype=object)
        labels, guesses = ([SEPARATOR.join(names[row]) for row in rows] for rows in (true, predicted))
        hits = (predicted & true).sum(axis=0)
        return Assessment(
            labels=labels,
            predicted=guesses,
            # Joint probability of all classes, assuming independence.
            certainty=np.where(predicted, probabilities, 1 - probabilities).prod(axis=1),
            classes=class_rows(card.classes, hits, predicted.sum(axis=0), true.sum(axis=0)),
            confusions=confusions(labels, guesses),
            matrix=true.T.astype(np.int64) @ predicted.astype(np.int64),
        )

    def evaluate(self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        predicted, true = self.predicted(card, probabilities), targets > 0
        result = _bootstrap("test/map", lambda rows: _map(probabilities[rows], targets[rows]), len(targets))
        result |= _bootstrap("test/f1", lambda rows: _f1(predicted[rows], true[rows]), len(targets))
        result["test/f1/micro"] = _f1(predicted.reshape(-1, 1), true.reshape(-1, 1))
        result |= metrics.proportion("test/exact", (predicted == true).all(axis=1))
        result["test/brier"] = float(((probabilities - targets) ** 2).mean())
        return result


def _names(label: str) -> list[str]:
    """The class names in a label."""
    return label.split(SEPARATOR) if label else []


def _best_threshold(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The threshold with the best F1, midway between two images' probabilities, shrunk as for `PRIOR`.

    Without positives it is 0.5.

    Args:
        probabilities: of the class, N.
        targets: 0 or 1, N.
    """
    from sklearn.metrics import precision_recall_curve

    count = targets.sum()
    if not count:
        return 0.5
    precision, recall, thresholds = precision_recall_curve(targets, probabilities.astype(np.float64))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))  # the last point has no threshold
    lower = thresholds[best - 1] if best else 0.0
    return float((count * (thresholds[best] + lower) / 2 + PRIOR * f1[best] / 2) / (count + PRIOR))


def _map(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Mean average precision over the classes that occur; NaN if none does."""
    from sklearn.metrics import average_precision_score

    occurs = targets.any(axis=0)
    if not occurs.any():
        return float("nan")
    return float(average_precision_score(targets[:, occurs], probabilities[:, occurs], average="macro"))


def _f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean F1 over the columns with positives; NaN if there are none."""
    hits, positives = (predicted & true).sum(axis=0), true.sum(axis=0)
    f1 = 2 * hits / np.maximum(predicted.sum(axis=0) + positives, 1)
    return float(f1[positives > 0].mean()) if positives.any() else float("nan")


def _bootstrap(key: str, metric: Callable[[np.ndarray], float], count: int) -> dict[str, float]:
    """A metric with ``/low`` and ``/high``: the 95 % bootstrap interval over images (Efron, Tibshirani 1993).

    Args:
        key: the metric's.
        metric: computes it for the images with these indices.
        count: number of images.
    """
    rng = np.random.default_rng(0)
    resampled = [metric(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    value = float(metric(np.arange(count)))
    return {key: value, f"{key}/low": min(float(low), value), f"{key}/high": max(float(high), value)}
