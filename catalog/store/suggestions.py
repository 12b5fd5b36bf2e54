"""What a model is trained on, and what it suggests."""

import enum
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.orm import Session

from catalog.store import merged
from catalog.store.database import Database
from catalog.store.tables import Event, Image, Model, PageKind, Status, Suggestion

PAGE = 9  # labels
CHECK_EVERY = 8  # pages; one of them shows confident predictions without filling them in
RECENT = 500  # predictions that count as evidence; older ones are of models that knew less
NEXT = 50  # suggestions that are looked at together for free images
CHUNK = 500  # rows per transaction, so that nobody who labels waits long
_WITH_LABELS = (None, PageKind.PRELABELED, PageKind.RECHECK)  # pages with labels filled in, or none
PAUSE = 0.02  # seconds between them: a writer that waits looks every few milliseconds whether it is its turn


@dataclass(frozen=True, slots=True)
class Known:
    """An image as the helper needs it.

    Attributes:
        classes: None unless it is labeled.
        weight: number of images that its label stands for when models are graded. 0 unless a person labeled
            it, or called it unknown, without a suggestion; CHECK_EVERY for a confident prediction, which is
            hidden from people that rarely.
    """

    id: int
    sha256: str
    is_test: bool
    classes: tuple[int, ...] | None
    waiting: bool
    weight: int


def known(session: Session, project_id: int) -> tuple[list[Known], int]:
    """All images of a project in their random order, and the id of the last event (0 if there is none)."""
    query = (
        select(Image.id, Image.sha256, Image.is_test, Image.classes, Image.status)
        .add_columns(Event.page_kind, Event.confidence, Model.threshold)
        .outerjoin(Event, Event.id == Image.event_id)
        .outerjoin(Model, Model.id == Event.model_id)
        .where(Image.project_id == project_id)
        .order_by(Image.rank, Image.id)
    )
    successor_of = merged.successors(session, project_id)  # while labels are being changed after a merge
    images = [
        Known(
            number,
            sha256,
            is_test,
            tuple(merged.current(classes, successor_of)) if status == Status.LABELED else None,
            status in (Status.WAITING, Status.SKIPPED),
            _weight(status, *shown),
        )
        for number, sha256, is_test, classes, status, *shown in session.execute(query)
    ]
    return images, last_event(session, project_id)


def _weight(status: str, kind: str | None, confidence: float | None, threshold: float | None) -> int:
    if status not in (Status.LABELED, Status.UNKNOWN) or kind in _WITH_LABELS:
        return 0
    is_confident = confidence is not None and threshold is not None and confidence >= threshold
    return CHECK_EVERY if is_confident else 1


def last_event(session: Session, project_id: int) -> int:
    """The id of the project's last event; 0 if there is none."""
    return session.scalar(select(func.max(Event.id)).where(Event.project_id == project_id)) or 0


def checked(session: Session, project_id: int) -> list[tuple[float, bool]]:
    """Confidence of the last predictions that people did not see when they labeled, and whether it was right.

    Only those of heads that were trained here count, and only the last label of each image. A prediction for
    an image that nobody could name is wrong.
    """
    query = (
        select(Event.confidence, Event.predicted, Event.after)
        .join(Image, Image.id == Event.image_id)
        .join(Model, Model.id == Event.model_id)
        .where(
            Event.project_id == project_id,
            Image.event_id == Event.id,
            Model.champion == "",
            Image.status.in_([Status.LABELED, Status.UNKNOWN]),
            Event.page_kind.not_in([PageKind.PRELABELED, PageKind.RECHECK]),
            Event.confidence > 0,
        )
        .order_by(Event.id.desc())
        .limit(RECENT)
    )
    return [
        (confidence, after["status"] == Status.LABELED and sorted(predicted) == after["classes"])
        for confidence, predicted, after in session.execute(query)
    ]


