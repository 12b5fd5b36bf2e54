"""Computes features of new samples, trains heads and answers, in threads of the server."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catalog import backbone
from catalog.backbone import Exported
from catalog.language import N_, _
from catalog.library import Library
from catalog.store import Database, projects, samples
from catalog.store.samples import Sample
from catalog.teach import answers, head, validation
from catalog.teach.answers import Answer
from catalog.teach.data import ChangedError, TrainingData
from catalog.teach.model import TaughtModel
from catalog.teach.sample_features import SampleFeatures
from pipeline.common.errors import UserError

PAUSE = 0.3  # seconds between looks for the backbone
STOP_SECONDS = 10  # to wait for a training that can't be interrupted

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
        # Projects with changed samples, oldest first, and whether to train at any rate.
        self._wanted: dict[int, bool] = {}
        self._unvalidated: dict[int, None] = {}
        self._deleted: set[int] = set()
        self._progress: dict[int, Progress] = {}
        self._is_stopping = False
        self._storing = threading.RLock()  # held while models are read and written
        self._models: dict[int, TaughtModel | None] = {}
        self._data: TrainingData | None = None  # of the last training, for its validation
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Starts the worker, with what was left when the catalog was stopped."""
        with self._database.read() as session:
            for project in projects.taught(session):
                self._wanted[project.id] = False
        self._thread.start()

    def stop(self) -> None:
        """Ends the worker after the batch or training that it works on, or after STOP_SECONDS."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        self._features.close()

    def has_changed(self, project_id: int, train: bool = False) -> None:
        """Computes features of new samples, then trains if asked to, or if the project was trained before."""
        with self._changed:
            self._wanted[project_id] = train or self._wanted.get(project_id, False)
            self._changed.notify()

    def forget(self, project_id: int) -> None:
        """Drops what belongs to a deleted project; a training that is under way is not kept."""
        with self._changed:
            self._deleted.add(project_id)
            self._wanted.pop(project_id, None)
            self._unvalidated.pop(project_id, None)
            self._progress.pop(project_id, None)
        with self._storing:
            self._models.pop(project_id, None)

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
        with self._storing:
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
        return answers.answer(self.trained(project_id), self.exported(), lambda: self.picture(data))

    def evidence(self, project_id: int, data: bytes, class_id: int) -> np.ndarray:
        """How much each place of an image speaks for a class, see `answers.evidence`.

        Raises:
            UserError: the project has no model, or it doesn't know the class.
            UnreadableError: `data` is no image.
        """
        return answers.evidence(self.trained(project_id), self.exported(), self.picture(data), class_id)

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

    def _work(self) -> None:
        while (task := self._next()) is not None:
            project_id, train = task
            try:
                message = self._validate(project_id) if train is None else self._learn(project_id, train)
            except ChangedError:
                self.has_changed(project_id, bool(train))
                message = ""
            except UserError as error:
                message = str(error)
            except Exception as error:  # shown on the page; the next training may well succeed
                _log.exception("training project %d failed", project_id)
                message = f"{type(error).__name__}: {error}"
            self._report(project_id, Progress(message=message))

    def _next(self) -> tuple[int, bool | None] | None:
        """The project to work on, and whether to train it at any rate, or None to validate it.

        None instead of both when the catalog stops.
        """
        with self._changed:
            while not self._is_stopping:
                if not (self._wanted or self._unvalidated):
                    self._changed.wait()
                elif not backbone.is_there(self._library.backbone):
                    self._changed.wait(PAUSE)
                else:
                    is_changed = bool(self._wanted)
                    project_id = next(iter(self._wanted or self._unvalidated))
                    train = self._wanted.pop(project_id) if is_changed else None
                    if not is_changed:
                        del self._unvalidated[project_id]
                    message = self._progress.get(project_id, Progress()).message
                    self._progress[project_id] = Progress("waiting", message=message)
                    return project_id, train
        return None

    def _report(self, project_id: int, progress: Progress) -> None:
        with self._changed:
            if project_id not in self._deleted:
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

    def _learn(self, project_id: int, train: bool) -> str:
        """Trains if asked to, or if the samples of a trained project (or the backbone) have changed."""
        found, previous = self._samples(project_id), self.model(project_id)
        if previous is None and not train:
            return ""
        if len({each.class_id for each in found}) < 2:
            self._keep(project_id, None)  # it would go on naming classes that have no images any more
            raise UserError(N_("Too few images: at least two classes need an image each."))
        data = self._collect(found)
        if previous is None or not data.is_of(previous):
            self._report(project_id, Progress("training"))
            self._keep(project_id, self._train(data))
        with self._changed:
            self._unvalidated[project_id] = None
        return ""

    def _collect(self, found: list[Sample]) -> TrainingData:
        """What a model learns from these samples, if it isn't that of the last call."""
        key = self.exported().key
        if self._data is None or not self._data.is_from(found, key):
            self._data = TrainingData.collect(found, key, self._features)
        return self._data

    def _train(self, data: TrainingData) -> TaughtModel:
        start = time.perf_counter()
        typical = self.exported().typical
        training = head.train(data.x, data.y, len(data.classes), data.groups, typical)
        return TaughtModel(
            samples=data.samples,
            backbone=data.backbone,
            classes=data.classes,
            images=np.bincount(data.y, minlength=len(data.classes)).tolist(),
            seconds=time.perf_counter() - start,
            training=training,
        )

    def _validate(self, project_id: int) -> str:
        """Cross-validates the newest model, unless its samples change meanwhile."""
        model, found = self.model(project_id), self._samples(project_id)
        if model is None or model.validation is not None or not found:
            return ""
        data = self._collect(found)
        if not data.is_of(model):
            return ""
        self._report(project_id, Progress("validating"))
        result = validation.cross_validate(
            data.x,
            data.y,
            len(model.classes),
            data.groups,
            lambda: self._is_stopping or bool(self._wanted),
            self.exported().typical,
            model.training.none_level,
        )
        if result is not None:
            self._keep(project_id, model.with_validation(result))
        else:
            with self._changed:
                self._unvalidated[project_id] = None
        return ""

    def _keep(self, project_id: int, model: TaughtModel | None) -> None:
        """Stores a model, or deletes the last one, unless the project was deleted meanwhile."""
        with self._storing:
            if project_id in self._deleted:
                return
            if model is None:
                TaughtModel.delete(self._library.taught(project_id))
            else:
                model.save(self._library.taught(project_id))
            self._models[project_id] = model
