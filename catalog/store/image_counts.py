"""Numbers of images by status and class, kept in a table: to count an archive's images takes too long.

The table changes in the transaction that changes the images: `catalog.store.session` notes what is written.
Several processes may write, since a change is added to the stored number.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import String, cast, func, insert, select, update
from sqlalchemy.orm import Session

from catalog.store.tables import Image, ImageCount, Status

ALL = 0  # in place of a class's id: all images with a status
_PENDING, _RECOUNT = "image counts", "count images again"  # keys of `Session.info`


class Key(NamedTuple):
    """What is counted; the primary key of `ImageCount`."""

    project_id: int
    class_id: int
    status: str
    is_test: bool


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
        write(session)
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


def note(session: Session, values: tuple[int, str, bool, Iterable[int]], change: int) -> None:
    """Notes that an image has joined those with these values, or left them.

    Args:
        session: of a write transaction.
        values: the image's project, status, whether it is a test image, and its classes.
        change: 1 or -1.
    """
    pending = _pending(session)
    for key in _keys(*values):
        pending[key] += change


def note_project(session: Session, project_id: int) -> None:
    """Makes the rows of a new project, so that no two transactions insert the same one later."""
    keys = [Key(project_id, ALL, str(status), is_test) for status in Status for is_test in (False, True)]
    _pending(session).update(dict.fromkeys(keys, 0))


def note_class(session: Session, project_id: int, class_id: int) -> None:
    """Makes the rows of a new class."""
    keys = [Key(project_id, class_id, str(Status.LABELED), is_test) for is_test in (False, True)]
    _pending(session).update(dict.fromkeys(keys, 0))


def note_unknown(session: Session) -> None:
    """Notes that images have changed in a way that isn't known: they are counted again."""
    session.info[_RECOUNT] = True


def forget(session: Session) -> None:
    """Forgets what was noted, after a rollback."""
    session.info.pop(_PENDING, None)
    session.info.pop(_RECOUNT, None)


def write(session: Session) -> None:
    """Adds what was noted to the table."""
    if session.info.get(_RECOUNT):
        forget(session)
        recount(session)
        return
    connection, table = session.connection(), ImageCount.__table__
    # In one order, so that no two transactions wait for each other.
    for key, change in sorted(session.info.pop(_PENDING, Counter()).items()):
        row = [table.c[name] == value for name, value in key._asdict().items()]
        changed = connection.execute(update(table).where(*row).values(images=table.c.images + change))
        if not changed.rowcount:
            connection.execute(insert(table).values(**key._asdict(), images=change))


def _pending(session: Session) -> Counter[Key]:
    return session.info.setdefault(_PENDING, Counter())
