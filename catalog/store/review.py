"""The review queue: images that two people have labeled differently."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store import labels, merged, second_labels
from catalog.store.tables import Event, Image, PageKind, Project, Status


@dataclass(frozen=True)
class Opinion:
    """What one of two people has said of an image."""

    person: str
    status: str
    classes: list[int]


def next_images(session: Session, project: Project, person: str, size: int) -> list[Image]:
    """Disputed images that nobody has open; those that this person has skipped come last."""
    query = select(Image).where(
        Image.project_id == project.id, Image.status == Status.DISPUTED, labels.not_held()
    )
    later = second_labels.skipped(session, project, person, PageKind.REVIEW)
    found = session.scalars(query.where(Image.id.not_in(later)).order_by(Image.rank).limit(size)).all()
    return [*found] or list(session.scalars(query.order_by(Image.rank).limit(size)))


def opinions(session: Session, project: Project, images: Iterable[Image]) -> dict[int, list[Opinion]]:
    """The two answers to each of these images, the first person's first, with present classes."""
    successor_of = merged.successors(session, project.id)

    def opinion(person: str, state: dict) -> Opinion:
        return Opinion(person, state["status"], merged.current(state["classes"], successor_of))

    query = (
        select(Event)
        .where(Event.image_id.in_([image.id for image in images]), Event.page_kind == PageKind.SECOND)
        .order_by(Event.id)
    )
    return {  # the last ones, if an image was labeled twice more than once
        event.image_id: [
            opinion(event.before.get("first_person", ""), event.before),
            opinion(event.person, event.answer),
        ]
        for event in session.scalars(query)
        if event.answer
    }
