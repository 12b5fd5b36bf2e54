"""Computes features of new samples, trains heads and answers, in threads of the server."""

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog import backbone
from catalog.backbone import Exported
from catalog.language import N_, _
from catalog.library import Library
from catalog.store import Database, samples
from catalog.store.samples import Sample
from catalog.teach import head, validation
from catalog.teach.model import TaughtModel
from catalog.teach.sample_features import SampleFeatures
from pipeline.common.errors import UserError

PAUSE = 0.3  # seconds between looks for the backbone

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What the worker is doing for a project.

    Attributes:
        phase: `idle`, `features`, `training` or `validating`.
        done, total: images whose features are computed, and all.
        message: why the last training failed; empty if it didn't.
    """

    phase: str = "idle"
    done: int = 0
    total: int = 0
    message: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model says of an image.

    Attributes:
        classes: class ids.
        probabilities: of each class, in their order.
        none: probability that it is none of the classes; None if the model has no such output.
        is_none: whether the image is none of them.
        milliseconds: for decoding the image and the prediction.
    """

    classes: list[int]
    probabilities: list[float]
    none: float | None
    is_none: bool
    milliseconds: float


class Teacher:
    """Trains the heads of all projects of the teach page, one at a time, and answers meanwhile.

    Args:
        database: the catalog's.
        library: of the catalog.
    """

    def __init__(self, database: Database, library: Library):
        self._database, self._library = database, library
        self._features = SampleFeatures(library)
        self._changed = threading.Condition()
        self._wanted: dict[int, bool] = {}  # projects with changed samples; whether to train at any rate
        self._unvalidated: set[int] = set()
        self._progress: dict[int, Progress] = {}
        self._models: dict[int, TaughtModel | None] = {}
        self._deletions = 0  # of projects; a training that began before one is not kept
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Starts the worker."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the worker after the batch or training that it works on."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._features.close()

    def has_changed(self, project_id: int, train: bool = False) -> None:
        """Computes features of new samples, then trains if asked to, or if the project was trained before."""
        with self._changed:
            self._wanted[project_id] = train or self._wanted.get(project_id, False)
            self._changed.notify()

    def forget(self, project_id: int) -> None:
        """Drops what belongs to a project that was deleted; ids are used again."""
        with self._changed:
            self._deletions += 1
            self._wanted.pop(project_id, None)
            self._unvalidated.discard(project_id)
            self._models.pop(project_id, None)
            self._progress.pop(project_id, None)

    def discard(self, erased: Sequence[str]) -> None:
        """Deletes the features of images that no project has any more."""
        self._features.discard(erased)

    def progress(self, project_id: int) -> Progress:
        """What happens for a project now."""
        with self._changed:
            found = self._progress.get(project_id, Progress())
            if found.phase == "idle" and project_id in self._wanted:
                return Progress("waiting", message=found.message)
            return found

    def model(self, project_id: int) -> TaughtModel | None:
        """The project's newest model, or None."""
        with self._changed:
            if project_id not in self._models:
                self._models[project_id] = TaughtModel.load(self._library.taught(project_id))
            return self._models[project_id]

    def exported(self) -> Exported:
        """The backbone; raises UserError while it is being prepared."""
        return self._features.exported()

    def answer(self, project_id: int, data: bytes) -> Answer:
        """The newest model's answer to an encoded image.

        Raises:
            UserError: the project has no model yet, or the backbone is being prepared.
            UnreadableError: `data` is no image.
        """
        start = time.perf_counter()
        found = self.trained(project_id)
        x = self.exported().network(self.picture(data)[None])
        probabilities = found.head.probabilities(x)
        count = len(found.classes)
        return Answer(
            classes=found.classes,
            probabilities=probabilities[0, :count].tolist(),
            none=float(probabilities[0, count]) if probabilities.shape[1] > count else None,
            is_none=bool(found.head.is_none(probabilities)[0]),
            milliseconds=1000 * (time.perf_counter() - start),
        )

    def trained(self, project_id: int) -> TaughtModel:
        """The project's newest model, if it can answer.

        Raises:
            UserError: the project has no model yet, or the backbone is being prepared.
        """
        found = self.model(project_id)
        if found is None or found.backbone != self.exported().key:
            raise UserError(_("Press Train first."))
        return found

    def picture(self, data: bytes) -> np.ndarray:
        """An encoded image as the backbone takes it, uint8 S×S×3; raises UnreadableError."""
        return self._features.picture(data)

    def evidence(self, project_id: int, data: bytes, class_id: int) -> np.ndarray:
        """How much each place of an image speaks for a class, against the average of all, H×W float32.

        The features are means over places, and the head is linear: the class's logit is the mean over this
        map (class activation mapping, Zhou et al. 2016).

        Raises:
            UserError: the project has no model, or it doesn't know the class.
            UnreadableError: `data` is no image.
        """
        found, exported = self.trained(project_id), self.exported()
        if class_id not in found.classes:
            raise UserError(_("The model has not learned this class yet; press Train."))
        (last,) = exported.network.layers(self.picture(data), exported.layers[-1:])
        weight = found.head.weight
        direction = weight[found.classes.index(class_id)] - weight.mean(axis=0)
        return np.einsum("c,chw->hw", direction, last)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._is_stopping or self._wanted or self._unvalidated):
                    self._changed.wait()
                if self._is_stopping:
                    return
                if not backbone.is_there(self._library.backbone):
                    self._changed.wait(PAUSE)
                    continue
                task = self._wanted.popitem() if self._wanted else (self._unvalidated.pop(), None)
                project_id, train = task
                self._progress[project_id] = Progress("waiting")
            try:
                if train is None:
                    self._validate(project_id)
                else:
                    self._learn(project_id, train)
                message = ""
            except UserError as error:
                message = str(error)
            except Exception as error:  # shown on the page; the next training may well succeed
                _log.exception("training project %d failed", project_id)
                message = f"{type(error).__name__}: {error}"
            self._report(project_id, Progress(message=message))

    def _report(self, project_id: int, progress: Progress) -> None:
        with self._changed:
            self._progress[project_id] = progress

    def _samples(self, project_id: int) -> list[Sample]:
        """The samples that have features, after computing those that are missing.

        Raises:
            UserError: the catalog was stopped meanwhile, or the backbone is being prepared.
        """
        with self._database.read() as session:
            found = samples.taught(session, project_id)
        files = {each.sha256: self._library.image(each.sha256, each.suffix) for each in found}
        usable = self._features.compute(
            files,
            lambda done, total: self._report(project_id, Progress("features", done, total)),
            lambda: self._is_stopping,
        )
        if self._is_stopping:
            raise UserError("the catalog was stopped")
        return [each for each in found if each.sha256 in usable]

    def _learn(self, project_id: int, train: bool) -> None:
        """Trains if asked to, or if the samples of a trained project (or the backbone) have changed."""
        deletions = self._deletions
        found = self._samples(project_id)
        previous = self.model(project_id)
        wanted = fingerprint(found), self.exported().key
        is_current = previous is not None and (previous.samples, previous.backbone) == wanted
        if (is_current and previous.validation is not None) or (previous is None and not train):
            return
        classes = sorted({each.class_id for each in found})
        if len(classes) < 2:
            raise UserError(N_("Too few images: at least two classes need an image each."))
        if not is_current:
            self._report(project_id, Progress("training"))
            self._keep(project_id, self._train(found, classes), deletions)
        with self._changed:
            self._unvalidated.add(project_id)

    def _train(self, found: list[Sample], classes: list[int]) -> TaughtModel:
        start = time.perf_counter()
        x, y, groups = self._arrays(found, classes)
        training = head.train(x, y, len(classes), groups, self.exported().typical)
        counts = Counter(y.tolist())
        return TaughtModel(
            samples=fingerprint(found),
            backbone=self.exported().key,
            classes=classes,
            images=[counts[number] for number in range(len(classes))],
            seconds=time.perf_counter() - start,
            training=training,
        )

    def _arrays(self, found: list[Sample], classes: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features N×C, class indices N and group numbers N of samples."""
        x = self._features.get([each.sha256 for each in found])
        y = np.array([classes.index(each.class_id) for each in found])
        return x, y, validation.groups_of(x, [each.burst for each in found])

    def _validate(self, project_id: int) -> None:
        """Cross-validates the newest model, unless its samples change meanwhile."""
        deletions = self._deletions
        model, found = self.model(project_id), self._samples(project_id)
        if model is None or model.samples != fingerprint(found):
            return
        if model.validation is None:
            self._report(project_id, Progress("validating"))
            x, y, groups = self._arrays(found, model.classes)
            result = validation.cross_validate(x, y, len(model.classes), groups, self._has_other_work)
            if result is None:
                with self._changed:
                    self._unvalidated.add(project_id)
                return
            self._keep(project_id, model.with_validation(result), deletions)

    def _keep(self, project_id: int, model: TaughtModel, deletions: int) -> None:
        """Stores a model, unless a project was deleted since its training began."""
        with self._changed:
            if deletions == self._deletions:
                model.save(self._library.taught(project_id))
                self._models[project_id] = model
            else:
                self._wanted.setdefault(project_id, True)

    def _has_other_work(self) -> bool:
        return bool(self._is_stopping or self._wanted)


def fingerprint(found: list[Sample]) -> str:
    """Hash of what a model learns: images, their classes and recordings; equal for a copy of the project."""
    classes = sorted({each.class_id for each in found})
    digest = hashlib.sha256()
    for each in found:
        digest.update(f"{each.sha256} {classes.index(each.class_id)} {each.burst}\n".encode())
    return digest.hexdigest()
