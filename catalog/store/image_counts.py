"""Numbers of images by status and class, kept in a table: counting an archive's images takes too long for a page.

The table changes in the transaction that changes the images, whoever makes the change: `CatalogSession` reports
what it writes. Several processes may write, since a change adds to the stored number. A statement that changes
the labels of images that were not loaded has all images counted again, before the transaction ends.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import String, cast, event, func, insert, inspect, select, update
from sqlalchemy.orm import ORMExecuteState, Session

from catalog.store.tables import Image, ImageCount, LabelClass, Project, Status

ALL = 0  # in place of a class's id: all images with a status
_COUNTED = {"project_id", "status", "classes", "is_test"}  # columns of `Image`
_PENDING, _RECOUNT = "image counts", "count images again"  # keys of `Session.info`


class Key(NamedTuple):
    """What is counted; the primary key of `ImageCount`."""

    project_id: int
    class_id: int
    status: str
    is_test: bool


class CatalogSession(Session):
    """A session that keeps the counts of images right."""


def by_status(session: Session, project_id: int) -> dict[Status, int]:
    """Number of a project's images by status."""
    found = dict.fromkeys(Status, 0)
    for key, images in _stored(session, project_id):
        if key.class_id == ALL:
            found[Status(key.status)] += images
    return found


def by_split(session: Session, project_id: int) -> dict[tuple[Status, bool], int]:
    """Number of a project's images by status and whether they test the models."""
    return {
        (Status(key.status), key.is_test): images
        for key, images in _stored(session, project_id)
        if key.class_id == ALL
    }


def by_class(session: Session, project_id: int) -> Counter[int]:
    """Number of labeled images by class; an image counts for each of its classes."""
    found: Counter[int] = Counter()
    for key, images in _stored(session, project_id):
        if key.class_id != ALL:
            found[key.class_id] += images
    return found


def _stored(session: Session, project_id: int) -> Iterator[tuple[Key, int]]:
    """The counts of a project, with what this session has changed and not committed."""
    session.flush()
    if session.info.get(_RECOUNT):
        _write(session)
    pending = dict(session.info.get(_PENDING, {}))
    query = select(ImageCount).where(ImageCount.project_id == project_id)
    for row in session.scalars(query.execution_options(populate_existing=True)):
        key = Key(row.project_id, row.class_id, row.status, row.is_test)
        yield key, row.images + pending.pop(key, 0)
    yield from ((key, images) for key, images in pending.items() if key.project_id == project_id)


def recount(session: Session) -> int:
    """Counts the images of all projects; returns how many of the stored numbers were wrong."""
    session.flush()
    # Locked first: another transaction's change is then either counted, or added afterwards.
    stored = session.scalars(select(ImageCount).with_for_update()).all()
    counted, wrong = _count(session), 0
    for row in stored:
        images = counted.pop(Key(row.project_id, row.class_id, row.status, row.is_test), 0)
        if row.images != images:
            row.images, wrong = images, wrong + 1
    for key, images in counted.items():
        session.add(ImageCount(**key._asdict(), images=images))
        wrong += images != 0
    session.flush()
    return wrong


def wrong(session: Session) -> int:
    """How many of the stored numbers differ from the images."""
    counted = _count(session)
    stored = {
        Key(row.project_id, row.class_id, row.status, row.is_test): row.images
        for row in session.scalars(select(ImageCount))
    }
    return sum(counted.get(key, 0) != stored.get(key, 0) for key in counted.keys() | stored.keys())


def _count(session: Session) -> Counter[Key]:
    classes = cast(Image.classes, String)  # not all databases can group by JSON
    query = select(Image.project_id, Image.status, Image.is_test, classes, func.count()).group_by(
        Image.project_id, Image.status, Image.is_test, classes
    )
    counted: Counter[Key] = Counter()
    for project_id, status, is_test, found, images in session.execute(query):
        for key in _keys(project_id, status, is_test, json.loads(found)):
            counted[key] += images
    return counted


