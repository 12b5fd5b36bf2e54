"""What differs between kinds of labels: loss, metrics, the figure that decides, the form of an answer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torchmetrics import Metric

    from pipeline.portable import ModelCard


SEPARATOR = "|"  # between the classes of an image that has several


@dataclass(frozen=True)
class Figure:
    """A figure of a model, as tables show it.

    Attributes:
        key: in ``metrics.json``; without the split where it is measured on validation and on test.
        title: a column's heading.
        form: of its value.
    """

    key: str
    title: str
    form: str = "{:.1%}"


@dataclass(frozen=True)
class Assessment:
    """How right a model's answers are.

    Attributes:
        labels: the right answer to each image.
        predicted: the model's answer, in the same words.
        certainty: probability that the model gives its answer, all classes of it together, N.
        classes: a row a class: `label`, `pictures`, `recall`, `precision`.
        confusions: pairs of classes that were confused, most first: `label`, `taken_for`, `pictures`.
        matrix: images of a class (row) that were given a class (column), classes × classes.
    """

    labels: list[str]
    predicted: list[str]
    certainty: "np.ndarray"
    classes: list[dict]
    confusions: list[dict]
    matrix: "np.ndarray"


def class_rows(
    classes: list[str], hits: "np.ndarray", predicted: "np.ndarray", true: "np.ndarray"
) -> list[dict]:
    """Rows of `Assessment.classes`.

    Args:
        classes: names.
        hits: images of each class that were given it.
        predicted: images that were given it.
        true: images that have it.
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


