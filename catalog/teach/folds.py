"""Which images are held out together."""

import numpy as np


def deal(y: np.ndarray, groups: np.ndarray, most: int) -> list[np.ndarray]:
    """Masks, N, of the images that each fold holds out; all images of a group are in one fold.

    Groups are dealt class by class, large ones first, so that each class is spread over the folds and one
    with two groups is never held out as a whole. scikit-learn's StratifiedGroupKFold may do that.

    Args:
        y: class index of each image, N.
        groups: group number of each image, N, any numbers.
        most: number of folds if there are as many groups.
    """
    _, first, groups, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    number = min(most, len(first))
    fold = np.empty(len(first), np.int64)
    fold[np.lexsort((first, -size, y[first]))] = np.arange(len(first)) % max(number, 1)
    return [fold[groups] == each for each in range(number)]


def groups_per_class(y: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """The number of groups that have an image of each class."""
    pairs = np.unique(np.stack([y, groups], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=classes)