def _keys(project_id: int, status: str, is_test: bool, classes: Iterable[int]) -> Iterator[Key]:
    """What an image counts for."""
    yield Key(project_id, ALL, str(status), is_test)
    if status == Status.LABELED:
        yield from (Key(project_id, class_id, str(status), is_test) for class_id in classes)


def _pending(session: Session) -> Counter[Key]:
    return session.info.setdefault(_PENDING, Counter())


@event.listens_for(CatalogSession, "after_flush")
def _after_flush(session: Session, _context: object) -> None:
    """Notes how the changes of loaded images change the counts."""
    for item in session.dirty:
        if isinstance(item, Image):
            _note(session, _values(item, before=True), -1)
            _note(session, _values(item), 1)
    for item in session.new:
        if isinstance(item, Image):
            _note(session, _values(item), 1)
        elif isinstance(item, Project | LabelClass):
            _open(session, item)
    for item in session.deleted:
        if isinstance(item, Image):
            _note(session, _values(item, before=True), -1)


def _values(image: Image, before: bool = False) -> tuple:
    """The counted columns of an image, after or before the flush."""
    attributes = inspect(image).attrs

    def value(name: str) -> object:
        history = attributes[name].history
        return history.deleted[0] if before and history.deleted else getattr(image, name)

    return value("project_id"), value("status"), value("is_test"), value("classes")


def _note(session: Session, values: tuple, change: int) -> None:
    pending = _pending(session)
    for key in _keys(*values):
        pending[key] += change


def _open(session: Session, item: Project | LabelClass) -> None:
    """Makes rows with 0 for a new project or class, so that two transactions never both insert one."""
    pending = _pending(session)
    for is_test in (False, True):
        if isinstance(item, LabelClass):
            pending[Key(item.project_id, item.id, str(Status.LABELED), is_test)] += 0
        else:
            pending.update({Key(item.id, ALL, str(status), is_test): 0 for status in Status})


@event.listens_for(CatalogSession, "do_orm_execute")
def _on_statement(state: ORMExecuteState) -> None:
    """Notes statements that add images, or change the labels of images that are not loaded."""
    is_bulk = state.is_insert or state.is_update or state.is_delete
    if not is_bulk or state.bind_mapper is None or state.bind_mapper.class_ is not Image:
        return
    rows = state.parameters if isinstance(state.parameters, list) else [state.parameters or {}]
    if state.is_insert and all({"project_id", "is_test"} <= row.keys() for row in rows):
        for row in rows:
            values = row.get("status", Status.WAITING), row["is_test"], row.get("classes", ())
            _note(state.session, (row["project_id"], *values), 1)
    elif not state.is_update or _changed(state.statement, rows) & _COUNTED:
        state.session.info[_RECOUNT] = True


def _changed(statement, rows: list[dict]) -> set[str]:
    """The columns that an update changes."""
    named = {getattr(column, "key", column) for column in statement._values or {}}
    return named.union(*rows)


@event.listens_for(CatalogSession, "before_commit")
def _before_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        session.flush()
        _write(session)


def _write(session: Session) -> None:
    """Adds what was noted to the table."""
    if session.info.pop(_RECOUNT, False):
        session.info.pop(_PENDING, None)
        recount(session)
        return
    # In one order, so that two transactions can't wait for each other.
    for key, change in sorted(session.info.pop(_PENDING, Counter()).items()):
        row = [getattr(ImageCount, name) == value for name, value in key._asdict().items()]
        values = {"images": ImageCount.images + change}
        # Core statements: the rows are not loaded, and must not be.
        connection = session.connection()
        if not connection.execute(update(ImageCount.__table__).where(*row).values(values)).rowcount:
            connection.execute(insert(ImageCount.__table__).values(**key._asdict(), images=change))


@event.listens_for(CatalogSession, "after_soft_rollback")
def _after_rollback(session: Session, _previous: object) -> None:
    session.info.pop(_PENDING, None)
    session.info.pop(_RECOUNT, None)
    if session.in_transaction():  # a part was rolled back, and what the rest has changed is unknown now
        session.info[_RECOUNT] = True
