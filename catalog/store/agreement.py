"""The answers of two people to the same images, from the events of second labels."""

import json
from dataclasses import dataclass

from sqlalchemy import String, cast, select
from sqlalchemy.orm import Session, aliased

from catalog.agreement import Pair
from catalog.store import history, images, labels, merged, second_labels
from catalog.store.history import State
from catalog.store.labels import Answer
from catalog.store.tables import Event, PageKind, Project, Status


@dataclass(frozen=True)
class Row:
    """An image with both answers in the words of the project.

    Attributes:
        at: time of the second answer.
        label: the image's label now.
    """

    path: str
    sha256: str
    people: tuple[str, str]
    first: State
    second: State
    at: float
    label: State

    @property
    def is_equal(self) -> bool:
        return self.first == self.second


def pairs(session: Session, project: Project) -> list[Pair]:
    """Both answers to each image, with the classes that have taken over merged ones; oldest first.

    An answer that was taken back doesn't count. If two people have labeled an image more than once, the last
    two answers count.
    """
    successors = merged.successors(session, project.id)
    known: dict[str, tuple[frozenset[int] | None, str]] = {}

    def said(text: str) -> tuple[frozenset[int] | None, str]:
        """An answer and its first person. Most are the same few texts, which are decoded once."""
        if text not in known:
            state = json.loads(text)
            classes = frozenset(merged.current(state["classes"], successors))
            is_unknown = state["status"] == Status.UNKNOWN
            known[text] = (None if is_unknown else classes, state.get("first_person", ""))
        return known[text]

    columns = (Event.image_id, cast(Event.before, String), cast(Event.answer, String), Event.person)
    found = {}
    for number, before, answer, person in session.execute(_second(project, *columns)):
        if answer not in (None, "null"):
            first, first_person = said(before)
            found[number] = Pair(first, said(answer)[0], (first_person, person), number)
    return list(found.values())


def _second(project: Project, *columns: object):
    """Columns of a project's events of second labels that weren't taken back, oldest first."""
    later = aliased(Event)
    taken_back = select(later.id).where(later.takes_back == Event.id).exists()
    return (
        select(*columns)
        .where(Event.project_id == project.id, Event.page_kind == PageKind.SECOND, ~taken_back)
        .order_by(Event.id)
    )


def rows(session: Session, project: Project) -> list[Row]:
    """The images that two people have labeled, in the order of their hashes."""
    successors, names = merged.successors(session, project.id), history.names(session, project.id)

    def state(answer: Answer) -> State:
        given = second_labels.resolved(answer, successors)
        return State(given.status, history.named(given.classes, names))

    events = {event.image_id: event for event in session.scalars(_second(project, Event)) if event.answer}
    found = []
    for image in images.by_id(session, project.id, events):
        event = events[image.id]
        found.append(
            Row(
                path=image.path,
                sha256=image.sha256,
                people=(event.before.get("first_person", ""), event.person),
                first=state(Answer.of(event.before)),
                second=state(Answer.of(event.answer)),
                at=event.at,
                label=state(labels.current(image)),
            )
        )
    return sorted(found, key=lambda row: row.sha256)
