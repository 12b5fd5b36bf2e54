"""Labels as append-only events; an image's current label is that of its last event."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store import derived
from catalog.store.tables import Action, Event, Image, Page, PageKind, Status
from pipeline.common.errors import UserError


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


def give_all(session: Session, given: Sequence[tuple[Image, Answer]], person: str, act: Act) -> None:
    """Does what `give` does for many images, in few statements."""
    events = [_event(image, answer, person=person, **vars(act)) for image, answer in given]
    session.add_all(events)
    session.flush()
    for (image, _answer), event in zip(given, events, strict=True):
        derived.apply(image, derived.columns(event))


def undo(session: Session, project_id: int, batch: str, person: str) -> tuple[int, int]:
    """Takes an action back: images get the labels from before it.

    Those that were labeled since then, or that somebody has open, are left alone.

    Returns:
        The number of images that got their label back, and of those that were left alone.
    """
    query = (
        select(Image, Event)
        .join(Event, Event.image_id == Image.id)
        .where(Event.project_id == project_id, Event.batch == batch)
        .order_by(Event.id)
    )
    found = session.execute(query).tuples().all()
    undone = [
        (image, Answer.of(event.before))
        for image, event in found
        if image.event_id == event.id and not is_held(image)
    ]
    give_all(session, undone, person, Act.start(Action.UNDO))
    return len(undone), len(found) - len(undone)


def is_held(image: Image) -> bool:
    """Whether somebody has the image open."""
    return image.page_token is not None and (image.leased_until or 0) >= time.time()


def take_back(session: Session, image: Image, page: Page) -> bool:
    """Restores the label from before a page was submitted; False if the image was labeled since then."""
    last = session.get(Event, image.event_id) if image.event_id else None
    if last is None or last.page_token != page.token:
        return False
    _add(session, image, Answer.of(last.before), person=page.person)
    return True


def _add(session: Session, image: Image, answer: Answer, **columns: object) -> None:
    event = _event(image, answer, **columns)
    session.add(event)
    session.flush()
    derived.apply(image, derived.columns(event))


def _event(image: Image, answer: Answer, **columns: object) -> Event:
    return Event(
        project_id=image.project_id,
        image_id=image.id,
        at=time.time(),
        before=current(image).as_json(),
        after=answer.as_json(),
        **columns,
    )


def differences(session: Session, project_id: int) -> Iterator[tuple[Image, dict[str, object]]]:
    """Images whose current label is not that of their events, with the columns that it should have."""
    return derived.wrong(session, project_id)


def rebuild(session: Session, project_id: int) -> int:
    """Sets current labels to those of the events; returns how many differed."""
    wrong = list(derived.wrong(session, project_id))
    for image, values in wrong:
        derived.apply(image, values)
    return len(wrong)
