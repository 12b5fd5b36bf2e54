"""How good a head is on images that it was not trained on, and what would help it most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from catalog.teach import descent, folds
from catalog.teach.head import above

# Cosine of the features from which two images count as one. Of 90 pet faces 95 % are this similar to
# themselves turned by up to 3°, moved by up to 6 % and a little lighter or darker; 99.9 % of the pairs of
# different faces of a breed have at most 0.90.
ALIKE = 0.93
BLOCK = 500  # images that are compared with all others at a time
SINGLE = 50  # up to so many groups, each is held out alone
FOLDS = 10  # with more groups, or more images than FEW
FEW = 500
GOOD = 0.9  # recall from which a class needs no help
IMAGES = 10  # of a class with fewer, more of them help first
NOT_ASKED, NONE = -1, -2  # instead of the class that an image was taken for
DEVIATIONS = 1.96  # half the width of a 95 % interval in standard errors


class Kind(StrEnum):
    """What would help."""

    MORE_IMAGES = "more_images"  # of the class
    OTHER_LIGHT = "other_light"  # the class was recorded once or twice only: record it elsewhere too
    CONFUSED = "confused"  # images that show what sets the class apart from the other one


@dataclass(frozen=True)
class Hint:
    """What would help most.

    Attributes:
        kind: what to do.
        class_index: for which class.
        other: the class that it is taken for, of CONFUSED.
    """

    kind: Kind
    class_index: int
    other: int | None = None


@dataclass(frozen=True)
class Validation:
    """Answers on images that were held out.

    Attributes:
        accuracy: share of right answers, of which "none of these" is none; None if a class has fewer than two
            groups, which is too few to say.
        low: lower bound of its 95 % interval, and 0 if there is none.
        high: upper bound, and 1 if there is none.
        recall: share of each class's images that get their class; None for one with fewer than two groups.
        confused_with: the class that each class is taken for most often, if it is at all.
        images: number of images.
        groups: number of groups, which the interval is computed from.
        hint: what would help most, if anything.
    """

    accuracy: float | None
    low: float
    high: float
    recall: list[float | None]
    confused_with: list[int | None]
    images: int
    groups: int
    hint: Hint | None


def groups_of(x: np.ndarray, bursts: Sequence[str | None]) -> np.ndarray:
    """The group number of each image, N: images of a recording and near-duplicates belong together.

    Two recordings are never one group, however alike they are: somebody has recorded the class again, and in
    front of the same background features of different objects are alike, too.

    Args:
        x: raw features, N×C.
        bursts: name of the recording that each image is from, or None.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(x)
    unit = np.asarray(x, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    first: dict[str, int] = {}
    is_recorded = np.array([name is not None for name in bursts], bool)
    groups = np.arange(count)  # a row that each image belongs to
    for row, name in enumerate(bursts):
        groups[row] = row if name is None else first.setdefault(name, row)
    for start in range(0, count, BLOCK):
        # Only pairs on one side of the diagonal, since links have no direction.
        left, right = np.nonzero(unit[start : start + BLOCK] @ unit[: start + BLOCK].T >= ALIKE)
        is_photo = ~(is_recorded[left + start] & is_recorded[right])
        left, right = left[is_photo], right[is_photo]
        left = np.concatenate([left + start, np.arange(count)])
        right = np.concatenate([right, groups])
        graph = coo_matrix((np.ones(len(left), bool), (left, right)), shape=(count, count))
        groups = connected_components(graph, directed=False)[1]
        groups = np.unique(groups, return_index=True)[1][groups]  # the links so far, one an image
    return np.unique(groups, return_inverse=True)[1]


def cross_validate(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    groups: np.ndarray,
    should_stop: Callable[[], bool],
    typical: np.ndarray | None = None,
    none_level: float = -np.inf,
) -> Validation | None:
    """Answers for each image by a head that was trained without its group; None if stopped.

    Args:
        x: raw features, N×C.
        y: class index of each image, N.
        classes: number of classes.
        groups: group number of each image, N.
        should_stop: asked before each training.
        typical: see `head.train`.
        none_level: of the head that is validated; by default no image is none of the classes.
    """
    x, y, groups = np.asarray(x, np.float32), np.asarray(y), np.unique(groups, return_inverse=True)[1]
    per_class = folds.groups_per_class(y, groups, classes)
    typical = np.zeros(x.shape[1], np.float32) if typical is None else typical
    answers = np.full(len(y), NOT_ASKED)
    most = SINGLE if len(y) <= FEW and len(np.unique(groups)) <= SINGLE else FOLDS
    for test in folds.deal(y, groups, most):
        if should_stop():
            return None
        known = np.unique(y[~test])
        asked = test & np.isin(y, known)  # what a head has never seen says nothing about it
        if len(known) > 1 and asked.any():
            labels = np.searchsorted(known, y[~test])
            share = descent.share_of(labels, len(known))
            steps = descent.descend(x[~test], labels, len(known), share)
            scores = steps.scores(x[asked])
            level = none_level * above(steps, typical, x[~test], steps.logits[-1]).mean()
            is_none = above(steps, typical, x[asked], scores) < level
            answers[asked] = np.where(is_none, NONE, known[scores.argmax(axis=1)])
    recall, confused = _by_class(y, answers, per_class)
    accuracy, low, high = None, 0.0, 1.0
    if classes > 1 and per_class.min() > 1:
        accuracy = float((answers == y).mean())
        low, high = _interval(accuracy, int(groups.max()) + 1)
    hint = _hint(np.bincount(y, minlength=classes), per_class, recall, confused)
    return Validation(accuracy, low, high, recall, confused, len(y), len(np.unique(groups)), hint)


def _by_class(
    y: np.ndarray, answers: np.ndarray, per_class: np.ndarray
) -> tuple[list[float | None], list[int | None]]:
    """Recall of each class, and the class that it is taken for most often."""
    recall: list[float | None] = []
    confused: list[int | None] = []
    for number, groups in enumerate(per_class):
        given = answers[(y == number) & (answers != NOT_ASKED)]
        wrong = given[(given != number) & (given != NONE)]
        recall.append(float((given == number).mean()) if groups > 1 and len(given) else None)
        confused.append(int(np.bincount(wrong).argmax()) if len(wrong) else None)
    return recall, confused


def _interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent answers."""
    square = DEVIATIONS**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count**2)
    half = DEVIATIONS * float(np.sqrt(spread)) / (1 + square / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _hint(
    images: np.ndarray, groups: np.ndarray, recall: list[float | None], confused: list[int | None]
) -> Hint | None:
    """What would help most: the class about which nothing can be said, or the one with most mistakes."""
    if not len(images):
        return None
    worst = int(np.argmin([-1.0 if each is None else each for each in recall]))
    if recall[worst] is not None and recall[worst] >= GOOD:
        fewest = int(images.argmin())
        return Hint(Kind.MORE_IMAGES, fewest) if images[fewest] < IMAGES / 2 else None
    if images[worst] < IMAGES:
        return Hint(Kind.MORE_IMAGES, worst)
    if groups[worst] <= 2:
        return Hint(Kind.OTHER_LIGHT, worst)
    if confused[worst] is None:  # it is called none of these
        return Hint(Kind.OTHER_LIGHT, worst)
    return Hint(Kind.CONFUSED, worst, confused[worst])
