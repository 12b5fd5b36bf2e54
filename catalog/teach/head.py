"""A linear head on frozen features that is trained from a few images in a fraction of a second.

It starts at the class means and is trained by gradient descent; each step is kept, so that a page can show
the training again. Its last output is "none of these": a class whose mean are the typical features of any
picture, and which is less probable the less the images of a class differ from each other. The highest
probability alone would not do: with few classes it is near 1 for any picture. See ``benchmarks/few.py``.
"""

from dataclasses import dataclass

import numpy as np

from catalog.teach import descent, folds, typical
from catalog.teach.descent import Descent

FOLDS, ENOUGH = 5, 1000  # folds that are held out in turn; with more than ENOUGH images, only the first
# Scores of unseen images relative to the mean of the training images', for one class with few images. On Pet
# Faces with 2 to 35 classes the mean was 0.3 to 0.4 with one image a class, 0.5 to 0.6 with two, 0.7 to 0.8
# with five and 0.9 with twenty; their standard deviation was 0.3 to 0.5 of it.
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
        loss: cross-entropy of the classes (without "none of these") on the training images, steps.
        right: share of the training images whose most probable class is right, steps.
        head: what answers.
    """

    weights: np.ndarray
    biases: np.ndarray
    loss: np.ndarray
    right: np.ndarray
    head: Head


def train(x: np.ndarray, y: np.ndarray, classes: int, groups: np.ndarray | None = None) -> Training:
    """Trains a head; equal input gives equal bytes.

    Args:
        x: raw features of the training images, N×C.
        y: class index of each image, N; each class has an image.
        classes: their number, at least 1.
        groups: group number of each image, N: images of one group, such as the pictures of one recording, say
            little about how the class looks elsewhere. None: each image is a group.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y)
    if np.bincount(y, minlength=classes).min() == 0:
        raise ValueError("a class has no image")
    groups = np.arange(len(y)) if groups is None else np.asarray(groups)
    none = typical.stored()
    if len(none) != x.shape[1]:  # another network's features, which are above 0 too
        none = np.zeros(x.shape[1], np.float32)
    share = descent.share_of(y, classes)
    final = descent.descend(x, y, classes, share)
    level, temperature = _calibrate(x, y, classes, groups, none, final, share)
    none_weight, none_bias = descent.nearest_mean((none - final.centre) / final.scale, final.sharpness)
    steps = len(final.weights)
    weights = np.concatenate([final.weights, np.broadcast_to(none_weight, (steps, 1, len(none)))], axis=1)
    biases = np.concatenate([final.biases, np.full((steps, 1), none_bias + level, np.float32)], axis=1)
    weights /= temperature * final.scale
    biases = biases / temperature - weights @ final.centre
    loss = np.array([_loss(logits / temperature, y, classes) for logits in final.logits])
    right = (final.logits.argmax(axis=2) == y).mean(axis=1)
    return Training(weights, biases, loss, right, Head(weights[-1], biases[-1]))


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
    ours = _above(final, none, x, final.logits[-1]).mean()
    kept, logits, truths, count = [], [], [], 0
    for test in folds.deal(y, groups, FOLDS)[: None if len(y) <= ENOUGH else 1]:
        known = np.unique(y[~test])
        test &= np.isin(y, known)  # what has no other image says nothing
        if len(known) == classes and test.any():
            held_out = descent.descend(x[~test], y[~test], classes, share)
            scores = held_out.scores(x[test])
            train_mean = _above(held_out, none, x[~test], held_out.logits[-1]).mean()
            kept.append(_above(held_out, none, x[test], scores) / max(train_mean, np.finfo(np.float32).tiny))
            logits.append(scores)
            truths.append(y[test])
            count += len(np.unique(groups[test]))
    images = descent.per_class(folds.groups_per_class(y, groups, classes))
    mean = images / (images + 1.6)
    variance = np.square((0.3 + 0.18 / images) * mean)
    if count:
        ratios, seen = np.concatenate(kept), count / (count + PRIOR_GROUPS)
        mean = (1 - seen) * mean + seen * ratios.mean()
        variance = (1 - seen) * variance + seen * ratios.var()
    level = ours * (mean - QUANTILE * np.sqrt(variance))
    temperature = (
        _temperature(np.concatenate(logits), np.concatenate(truths), count) if count else TEMPERATURE
    )
    return np.float32(level), np.float32(temperature)


def _above(steps: Descent, none: np.ndarray, x: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How far the highest logit is above that of the typical features, N."""
    return scores.max(axis=1) - steps.score_of(none, x)


def _temperature(logits: np.ndarray, y: np.ndarray, count: int) -> float:
    """The temperature with the lowest loss on held-out images, of `count` groups, and a prior."""
    from scipy.optimize import minimize_scalar

    classes = logits.shape[1]

    def cost(log_t: float) -> float:
        prior = np.square((log_t - np.log(TEMPERATURE)) / TEMPERATURE_SPREAD) / 2
        return count * _loss(logits / np.exp(log_t), y, classes) + prior

    found = minimize_scalar(
        cost, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def _loss(logits: np.ndarray, y: np.ndarray, classes: int) -> float:
    """Cross-entropy in which all classes weigh the same."""
    highest = logits.max(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    each = total - np.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    weigh = 1 / np.bincount(y, minlength=classes)[y]
    return float((each * weigh).sum() / weigh.sum())
