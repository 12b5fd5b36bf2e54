"""Groups of similar images, and predictions by a head that is trained on the labels so far."""

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog.helper import features
from catalog.helper.features import FeatureStore
from catalog.helper.heads import MultiLabelHead, Projection, SingleLabelHead
from catalog.helper.progress import Progress
from catalog.library import Library
from catalog.store import Database, images, projects, suggestions
from catalog.store.suggestions import Known
from catalog.store.tables import Help, Project
from pipeline.common.errors import UserError

_log = logging.getLogger(__name__)

GROUPS = 200  # pages of similar images that are prepared while there is no head
LABELS_PER_CLASS = 10  # on average, before a head's predictions order the pages
MIN_PER_CLASS = 3  # unless each class has so many
EVIDENCE = 40  # predictions that people have checked, before any is filled in
PROBABLE = 9  # classes kept for the keys
MLFLOW_SECONDS = 10  # to wait for another program that writes to MLflow
CONFIDENCE = 0.95  # of the lower bound of the precision


@dataclass(frozen=True)
class Checked:
    """A prediction made before a person labeled the image, and whether the label agrees with it."""

    confidence: float
    right: bool


def threshold(checked: Sequence[Checked], min_precision: float) -> float | None:
    """The lowest confidence from which predictions are right often enough.

    Args:
        checked: predictions that people did not see when they labeled the images.
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


def suggest(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Computes missing features, then replaces the project's suggestions.

    Returns:
        What the new suggestions are, in one line.

    Raises:
        UserError: the backbone's weights are not available.
    """
    with database.read() as session:
        known, last_event = suggestions.known(session, project.id)
        suffixes = images.suffixes(session, project.id)
        class_ids = [found.id for found in projects.classes(session, project.id)]
        checked = [Checked(*row) for row in suggestions.checked(session, project.id)]
    files = {key: library.image(key, suffix) for key, suffix in suffixes.items()}
    known = [image for image in known if files[image.sha256].is_file()]  # others come back by reading again
    if not known:
        return "no images yet"
    clock = Clock()
    progress.report(0, 0, "loading the backbone")
    store, backbone = features.imagenet_backbone(library.features)
    computed = features.compute(
        store, backbone, files, lambda done, total: progress.report(done, total, "computing features")
    )
    x = _components(store, tuple(image.sha256 for image in known))
    clock.lap("features")
    progress.report(0, 0, "training on the labels")
    shown = [index for index, image in enumerate(known) if not image.is_test]
    waiting = np.array([index for index in shown if known[index].waiting], int)
    learned = [index for index in shown if known[index].classes is not None]
    head = None
    if project.model_help == Help.SUGGESTIONS:
        head = _train(project.task, x, known, learned, class_ids)
    clock.lap("training")
    probabilities = head.probabilities(x[waiting]) if head is not None and len(waiting) else None
    clock.lap("inference")
    counts = _counts(known, learned, class_ids)
    is_ready = probabilities is not None and (
        min(counts) >= MIN_PER_CLASS or len(learned) >= LABELS_PER_CLASS * len(class_ids)
    )
    limit = threshold(checked, project.min_precision) if is_ready else None
    if is_ready:
        groups = by_prediction(probabilities, project.page_size)
    else:
        groups = by_similarity(x, waiting, learned, project.page_size)
    rows = _rows(known, waiting, groups, probabilities, class_ids, project.task, is_ready)
    if project.model_help == Help.GROUPS:
        message = "pages show similar images"
    else:
        message = _message(len(learned), len(checked), is_ready, limit, project.min_precision)
    metrics = {
        **clock.seconds,
        "images/new_features": computed,
        "images/labeled": len(learned),
        "images/waiting": len(waiting),
        "validation/predictions": len(checked),
    }
    if checked:
        metrics["validation/accuracy"] = float(np.mean([each.right for each in checked]))
    if limit is not None:
        metrics["validation/threshold"] = limit
        metrics["images/prelabeled"] = sum(row["confidence"] >= limit for row in rows)
    model_id = suggestions.add_model(database, project.id, last_event, len(learned), limit, message, rows)
    if run_path := _log_run(project, last_event, message, metrics):
        suggestions.set_run_path(database, model_id, run_path)
    return message


class Clock:
    """Seconds that steps take."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, step: str) -> None:
        """Ends a step; the next one begins."""
        now = time.monotonic()
        self.seconds[f"seconds/{step}"] = now - self._last
        self._last = now


def _log_run(project: Project, last_event: int, message: str, metrics: dict[str, float]) -> str | None:
    """Logs the computation to MLflow; a tracking server that is down stops no labeling."""
    from pipeline import tracking

    params = {"task": project.task, "min_precision": project.min_precision}
    tags = {"project": project.name, "last_label_event": str(last_event), "result": message}
    try:
        name = f"after event {last_event}"
        return tracking.log_work(f"catalog: {project.name}", name, params, metrics, tags, MLFLOW_SECONDS)
    except UserError as error:
        _log.warning("%s; the suggestions are not in MLflow", error)
        return None


@functools.lru_cache(1)
def _components(store: FeatureStore, hashes: tuple[str, ...]) -> np.ndarray:
    """Principal components of images' features, N×D; kept until the images change."""
    vectors = store.get(list(hashes))
    return Projection.fit(vectors)(vectors)


