"""The record of files of labels: their preview, the choices, what was done, and whether it was taken back."""

import time
from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from catalog.store.import_preview import Preview
from catalog.store.imports import Choices, Imported
from catalog.store.tables import Event, ImportState, LabelImport

LISTED = 20  # imports of a project
_PREVIEW, _CHOICES, _DONE = map(TypeAdapter, (Preview, Choices, Imported))


def add(
    session: Session,
    project_id: int,
    batch: str,
    person: str,
    name: str,
    format_name: str,
    shown: Preview | None = None,
) -> LabelImport:
    """Notes a file that has come."""
    entry = LabelImport(
        project_id=project_id,
        batch=batch,
        person=person,
        at=time.time(),
        name=name,
        format=format_name,
        state=ImportState.WAITING,
        preview=None if shown is None else _PREVIEW.dump_python(shown, mode="json"),
        counts=_DONE.dump_python(Imported(batch=batch), mode="json"),
    )
    session.add(entry)
    session.flush()
    return entry


def find(session: Session, project_id: int, batch: str) -> LabelImport | None:
    """The import with this batch; None if the project has none."""
    found = session.scalar(select(LabelImport).where(LabelImport.batch == batch))
    return found if found is not None and found.project_id == project_id else None


def listed(session: Session, project_id: int, person: str) -> Sequence[LabelImport]:
    """The last imports of a project, and the person's own files that wait; the newest first."""
    query = (
        select(LabelImport)
        .where(
            LabelImport.project_id == project_id,
            or_(LabelImport.state != ImportState.WAITING, LabelImport.person == person),
        )
        .order_by(LabelImport.id.desc())
    )
    return session.scalars(query.limit(LISTED)).all()


def preview(entry: LabelImport) -> Preview:
    """What the file would have changed when it came."""
    return _PREVIEW.validate_python(entry.preview or {})


def choices(entry: LabelImport) -> Choices:
    """What a person has decided."""
    return _CHOICES.validate_python(entry.choices or {})


def done(entry: LabelImport) -> Imported:
    """What was done so far."""
    return _DONE.validate_python(entry.counts)


def note(entry: LabelImport, so_far: Imported) -> None:
    """Notes what was done, in the transaction that does it."""
    entry.counts = _DONE.dump_python(so_far, mode="json")


def start(entry: LabelImport, chosen: Choices, so_far: Imported) -> None:
    """Notes that the import has begun, with these choices."""
    entry.state = ImportState.STARTED
    entry.choices = _CHOICES.dump_python(chosen, mode="json")
    note(entry, so_far)


def labeled(session: Session, entry: LabelImport) -> set[int]:
    """Ids of the images that got their label by an attempt before."""
    return set(session.scalars(select(Event.image_id).where(Event.batch == entry.batch)))


def begin_undo(session: Session, project_id: int, batch: str, person: str) -> bool:
    """Notes that somebody takes an action back; False if it is no import that has begun.

    An import that is still being applied stops then.
    """
    entry = find(session, project_id, batch)
    if entry is None or entry.state == ImportState.WAITING:
        return False
    if entry.undone_at is None:
        entry.undone_at, entry.undone_by = time.time(), person
    return True


def count_undone(session: Session, project_id: int, batch: str, images: int) -> int:
    """Notes how many images have their label from before again; returns how many have it in all."""
    entry = find(session, project_id, batch)
    entry.undone += images
    return entry.undone


def delete_waiting(session: Session, before: float) -> None:
    """Deletes the notes of files that came before a time and that nobody has applied."""
    is_waiting = LabelImport.state == ImportState.WAITING
    session.execute(delete(LabelImport).where(is_waiting, LabelImport.at < before))
