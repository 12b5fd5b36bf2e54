"""A linear head on frozen features that is trained from a few images in a fraction of a second.

Training starts at the class means and is gradient descent with momentum on the cross-entropy. Each step is
kept, so that a page can show the training again.
"""

from dataclasses import dataclass

import numpy as np

STEPS = 30  # of gradient descent
RATE, MOMENTUM = 5.0, 0.9
START = 10.0  # inverse temperature of the class means, for features of a mean squared length of 1


@dataclass(frozen=True)
class Head:
    """What answers.

    Attributes:
        weight: on raw features, outputs×C float32.
        bias: outputs, float32.
        unsure_below: an image is none of the classes if no class reaches this probability.
        has_none: whether the last output is "none of these", in addition to the classes.
    """

    weight: np.ndarray
    bias: np.ndarray
    unsure_below: float
    has_none: bool

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The probability of each output, N×outputs, for raw features N×C."""
        return _softmax(x @ self.weight.T + self.bias)

    def is_none(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each of N images is none of the classes, N bool, from probabilities N×outputs."""
        if self.has_none:
            classes = probabilities[:, :-1].max(axis=1)
            return (probabilities[:, -1] > classes) | (classes < self.unsure_below)
        return probabilities.max(axis=1) < self.unsure_below


@dataclass(frozen=True)
class Training:
    """One training, step by step; the first step is the class means, the last one the head.

    Attributes:
        weights: steps×outputs×C float32.
        biases: steps×outputs float32.
        loss: cross-entropy on the training images, steps.
        right: share of the training images that get their class, steps.
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
        classes: their number.
        groups: group number of each image, N; images of one group say little about each other's class.
    """
    x = np.asarray(x, np.float32)
    means = np.stack([x[y == number].mean(axis=0) for number in range(classes)])
    centre = means.mean(axis=0)
    scale = float(np.sqrt(np.square(x - centre).sum(axis=1).mean())) or 1.0
    z, means = (x - centre) / scale, (means - centre) / scale
    weights, biases, loss, right = _descend(z, y, START * means, -START / 2 * np.square(means).sum(axis=1))
    weights = weights / np.float32(scale)
    biases = biases - weights @ centre
    head = Head(weights[-1], biases[-1], unsure_below=0.5, has_none=False)
    return Training(weights, biases, loss, right, head)


def _descend(z: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    """Gradient descent on the cross-entropy, in which all classes weigh the same.

    Returns:
        Weights, (STEPS + 1)×outputs×C, biases, losses and shares of right answers, each of STEPS + 1.
    """
    count = np.bincount(y, minlength=len(bias))
    share = (1 / (count[y] * np.count_nonzero(count))).astype(np.float32)
    rows = np.arange(len(y))
    weights = np.empty((STEPS + 1, *weight.shape), np.float32)
    biases = np.empty((STEPS + 1, len(bias)), np.float32)
    loss, right = np.empty(STEPS + 1), np.empty(STEPS + 1)
    weights[0], biases[0] = weight, bias
    speed, bias_speed = np.zeros_like(weights[0]), np.zeros_like(biases[0])
    for step in range(STEPS + 1):
        p = _softmax(z @ weights[step].T + biases[step])
        loss[step] = -(share * np.log(np.maximum(p[rows, y], np.finfo(np.float32).tiny))).sum()
        right[step] = (p.argmax(axis=1) == y).mean()
        if step < STEPS:
            p[rows, y] -= 1
            p *= share[:, None]
            speed = np.float32(MOMENTUM) * speed - np.float32(RATE) * (p.T @ z)
            bias_speed = np.float32(MOMENTUM) * bias_speed - np.float32(RATE) * p.sum(axis=0)
            weights[step + 1], biases[step + 1] = weights[step] + speed, biases[step] + bias_speed
    return weights, biases, loss, right


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
