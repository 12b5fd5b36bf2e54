"""The interface of a task: its targets, loss, metrics, thresholds and predictions."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.portable import ModelCard

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric


SEPARATOR = "|"  # between the classes of a multi-label image


@dataclass(frozen=True)
class MetricSpec:
    """How a metric is shown in tables.

    Attributes:
        key: in ``metrics.json``; without the split if it is measured on both validation and test.
        title: column heading.
        template: format string of the value.
    """

    key: str
    title: str
    template: str = "{:.1%}"


@dataclass(frozen=True)
class Assessment:
    """Predictions compared with targets.

    Attributes:
        labels: the true label of each image.
        predicted: the predicted label of each image.
        certainty: the model's joint probability of its predicted label, N.
        classes: one row per class: `label`, `pictures`, `recall`, `precision`.
        confusions: confused pairs, most frequent first: `label`, `taken_for`, `pictures`.
        matrix: counts of images by true class (rows) and predicted class (columns), classes × classes.
    """

    labels: list[str]
    predicted: list[str]
    certainty: np.ndarray
    classes: list[dict]
    confusions: list[dict]
    matrix: np.ndarray


def class_rows(classes: list[str], hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> list[dict]:
    """Rows of `Assessment.classes`.

    Args:
        classes: names.
        hits: true positives per class.
        predicted: number of images predicted as each class.
        true: number of images of each class.
    """
    return [
        {
            "label": name,
            "pictures": int(true[index]),
            "recall": f"{hits[index] / max(true[index], 1):.4f}",
            "precision": f"{hits[index] / max(predicted[index], 1):.4f}",
        }
        for index, name in enumerate(classes)
    ]


def confusions(labels: list[str], predicted: list[str]) -> list[dict]:
    """Rows of `Assessment.confusions`, from the true and the predicted label of each image."""
    pairs = Counter(pair for pair in zip(labels, predicted, strict=True) if pair[0] != pair[1])
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [{"label": true, "taken_for": guess, "pictures": count} for (true, guess), count in ordered]


def best_row(rows: list[dict], monitor: str) -> dict:
    """The row of ``curves.csv`` whose weights are kept, the first of equals.

    That is the epoch with the best monitored metric; epoch 0 is a fitted head before fine-tuning. A probe has
    no epochs: its best row is the regularisation with the lowest validation loss, which on a few hundred
    images is less noisy than the metric and rewards calibration.

    Args:
        rows: all rows.
        monitor: key of the monitored metric, larger is better; NaN is worse than any number.
    """
    epochs = [row for row in rows if row.get("epoch") is not None]
    if epochs:
        return max(epochs, key=lambda row: -math.inf if math.isnan(row[monitor]) else row[monitor])
    return min(rows, key=lambda row: row["val/loss"])


class Task(ABC):
    """A task; `pipeline.tasks.of` looks one up by name.

    In its methods, arrays `probabilities` are images × classes, and `targets` come from the method `targets`.

    Attributes:
        name: in model cards and the data config.
        is_multi_label: whether an image may have any number of classes; the labels then come from a file, not
            from the image's folder.
        ranked: metrics on validation and test, higher is better; the first is the monitored metric.
        test_only: metrics on test only.
        printed: keys of the metrics shown in the terminal.
        compared: keys of the metrics with a column in ``dvc exp show``.
        about: explanation of the metrics for reports.
        purpose: what the model does, for its card.
    """

    name: ClassVar[str]
    is_multi_label: ClassVar[bool]
    ranked: ClassVar[tuple[MetricSpec, ...]]
    test_only: ClassVar[tuple[MetricSpec, ...]]
    printed: ClassVar[tuple[str, ...]]
    compared: ClassVar[tuple[str, ...]]
    about: ClassVar[str]
    purpose: ClassVar[str]

    @property
    def title(self) -> str:
        """Title of the monitored metric."""
        return self.ranked[0].title

    @property
    def monitor(self) -> str:
        """Key of the monitored validation metric, which selects weights and models; higher is better."""
        return f"val/{self.ranked[0].key}"

    @property
    def test_key(self) -> str:
        """Key of the test metric by which models are compared."""
        return f"test/{self.ranked[0].key}"

    @property
    def test_specs(self) -> list[MetricSpec]:
        """All test metrics under their full keys, starting with `test_key`."""
        return [*(replace(spec, key=f"test/{spec.key}") for spec in self.ranked), *self.test_only]

    def describe(self, metrics: dict, split: str, count: int | None = None) -> str:
        """The ranked metrics of a split as text, each with its interval if there is one.

        Args:
            metrics: values by key.
            split: val or test.
            count: number of metrics; None for all.
        """
        shown = []
        for spec in self.ranked[:count]:
            key, form = f"{split}/{spec.key}", spec.template.format
            value, low, high = (metrics.get(name) for name in (key, f"{key}/low", f"{key}/high"))
            if value is not None:
                interval = "" if None in (low, high) else f" ({form(low)}–{form(high)})"
                shown.append(f"{spec.title} {form(value)}{interval}")
        return ", ".join(shown)

    def display(self, label: str) -> str:
        """A label in human-readable form."""
        return label

    @abstractmethod
    def classes(self, labels: list[str]) -> list[str]:
        """The class names that occur in the labels, sorted."""

    @abstractmethod
    def targets(self, labels: list[str], classes: list[str]) -> np.ndarray:
        """Training targets, one row per image."""

    @abstractmethod
    def counts(self, targets: np.ndarray, num_classes: int) -> np.ndarray:
        """Number of images of each class, int, num_classes."""

    @abstractmethod
    def class_weights(self, targets: np.ndarray, num_classes: int) -> list[float]:
        """Class weights for `loss` that compensate for class imbalance."""

    @abstractmethod
    def metrics(self, num_classes: int) -> "dict[str, Metric]":
        """The ranked metrics by key; updated with `metric_inputs` or probabilities, and integer targets."""

    @abstractmethod
    def score(self, probabilities: np.ndarray, targets: np.ndarray) -> float:
        """The monitored metric."""

    @abstractmethod
    def dense(self, targets: "Tensor", num_classes: int) -> "Tensor":
        """Dense targets for the loss: float, N×num_classes."""

    @abstractmethod
    def smooth(self, targets: "Tensor", smoothing: float) -> "Tensor":
        """Dense targets with label smoothing by the factor `smoothing` (arXiv:1512.00567)."""

    @abstractmethod
    def outlier_targets(self, count: int, like: "Tensor") -> "Tensor":
        """Dense targets of `count` out-of-domain images, with the dtype, device and classes of `like`.

        Used for outlier exposure (arXiv:1812.04606).
        """

    @abstractmethod
    def loss(
        self, logits: "Tensor", targets: "Tensor", weights: "Tensor | None" = None, smoothing: float = 0.0
    ) -> "Tensor":
        """Mean loss of logits, N×num_classes; `targets` may be dense, `weights` has one per class."""

    @abstractmethod
    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Class probabilities, N×num_classes."""

    @abstractmethod
    def metric_inputs(self, logits: "Tensor") -> "Tensor":
        """Inputs of `metrics` during training, N×num_classes."""

    @abstractmethod
    def calibrate(
        self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray
    ) -> tuple[ModelCard, np.ndarray]:
        """Fits the temperature on validation data; returns the card with it and calibrated probabilities."""

    @abstractmethod
    def choose_thresholds(
        self,
        card: ModelCard,
        probabilities: np.ndarray,
        targets: np.ndarray,
        ood_probabilities: np.ndarray,
        min_precision: float,
        max_ood_rate: float,
    ) -> ModelCard:
        """Chooses thresholds on validation data and returns the card with them.

        Args:
            card: card of the calibrated model.
            probabilities: of validation images.
            targets: their targets.
            ood_probabilities: of out-of-domain images.
            min_precision: minimum precision of the answers.
            max_ood_rate: maximum fraction of out-of-domain images that get an answer.
        """

    @abstractmethod
    def answers(self, card: ModelCard, probabilities: np.ndarray) -> np.ndarray:
        """Whether the model answers for each image rather than abstains, N bool."""

    @abstractmethod
    def predicted(self, card: ModelCard, probabilities: np.ndarray) -> np.ndarray:
        """Predicted classes, N×classes bool; also of images for which the model abstains."""

    @abstractmethod
    def assess(self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray) -> Assessment:
        """Compares predictions with targets per image."""

    @abstractmethod
    def evaluate(self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Test metrics; those of `ranked` with their 95 % interval as ``/low`` and ``/high``."""
