"""Probabilities that mean what they say, and a bound below which a model says that it is unsure."""

import numpy as np


def temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The divisor of logits at which the log loss is least (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities: pictures × classes, of pictures that were not learnt from.
        targets: class number of each.

    Returns:
        Between 1/20 and 20; above 1 the model was too sure of itself.
    """
    from scipy.optimize import minimize_scalar

    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(
            (
                np.logaddexp.reduce(scaled, axis=1) - np.take_along_axis(scaled, targets[:, None], 1)[:, 0]
            ).mean()
        )

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


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
    """The lowest probability at which a model may speak.

    From there on at least `wanted` of its answers are right, and at most `named` of the pictures of other
    things are given a name.

    Args:
        sure: the highest probability of each validation picture.
        right: whether that class was the true one.
        others: the highest probability of each picture of something else.
        wanted: share of the answers.
        named: share of the other things.

    Returns:
        Between 0 and 1; 1 where nothing keeps the promise: then it is always unsure.
    """
    for bound in np.unique(np.concatenate([[0.0], sure, np.nextafter(others, 2)])):
        speaks = sure >= bound
        if not speaks.any():
            break
        if right[speaks].mean() >= wanted and (others >= bound).mean() <= named:
            return float(bound)
    return 1.0
