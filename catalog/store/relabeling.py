"""Changes of many labels that follow from a change of classes, in many transactions.

A change is a row of `Relabeling`. What it has left to do follows from the images, so one that was cut off
goes on from there. Its project stays paused until it is done.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store import derived, jobs, labels, merged
from catalog.store.bulk import PAUSE
from catalog.store.database import Database
from catalog.store.labels import Act, Answer
from catalog.store.tables import Action, Event, Help, Image, Project, Relabeling, Status
from pipeline.common.errors import UserError

STEP = 500  # images of a transaction

LABELS = (Status.LABELED, Status.UNKNOWN, Status.DISPUTED)  # what discarding takes away


def start(
    session: Session,
    project: Project,
    act: Act,
    person: str,
    total: int,
    class_id: int | None = None,
    undone_batch: str = "",
) -> Relabeling:
    """Adds a change, which `finish` does.

    Args:
        session: of a write transaction.
        project: a paused project.
        act: of all its events.
        person: who wants it.
        total: number of images to change.
        class_id: the class that was merged, for a merge.
        undone_batch: what is taken back, for an undo.
    """
    last_event = session.scalar(select(func.max(Event.id)).where(Event.project_id == project.id)) or 0
    row = Relabeling(
        project_id=project.id,
        kind=act.action,
        batch=act.batch,
        undone_batch=undone_batch,
        person=person,
        class_id=class_id,
        last_event=last_event,
        total=total,
        changed=0,
        started_at=time.time(),
    )
    session.add(row)
    return row


def unfinished(session: Session, project_id: int | None = None) -> list[Relabeling]:
    """The changes that are going on, of a project or of all."""
    query = select(Relabeling).where(Relabeling.finished_at.is_(None)).order_by(Relabeling.id)
    return list(session.scalars(query if project_id is None else query.filter_by(project_id=project_id)))


def check_done(session: Session, project_id: int) -> None:
    """Raises UserError while labels of the project are being changed."""
    if unfinished(session, project_id):
        raise UserError(_("labels are still being changed after a change of classes; wait until it is done"))


def finish(database: Database, number: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Does what a change has left to do.

    Args:
        database: the catalog's.
        number: the id of the change.
        is_stopped: asked between two transactions; the rest is left for the next time.
    """
    with database.read() as session:
        row = session.get(Relabeling, number)
        if row is None or row.finished_at is not None:
            return
        left = labels.events_of(session, row.project_id, row.undone_batch)
        if row.kind != Action.UNDO:
            # By id, so that neighbours on the disk are changed together.
            left = sorted(session.scalars(select(Image.id).where(*_left(row))))
    for begin in range(0, len(left), STEP):
        if begin:
            time.sleep(PAUSE)
        if is_stopped():
            return
        with database.write() as session:
            row = session.get(Relabeling, number)
            if row is None:  # the project was deleted
                return
            row.changed += _step(session, row, left[begin : begin + STEP])
    with database.write() as session:
        if (row := session.get(Relabeling, number)) is None:
            return
        row.finished_at = time.time()
        project = session.get(Project, row.project_id)
        if project.model_help != Help.NONE:
            jobs.request(session, project.id, jobs.Kind.SUGGEST)


def _left(row: Relabeling) -> tuple[ColumnElement[bool], ...]:
    """Conditions of the images that a change has left to do."""
    own = Image.project_id == row.project_id
    if row.kind == Action.MERGE:
        is_cut_off = func.length(Image.class_key) > derived.MAX_KEY - 20
        return own, or_(Image.class_key.contains(derived.containing(row.class_id)), is_cut_off)
    older = Image.event_id <= row.last_event
    if row.kind == Action.REQUEUE:
        return own, Image.status.in_([Status.LABELED, Status.UNKNOWN]), older
    queued = and_(Image.status.in_([Status.WAITING, Status.SKIPPED]), Image.is_requeued)
    return own, or_(Image.status.in_(LABELS), queued), older


def _step(session: Session, row: Relabeling, numbers: Sequence[int]) -> int:
    """Changes some images, or takes some events back; returns how many images changed."""
    act = Act(Action(row.kind), row.batch)
    if row.kind == Action.UNDO:
        return labels.undo_events(session, numbers, row.person, act)
    successor_of = merged.successors(session, row.project_id)
    given = []
    for image in session.scalars(select(Image).where(Image.id.in_(numbers))):
        present = labels.current(image)
        if row.kind == Action.MERGE:
            if row.class_id in image.classes:
                given.append((image, present.with_successors(successor_of)))
        elif image.event_id <= row.last_event:  # nobody has labeled it meanwhile
            earlier = None
            if row.kind == Action.REQUEUE:
                earlier = replace(present.with_successors(successor_of), first_person=None)
            image.page_token = image.leased_until = None
            given.append((image, Answer(Status.WAITING, earlier=earlier)))
    labels.give_all(session, given, row.person, act)
    return len(given)
