"""What a project's map shows of each image: its label, its prediction and who labeled it.

At 500,000 images no row is made for each: the database groups them and lists the ids of each group as text,
which NumPy reads.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sqlalchemy import ColumnElement, Select, String, cast, func, select
from sqlalchemy.orm import Session

from catalog.store.tables import Event, Image, Status, Suggestion

MIN_IMAGES = 10  # of a map


@dataclass(frozen=True, slots=True)
class Place:
    """An image that belongs on the map."""

    id: int
    sha256: str
    suffix: str


@dataclass(frozen=True)
class Extent:
    """The number of a project's images and the largest id: they tell whether a map has all of them."""

    images: int
    newest: int


@dataclass(frozen=True)
class Group:
    """Images that the map shows in the same way.

    Attributes:
        value: what is shown, for JSON.
        ids: of the images.
    """

    value: dict
    ids: np.ndarray


def places(session: Session, project_id: int) -> list[Place]:
    """All images of a project in their random order."""
    query = (
        select(Image.id, Image.sha256, Image.suffix)
        .where(Image.project_id == project_id, Image.status != Status.REMOVED)
        .order_by(Image.rank, Image.id)
        .execution_options(yield_per=10_000)
    )
    return [Place(*row) for row in session.execute(query)]


def extent(session: Session, project_id: int) -> Extent:
    """How many images a project has, and the largest id."""
    query = select(func.count(), func.max(Image.id)).where(
        Image.project_id == project_id, Image.status != Status.REMOVED
    )
    images, newest = session.execute(query).one()
    return Extent(images, newest or 0)


def labels(session: Session, project_id: int) -> Iterator[Group]:
    """Images by their current label, as ``{"status": "labeled", "classes": [3], "is_test": False}``."""
    columns = (Image.status, cast(Image.classes, String), Image.is_test)
    for status, classes, is_test, ids in session.execute(_grouped(columns, project_id)):
        yield Group({"status": status, "classes": json.loads(classes), "is_test": bool(is_test)}, _read(ids))


def predictions(session: Session, project_id: int) -> Iterator[Group]:
    """Images by what a model has predicted, as ``{"classes": [3]}``; test images have no prediction.

    That is the present suggestion of an image that waits, else the prediction that was made before its label.
    """
    suggested = cast(Suggestion.predicted, String)
    query = (
        _grouped((suggested,), project_id)
        .join(Suggestion, Suggestion.image_id == Image.id)
        .where(~Image.is_test, Image.status.in_([Status.WAITING, Status.SKIPPED]))
    )
    earlier = cast(Event.predicted, String)
    labeled = (
        _grouped((earlier,), project_id)
        .join(Event, Event.id == Image.event_id)
        .where(~Image.is_test, Image.status.not_in([Status.WAITING, Status.SKIPPED]))
    )
    for each in (query, labeled):
        for classes, ids in session.execute(each):
            if classes is not None and (found := json.loads(classes)) is not None:
                yield Group({"classes": found}, _read(ids))


def people(session: Session, project_id: int) -> Iterator[Group]:
    """Labeled images by who gave the label, as ``{"person": "Ann"}``."""
    query = (
        _grouped((Event.person,), project_id)
        .join(Event, Event.id == Image.event_id)
        .where(Image.status.in_([Status.LABELED, Status.UNKNOWN, Status.DISPUTED]))
    )
    for person, ids in session.execute(query):
        yield Group({"person": person}, _read(ids))


def _grouped(columns: tuple[ColumnElement, ...], project_id: int) -> Select:
    ids = func.aggregate_strings(cast(Image.id, String), ",")
    return select(*columns, ids).where(Image.project_id == project_id).group_by(*columns)


def _read(ids: str) -> np.ndarray:
    return np.fromstring(ids, np.int64, sep=",")
