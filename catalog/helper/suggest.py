"""Computes a project's suggestions: groups of images for its pages, and predictions."""

import functools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catalog import champions, sentences
from catalog.feature_store import FeatureStore
from catalog.helper import evidence, features, grouping, predictions
from catalog.helper.evidence import MIN_CHECKED, Checked
from catalog.helper.heads import Projection
from catalog.helper.predictions import Images, Predictions, train_head
from catalog.helper.progress import Progress
from catalog.library import Library
from catalog.store import Database, projects, suggestions
from catalog.store import images as stored_images
from catalog.store.tables import Help, Project
from pipeline.common.errors import UserError

_log = logging.getLogger(__name__)

NUMBER_KEYS = 9  # most probable classes that are kept for the keys 1-9
MLFLOW_SECONDS = 10  # to wait for another program that writes to MLflow


def suggest(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Computes missing features, then replaces the project's suggestions.

    Returns:
        What the new suggestions are, in one line.

    Raises:
        UserError: the backbone's weights are not available.
    """
    with database.read() as session:
        everything, last_event = suggestions.known(session, project.id)
        suffixes = stored_images.suffixes(session, project.id)
        classes = projects.classes(session, project.id)
        by_heads = [Checked(*row) for row in suggestions.checked(session, project.id)]
        has_replaced = suggestions.head_has_replaced(session, project.id, project.champion)
    files = features.ImageFiles(library, suffixes)
    if not everything:
        return sentences.NO_IMAGES
    clock = Clock()
    progress.report(0, 0, sentences.LOADING_BACKBONE)
    store, backbone = features.imagenet_backbone(library.features)
    computed = features.compute(
        store, backbone, files, lambda done, total: progress.report(done, total, sentences.COMPUTING)
    )
    everything = [image for image in everything if image.sha256 in store]  # files of others are missing
    if not everything:
        return sentences.NO_IMAGES
    x = _components(store, tuple(image.sha256 for image in everything))
    images = Images.of(everything, x, classes)
    clock.lap("features")
    progress.report(0, 0, sentences.TRAINING)
    predictor = _predictor(project, library, files, images, by_heads, has_replaced, progress)
    clock.lap("training")
    threshold, suggests = None, project.model_help == Help.SUGGESTIONS
    if predictor is not None and predictor.is_ready:
        waiting = predictor.predictions
        if suggests:
            threshold = evidence.threshold(predictor.checked, waiting.confidence, project.min_precision)
        groups = grouping.by_prediction(waiting.probabilities, project.page_size)
    else:
        groups = grouping.by_similarity(x, images.unlabeled, images.labeled, project.page_size)
    rows = _rows(images, groups, predictor, suggests)
    message = _message(project, predictor, len(images.labeled), threshold)
    metrics = {
        **clock.seconds,
        "images/new_features": computed,
        "images/labeled": len(images.labeled),
        "images/waiting": len(images.unlabeled),
    }
    if predictor is not None and predictor.checked:
        metrics["checked/predictions"] = len(predictor.checked)
        metrics["checked/accuracy"] = float(np.mean([each.right for each in predictor.checked]))
    if threshold is not None:
        metrics["checked/threshold"] = threshold
        metrics["images/prelabeled"] = int((predictor.predictions.confidence >= threshold).sum())
    champion = predictor.champion if predictor is not None else ""
    model_id = suggestions.add_model(
        database, project.id, last_event, len(images.labeled), threshold, message, champion, rows
    )
    if run_path := _log_run(project, last_event, message, champion, metrics):
        suggestions.set_run_path(database, model_id, run_path)
    return message


@dataclass(frozen=True)
class Predictor:
    """The model that predicts in a project.

    Attributes:
        champion: its name; empty for a head that was trained on the project's labels.
        predictions: for the images that wait.
        is_ready: whether its predictions group the images, and are filled in where `checked` allows it.
        checked: the evidence for its threshold.
    """

    champion: str
    predictions: Predictions
    is_ready: bool
    checked: list[Checked]


def _predictor(
    project: Project,
    library: Library,
    files: features.ImageFiles,
    images: Images,
    by_heads: list[Checked],
    has_replaced: bool,
    progress: Progress,
) -> Predictor | None:
    """The project's champion, or a head if that is better; None if there is no champion and no head.

    Args:
        project: the project.
        library: of the catalog.
        files: of the images.
        images: the project's.
        by_heads: checked predictions of heads.
        has_replaced: whether a head predicts now although there is a champion.
        progress: of the job.
    """
    head = train_head(project.task, images)
    if project.champion:
        champion = champions.load(library, project.champion)
        progress.report(0, 0, sentences.LOADING_CHAMPION.format(champion=champion.name))
        found = predictions.by_champion(
            champion,
            library.features,
            files,
            images,
            lambda done, total: progress.report(
                done, total, sentences.PREDICTING.format(champion=champion.name)
            ),
        )
        is_ready = head is not None and images.are_enough
        if not is_ready or not predictions.head_is_better(
            project.task, head, champion, found, images, has_replaced
        ):
            checked = predictions.checked(champion, found, images)
            return Predictor(champion.name, found[images.unlabeled], True, checked)
    if head is None:
        return None
    own = Predictions.of(head.probabilities(images.x, images.unlabeled), project.task)
    return Predictor("", own, images.are_enough, by_heads)


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


def _log_run(
    project: Project, last_event: int, message: str, champion: str, metrics: dict[str, float]
) -> str | None:
    """Logs the computation to MLflow; labeling continues without it."""
    from pipeline import tracking

    params = {"task": project.task, "min_precision": project.min_precision, "champion": champion or "none"}
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
    sample = store.get([hashes[index] for index in Projection.sample(len(hashes))])
    return store.mapped(list(hashes), Projection.fit(sample))


def _rows(
    images: Images, groups: list[np.ndarray], predictor: Predictor | None, suggests: bool
) -> Iterator[dict]:
    """The columns of `Suggestion` for each grouped image; with predictions only if the project `suggests`.

    A head that isn't ready only ranks the classes for the number keys. Its predictions are not recorded: it
    is overconfident where an image's class has no label yet, which would spoil the threshold.
    """
    ids = np.array(images.class_ids)
    for group, members in enumerate(groups):
        for position, row in enumerate(members):
            predicted, confidence, probable = None, 0.0, []
            if predictor is not None:
                found = predictor.predictions
                probable = ids[np.argsort(-found.probabilities[row], kind="stable")[:NUMBER_KEYS]].tolist()
                if predictor.is_ready and suggests:
                    predicted = ids[found.predicted[row]].tolist()
                    confidence = float(found.confidence[row])
            yield {
                "image_id": images.everything[images.unlabeled[row]].id,
                "cluster": group,
                "distance": float(position),
                "predicted": predicted,
                "confidence": confidence,
                "probable": probable,
            }


def _message(project: Project, predictor: Predictor | None, labels: int, threshold: float | None) -> str:
    """A sentence on the suggestions for the dashboard."""
    if predictor is None or not predictor.is_ready:
        return f"{sentences.TOO_FEW.format(labels=f'{labels:,}')}; {sentences.SIMILAR}"
    if predictor.champion:
        model = sentences.CHAMPION.format(champion=predictor.champion)
    else:
        model = sentences.TRAINED.format(labels=f"{labels:,}")
    if project.model_help == Help.GROUPS:
        return f"{model}; {sentences.SAME_CLASS}"
    if threshold is not None:
        return f"{model}; {sentences.FILLED_IN.format(confidence=f'{threshold:.1%}')}"
    checked = len(predictor.checked)
    if checked < MIN_CHECKED:
        return f"{model}; {sentences.CHECKED.format(checked=checked, needed=MIN_CHECKED)}"
    return f"{model}; {sentences.NOT_SHOWN.format(precision=f'{project.min_precision:.0%}')}"