def _train(
    task: str, x: np.ndarray, known: list[Known], learned: list[int], class_ids: list[int]
) -> SingleLabelHead | MultiLabelHead | None:
    """A head trained on the labeled images; None if too little is known to train one."""
    columns = {class_id: column for column, class_id in enumerate(class_ids)}
    if task == "multi_label":
        y = np.zeros((len(learned), len(class_ids)), int)
        for row, index in enumerate(learned):
            y[row, [columns[class_id] for class_id in known[index].classes]] = 1
        return MultiLabelHead(x[learned], y) if len(learned) >= 2 * LABELS_PER_CLASS else None
    y = np.array([columns[known[index].classes[0]] for index in learned], int)
    return SingleLabelHead(x[learned], y, len(class_ids)) if len(set(y)) > 1 and len(y) >= 18 else None


def _counts(known: list[Known], learned: list[int], class_ids: list[int]) -> list[int]:
    """Number of labeled images of each class."""
    counts = dict.fromkeys(class_ids, 0)
    for index in learned:
        for class_id in known[index].classes:
            counts[class_id] += 1
    return list(counts.values())


def by_similarity(x: np.ndarray, waiting: np.ndarray, learned: list[int], size: int) -> list[np.ndarray]:
    """Groups of similar images that cover what is not labeled yet.

    A group is a seed and the images nearest to it. Every other seed is the image least similar to all that
    were labeled or grouped before, so that rare classes come early; the others come in random order, so that
    outliers don't fill the pages.

    Args:
        x: components, N×D.
        waiting: indices of images to group, in random order.
        learned: indices of labeled images.
        size: images of a group.

    Returns:
        Positions within `waiting`, each once, at most GROUPS groups; most similar to the seed last.
    """
    from sklearn.preprocessing import normalize

    unit = normalize(x)
    candidates, left = unit[waiting], np.ones(len(waiting), bool)
    nearest = np.full(len(waiting), -1.0)  # similarity to the nearest labeled or grouped image
    for start in range(0, len(learned), 1000):
        block = candidates @ unit[learned[start : start + 1000]].T
        nearest = np.maximum(nearest, block.max(axis=1))
    groups = []
    while left.any() and len(groups) < GROUPS:
        free = np.flatnonzero(left)
        is_first = not groups and not learned
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


def _rows(
    known: list[Known],
    waiting: np.ndarray,
    groups: list[np.ndarray],
    probabilities: np.ndarray | None,
    class_ids: list[int],
    task: str,
    is_ready: bool,
) -> list[dict]:
    """The columns of `Suggestion` for each grouped image.

    A head that isn't ready only orders the keys. Its predictions are not recorded: it is certain of images of
    classes that it doesn't know yet, which would spoil the evidence for the threshold.
    """
    rows = []
    ids = np.array(class_ids)
    for cluster, group in enumerate(groups):
        for position, row in enumerate(group):
            predicted, confidence, probable = None, 0.0, []
            if probabilities is not None:
                own = probabilities[row]
                probable = ids[np.argsort(-own, kind="stable")[:PROBABLE]].tolist()
                if is_ready and task == "multi_label":
                    predicted = ids[own >= 0.5].tolist()
                    confidence = float(np.prod(np.maximum(own, 1 - own)))
                elif is_ready:
                    predicted, confidence = probable[:1], float(own.max())
            rows.append(
                {
                    "image_id": known[waiting[row]].id,
                    "cluster": cluster,
                    "distance": float(position),
                    "predicted": predicted,
                    "confidence": confidence,
                    "probable": probable,
                }
            )
    return rows


def _message(labels: int, checked: int, is_ready: bool, limit: float | None, min_precision: float) -> str:
    """A sentence on the suggestions for the dashboard."""
    if not is_ready:
        return f"too few labels for predictions ({labels:,}); pages show similar images"
    if limit is not None:
        return f"trained on {labels:,} labels; suggestions are filled in from a confidence of {limit:.1%}"
    if checked < EVIDENCE:
        return f"trained on {labels:,} labels; {checked} of {EVIDENCE} predictions checked by people so far"
    return (
        f"trained on {labels:,} labels; its predictions aren't right {min_precision:.0%} of the time yet, "
        "so none is filled in"
    )
