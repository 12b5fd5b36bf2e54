"""All that happened to an image, from its events."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store import derived, projects
from catalog.store.tables import Action, Event, Image, Model, PageKind, Status

# Actions after which the reason of an earlier rejection says nothing any more about why the image waits.
_OTHER_CAUSES = (Action.DISCARD, Action.REQUEUE, Action.IMPORT, Action.MERGE)


@dataclass(frozen=True)
class State:
    """A label: the status, and the names of the classes."""

    status: Status
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """An event in the words of the project.

    Attributes:
        origin: a kind of page or an action; empty if it has neither.
        predicted: names of the classes that a model had predicted; None without a prediction.
        was_shown: whether the prediction was filled in.
        champion: the champion that predicted; empty if a head trained in the project did.
        differs: whether the person has said something else than the prediction.
        answer: a second person's, if it isn't the label.
    """

    at: float
    person: str
    origin: str
    before: State
    after: State
    predicted: tuple[str, ...] | None
    confidence: float | None
    was_shown: bool
    champion: str
    differs: bool
    answer: State | None
    reason: str | None


def names(session: Session, project_id: int) -> dict[int, str]:
    """The names of all classes by id, those that were merged into others too."""
    return {found.id: found.name for found in projects.all_classes(session, project_id)}


def named(classes: Iterable[int], known: dict[int, str]) -> tuple[str, ...]:
    """The names of classes in the order of the alphabet; of one that was deleted, its number."""
    return tuple(sorted(known.get(number, f"#{number}") for number in classes))


def of(session: Session, image: Image) -> list[Entry]:
    """An image's events, oldest first."""
    query = (
        select(Event, Model.champion)
        .outerjoin(Model, Model.id == Event.model_id)
        .where(Event.image_id == image.id)
        .order_by(Event.id)
    )
    known = names(session, image.project_id)
    return [_entry(event, champion or "", known) for event, champion in session.execute(query)]


def _entry(event: Event, champion: str, known: dict[int, str]) -> Entry:
    def state(stored: dict) -> State:
        return State(Status(stored["status"]), named(stored["classes"], known))

    return Entry(
        at=event.at,
        person=event.person,
        origin=str(event.page_kind or event.action or ""),
        before=state(event.before),
        after=state(event.after),
        predicted=None if event.predicted is None else named(event.predicted, known),
        confidence=event.confidence,
        was_shown=event.page_kind == PageKind.PRELABELED,
        champion=champion,
        differs=derived.differs(event),
        answer=state(event.answer) if event.answer and event.answer != event.after else None,
        reason=event.reason,
    )


def reasons(session: Session, images: Iterable[Image]) -> dict[int, str]:
    """Why images that wait were sent back, by their ids; those that wait for another reason are left out."""
    sent_back = [
        image.id
        for image in images
        if image.event_id is not None
        and image.status in (Status.WAITING, Status.SKIPPED)
        and image.origin not in _OTHER_CAUSES
        and not image.is_requeued
    ]
    if not sent_back:
        return {}
    query = (
        select(Event.image_id, Event.reason)
        .where(Event.image_id.in_(sent_back), Event.action == Action.REJECT)
        .order_by(Event.id)
    )
    return {number: reason for number, reason in session.execute(query) if reason}
