"""Labels as append-only events; an image's current label is that of its last event."""

import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store.tables import Action, Event, Image, Page, PageKind, Status
from pipeline.common.errors import UserError

CHUNK = 500  # images of a statement


@dataclass(frozen=True)
class Answer:
    """A person's answer to an image: its classes, or that it is unknown, skipped or removed."""

    status: Status
    classes: tuple[int, ...] = ()

    def __post_init__(self):
        """Raises UserError if classes are given with a status that has none, or twice."""
        if self.classes and self.status != Status.LABELED:
            raise UserError(_("an image that is unknown, skipped or removed has no class"))
        if len(set(self.classes)) < len(self.classes):
            raise UserError(_("a class is given twice"))

    def as_json(self) -> dict:
        return {"status": str(self.status), "classes": sorted(self.classes)}

    @classmethod
    def of(cls, state: dict) -> "Answer":
        return cls(Status(state["status"]), tuple(state["classes"]))


@dataclass(frozen=True)
class Act:
    """What gives labels without a page.

    Attributes:
        action: its kind; None for a single label of the teach page.
        batch: shared by all events of the act; they can be taken back together.
        reason: a person's, for rejecting a label.
    """

    action: Action | None = None
    batch: str | None = None
    reason: str | None = None

    @classmethod
    def start(cls, action: Action, reason: str | None = None) -> "Act":
        """An act with a batch of its own."""
        return cls(action, secrets.token_urlsafe(18), reason)


NO_ACT = Act()


def current(image: Image) -> Answer:
    """The image's current label."""
    return Answer(Status(image.status), tuple(image.classes))


def record(session: Session, image: Image, answer: Answer, page: Page, shown: dict) -> None:
    """Adds the event of a page's answer, and updates the image's current label.

    Args:
        session: of a write transaction.
        image: the image.
        answer: the person's.
        page: the page that showed it.
        shown: its entry in `page.images`.
    """
    _add(
        session,
        image,
        answer,
        person=page.person,
        page_token=page.token,
        page_kind=PageKind(page.kind),
        model_id=page.model_id,
        predicted=shown["predicted"],
        confidence=shown["confidence"],
    )


def give(session: Session, image: Image, answer: Answer, person: str, act: Act = NO_ACT) -> None:
    """Adds the event of a label that was given without a page, and updates the image's current label."""
    _add(session, image, answer, person=person, **vars(act))


def give_all(session: Session, given: list[tuple[Image, Answer]], person: str, act: Act) -> None:
    """Like `give` for many images, in fewer statements."""
    _add_all(session, given, person=person, **vars(act))


def undo(session: Session, project_id: int, batch: str, person: str) -> tuple[int, int]:
    """Takes an action back: images get the labels from before it, unless they were labeled since then.

    Returns:
        The number of images that got their label back, and of those that were labeled since.
    """
    query = select(Event).where(Event.project_id == project_id, Event.batch == batch)
    again, undone, kept = Act.start(Action.UNDO), 0, 0
    events = list(session.scalars(query.order_by(Event.id)))
    for start in range(0, len(events), CHUNK):
        before = {event.id: Answer.of(event.before) for event in events[start : start + CHUNK]}
        last = Image.project_id == project_id, Image.event_id.in_(list(before))
        numbers = Image.id.in_([event.image_id for event in events[start : start + CHUNK]])
        images = list(session.scalars(select(Image).where(numbers, *last)))
        give_all(session, [(image, before[image.event_id]) for image in images], person, again)
        undone += len(images)
        kept += len(before) - len(images)
    return undone, kept


def take_back(session: Session, image: Image, page: Page) -> bool:
    """Restores the label from before a page was submitted; False if the image was labeled since then."""
    last = session.get(Event, image.event_id) if image.event_id else None
    if last is None or last.page_token != page.token:
        return False
    _add(session, image, Answer.of(last.before), person=page.person)
    return True


def _add(session: Session, image: Image, answer: Answer, **columns: object) -> None:
    _add_all(session, [(image, answer)], **columns)


def _add_all(session: Session, given: list[tuple[Image, Answer]], **columns: object) -> None:
    events = [
        Event(
            project_id=image.project_id,
            image_id=image.id,
            at=time.time(),
            before=current(image).as_json(),
            after=answer.as_json(),
            **columns,
        )
        for image, answer in given
    ]
    session.add_all(events)
    session.flush()
    for (image, answer), event in zip(given, events, strict=True):
        image.status, image.classes, image.event_id = answer.status, sorted(answer.classes), event.id


def derived(events: Iterable[Event]) -> dict[int, tuple[int, dict]]:
    """The last event's id and state of each image, from events in the order of their ids."""
    return {event.image_id: (event.id, event.after) for event in events}


def differences(session: Session, project_id: int) -> Iterator[tuple[Image, int | None, Answer]]:
    """Images whose current label is not that of their events, with the id and label of the last event."""
    events = session.scalars(
        select(Event)
        .where(Event.project_id == project_id)
        .order_by(Event.id)
        .execution_options(yield_per=1000)
    )
    expected = derived(events)
    for image in session.scalars(select(Image).where(Image.project_id == project_id)):
        event_id, state = expected.get(image.id, (None, Answer(Status.WAITING).as_json()))
        stored = {"status": str(image.status), "classes": image.classes}  # may be no possible answer
        if image.event_id != event_id or stored != state:
            yield image, event_id, Answer.of(state)


def rebuild(session: Session, project_id: int) -> int:
    """Sets current labels to those of the events; returns how many differed."""
    wrong = list(differences(session, project_id))
    for image, event_id, answer in wrong:
        image.status, image.classes, image.event_id = answer.status, sorted(answer.classes), event_id
    return len(wrong)
