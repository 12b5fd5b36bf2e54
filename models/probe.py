"""Linear probe on frozen features: multinomial logistic regression, or one per class if multi-label."""

import numpy as np
import torch
from torch import nn

from pipeline.common import log
from pipeline.tasks import Task, best_row


def fit_head(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    inverse_regularization: list[float],
    task: Task,
    balanced: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]]]:
    """Fits a head for each regularisation strength and returns the one of `best_row`.

    Features are standardised for the fit, since the penalty treats all alike; scale and shift are then folded
    into the head, so that it applies to raw features.

    Args:
        train: features N×C and targets: class indices N with every class present, or 0/1, N×classes.
        val: features and targets for model selection.
        inverse_regularization: scikit-learn's C, in ascending order.
        task: single-label or multi-label.
        balanced: whether to weight classes equally, however many images they have.

    Returns:
        Weight, classes×C; bias, classes; and a row per value of C with `C`, the task's monitored metric on
        validation and `val/loss`.
    """
    from sklearn.metrics import log_loss
    from tqdm import tqdm

    features, targets = train
    mean, scale = features.mean(axis=0), _feature_scale(features, targets)
    x, x_val = (features - mean) / scale, (val[0] - mean) / scale
    multi_label = task.is_multi_label
    rows, heads, solvers = [], [], [None] * (targets.shape[1] if multi_label else 1)
    for C in tqdm(inverse_regularization, desc="head", disable=log.is_quiet() or None):
        parts = targets.T if multi_label else [targets]
        solvers = [_fit(x, part, C, balanced, start) for part, start in zip(parts, solvers, strict=True)]
        if multi_label:
            probabilities = np.stack([solver.predict_proba(x_val)[:, 1] for solver in solvers], axis=1)
            loss = np.mean(
                [log_loss(*pair, labels=[0, 1]) for pair in zip(val[1].T, probabilities.T, strict=True)]
            )
        else:
            probabilities = solvers[0].predict_proba(x_val)
            loss = log_loss(val[1], probabilities, labels=solvers[0].classes_)
        rows.append({"C": C, task.monitor: task.score(probabilities, val[1]), "val/loss": float(loss)})
        heads.append(_fold_scaling(solvers, multi_label, mean, scale))
    return *heads[rows.index(best_row(rows, task.monitor))], rows


def _fit(x: np.ndarray, y: np.ndarray, C: float, balanced: bool, start: object):
    """A fitted logistic regression; it starts from one with stronger regularisation, to converge faster."""
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(
        C=C, max_iter=1000, warm_start=True, class_weight="balanced" if balanced else None
    )
    if start is not None:
        solver.coef_, solver.intercept_, solver.classes_ = start.coef_, start.intercept_, start.classes_
    return solver.fit(x, y)


# Images per class at which a feature's variance and the mean variance of all features weigh the same. On
# random splits of Pet Faces, the mean variance alone gave an accuracy of 0.72 with one image per class and
# 0.930 with 55; each feature's own variance gave 0.66 and 0.936.
PRIOR_IMAGES = 10


def _feature_scale(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scale of each feature, C: its standard deviation, shrunk towards the average with few images per class.

    With few images the estimated variances are noisy, and standardising would weight noisy features like
    discriminative ones.
    """
    variances = features.var(axis=0)
    per_class = len(labels) / (labels.shape[1] if labels.ndim == 2 else len(np.unique(labels)))
    weight = per_class / (per_class + PRIOR_IMAGES)
    return np.sqrt(weight * variances + (1 - weight) * variances.mean()) + 1e-6


def _fold_scaling(
    solvers: list, multi_label: bool, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight, classes×C, and bias on raw features; scikit-learn's single row for two classes becomes two."""
    coefficients = np.concatenate([solver.coef_ for solver in solvers])
    intercept = np.concatenate([solver.intercept_ for solver in solvers])
    if len(coefficients) == 1 and not multi_label:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weight = coefficients / scale
    return weight, intercept - weight @ mean


def set_head(head: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    """Copies a fitted head into a network's last layer, in place."""
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
