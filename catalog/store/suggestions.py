"""What a model is trained on, and what it suggests."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from catalog.store.database import Database
from catalog.store.tables import Event, Image, Model, Status, Suggestion

PAGE = 9  # labels
CHUNK = 500  # rows per transaction, so that nobody who labels waits long


@dataclass(frozen=True)
class Known:
    """An image as the helper needs it; `classes` is None unless it is labeled."""

    id: int
    sha256: str
    is_test: bool
    classes: tuple[int, ...] | None
    waiting: bool


def known(session: Session, project_id: int) -> tuple[list[Known], int]:
    """All images of a project in their random order, and the id of the last event (0 if there is none)."""
    query = (
        select(Image.id, Image.sha256, Image.is_test, Image.classes, Image.status)
        .where(Image.project_id == project_id)
        .order_by(Image.rank, Image.id)
    )
    images = [
        Known(
            number,
            sha256,
            is_test,
            tuple(classes) if status == Status.LABELED else None,
            status in (Status.WAITING, Status.SKIPPED),
        )
        for number, sha256, is_test, classes, status in session.execute(query)
    ]
    return images, last_event(session, project_id)


def last_event(session: Session, project_id: int) -> int:
    """The id of the project's last event; 0 if there is none."""
    return session.scalar(select(func.max(Event.id)).where(Event.project_id == project_id)) or 0


def judged(session: Session, project_id: int) -> list[tuple[float, bool]]:
    """Confidence of each prediction that was made before a person labeled the image, and whether it is right.

    Only the last label of each image counts.
    """
    query = (
        select(Event.confidence, Event.predicted, Event.after)
        .join(Image, Image.event_id == Event.id)
        .where(Image.project_id == project_id, Image.status == Status.LABELED)
        .order_by(Event.id)
    )
    return [
        (confidence, sorted(predicted) == after["classes"])
        for confidence, predicted, after in session.execute(query)
        if predicted is not None
    ]


def is_due(session: Session, project_id: int) -> bool:
    """Whether enough was labeled since the newest model: a page, and a twentieth of what it has learned from.

    False before the first model, which follows the reading of the images.
    """
    model = newest(session, project_id)
    if model is None:
        return False
    new = select(func.count()).where(Event.project_id == project_id, Event.id > model.last_event)
    return session.scalar(new) >= max(PAGE, model.labels // 20)


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
    run_path: str | None,
    rows: list[dict],
) -> None:
    """Adds a model and replaces the project's suggestions by its own.

    The model is added first, but its threshold is set last: until all rows are replaced no page is
    prelabeled, since old rows have confidences of another model.

    Args:
        database: the catalog's.
        project_id: the project.
        last_event: the last event that the model has learned from.
        labels: the number of images that it has learned from.
        threshold: see `Model`.
        message: see `Model`.
        run_path: see `Model`.
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
            run_path=run_path,
        )
        session.add(model)
        session.flush()
        model_id = model.id
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        with database.write() as session:
            ids = [row["image_id"] for row in chunk]
            session.execute(delete(Suggestion).where(Suggestion.image_id.in_(ids)))
            session.execute(
                insert(Suggestion), [{**row, "project_id": project_id, "model_id": model_id} for row in chunk]
            )
    with database.write() as session:
        outdated = Suggestion.project_id == project_id, Suggestion.model_id != model_id
        session.execute(delete(Suggestion).where(*outdated))
        session.get(Model, model_id).threshold = threshold


def history(session: Session, project_id: int, most: int = 20) -> Iterator[Model]:
    """The project's models, newest first."""
    query = select(Model).where(Model.project_id == project_id).order_by(Model.id.desc()).limit(most)
    return session.scalars(query)
