"""Probabilities that mean what they say, and a bound below which a model says that it is unsure."""

from collections.abc import Callable

import numpy as np

# Standard errors by which the promises are kept, chosen by benchmarks/abstention.py. The first is small, so
# that little data can keep it: some eight validation images, if all are right. The second is larger, for
# drawn patterns stand for photographs, of which a network from scratch names a few more.
RIGHT_MARGIN, OTHERS_MARGIN = 0.5, 1.5


def temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The divisor of logits at which the log loss is least (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities: pictures × classes, of pictures that were not learnt from.
        targets: class number of each.

    Returns:
        Between 1/20 and 20; above 1 the model was too sure of itself.
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
    """The temperature, between 1/20 and 20, at which a loss is least."""
    from scipy.optimize import minimize_scalar

    bounds = (-np.log(20), np.log(20))
    found = minimize_scalar(
        lambda log: loss(np.exp(log)), bounds=bounds, method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def binary_logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits of independent probabilities, as doubles; those of 0 and 1 are finite."""
    from scipy.special import logit

    return logit(np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7))


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """What the probabilities are when the logits are divided by a temperature; of the same type."""
    scaled = _logits(probabilities) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)).astype(probabilities.dtype)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Up to a constant a picture, which softmax does not see."""
    tiny = np.finfo(probabilities.dtype).tiny
    return np.log(np.maximum(probabilities, tiny).astype(np.float64))


def unsure_below(
    sure: np.ndarray, right: np.ndarray, others: np.ndarray, wanted: float, named: float
) -> float:
    """The lowest probability at which a model may answer.

    Both promises are to hold on images that were not seen here, so each is kept with a margin, by Wilson's
    interval. How often an answer is right is read from a curve through all validation images, not counted: a
    handful of mistakes near the bound would decide, and each would move it.

    Args:
        sure: the highest probability of each validation image, calibrated.
        right: whether that class was the true one.
        others: the highest probability of each out-of-domain image.
        wanted: share of the answers that is right; 1 can't be promised.
        named: share of the out-of-domain images that gets an answer.

    Returns:
        Between 0 and 1; 1 where nothing keeps the promise: then it is always unsure.
    """
    return float(max(_precise(sure, right, wanted), _rare(others, named)))


def _precise(sure: np.ndarray, right: np.ndarray, wanted: float) -> float:
    """The lowest bound from which on the expected share of right answers is large enough."""
    descending = np.sort(sure)[::-1]
    count = np.arange(1, len(descending) + 1)
    expected = np.cumsum(_curve(sure, right)(descending)) / count
    last = np.append(descending[1:] != descending[:-1], True)  # equal ones are answered together
    enough = np.flatnonzero(last & (_wilson(expected, count, -RIGHT_MARGIN) >= wanted))
    if not len(enough):
        return 1.0
    return 0.0 if enough[-1] == len(descending) - 1 else descending[enough[-1]]


def _rare(others: np.ndarray, named: float) -> float:
    """The lowest bound from which on few enough out-of-domain images are named."""
    descending, count = np.sort(others)[::-1], np.arange(len(others))
    few = count[_wilson(count / len(others), len(others), OTHERS_MARGIN) <= named]
    # Of a few images even none named proves little: then the bound lies above all of them.
    return np.nextafter(descending[few[-1] if len(few) else 0], descending.dtype.type(2))


def _curve(sure: np.ndarray, right: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The chance that an answer is right, by its probability: a logistic curve in the logit (Platt 1999).

    A normal prior keeps it near the probability itself, which the temperature has calibrated: few images, or
    such that are all right, then move it little.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    signs, x = np.where(right, 1.0, -1.0), binary_logits(sure)

    def loss(parameters: np.ndarray) -> float:
        offset, slope = parameters
        misfit = np.logaddexp(0, -signs * (offset + slope * x)).sum()
        return misfit + 0.5 * (offset**2 + (slope - 1) ** 2)

    offset, slope = minimize(loss, [0.0, 1.0], method="L-BFGS-B", bounds=[(None, None), (0.0, None)]).x
    return lambda probability: expit(offset + slope * binary_logits(probability))


def _wilson(share: np.ndarray, count: np.ndarray | int, errors: float) -> np.ndarray:
    """An end of Wilson's interval of a share: so many standard errors above it, or below."""
    square = errors**2
    spread = np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (share + square / (2 * count) + errors * spread) / (1 + square / count)