class Task(ABC):
    """A kind of labels; `pipeline.tasks.of` finds one by its name.

    Attributes:
        name: in a model's card and in the configuration of data.
        several: whether an image may have several classes, or none; a file of labels then names them, not
            the image's folder.
        ranked: figures on validation and on test, larger is better; the first one decides.
        further: figures on test alone.
        printed: keys of those that fit a terminal.
        compared: keys of those that ``dvc exp show`` has a column for.
        about: what the figures mean, for a reader of a report.
        purpose: what a model does, for a reader of its card.
    """

    name: ClassVar[str]
    several: ClassVar[bool]
    ranked: ClassVar[tuple[Figure, ...]]
    further: ClassVar[tuple[Figure, ...]]
    printed: ClassVar[tuple[str, ...]]
    compared: ClassVar[tuple[str, ...]]
    about: ClassVar[str]
    purpose: ClassVar[str]

    @property
    def title(self) -> str:
        """Of the figure that decides."""
        return self.ranked[0].title

    @property
    def monitor(self) -> str:
        """Key of the figure on validation by which weights and models are chosen; larger is better."""
        return f"val/{self.ranked[0].key}"

    @property
    def test_key(self) -> str:
        """Key of the figure on test that models are compared by."""
        return f"test/{self.ranked[0].key}"

    @property
    def on_test(self) -> list[Figure]:
        """All figures on test under their full keys, the one that models are compared by first."""
        return [*(replace(figure, key=f"test/{figure.key}") for figure in self.ranked), *self.further]

    def describe(self, metrics: dict, split: str, count: int | None = None) -> str:
        """The ranked figures of a split in words, each with its interval where there is one.

        Args:
            metrics: by key.
            split: val or test.
            count: of figures; None: all that there are.
        """
        shown = []
        for figure in self.ranked[:count]:
            key = f"{split}/{figure.key}"
            if key in metrics:
                ends = [metrics.get(f"{key}/{end}") for end in ("low", "high")]
                ends = (
                    "" if None in ends else f" ({figure.form.format(ends[0])}–{figure.form.format(ends[1])})"
                )
                shown.append(f"{figure.title} {figure.form.format(metrics[key])}{ends}")
        return ", ".join(shown)

    def display(self, label: str) -> str:
        """A label as people read it."""
        return label

    @abstractmethod
    def classes(self, labels: list[str]) -> list[str]:
        """The classes that labels name, sorted."""

    @abstractmethod
    def targets(self, labels: list[str], classes: list[str]) -> "np.ndarray":
        """What a network learns to answer, a row an image."""

    @abstractmethod
    def counts(self, targets: "np.ndarray", num_classes: int) -> "np.ndarray":
        """Images of each class."""

    @abstractmethod
    def thresholds(self, num_classes: int) -> list[float]:
        """Thresholds of a card before they are chosen on validation."""

    @abstractmethod
    def class_weights(self, targets: "np.ndarray", num_classes: int) -> list[float]:
        """Weights of the classes in `loss` that make up for their different sizes."""

    @abstractmethod
    def metrics(self, num_classes: int) -> "dict[str, Metric]":
        """The ranked figures by their keys; updated with `metric_inputs` or probabilities, and integers."""

    @abstractmethod
    def score(self, probabilities: "np.ndarray", targets: "np.ndarray") -> float:
        """The first of the ranked figures, from probabilities, N×classes."""

    @abstractmethod
    def dense(self, targets: "torch.Tensor", num_classes: int) -> "torch.Tensor":
        """Targets as the loss takes them: float, N×num_classes."""

    @abstractmethod
    def smooth(self, targets: "torch.Tensor", share: float) -> "torch.Tensor":
        """Dense targets with label smoothing (arXiv:1512.00567); `share` is taken from the target."""

    @abstractmethod
    def no_class(self, count: int, like: "torch.Tensor") -> "torch.Tensor":
        """Dense targets of images that show no class, count×num_classes.

        Args:
            count: of images.
            like: dense targets of the others.
        """

    @abstractmethod
    def loss(
        self,
        logits: "torch.Tensor",
        targets: "torch.Tensor",
        weights: "torch.Tensor | None" = None,
        smoothing: float = 0.0,
    ) -> "torch.Tensor":
        """Mean loss.

        Args:
            logits: N×num_classes.
            targets: as the data has them, or dense.
            weights: of each class.
            smoothing: see `smooth`.
        """

    @abstractmethod
    def probabilities(self, logits: "torch.Tensor") -> "torch.Tensor":
        """Of each class, N×num_classes."""

    @abstractmethod
    def metric_inputs(self, logits: "torch.Tensor") -> "torch.Tensor":
        """What `metrics` are updated with while a network learns, N×num_classes."""

    @abstractmethod
    def calibrate(
        self, card: "ModelCard", probabilities: "np.ndarray", targets: "np.ndarray"
    ) -> "tuple[ModelCard, np.ndarray]":
        """Finds the temperature on validation.

        Args:
            card: of the model.
            probabilities: images × classes, at temperature 1.
            targets: as the data has them.

        Returns:
            The card with the temperature, and the probabilities at it.
        """

    @abstractmethod
    def choose_thresholds(
        self,
        card: "ModelCard",
        probabilities: "np.ndarray",
        targets: "np.ndarray",
        others: "np.ndarray",
        precision: float,
        named: float,
    ) -> "ModelCard":
        """Finds on validation from which probability on the model answers.

        Args:
            card: of the calibrated model.
            probabilities: images × classes.
            targets: as the data has them.
            others: likewise of images that show no class.
            precision: share of its answers that is to be right.
            named: share of the other images that may get an answer.
        """

    @abstractmethod
    def answers(self, card: "ModelCard", probabilities: "np.ndarray") -> "np.ndarray":
        """Whether the model names a class for each image, N bool."""

    @abstractmethod
    def predicted(self, card: "ModelCard", probabilities: "np.ndarray") -> "np.ndarray":
        """The classes that the model gives each image, N×classes bool; where it is unsure, its guess."""

    @abstractmethod
    def assess(self, card: "ModelCard", probabilities: "np.ndarray", targets: "np.ndarray") -> Assessment:
        """Compares answers with targets, image by image.

        Args:
            card: of the model.
            probabilities: images × classes.
            targets: as the data has them.
        """

    @abstractmethod
    def figures(
        self, card: "ModelCard", probabilities: "np.ndarray", targets: "np.ndarray"
    ) -> dict[str, float]:
        """Figures on test; those of `ranked` with ``/low`` and ``/high``, the ends of 95 % intervals.

        Args:
            card: of the model.
            probabilities: images × classes.
            targets: as the data has them.
        """
