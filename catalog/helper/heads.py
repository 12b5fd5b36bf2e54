"""Classifiers on frozen features that train in a fraction of a second."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

COMPONENTS = 512  # of the features; more don't help, and training takes as the cube of them
SAMPLE = 10_000  # images that the components are computed from
SHRINKAGE = 0.5  # of the covariance towards a multiple of the identity
FOLDS = 3


@dataclass(frozen=True)
class Projection:
    """Principal components of features of unit length, from all images, labeled or not.

    On Pet Faces a head on them needs fewer labels than one on the features: with 100, 300 and 800 labels
    0.79, 0.89 and 0.92 of the others are right, against 0.74, 0.87 and 0.93.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> "Projection":
        """Computes the components of features, N×C."""
        from sklearn.decomposition import PCA

        sample = features[np.linspace(0, len(features) - 1, min(len(features), SAMPLE)).astype(int)]
        unit = _unit(sample)
        most = min(COMPONENTS, *unit.shape)
        pca = PCA(most, random_state=0).fit(unit)
        return cls(pca.mean_, pca.components_)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (_unit(features) - self.mean) @ self.axes.T


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


class SingleLabelHead:
    """Linear discriminant analysis with a shrunk covariance; its probabilities are calibrated.

    As accurate here as logistic regression, and twenty times faster. Its own probabilities are far too
    certain, so the log probabilities are divided by a temperature that cross-validation chooses.

    Args:
        x: components of the labeled images, N×D.
        y: class index of each, with at least two different ones.
        classes: number of all classes.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int):
        self._classes, self._model, self.temperature = classes, _fit(x, y), 1.0
        held_out, targets = [], []
        for fold in range(FOLDS):
            test = np.arange(len(y)) % FOLDS == fold
            if len(set(y[~test])) > 1 and (known := test & np.isin(y, y[~test])).any():
                model = _fit(x[~test], y[~test])
                held_out.append(_log_probabilities(model, x[known], classes))
                targets.append(y[known])
        if held_out:
            logits, true = np.concatenate(held_out), np.concatenate(targets)
            found = minimize_scalar(lambda log_t: _loss(logits / np.exp(log_t), true), bounds=(0, 4))
            self.temperature = float(np.exp(found.x))

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The probability of each class, N×classes; 0 for classes without a label."""
        return _softmax(_log_probabilities(self._model, x, self._classes) / self.temperature)


def _fit(x: np.ndarray, y: np.ndarray):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample")  # shrinkage makes its covariance usable
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(x, y)


def _log_probabilities(model, x: np.ndarray, classes: int) -> np.ndarray:
    scores = model.decision_function(x)
    if scores.ndim == 1:  # scikit-learn's form for two classes
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    result = np.full((len(x), classes), -np.inf)
    result[:, model.classes_] = scores
    return result


def _softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, axis=1)


def _loss(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean negative log-likelihood."""
    from scipy.special import log_softmax

    return -float(np.mean(log_softmax(logits, axis=1)[np.arange(len(targets)), targets]))


class MultiLabelHead:
    """A logistic regression for each class.

    Args:
        x: components of the labeled images, N×D.
        y: 0 or 1, N×classes.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        from sklearn.linear_model import LogisticRegression

        self._models = [
            LogisticRegression(C=10, max_iter=300).fit(x, column)
            if 0 < column.sum() < len(column)
            else column[0]
            for column in y.T
        ]

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The probability of each class, N×classes."""
        columns = [
            model.predict_proba(x)[:, 1] if hasattr(model, "predict_proba") else np.full(len(x), float(model))
            for model in self._models
        ]
        return np.stack(columns, axis=1)
