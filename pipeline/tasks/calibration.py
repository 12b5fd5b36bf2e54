"""Temperature scaling, and the confidence threshold below which a model abstains."""

from collections.abc import Callable

import numpy as np

# Safety margins in standard errors, chosen with benchmarks/abstention.py. The first is small so that a small
# validation set can meet the precision target: about eight images, if all are correct. The second is larger
# because photos are replaced by synthetic patterns, which a network trained from scratch labels less often.
PRECISION_MARGIN, OOD_MARGIN = 0.5, 1.5


def temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The temperature that minimizes the log loss (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities: N × classes, of images not used in training.
        targets: class indices, N.

    Returns:
        A value between 1/20 and 20; above 1 the model was overconfident.
    """
    logits = _logits(probabilities)

    def loss(scale: float) -> float:
        scaled = logits / scale
        return float(
            (
                np.logaddexp.reduce(scaled, axis=1) - np.take_along_axis(scaled, targets[:, None], 1)[:, 0]
            ).mean()
        )

    return best_temperature(loss)


def best_temperature(loss: Callable[[float], float]) -> float:
    """The temperature between 1/20 and 20 that minimizes a loss."""
    from scipy.optimize import minimize_scalar

    bounds = (-np.log(20), np.log(20))
    result = minimize_scalar(
        lambda log_t: loss(np.exp(log_t)), bounds=bounds, method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(result.x))


def binary_logits(probabilities: np.ndarray) -> np.ndarray:
    """Float64 logits of independent probabilities; finite at 0 and 1 too."""
    from scipy.special import logit

    return logit(np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities, N × classes, after dividing the logits by a temperature; the dtype is kept."""
    scaled = _logits(probabilities) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)).astype(probabilities.dtype)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Float64 logits up to a constant per image, to which softmax is invariant."""
    tiny = np.finfo(probabilities.dtype).tiny
    return np.log(np.maximum(probabilities, tiny).astype(np.float64))


def abstain_below(
    confidence: np.ndarray, correct: np.ndarray, ood: np.ndarray, min_precision: float, max_ood_rate: float
) -> float:
    """The lowest threshold on the top probability that meets both targets.

    Both targets should hold on unseen images, so each includes a margin from Wilson's interval. Precision is
    estimated with a curve fitted to all validation images rather than counted: counts would let a handful of
    errors near the threshold determine it.

    Args:
        confidence: the calibrated top probability of each validation image, N.
        correct: whether the top class is correct, N bool.
        ood: the top probability of each out-of-domain image, M.
        min_precision: minimum precision of the answers, below 1.
        max_ood_rate: maximum fraction of out-of-domain images that get an answer.

    Returns:
        A threshold between 0 and 1. It is 1 if none meets the targets, so that the model abstains.
    """
    by_precision = _min_for_precision(confidence, correct, min_precision)
    return min(float(max(by_precision, _min_for_ood_rate(ood, max_ood_rate))), 1.0)  # nextafter may exceed 1


def _min_for_precision(confidence: np.ndarray, correct: np.ndarray, min_precision: float) -> float:
    """The lowest threshold whose expected precision, less the margin, reaches `min_precision`."""
    descending = np.sort(confidence)[::-1]
    count = np.arange(1, len(descending) + 1)
    expected = np.cumsum(_fit_precision(confidence, correct)(descending)) / count
    last_of_ties = np.append(descending[1:] != descending[:-1], True)  # ties are answered together
    reached = np.flatnonzero(last_of_ties & (_wilson(expected, count, -PRECISION_MARGIN) >= min_precision))
    if not len(reached):
        return 1.0
    return 0.0 if reached[-1] == len(descending) - 1 else descending[reached[-1]]


def _min_for_ood_rate(ood_confidence: np.ndarray, max_ood_rate: float) -> float:
    """The lowest threshold at which the fraction answered, plus the margin, is at most `max_ood_rate`."""
    descending, count = np.sort(ood_confidence)[::-1], np.arange(len(ood_confidence))
    allowed = count[_wilson(count / len(ood_confidence), len(ood_confidence), OOD_MARGIN) <= max_ood_rate]
    # With few images even zero answers may exceed the rate: the threshold is then above all of them.
    return np.nextafter(descending[allowed[-1] if len(allowed) else 0], descending.dtype.type(2))


def _fit_precision(confidence: np.ndarray, correct: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fits P(correct | top probability) by logistic regression on the logit (Platt 1999).

    A normal prior pulls the fit towards the identity, since the input is already calibrated; with few images,
    or only correct ones, the fit stays close to it.

    Returns:
        A function from top probabilities to fitted ones.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    signs, x = np.where(correct, 1.0, -1.0), binary_logits(confidence)

    def loss(parameters: np.ndarray) -> float:
        offset, slope = parameters
        log_loss = np.logaddexp(0, -signs * (offset + slope * x)).sum()
        return log_loss + 0.5 * (offset**2 + (slope - 1) ** 2)

    offset, slope = minimize(loss, [0.0, 1.0], method="L-BFGS-B", bounds=[(None, None), (0.0, None)]).x
    return lambda probability: expit(offset + slope * binary_logits(probability))


def _wilson(fraction: np.ndarray, count: np.ndarray | int, errors: float) -> np.ndarray:
    """Upper (`errors` > 0) or lower (< 0) bound of Wilson's interval, at `errors` standard errors."""
    square = errors**2
    spread = np.sqrt(fraction * (1 - fraction) / count + square / (4 * count**2))
    return (fraction + square / (2 * count) + errors * spread) / (1 + square / count)
