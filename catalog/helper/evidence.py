"""From which confidence predictions are right often enough, and which of two models is better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MIN_CHECKED = 40  # predictions that people have checked, before any is filled in or models are compared
LOCAL = 20  # checked predictions of similar confidence that tell how often an image's prediction is right
CONFIDENCE = 0.95  # of the lower bound of the precision
COMPARISON = 0.99  # of a comparison of two models, which is repeated with each training


@dataclass(frozen=True)
class Checked:
    """A prediction for an image that a person labeled without seeing it, and whether the label agrees."""

    confidence: float
    right: bool


def threshold(checked: Sequence[Checked], waiting: np.ndarray, min_precision: float) -> float | None:
    """The lowest confidence from which predictions are right often enough.

    The most confident images are labeled first. Those that wait may all be just above the threshold, where
    fewer predictions are right than among all that were checked above it, so both must be right often enough.

    Args:
        checked: predictions of images that the model was not trained on.
        waiting: confidence of the predictions for the images that wait, N.
        min_precision: the lower bound of the precision (Wilson, one-sided) on `checked` and the expected
            precision on `waiting` must reach it.

    Returns:
        The confidence, or None if no threshold has the precision, or the evidence is too small.
    """
    if len(checked) < MIN_CHECKED:
        return None
    ordered = sorted(checked, key=lambda each: -each.confidence)
    confidence = np.array([each.confidence for each in ordered])
    right = np.array([each.right for each in ordered], float)
    total = np.cumsum(right)
    waiting = np.sort(waiting)[::-1]
    expected = np.cumsum(_local_precision(right)[_positions(confidence, waiting)])
    found = None
    for count in range(MIN_CHECKED // 2, len(ordered) + 1):
        lowest = confidence[count - 1]
        if count < len(ordered) and confidence[count] == lowest:
            continue  # equal ones are above a threshold together
        if lower_bound(int(total[count - 1]), count) < min_precision:
            continue
        above = int((waiting >= lowest).sum())
        if not above or expected[above - 1] >= min_precision * above:
            found = float(lowest)
    return found


def _local_precision(right: np.ndarray) -> np.ndarray:
    """The share that is right of the LOCAL predictions around each one, N."""
    window = np.ones(LOCAL)
    return np.convolve(right, window, "same") / np.convolve(np.ones(len(right)), window, "same")


def _positions(confidence: np.ndarray, waiting: np.ndarray) -> np.ndarray:
    """Indices of checked predictions, in descending order, next to which those that wait belong."""
    return np.minimum(np.searchsorted(-confidence, -waiting), len(confidence) - 1)


def lower_bound(right: int, count: int) -> float:
    """The lower end of a one-sided Wilson interval of right/count."""
    two_sided = 2 * CONFIDENCE - 1
    return float(stats.binomtest(right, count).proportion_ci(two_sided, method="wilson").low)


def is_better(right: np.ndarray, other: np.ndarray, weights: np.ndarray) -> bool:
    """Whether a model is significantly more often right than another one on the same images.

    McNemar's test in its normal approximation, one-sided and weighted.

    Args:
        right: whether the model is right, N bool.
        other: the same for the other model.
        weights: how many images each stands for, N.
    """
    differences = weights * (right.astype(int) - other.astype(int))
    spread = np.sqrt((differences**2).sum())
    if len(right) < MIN_CHECKED or not spread:
        return False
    return bool(differences.sum() / spread > stats.norm.ppf(COMPARISON))
