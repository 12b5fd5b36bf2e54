"""Deletes images and whole projects for good, with their events."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from catalog.store.images import CHUNK, by_id, used
from catalog.store.tables import (
    ClassChange,
    Event,
    Image,
    ImageCount,
    Job,
    LabelClass,
    LabelImport,
    Model,
    Page,
    Project,
    Quarantined,
    Relabeling,
    SeenFile,
    Suggestion,
    Suspect,
)


@dataclass(frozen=True)
class Unused:
    """An image that no project has any more, so that its files can be deleted."""

    sha256: str
    suffix: str


def images(session: Session, project: Project, ids: Iterable[int]) -> list[Unused]:
    """Deletes images of a project, with their events.

    Returns:
        Those whose files nothing needs any more. Delete them within the transaction: then nobody can add one
        of them meanwhile.
    """
    own = list(by_id(session, project.id, ids))
    erased = [(image.sha256, image.suffix) for image in own]
    for start in range(0, len(own), CHUNK):
        chunk = [image.id for image in own[start : start + CHUNK]]
        for table in (Suggestion, Suspect, Event):
            session.execute(delete(table).where(table.image_id.in_(chunk)))
    for image in own:
        session.delete(image)
    session.flush()
    return unused(session, erased)


def label_class(session: Session, found: LabelClass) -> None:
    """Deletes a class, whose images are erased or moved before."""
    session.execute(delete(LabelClass).where(LabelClass.id == found.id))


def project(session: Session, found: Project) -> list[Unused]:
    """Deletes a project with all that belongs to it; returns as `images` does."""
    query = select(Image.sha256, Image.suffix).where(Image.project_id == found.id)
    erased = session.execute(query).tuples().all()
    tables = (Suggestion, Suspect, Event, Page, Model, Job, Quarantined, SeenFile, Image, ClassChange)
    for table in (*tables, Relabeling, LabelImport, LabelClass, ImageCount):
        session.execute(delete(table).where(table.project_id == found.id))
    session.execute(delete(Project).where(Project.id == found.id))
    return unused(session, erased)


def unused(session: Session, erased: list[tuple[str, str]]) -> list[Unused]:
    """Those of these images, hash and suffix, that no project has."""
    needed = used(session, (sha256 for sha256, _ in erased))
    return [Unused(sha256, suffix) for sha256, suffix in erased if sha256 not in needed]
