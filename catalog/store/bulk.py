"""Actions on many labels at once, which can be taken back: `labels.undo` with the batch."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from catalog.store import images, labels, merged
from catalog.store.database import Database
from catalog.store.labels import Act, Answer
from catalog.store.tables import Action, Project, Status

STEP = 1000  # images of a transaction
# Seconds between two transactions. SQLite gives the lock to whoever asks first when it is free, and one that
# waits asks ten times a second: without a pause, people's labels would wait until all is done.
PAUSE = 0.11


@dataclass(frozen=True)
class Done:
    """What became of the images of an action.

    Attributes:
        changed: how many have another label now, or were confirmed.
        held: how many were left alone since somebody has them open.
        tests: how many were left alone since they test the models, so people label them one by one.
        batch: of the events.
    """

    changed: int
    held: int
    tests: int
    batch: str

    def __add__(self, other: "Done") -> "Done":
        """What both steps of one action have done."""
        counts = (self.changed + other.changed, self.held + other.held, self.tests + other.tests)
        return Done(*counts, self.batch)


def in_steps(
    database: Database, ids: Sequence[int], act: Act, step: Callable[[Session, Sequence[int]], Done]
) -> Done:
    """Does an action in several transactions, so that people who save labels don't wait long.

    Args:
        database: the catalog's.
        ids: of the images.
        act: what all steps are a part of.
        step: does it with some of the images, in a write transaction.
    """
    done = Done(0, 0, 0, act.batch)
    for start in range(0, len(ids), STEP):
        if start:
            time.sleep(PAUSE)
        with database.write() as session:
            done += step(session, ids[start : start + STEP])
    return done


def label(
    session: Session,
    project: Project,
    ids: Iterable[int],
    answer: Answer,
    person: str,
    act: Act | None = None,
) -> Done:
    """Gives images of a project the same label.

    Args:
        session: of a write transaction.
        project: the project.
        ids: of the images; those of other projects are ignored.
        answer: for all of them.
        person: who gives it.
        act: what it is a part of, if it is done in several transactions; a new one by default.
    """
    act = act or Act.start(Action.GROUP)
    answer = answer.with_successors(merged.successors(session, project.id))  # merged since it was checked
    return _give(session, project, ids, answer, person, act, with_tests=False)


def reject(
    session: Session, project: Project, ids: Iterable[int], reason: str, person: str, act: Act | None = None
) -> Done:
    """Sends images back to the queue, with the reason; see `label`."""
    act = act or Act.start(Action.REJECT, reason)
    return _give(session, project, ids, Answer(Status.WAITING), person, act, with_tests=True)


def confirm(
    session: Session, project: Project, ids: Iterable[int], person: str, act: Act | None = None
) -> Done:
    """Records that a person has looked at labels again and that they are right; see `label`.

    Images without a label stay as they are.
    """
    act = act or Act.start(Action.CONFIRM)
    return _give(session, project, ids, None, person, act, with_tests=False)


def _give(
    session: Session,
    project: Project,
    ids: Iterable[int],
    answer: Answer | None,
    person: str,
    act: Act,
    with_tests: bool,
) -> Done:
    """Gives images an answer; None confirms what they have."""
    changed = held = tests = 0
    given = []
    for image in images.by_id(session, project.id, ids):
        if labels.is_held(image):
            held += 1
        elif image.is_test and not with_tests:
            tests += 1
        elif answer is None:
            if image.status == Status.LABELED:
                given.append((image, Answer(Status.LABELED, tuple(image.classes))))
        elif labels.current(image) != answer:
            given.append((image, answer))
    for image, _answer in given:
        image.page_token = image.leased_until = None
    labels.give_all(session, given, person, act)
    changed += len(given)
    return Done(changed, held, tests, act.batch)
