"""Single-label classification: softmax, cross-entropy, top-k accuracy, abstention below a threshold."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.portable import ModelCard
from pipeline.tasks import calibration, metrics
from pipeline.tasks.base import Assessment, MetricSpec, Task, class_rows, confusions

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

TOP = (1, 3, 5)


class SingleLabel(Task):
    """One class per image."""

    name, is_multi_label = "single_label", False
    ranked = tuple(MetricSpec(f"top{k}", f"top-{k}") for k in TOP)
    test_only = (
        MetricSpec("test/mean_per_class", "per class"),
        MetricSpec("test/species", "cat or dog"),
        MetricSpec("test/calibration_error", "calibration", "{:.3f}"),
        MetricSpec("test/answered", "answered"),
        MetricSpec("test/answered/right", "right then"),
        MetricSpec("others/named", "other things named"),
    )
    printed = ("test/top1", "test/top3", "test/species", "test/answered", "test/answered/right", "parameters")
    compared = ("test/top1", "test/top3", "test/answered", "test/answered/right")
    about = (
        "Test split; the interval is top-1's (95 %, Wilson), leaderboard.csv has those of the other shares. "
        "Per class: mean recall of the classes. "
        "Calibration: expected error, lower is better. Answered: test pictures of which it is not unsure, "
        "and how often it is right then; other things: cut-outs of two photographs without an animal. "
        "Multiply-adds are of one picture; pictures seen are shown in training."
    )
    purpose = "Names the breed in a photo that is cropped to the pet's head."

    def classes(self, labels: list[str]) -> list[str]:
        return sorted(set(labels))

    def targets(self, labels: list[str], classes: list[str]) -> np.ndarray:
        """Class indices, int64, N."""
        indices = {name: index for index, name in enumerate(classes)}
        return np.array([indices[label] for label in labels], dtype=np.int64)

    def counts(self, targets: np.ndarray, num_classes: int) -> np.ndarray:
        return np.bincount(targets, minlength=num_classes)

    def class_weights(self, targets: np.ndarray, num_classes: int) -> list[float]:
        """Weights that give each class the same total, with mean 1 over the images."""
        counts = self.counts(targets, num_classes)
        return (len(targets) / (num_classes * np.maximum(counts, 1))).tolist()

    def metrics(self, num_classes: int) -> "dict[str, Metric]":
        """Top-k accuracy over images; k is capped at the number of classes."""
        from torchmetrics.classification import MulticlassAccuracy

        return {
            f"top{k}": MulticlassAccuracy(num_classes, top_k=min(k, num_classes), average="micro")
            for k in TOP
        }

    def score(self, probabilities: np.ndarray, targets: np.ndarray) -> float:
        return float((probabilities.argmax(axis=1) == targets).mean())

    def dense(self, targets: "Tensor", num_classes: int) -> "Tensor":
        from torch.nn.functional import one_hot

        return one_hot(targets, num_classes).float()

    def smooth(self, targets: "Tensor", smoothing: float) -> "Tensor":
        return targets * (1 - smoothing) + smoothing / targets.shape[1]

    def outlier_targets(self, count: int, like: "Tensor") -> "Tensor":
        """Uniform over the classes."""
        classes = like.shape[1]
        return like.new_full((count, classes), 1 / classes)

    def loss(
        self, logits: "Tensor", targets: "Tensor", weights: "Tensor | None" = None, smoothing: float = 0.0
    ) -> "Tensor":
        """Cross-entropy; pass dense targets with weights: for class indices PyTorch divides by their sum."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)

    def metric_inputs(self, logits: "Tensor") -> "Tensor":
        """Logits: they rank like the probabilities, but without float32 ties where these saturate."""
        return logits

    def probabilities(self, logits: "Tensor") -> "Tensor":
        return logits.softmax(dim=1)

    def calibrate(
        self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray
    ) -> tuple[ModelCard, np.ndarray]:
        temperature = calibration.temperature(probabilities, targets)
        calibrated = calibration.apply_temperature(probabilities, temperature)
        return replace(card, temperature=temperature), calibrated

    def choose_thresholds(
        self,
        card: ModelCard,
        probabilities: np.ndarray,
        targets: np.ndarray,
        ood_probabilities: np.ndarray,
        min_precision: float,
        max_ood_rate: float,
    ) -> ModelCard:
        """Chooses the threshold on the top probability (see `calibration.abstain_below`)."""
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
        arguments = (confidence, correct, ood_probabilities.max(axis=1), min_precision, max_ood_rate)
        return replace(card, unsure_below=calibration.abstain_below(*arguments))

    def answers(self, card: ModelCard, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.max(axis=1) >= card.unsure_below

    def predicted(self, card: ModelCard, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])

    def assess(self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray) -> Assessment:
        from sklearn.metrics import confusion_matrix

        classes, top = card.classes, probabilities.argmax(axis=1)
        labels, predicted = ([classes[index] for index in indices] for indices in (targets, top))
        matrix = confusion_matrix(targets, top, labels=range(len(classes)))
        return Assessment(
            labels=labels,
            predicted=predicted,
            certainty=probabilities.max(axis=1),
            classes=class_rows(classes, matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)),
            confusions=confusions(labels, predicted),
            matrix=matrix,
        )

    def evaluate(self, card: ModelCard, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import recall_score

        predicted = probabilities.argmax(axis=1)
        found: dict[str, float] = {}
        for k in TOP:
            found |= metrics.proportion(f"test/top{k}", metrics.topk(probabilities, targets, k))
        recall = recall_score(targets, predicted, labels=np.unique(targets), average="macro")
        found["test/mean_per_class"] = float(recall)
        species = metrics.species_correct(probabilities, targets, card.species)
        if species is not None:
            found |= metrics.proportion("test/species", species)
        found["test/calibration_error"] = metrics.calibration_error(probabilities, targets)
        answered = self.answers(card, probabilities)
        found |= metrics.proportion("test/answered", answered)
        if answered.any():
            found |= metrics.proportion("test/answered/right", (predicted == targets)[answered])
        return found
