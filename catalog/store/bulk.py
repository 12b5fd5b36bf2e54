"""Actions on many labels at once, which can be taken back: `labels.undo` with the batch."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store import images, labels
from catalog.store.labels import Act, Answer
from catalog.store.tables import Action, Image, Project, Status


@dataclass(frozen=True)
class Done:
    """What became of the images of an action.

    Attributes:
        changed: how many have another label now.
        held: how many were left alone since somebody has them open.
        tests: how many were left alone since they test the models, so people label them one by one.
        batch: of the events.
    """

    changed: int
    held: int
    tests: int
    batch: str


def label(session: Session, project: Project, ids: Iterable[int], answer: Answer, person: str) -> Done:
    """Gives images of a project the same label.

    Args:
        session: of a write transaction.
        project: the project.
        ids: of the images; those of other projects are ignored.
        answer: for all of them.
        person: who gives it.
    """
    act = Act.start(Action.GROUP)
    return _give(session, project, ids, answer, person, act, with_tests=False)


def reject(session: Session, project: Project, ids: Iterable[int], reason: str, person: str) -> Done:
    """Sends images back to the queue, with the reason."""
    act = Act.start(Action.REJECT, reason)
    return _give(session, project, ids, Answer(Status.WAITING), person, act, with_tests=True)


def _give(
    session: Session,
    project: Project,
    ids: Iterable[int],
    answer: Answer,
    person: str,
    act: Act,
    with_tests: bool,
) -> Done:
    ids, now = list(ids), time.time()
    changed = held = tests = 0
    for start in range(0, len(ids), images.CHUNK):
        chunk = Image.id.in_(ids[start : start + images.CHUNK])
        given = []
        for image in session.scalars(select(Image).where(Image.project_id == project.id, chunk)):
            if image.page_token is not None and (image.leased_until or 0) >= now:
                held += 1
            elif image.is_test and not with_tests:
                tests += 1
            elif labels.current(image) != answer:
                image.page_token = image.leased_until = image.first_person = None
                given.append((image, answer))
        labels.give_all(session, given, person, act)
        changed += len(given)
    return Done(changed, held, tests, act.batch)