def since(session: Session, model: Model) -> tuple[int, int]:
    """Labels since a model, and how many lead to the next: a page, and a twentieth of what it has learned."""
    new = select(func.count()).where(Event.project_id == model.project_id, Event.id > model.last_event)
    return session.scalar(new), max(PAGE, model.labels // 20)


def is_due(session: Session, project_id: int) -> bool:
    """Whether enough was labeled since the newest model.

    False before the first model, which follows the reading of the images.
    """
    model = newest(session, project_id)
    if model is None:
        return False
    new, needed = since(session, model)
    return new >= needed


def are_missing(session: Session, project_id: int) -> bool:
    """Whether an image that suggestions are made for has none."""
    query = (
        select(Image.id)
        .outerjoin(Suggestion, Suggestion.image_id == Image.id)
        .where(Image.project_id == project_id, Image.status == Status.WAITING, ~Image.is_test)
        .where(~Image.is_requeued, Suggestion.image_id.is_(None))
    )
    return session.scalar(query.limit(1)) is not None


def waiting(session: Session, project_id: int, least: float = 0.0) -> int:
    """Number of waiting images with a suggestion of at least this confidence."""
    query = select(func.count()).select_from(Suggestion).where(*_waiting(project_id))
    return session.scalar(query.where(Suggestion.confidence >= least) if least else query)


def _waiting(project_id: int) -> tuple[ColumnElement[bool], ...]:
    return Suggestion.project_id == project_id, Suggestion.is_waiting


class Order(enum.Enum):
    """The order in which suggested images are shown."""

    SIMILAR = (Suggestion.cluster, Suggestion.distance)
    UNCERTAIN = (Suggestion.confidence, Suggestion.image_id)


def next_images(
    session: Session,
    model: Model,
    order: Order,
    is_free: Callable[[Image], bool],
    size: int,
    least: float | None = None,
    below: float | None = None,
) -> list[Image]:
    """The first images with a suggestion of a model.

    The suggestions come from an index in their order, some at a time, and their images by id. No database
    then sorts all suggestions of an archive.

    Args:
        session: of any transaction.
        model: the project's newest one.
        order: of the images.
        is_free: whether an image can be shown.
        size: of the result, at most.
        least: confidence that the suggestions must have.
        below: confidence that they must not reach.
    """
    query = select(Suggestion.image_id).where(*_waiting(model.project_id), Suggestion.model_id == model.id)
    # An expression, which no index can serve, since that of the order must do it.
    confidence = Suggestion.confidence + 0.0 if order == Order.SIMILAR else Suggestion.confidence
    if least is not None:
        query = query.where(confidence >= least)
    if below is not None:
        query = query.where(confidence < below)
    found: list[Image] = []
    for offset in itertools.count(0, NEXT):
        ids = session.scalars(query.order_by(*order.value).offset(offset).limit(NEXT)).all()
        # By their ids alone: with more conditions, SQLite walks through all images of the project.
        images = {image.id: image for image in session.scalars(select(Image).where(Image.id.in_(ids)))}
        found += [images[image_id] for image_id in ids if is_free(images[image_id])]
        if len(found) >= size or len(ids) < NEXT:
            return found[:size]


def head_has_replaced(session: Session, project_id: int, champion: str) -> bool:
    """Whether a head predicts, although the project's champion has predicted before."""
    model = newest(session, project_id)
    earlier = select(Model.id).where(Model.project_id == project_id, Model.champion == champion).limit(1)
    return model is not None and not model.champion and session.scalar(earlier) is not None


def newest(session: Session, project_id: int) -> Model | None:
    """The project's newest model."""
    query = select(Model).where(Model.project_id == project_id).order_by(Model.id.desc())
    return session.scalar(query.limit(1))


def add_model(
    database: Database,
    project_id: int,
    last_event: int,
    labels: int,
    threshold: float | None,
    message: str,
    champion: str,
    rows: Iterable[dict],
) -> int:
    """Adds a model and replaces the project's suggestions by its own; returns the model's id.

    The model is added first, but its threshold is set last: until all rows are replaced no page is
    prelabeled, since old rows have confidences of another model.

    Args:
        database: the catalog's.
        project_id: the project.
        last_event: the last event that the model has learned from.
        labels: the number of images that it has learned from.
        threshold: see `Model`.
        message: see `Model`.
        champion: see `Model`.
        rows: the columns of `Suggestion` but `project_id` and `model_id`, for each image that waits.
    """
    with database.write() as session:
        model = Model(
            project_id=project_id,
            created_at=time.time(),
            last_event=last_event,
            labels=labels,
            threshold=None,
            message=message,
            champion=champion,
        )
        session.add(model)
        session.flush()
        model_id = model.id
    remaining = iter(rows)
    while chunk := list(itertools.islice(remaining, CHUNK)):
        with database.write() as session:
            ids = [row["image_id"] for row in chunk]
            session.execute(delete(Suggestion).where(Suggestion.image_id.in_(ids)))
            query = select(Image.id).where(Image.id.in_(ids), Image.status == Status.WAITING)
            query = query.where(~Image.is_requeued)
            waits = set(session.scalars(query))  # others were labeled meanwhile
            of_model = {"project_id": project_id, "model_id": model_id}
            found = [{**row, **of_model, "is_waiting": row["image_id"] in waits} for row in chunk]
            session.execute(insert(Suggestion), found)
        time.sleep(PAUSE)
    with database.read() as session:
        outdated = Suggestion.project_id == project_id, Suggestion.model_id != model_id
        ids = session.scalars(select(Suggestion.image_id).where(*outdated)).all()
    for start in range(0, len(ids), CHUNK):
        with database.write() as session:
            session.execute(delete(Suggestion).where(Suggestion.image_id.in_(ids[start : start + CHUNK])))
        time.sleep(PAUSE)
    with database.write() as session:
        session.get(Model, model_id).threshold = threshold
    return model_id


def set_run_path(database: Database, model_id: int, run_path: str) -> None:
    """Records a model's run in MLflow."""
    with database.write() as session:
        session.get(Model, model_id).run_path = run_path
