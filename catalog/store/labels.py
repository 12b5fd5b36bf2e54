"""Labels as append-only events; an image's current label is that of its last event."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy import ColumnElement, func, insert, or_, select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store import derived, merged
from catalog.store.tables import Action, Event, Image, Page, PageKind, Status
from pipeline.common.errors import UserError


@dataclass(frozen=True)
class Answer:
    """A person's answer to an image: its classes, or that it is unknown, skipped or removed.

    Attributes:
        earlier: of an image that is queued again, the answer that is filled in.
        first_person: who has given it, while it waits for the label of a second person; else None. It is no
            part of what two answers are compared by.
    """

    status: Status
    classes: tuple[int, ...] = ()
    earlier: "Answer | None" = None
    first_person: str | None = field(default=None, compare=False)

    def __post_init__(self):
        """Raises UserError if classes are given with a status that has none, or twice."""
        object.__setattr__(self, "classes", tuple(sorted(self.classes)))  # equal answers are compared by it
        if self.classes and self.status != Status.LABELED:
            raise UserError(_("an image that is unknown, skipped or removed has no class"))
        if len(set(self.classes)) < len(self.classes):
            raise UserError(_("a class is given twice"))

    def as_json(self) -> dict:
        state = {"status": str(self.status), "classes": sorted(self.classes)}
        if self.earlier:
            state["earlier"] = self.earlier.as_json()
        if self.first_person is not None:
            state["first_person"] = self.first_person
        return state

    @classmethod
    def of(cls, state: dict) -> "Answer":
        earlier = cls.of(state["earlier"]) if state.get("earlier") else None
        return cls(Status(state["status"]), tuple(state["classes"]), earlier, state.get("first_person"))

    def with_successors(self, successor_of: Mapping[int, int]) -> "Answer":
        """The same with present classes in place of those that were merged into them."""
        if not successor_of:
            return self
        earlier = self.earlier and self.earlier.with_successors(successor_of)
        return replace(self, classes=tuple(merged.current(self.classes, successor_of)), earlier=earlier)


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
CHUNK = 500  # images of a statement
_TOGETHER = "labels given together"  # of a session's info


def current(image: Image) -> Answer:
    """The image's current label."""
    earlier = Answer.of(image.earlier) if image.earlier else None
    return Answer(Status(image.status), tuple(image.classes), earlier, image.first_person)


def last_event(session: Session) -> int:
    """The id of the newest event of all projects; 0 without any.

    Whoever asks for it before reading labels has seen those of no later event.
    """
    return session.scalar(select(func.max(Event.id))) or 0


def record(
    session: Session, image: Image, answer: Answer, page: Page, shown: dict, given: Answer | None = None
) -> None:
    """Adds the event of a page's answer, and updates the image's current label.

    Args:
        session: of a write transaction.
        image: the image.
        answer: what becomes the label.
        page: the page that showed it.
        shown: its entry in `page.images`.
        given: what a second person has said; None on other pages, where the answer is the person's.
    """
    if answer.status == Status.SKIPPED and image.earlier:  # it comes again with the same label filled in
        answer = replace(answer, earlier=Answer.of(image.earlier))
    _add(
        session,
        image,
        answer,
        person=page.person,
        page_token=page.token,
        page_kind=PageKind(page.kind),
        model_id=shown.get("model_id", page.model_id),
        predicted=shown["predicted"],
        confidence=shown["confidence"],
        answer=None if given is None else given.as_json(),
    )


def give(session: Session, image: Image, answer: Answer, person: str, act: Act = NO_ACT) -> None:
    """Adds the event of a label that was given without a page, and updates the image's current label."""
    _add(session, image, answer, person=person, **vars(act))


