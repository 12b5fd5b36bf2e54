"""From which confidence predictions are right often enough to be filled in."""

from collections.abc import Sequence
from dataclasses import dataclass

EVIDENCE = 40  # predictions that people have checked, before any is filled in
CONFIDENCE = 0.95  # of the lower bound of the precision


@dataclass(frozen=True)
class Checked:
    """A prediction for an image that a person labeled without seeing it, and whether the label agrees."""

    confidence: float
    right: bool


def threshold(checked: Sequence[Checked], min_precision: float) -> float | None:
    """The lowest confidence from which predictions are right often enough.

    Args:
        checked: predictions of images that the model was not trained on.
        min_precision: the lower bound of the precision (Wilson, one-sided) must reach it.

    Returns:
        The confidence, or None if no threshold has the precision, or the evidence is too small.
    """
    if len(checked) < EVIDENCE:
        return None
    ordered = sorted(checked, key=lambda each: -each.confidence)
    found, right = None, 0
    for count, each in enumerate(ordered, start=1):
        right += each.right
        is_last = count == len(ordered) or ordered[count].confidence < each.confidence  # of equal ones
        if is_last and count >= EVIDENCE // 2 and lower_bound(right, count) >= min_precision:
            found = each.confidence
    return found


def lower_bound(right: int, count: int) -> float:
    """The lower end of a one-sided Wilson interval of right/count."""
    from scipy.stats import binomtest

    two_sided = 2 * CONFIDENCE - 1
    return float(binomtest(right, count).proportion_ci(two_sided, method="wilson").low)
