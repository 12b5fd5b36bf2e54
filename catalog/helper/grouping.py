"""Groups of images that are shown on one page."""

import numpy as np

CANDIDATES = 50_000  # images that such groups are chosen from; they are in random order
GROUPS = 200  # groups of similar images that are prepared while there are no predictions


def by_similarity(x: np.ndarray, unlabeled: np.ndarray, labeled: np.ndarray, size: int) -> list[np.ndarray]:
    """Groups of similar images that cover what is not labeled yet.

    A group is a seed and the images nearest to it. Every other seed is the image least similar to all that
    were labeled or grouped before, so that rare classes come early; the others come in random order, so that
    outliers don't fill the pages.

    Args:
        x: components, N×D.
        unlabeled: indices of images to group, in random order.
        labeled: indices of labeled images.
        size: images of a group.

    Returns:
        Positions within `unlabeled`, each once, at most GROUPS groups; most similar to the seed last.
    """
    from sklearn.preprocessing import normalize

    unlabeled = unlabeled[:CANDIDATES]
    if not len(unlabeled):  # scikit-learn refuses no images at all
        return []
    candidates, left = normalize(x[unlabeled]), np.ones(len(unlabeled), bool)
    nearest = np.full(len(unlabeled), -1.0)  # similarity to the nearest labeled or grouped image
    for start in range(0, len(labeled), 1000):
        block = candidates @ normalize(x[labeled[start : start + 1000]]).T
        nearest = np.maximum(nearest, block.max(axis=1))
    groups = []
    while left.any() and len(groups) < GROUPS:
        free = np.flatnonzero(left)
        is_first = not groups and not len(labeled)
        seed = free[0] if is_first or len(groups) % 2 else free[np.argmin(nearest[free])]
        similarity = candidates[free] @ candidates[seed]
        group = free[np.argsort(-similarity)[:size]]
        left[group] = False
        nearest = np.maximum(nearest, (candidates @ candidates[group].T).max(axis=1))
        groups.append(group[::-1])
    return groups


def by_prediction(probabilities: np.ndarray, size: int) -> list[np.ndarray]:
    """Groups of images with the same most probable class, the most certain groups first.

    Args:
        probabilities: N×classes.
        size: images of a group.

    Returns:
        Rows of `probabilities`, each once; within a group the least certain first, where errors are likely.
    """
    best, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    groups = []
    for index in np.unique(best):
        rows = np.flatnonzero(best == index)
        rows = rows[np.argsort(-confidence[rows], kind="stable")]
        groups += [rows[start : start + size][::-1] for start in range(0, len(rows), size)]
    # A full group first: pages are filled from the next group where one is smaller.
    return sorted(groups, key=lambda rows: -confidence[rows].sum() / size)
