"""Computes a project's suggestions: groups of images for its pages, and predictions."""

import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog import champions
from catalog.helper import evidence, features, groups
from catalog.helper.evidence import EVIDENCE, Checked
from catalog.helper.features import FeatureStore
from catalog.helper.heads import Projection
from catalog.helper.predictions import ChampionPredictions, Images, Predictions, train_head
from catalog.helper.progress import Progress
from catalog.library import Library
from catalog.store import Database, projects, suggestions
from catalog.store import images as stored_images
from catalog.store.tables import Help, Project
from pipeline.common.errors import UserError

_log = logging.getLogger(__name__)

PROBABLE = 9  # classes kept for the keys
MLFLOW_SECONDS = 10  # to wait for another program that writes to MLflow


def suggest(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Computes missing features, then replaces the project's suggestions.

    Returns:
        What the new suggestions are, in one line.

    Raises:
        UserError: the backbone's weights are not available.
    """
    with database.read() as session:
        known, last_event = suggestions.known(session, project.id)
        suffixes = stored_images.suffixes(session, project.id)
        classes = projects.classes(session, project.id)
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
    images = Images.of(known, x, classes)
    clock.lap("features")
    progress.report(0, 0, "training on the labels")
    predictor = _predictor(project, library, files, images, checked, progress)
    clock.lap("training")
    limit, suggests = None, project.model_help == Help.SUGGESTIONS
    if predictor is not None and predictor.is_ready:
        if suggests:
            limit = evidence.threshold(predictor.checked, project.min_precision)
        grouped = groups.by_prediction(predictor.predictions.probabilities, project.page_size)
    else:
        grouped = groups.by_similarity(x, images.waiting, images.learned, project.page_size)
    rows = _rows(images, grouped, predictor, suggests)
    message = _message(project, predictor, len(images.learned), limit)
    metrics = {
        **clock.seconds,
        "images/new_features": computed,
        "images/labeled": len(images.learned),
        "images/waiting": len(images.waiting),
    }
    if predictor is not None and predictor.checked:
        metrics["validation/predictions"] = len(predictor.checked)
        metrics["validation/accuracy"] = float(np.mean([each.right for each in predictor.checked]))
    if limit is not None:
        metrics["validation/threshold"] = limit
        metrics["images/prelabeled"] = sum(row["confidence"] >= limit for row in rows)
    champion = predictor.champion if predictor is not None else ""
    model_id = suggestions.add_model(
        database, project.id, last_event, len(images.learned), limit, message, champion, rows
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
        is_ready: whether its predictions order the pages, and are filled in where `checked` allows it.
        checked: the evidence for its threshold.
    """

    champion: str
    predictions: Predictions
    is_ready: bool
    checked: list[Checked]


def _predictor(
    project: Project,
    library: Library,
    files: dict[str, Path],
    images: Images,
    checked: list[Checked],
    progress: Progress,
) -> Predictor | None:
    """The project's champion until a head trained on the labels is better; None without either."""
    head = train_head(project.task, images)
    if project.champion:
        champion = champions.load(library, project.champion)
        progress.report(0, 0, f"loading the champion {champion.name}")
        predicted = ChampionPredictions(
            champion,
            library.features,
            files,
            images,
            lambda done, total: progress.report(done, total, f"predicting with {champion.name}"),
        )
        if head is None or not images.are_enough or not predicted.is_beaten_by(project.task, head, images):
            return Predictor(champion.name, predicted.waiting, True, predicted.checked)
    if head is None:
        return None
    predictions = Predictions.of(head.probabilities(images.x[images.waiting]), project.task)
    return Predictor("", predictions, images.are_enough, checked)


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
    """Logs the computation to MLflow; a tracking server that is down stops no labeling."""
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
    vectors = store.get(list(hashes))
    return Projection.fit(vectors)(vectors)


def _rows(
    images: Images, grouped: list[np.ndarray], predictor: Predictor | None, suggests: bool
) -> list[dict]:
    """The columns of `Suggestion` for each grouped image; with predictions only if the project `suggests`.

    A head that isn't ready only orders the keys. Its predictions are not recorded: it is certain of images of
    classes that it doesn't know yet, which would spoil the evidence for the threshold.
    """
    rows = []
    ids = np.array(images.class_ids)
    for cluster, group in enumerate(grouped):
        for position, row in enumerate(group):
            predicted, confidence, probable = None, 0.0, []
            if predictor is not None:
                predictions = predictor.predictions
                probable = ids[np.argsort(-predictions.probabilities[row], kind="stable")[:PROBABLE]].tolist()
                if predictor.is_ready and suggests:
                    predicted = ids[predictions.present[row]].tolist()
                    confidence = float(predictions.confidence[row])
            rows.append(
                {
                    "image_id": images.known[images.waiting[row]].id,
                    "cluster": cluster,
                    "distance": float(position),
                    "predicted": predicted,
                    "confidence": confidence,
                    "probable": probable,
                }
            )
    return rows


def _message(project: Project, predictor: Predictor | None, labels: int, limit: float | None) -> str:
    """A sentence on the suggestions for the dashboard."""
    if predictor is None or not predictor.is_ready:
        return f"too few labels for predictions ({labels:,}); pages show similar images"
    champion = predictor.champion
    model = f"the champion {champion}" if champion else f"trained on {labels:,} labels"
    if project.model_help == Help.GROUPS:
        return f"{model}; pages show images that it finds alike"
    if limit is not None:
        return f"{model}; suggestions are filled in from a confidence of {limit:.1%}"
    if len(predictor.checked) < EVIDENCE:
        return f"{model}; {len(predictor.checked)} of {EVIDENCE} predictions checked by people so far"
    precision = f"{project.min_precision:.0%}"
    return f"{model}; its predictions aren't right {precision} of the time yet, so none is filled in"