def give_all(
    session: Session, answers: Sequence[tuple[Image, Answer]], person: str, act: Act = NO_ACT
) -> None:
    """`give` for many different images, in few statements."""
    if not answers:
        return
    rows = {
        image.id: _columns(image, answer, person=person, takes_back=_taken_back(image, act), **vars(act))
        for image, answer in answers
    }
    # Objects would be inserted one by one: SQLite doesn't tell which new id belongs to which of them.
    added = session.execute(insert(Event).returning(Event.image_id, Event.id), list(rows.values()))
    events = dict(added.tuples().all())
    for image, _answer in answers:
        event = Event(id=events[image.id], **rows[image.id])
        derived.apply(image, derived.columns(event))
    session.flush()


def events_of(session: Session, project_id: int, batch: str) -> list[int]:
    """Ids of an action's events."""
    # With the project in the query, SQLite would read all events of the project.
    query = select(Event.id, Event.project_id).where(Event.batch == batch).order_by(Event.id)
    return [number for number, found in session.execute(query) if found == project_id]


def undo_events(session: Session, events: Sequence[int], person: str, act: Act) -> int:
    """Takes at most CHUNK events of an action back, as a part of `act`; returns how many images changed."""
    is_last = Image.event_id == Event.id
    query = select(Image, Event.before).join(Event, (Image.id == Event.image_id) & is_last)
    found = session.execute(query.where(Event.id.in_(events))).tuples().all()
    successor_of = merged.successors(session, found[0][0].project_id) if found else {}
    answers = [
        (image, Answer.of(before).with_successors(successor_of))
        for image, before in found
        if not is_held(image)
    ]
    give_all(session, answers, person, act)
    return len(answers)


def is_held(image: Image) -> bool:
    """Whether somebody has the image open."""
    return image.page_token is not None and (image.leased_until or 0) >= time.time()


def not_held() -> ColumnElement[bool]:
    """The condition of images that nobody has open."""
    return or_(Image.leased_until.is_(None), Image.leased_until < time.time())


def take_back(session: Session, image: Image, page: Page) -> bool:
    """Restores the label from before a page was submitted; False if the image was labeled since then."""
    last = session.get(Event, image.event_id) if image.event_id else None
    if last is None or last.page_token != page.token:
        return False
    before = Answer.of(last.before).with_successors(merged.successors(session, image.project_id))
    _add(session, image, before, person=page.person, takes_back=last.id)
    return True


def _taken_back(image: Image, act: Act) -> int | None:
    """The event that an act takes back; None unless it is an undo, which always takes the last one back."""
    return image.event_id if act.action == Action.UNDO else None


def _add(session: Session, image: Image, label: Answer, **columns: object) -> None:
    event = Event(**_columns(image, label, **columns))
    session.add(event)
    image.status, image.classes = label.status, sorted(label.classes)
    if (together := session.info.get(_TOGETHER)) is not None:
        together.append((image, event))
    else:
        session.flush()
        derived.apply(image, derived.columns(event))


@contextmanager
def together(session: Session) -> Iterator[None]:
    """Writes the labels that are given inside with one statement instead of one each.

    Until the end the images' `event_id` is that of their label before.
    """
    given: list[tuple[Image, Event]] = []
    session.info[_TOGETHER] = given
    try:
        yield
    finally:
        del session.info[_TOGETHER]
    session.flush()
    for image, event in given:
        derived.apply(image, derived.columns(event))


def _columns(image: Image, label: Answer, **columns: object) -> dict[str, object]:
    """The columns of an event."""
    return {
        "project_id": image.project_id,
        "image_id": image.id,
        "at": time.time(),
        "before": current(image).as_json(),
        "after": label.as_json(),
        **columns,
    }


def differences(session: Session, project_id: int) -> Iterator[tuple[Image, dict[str, object]]]:
    """Images whose current label is not that of their events, with the columns that it should have."""
    return derived.wrong(session, project_id)


def rebuild(session: Session, project_id: int) -> int:
    """Sets current labels to those of the events; returns how many differed."""
    wrong = list(derived.wrong(session, project_id))
    for image, values in wrong:
        derived.apply(image, values)
    return len(wrong)
