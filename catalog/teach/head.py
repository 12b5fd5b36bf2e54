"""A linear head on frozen features that is trained from a few images in a fraction of a second.

It starts at the class means and is trained by gradient descent; each step is kept, so that a page can show
the training again. Its last output is "none of these": a class whose mean are the typical features of any
picture. The highest probability of a class would be a worse criterion: it says that a picture is nearer to
one class than to the others, not that it is near. ``benchmarks/few.py`` compares them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catalog.teach import descent, folds
from catalog.teach.descent import Descent

FOLDS, ENOUGH = 5, 1000  # folds that are held out in turn; more images than ENOUGH are not all needed
# Scores of unseen images relative to the training images' mean, with 1, 2, 3, 5 and 20 of these a class: on
# Pet Faces with 5 classes 0.49, 0.66, 0.75, 0.82 and 0.94 on average. Their standard deviation was 0.25,
# 0.22, 0.21, 0.20 and 0.19 of that with 35 classes, and 0.51, 0.35, 0.31, 0.26 and 0.21 of it with two; see
# `_expected`.
PRIOR_GROUPS = 10  # held-out groups that weigh as much as these figures
QUANTILE = 1.645  # standard deviations below the mean: 95 % of a class's images should be answered
# The temperature that fitted unseen faces best was 0.3 to 0.6 with 5 to 35 classes. With two classes that are
# always told apart any low one fits, and would call every answer certain: so it is kept near these.
TEMPERATURE, TEMPERATURE_SPREAD = 0.4, 0.3  # and standard deviation of its logarithm


@dataclass(frozen=True)
class Head:
    """What answers.

    Attributes:
        weight: on raw features, outputs×C float32; the temperature is folded in.
        bias: outputs, float32.
        unsure_below: an image is none of the classes if no output reaches this probability; 0 if unused.
        has_none: whether the last output is "none of these", after the classes.
    """

    weight: np.ndarray
    bias: np.ndarray
    unsure_below: float = 0.0
    has_none: bool = True

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The probability of each output, N×outputs, for raw features N×C."""
        return descent.softmax(np.asarray(x, np.float32) @ self.weight.T + self.bias)

    def is_none(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each of N images is none of the classes, N bool, from probabilities N×outputs."""
        is_unsure = probabilities.max(axis=1) < self.unsure_below
        if self.has_none:
            return is_unsure | (probabilities.argmax(axis=1) == probabilities.shape[1] - 1)
        return is_unsure


@dataclass(frozen=True)
class Training:
    """One training, step by step; the first step is the class means, the last one the head.

    Attributes:
        weights: steps×outputs×C float32.
        biases: steps×outputs float32.
        loss: what the steps make smaller, steps: cross-entropy of the classes on the training images, without
            "none of these" and before the temperature.
        right: share of the training images whose most probable class is right, steps.
        none_level: the part of the training images' mean score (see `above`) below which an image is none of
            the classes.
        head: what answers.
    """

    weights: np.ndarray
    biases: np.ndarray
    loss: np.ndarray
    right: np.ndarray
    none_level: float
    head: Head


def train(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    groups: np.ndarray | None = None,
    typical: np.ndarray | None = None,
) -> Training:
    """Trains a head; equal input gives equal bytes.

    Args:
        x: raw features of the training images, N×C.
        y: class index of each image, N; each class has an image.
        classes: their number, at least 1.
        groups: group number of each image, N: images of one group, such as the pictures of one recording, say
            little about how the class looks elsewhere. None: each image is a group.
        typical: features typical of any picture, C (see `catalog.teach.typical`). None: zeros.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if np.bincount(y, minlength=classes).min() == 0:
        raise ValueError("a class has no image")
    groups = np.arange(len(y)) if groups is None else np.asarray(groups)
    none = np.zeros(x.shape[1], np.float32) if typical is None else typical
    share = descent.share_of(y, classes)
    final = descent.descend(x, y, classes, share)
    level, temperature = _calibrate(x, y, classes, groups, none, final, share)
    none_weight, none_bias = descent.nearest_mean(final.scaled(none), final.sharpness)
    steps = len(final.weights)
    weights = np.concatenate([final.weights, np.broadcast_to(none_weight, (steps, 1, len(none)))], axis=1)
    biases = np.concatenate([final.biases, np.full((steps, 1), none_bias + level, np.float32)], axis=1)
    weights, biases = final.folded(weights / temperature, biases / temperature)
    right = (final.logits.argmax(axis=2) == y).mean(axis=1)
    ours = above(final, none, x, final.logits[-1]).mean()
    none_level = float(level / ours) if ours else 0.0
    return Training(weights, biases, final.loss, right, none_level, Head(weights[-1], biases[-1]))


def _calibrate(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    groups: np.ndarray,
    none: np.ndarray,
    final: Descent,
    share: float,
) -> tuple[np.float32, np.float32]:
    """Logit below which the answer is "none of these", relative to that of its mean; and the temperature."""
    ours = above(final, none, x, final.logits[-1]).mean()
    kept, logits, truths, count = [], [], [], 0
    for rest, test in _splits(y, groups, classes):
        held_out = descent.descend(x[rest], y[rest], classes, share)
        scores = held_out.scores(x[test])
        train_mean = above(held_out, none, x[rest], held_out.logits[-1]).mean()
        if train_mean > 0:
            kept.append(above(held_out, none, x[test], scores) / train_mean)
            logits.append(scores)
            truths.append(y[test])
            count += len(np.unique(groups[test]))
    images = descent.per_class(folds.groups_per_class(y, groups, classes))
    mean, variance = _expected(images, classes)
    if count:
        ratios, seen = np.concatenate(kept), count / (count + PRIOR_GROUPS)
        mean = (1 - seen) * mean + seen * ratios.mean()
        variance = (1 - seen) * variance + seen * ratios.var()
    level = ours * mean - abs(ours) * QUANTILE * np.sqrt(variance)
    temperature = (
        _temperature(np.concatenate(logits), np.concatenate(truths), count) if count else TEMPERATURE
    )
    return np.float32(level), np.float32(temperature)


def _splits(y: np.ndarray, groups: np.ndarray, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Masks of images to train with, of all classes, and of images to try the result with."""
    is_large = len(y) > ENOUGH
    masks = folds.deal(y, groups, max(FOLDS, 2 * len(y) // ENOUGH))
    for number, test in enumerate(masks[:1] if is_large else masks):
        rest = ~test
        if is_large:
            some = np.logical_or.reduce(masks[number + 1 : number + 1 + -(-ENOUGH // int(test.sum()))])
            rest = some if len(np.unique(y[some])) == classes else rest
        if len(np.unique(y[rest])) == classes and test.any():
            yield rest, test


def _expected(images: float, classes: int) -> tuple[float, float]:
    """Mean and variance of unseen images' scores, relative to the mean of the training images'."""
    mean = images / (images + 1.1)
    return mean, ((0.18 + (0.06 + 0.5 / classes) / images) * mean) ** 2


def above(steps: Descent, none: np.ndarray, x: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How far the highest logit is above that of the typical features, N."""
    return scores.max(axis=1) - steps.score_of(none, x)


def _temperature(logits: np.ndarray, y: np.ndarray, count: int) -> float:
    """The temperature with the lowest loss on held-out images, of `count` groups, and a prior."""
    from scipy.optimize import minimize_scalar

    classes = logits.shape[1]

    def cost(log_t: float) -> float:
        prior = np.square((log_t - np.log(TEMPERATURE)) / TEMPERATURE_SPREAD) / 2
        return count * descent.cross_entropy(logits / np.exp(log_t), y, classes) + prior

    found = minimize_scalar(
        cost, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))
