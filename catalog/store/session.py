"""Keeps what is derived from images' labels right, in the transaction that changes them, whoever does.

These are the counts of images, and which suggestions are for images that wait. A statement that changes the
labels of images that were not loaded has them derived for all images again before the commit.
"""

from collections.abc import Iterable

from sqlalchemy import event, inspect, select, update
from sqlalchemy.orm import ORMExecuteState, Session

from catalog.store import image_counts
from catalog.store.tables import Image, LabelClass, Project, Status, Suggestion

CHUNK = 500  # parameters of a statement
_DERIVED_FROM = {"project_id", "status", "classes", "is_test", "is_requeued"}  # columns of `Image`
_WAITING, _ALL_WAITING = "images that wait", "any image may wait"  # keys of `Session.info`


class CatalogSession(Session):
    """A session of the catalog's database."""


@event.listens_for(CatalogSession, "after_flush")
def _after_flush(session: Session, _context: object) -> None:
    for item in session.dirty:
        if isinstance(item, Image):
            before, after = _values(item, before=True), _values(item)
            if before != after:
                image_counts.note(session, before, -1)
                image_counts.note(session, after, 1)
            if before != after or inspect(item).attrs.is_requeued.history.has_changes():
                is_offered = item.status == Status.WAITING and not item.is_requeued
                session.info.setdefault(_WAITING, {})[item.id] = is_offered
    for item in session.new:
        if isinstance(item, Image):
            image_counts.note(session, _values(item), 1)
        elif isinstance(item, Project):
            image_counts.note_project(session, item.id)
        elif isinstance(item, LabelClass):
            image_counts.note_class(session, item.project_id, item.id)
    for item in session.deleted:
        if isinstance(item, Image):
            image_counts.note(session, _values(item, before=True), -1)


def _values(image: Image, before: bool = False) -> tuple[int, str, bool, Iterable[int]]:
    """What `image_counts.note` takes, after or before the flush."""
    attributes = inspect(image).attrs

    def value(name: str):
        history = attributes[name].history
        return history.deleted[0] if before and history.deleted else getattr(image, name)

    return value("project_id"), value("status"), value("is_test"), value("classes")


@event.listens_for(CatalogSession, "do_orm_execute")
def _on_statement(state: ORMExecuteState) -> None:
    is_change = state.is_insert or state.is_update or state.is_delete
    if not is_change or state.bind_mapper is None or state.bind_mapper.class_ is not Image:
        return
    rows = state.parameters if isinstance(state.parameters, list) else [state.parameters or {}]
    if state.is_insert and all({"project_id", "is_test"} <= row.keys() for row in rows):
        for row in rows:
            values = row.get("status", Status.WAITING), row["is_test"], row.get("classes", ())
            image_counts.note(state.session, (row["project_id"], *values), 1)
    elif not state.is_update or _changed(state.statement, rows) & _DERIVED_FROM:
        image_counts.note_unknown(state.session)
        state.session.info[_ALL_WAITING] = True


def _changed(statement, rows: list[dict]) -> set[str]:
    """The columns that an update changes."""
    named = {getattr(column, "key", column) for column in statement._values or {}}
    return named.union(*rows)


@event.listens_for(CatalogSession, "before_commit")
def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return
    session.flush()
    image_counts.write(session)
    waiting = session.info.pop(_WAITING, {})
    if session.info.pop(_ALL_WAITING, False):
        offered = select(Image.id).where(Image.status == Status.WAITING, ~Image.is_requeued)
        waits = Suggestion.image_id.in_(offered)
        session.connection().execute(update(Suggestion.__table__).values(is_waiting=waits))
        return
    for value in (False, True):
        ids = sorted(image_id for image_id, waits in waiting.items() if waits == value)
        for start in range(0, len(ids), CHUNK):
            chunk = Suggestion.image_id.in_(ids[start : start + CHUNK])
            session.connection().execute(update(Suggestion.__table__).where(chunk).values(is_waiting=value))


@event.listens_for(CatalogSession, "after_soft_rollback")
def _after_rollback(session: Session, _previous: object) -> None:
    image_counts.forget(session)
    session.info.pop(_WAITING, None)
    session.info.pop(_ALL_WAITING, None)
    if session.in_transaction():  # a part was rolled back; what the rest has changed is unknown
        image_counts.note_unknown(session)
        session.info[_ALL_WAITING] = True
