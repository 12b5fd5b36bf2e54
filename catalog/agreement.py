"""How far two people agree on the same images: agreement, and Krippendorff's alpha for nominal data.

Alpha is 1 for perfect agreement and 0 for that which is expected by chance. Source: K. Krippendorff (2011),
Computing Krippendorff's Alpha-Reliability, https://repository.upenn.edu/asc_papers/43.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

UNKNOWN = 0  # in place of a class's id: the person couldn't tell
RESAMPLES = 1000  # of the bootstrap
COVERAGE = 0.95  # of intervals
MOST = 3  # confusions of a class that are shown


@dataclass(frozen=True)
class Pair:
    """What two people have said of an image: ids of classes, or None for unknown.

    Attributes:
        first, second: the first person's answer and the second one's.
        people: their names in the same order.
        image_id: of the image.
    """

    first: frozenset[int] | None
    second: frozenset[int] | None
    people: tuple[str, str] = ("", "")
    image_id: int = 0


@dataclass(frozen=True)
class Confusion:
    """What the other person has said instead of a class.

    Attributes:
        other: id of a class, or UNKNOWN.
        images: how many.
        example: id of the last one of them.
    """

    other: int
    images: int
    example: int


@dataclass(frozen=True)
class ClassAgreement:
    """The agreement on a class.

    Attributes:
        class_id: its id, or UNKNOWN.
        answers: how many named it, of both people.
        share: of these, those to which the other person's answer named it, too.
        alpha: of the question whether an image has the class; None if all have said the same.
        confusions: the most frequent ones first.
    """

    class_id: int
    answers: int
    share: float
    alpha: float | None
    confusions: list[Confusion]


@dataclass(frozen=True)
class Agreement:
    """The agreement on images that two people have labeled.

    Attributes:
        images: their number.
        equal: how many got two equal answers.
        alpha: Krippendorff's; with several classes per image, the mean over the classes. None if it isn't
            defined, since all have said the same.
        interval: of alpha, by the bootstrap; None with several classes per image, or without alpha.
    """

    images: int
    equal: int
    alpha: float | None
    interval: tuple[float, float] | None = None

    @property
    def share(self) -> float:
        return self.equal / self.images


def alpha(table: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal data, of units with two values each.

    Args:
        table: number of units by the first value and the second one, K x K.

    Returns:
        None if it isn't defined, since all values are equal.
    """
    found = _alpha(table.sum(0) + table.sum(1), 2 * (table.sum() - np.trace(table)))
    return None if np.isnan(found) else float(found)


def _alpha(counts: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Alpha from the number of each value, ... x K, and of values whose unit has another one, too, ..."""
    total = counts.sum(-1)
    expected = total**2 - (counts**2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)


def interval(table: np.ndarray) -> tuple[float, float] | None:
    """The interval of alpha by the bootstrap over images, with a fixed seed.

    Args:
        table: number of images by the first value and the second one, K x K.

    Returns:
        The bounds; None if alpha isn't defined.
    """
    first, second = np.nonzero(table)
    images = table[first, second]
    # Resamples, times combinations of values.
    drawn = np.random.default_rng(0).multinomial(int(images.sum()), images / images.sum(), RESAMPLES)
    values = np.eye(len(table))
    alphas = _alpha(drawn @ (values[first] + values[second]), 2 * drawn[:, first != second].sum(1))
    if np.isnan(alphas).all():
        return None
    low, high = np.nanquantile(alphas, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def overall(
    pairs: Sequence[Pair], classes: Sequence[int], has_several: bool, with_interval: bool = True
) -> Agreement | None:
    """The agreement on all images; None without any.

    Args:
        pairs: the answers.
        classes: ids of the project's classes.
        has_several: whether an image can have several classes.
        with_interval: whether to compute the interval of alpha.
    """
    if not pairs:
        return None
    equal = sum(pair.first == pair.second for pair in pairs)
    if has_several:
        alphas = [each.alpha for each in by_class(pairs, classes, True) if each.class_id != UNKNOWN]
        defined = [each for each in alphas if each is not None]
        return Agreement(len(pairs), equal, sum(defined) / len(defined) if defined else None)
    table = _nominal(pairs)
    found = alpha(table)
    return Agreement(
        len(pairs), equal, found, interval(table) if with_interval and found is not None else None
    )


def by_people(
    pairs: Iterable[Pair], classes: Sequence[int], has_several: bool
) -> list[tuple[tuple[str, ...], Agreement]]:
    """The agreement of each two people, whoever was first, most images first."""
    found: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs:
        found.setdefault(tuple(sorted(pair.people)), []).append(pair)
    rows = [
        (people, overall(own, classes, has_several, with_interval=False)) for people, own in found.items()
    ]
    return sorted(rows, key=lambda row: (-row[1].images, row[0]))


def by_class(pairs: Sequence[Pair], classes: Iterable[int], has_several: bool) -> list[ClassAgreement]:
    """The agreement on each class that somebody has named, and on UNKNOWN, least agreement first."""
    # With several classes, an image that somebody couldn't tell says nothing about a class.
    judged = [pair for pair in pairs if None not in (pair.first, pair.second)] if has_several else pairs
    first, second, both = Counter(), Counter(), Counter()
    others: dict[int, dict[int, list[int]]] = {}  # image ids, by class and what the other has said instead
    for pair in pairs:
        own, other = _named(pair.first), _named(pair.second)
        of_classes = not has_several or UNKNOWN not in own | other
        for counts, named in ((first, own), (second, other), (both, own & other)):
            counts.update(named if of_classes else named & {UNKNOWN})
        for one, two in itertools.product(own - other, other - own):
            others.setdefault(one, {}).setdefault(two, []).append(pair.image_id)
            others.setdefault(two, {}).setdefault(one, []).append(pair.image_id)
    rows = []
    for number in (*classes, UNKNOWN):
        if not (answers := first[number] + second[number]):
            continue
        images = len(pairs) if number == UNKNOWN else len(judged)
        ones, twos = first[number] - both[number], second[number] - both[number]
        table = np.array([[images - ones - twos - both[number], twos], [ones, both[number]]])
        said = sorted(others.get(number, {}).items(), key=lambda item: (-len(item[1]), item[0]))
        confusions = [Confusion(other, len(ids), ids[-1]) for other, ids in said[:MOST]]
        share = 2 * both[number] / answers
        rows.append(ClassAgreement(number, answers, share, alpha(table), confusions))
    return sorted(rows, key=lambda row: (row.share, -row.answers))


def _named(answer: frozenset[int] | None) -> frozenset[int]:
    return frozenset({UNKNOWN}) if answer is None else answer


def _nominal(pairs: Iterable[Pair]) -> np.ndarray:
    """Number of images by both answers, K x K; each different answer is a value."""
    counts = Counter((_named(pair.first), _named(pair.second)) for pair in pairs)
    position = {value: place for place, value in enumerate({each for values in counts for each in values})}
    table = np.zeros((len(position), len(position)))
    for (first, second), images in counts.items():
        table[position[first], position[second]] = images
    return table
