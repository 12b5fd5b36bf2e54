"""Adds and renames classes of a project, and records each change; rows of the record are only ever added."""

import enum
import time
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store import projects
from catalog.store.tables import ClassChange, LabelClass, Project
from pipeline.common import text
from pipeline.common.errors import UserError


class Policy(enum.StrEnum):
    """What is done with a project's labels when it gets new classes."""

    CONTINUE = "continue"  # they stay
    REQUEUE = "requeue"  # all images are queued again, with their labels filled in
    DISCARD = "discard"  # all labels are discarded


class ChangeKind(enum.StrEnum):
    """What was changed."""

    ADDED = "added"
    RENAMED = "renamed"
    MERGED = "merged"
    UNDONE = "undone"


def add(
    session: Session,
    project: Project,
    names: Sequence[str],
    person: str,
    policy: Policy | None = None,
    batch: str = "",
) -> list[LabelClass]:
    """Adds classes behind the present ones.

    Args:
        session: of a write transaction.
        project: the project.
        names: of the classes.
        person: who adds them.
        policy: what is done with the labels; None if nobody was asked.
        batch: of the events that the policy causes.

    Raises:
        UserError: a name can't be used, or there are too many.
    """
    everything = projects.all_classes(session, project.id)
    _check(everything, everything, names)
    first = max((found.position for found in everything), default=-1) + 1
    added = [
        LabelClass(project_id=project.id, name=name, position=position)
        for position, name in enumerate(names, start=first)
    ]
    session.add_all(added)
    session.flush()
    for found in added:
        record(session, found, ChangeKind.ADDED, person, "", found.name, policy or "", batch)
    return added


def rename(session: Session, found: LabelClass, name: str, person: str) -> None:
    """Renames a class; its labels and its key stay.

    Raises:
        UserError: the name can't be used.
    """
    if name == found.name:
        return
    everything = projects.all_classes(session, found.project_id)
    _check(everything, [each for each in everything if each is not found], [name])
    record(session, found, ChangeKind.RENAMED, person, found.name, name)
    found.name = name


def _check(everything: Sequence[LabelClass], others: Sequence[LabelClass], names: Sequence[str]) -> None:
    """Raises UserError if classes beside `others` can't have the names."""
    projects.check_classes([*(found.name for found in others if found.merged_into is None), *names])
    taken = {text.folded(found.name): found for found in everything if found.merged_into is not None}
    by_id = {found.id: found for found in everything}
    for name in names:
        if (merged := taken.get(text.folded(name))) is not None:
            message = _("the class {name} was merged into {into}; undo that, or choose another name")
            raise UserError(message.format(name=merged.name, into=by_id[merged.merged_into].name))


def record(
    session: Session,
    found: LabelClass,
    kind: ChangeKind,
    person: str,
    before: str,
    after: str,
    policy: str = "",
    batch: str = "",
) -> None:
    """Adds a row to the record of changes; see `ClassChange`."""
    of_class = {"project_id": found.project_id, "class_id": found.id, "at": time.time(), "person": person}
    change = {"kind": kind, "before": before, "after": after, "policy": policy, "batch": batch}
    session.add(ClassChange(**of_class, **change))


def version(session: Session, project_id: int) -> int:
    """A number that grows whenever a class is added, renamed or merged."""
    query = select(func.max(ClassChange.id)).where(ClassChange.project_id == project_id)
    return session.scalar(query) or 0
