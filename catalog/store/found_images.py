"""What the data page shows of the images that it has found."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store import history, search
from catalog.store.search import Position
from catalog.store.tables import Event, Image, Status, Suspect


@dataclass(frozen=True)
class FoundImage:
    """An image in the results of a search.

    Attributes:
        place: its position in the results, as text.
        person, at: who has labeled it last, and when; empty and 0 without a label.
        predicted, confidence: of the prediction that the last label records, if the label is another one.
        suspected: the classes that the pipeline's audit holds for right, with their probability, if it doubts
            the label; else None.
        reason: why the image was sent back, while it waits.
    """

    id: int
    sha256: str
    place: str
    path: str
    status: Status
    classes: tuple[str, ...]
    is_test: bool
    person: str
    at: float
    predicted: tuple[str, ...] | None
    confidence: float | None
    suspected: tuple[str, ...] | None
    probability: float | None
    reason: str | None


def at(session: Session, project_id: int, positions: Sequence[Position]) -> list[FoundImage]:
    """The images of a project at these positions."""
    ids = [position.id for position in positions]
    found = {image.id: image for image in session.scalars(select(Image).where(Image.id.in_(ids)))}
    differing = [image.event_id for image in found.values() if image.differs]
    query = select(Event.image_id, Event.predicted).where(Event.id.in_(differing))
    predictions = dict(session.execute(query).tuples().all())
    doubted = (
        select(Suspect)
        .join(Image, Image.id == Suspect.image_id)
        .where(Suspect.image_id.in_(ids), search.is_suspect())
    )
    suspects = {suspect.image_id: suspect for suspect in session.scalars(doubted)}
    known, reasons = history.names(session, project_id), history.reasons(session, found.values())
    return [
        _found(position, found[number], predictions.get(number), suspects.get(number), reasons, known)
        for position, number in zip(positions, ids, strict=True)
        if number in found
    ]


def _found(
    position: Position,
    image: Image,
    predicted: list[int] | None,
    suspect: Suspect | None,
    reasons: dict[int, str],
    known: dict[int, str],
) -> FoundImage:
    return FoundImage(
        id=image.id,
        sha256=image.sha256,
        place=str(position),
        path=image.path,
        status=Status(image.status),
        classes=history.named(image.classes, known),
        is_test=image.is_test,
        person=image.labeled_by,
        at=image.labeled_at,
        predicted=None if predicted is None else history.named(predicted, known),
        confidence=None if predicted is None else image.confidence,
        suspected=history.named(suspect.proposed, known) if suspect else None,
        probability=suspect.probability if suspect else None,
        reason=reasons.get(image.id),
    )
