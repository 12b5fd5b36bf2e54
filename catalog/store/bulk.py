"""Actions on many labels at once, which can be taken back by their batch, see `catalog.undoing`."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from catalog.store import images, labels, merged
from catalog.store.database import Database
from catalog.store.failures import UnavailableError
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
        newer: how many were left alone since they were labeled after the person had seen them.
        missed: how many were not reached, because the database could not be used any more.
        batch: of the events.
    """

    changed: int
    held: int
    tests: int
    newer: int
    batch: str
    missed: int = 0

    def __add__(self, other: "Done") -> "Done":
        """What both steps of one action have done."""
        return Done(
            self.changed + other.changed,
            self.held + other.held,
            self.tests + other.tests,
            self.newer + other.newer,
            self.batch,
        )


def in_steps(
    database: Database, ids: Sequence[int], act: Act, step: Callable[[Session, Sequence[int]], Done]
) -> Done:
    """Does an action in several transactions, so that people who save labels don't wait long.

    Args:
        database: the catalog's.
        ids: of the images.
        act: what all steps are a part of.
        step: does it with some of the images, in a write transaction.

    Raises:
        UnavailableError: the database can't be used, and nothing is done. If that happens later, the
            answer says so, and has the batch by which what was done can be taken back.
    """
    done = Done(0, 0, 0, 0, act.batch)
    for start in range(0, len(ids), STEP):
        if start:
            time.sleep(PAUSE)
        try:
            with database.write() as session:
                done += step(session, ids[start : start + STEP])
        except UnavailableError:
            if not start:
                raise
            return replace(done, missed=len(ids) - start)
    return done


def label(
    session: Session,
    project: Project,
    ids: Iterable[int],
    answer: Answer,
    person: str,
    act: Act | None = None,
    seen: int | None = None,
) -> Done:
    """Gives images of a project the same label.

    Args:
        session: of a write transaction.
        project: the project.
        ids: of the images; those of other projects are ignored.
        answer: for all of them.
        person: who gives it.
        act: what it is a part of, if it is done in several transactions; a new one by default.
        seen: the last event when the person saw the images, see `labels.last_event`; what was labeled later
            stays as it is. None if it isn't known.
    """
    act = act or Act.start(Action.GROUP)
    answer = answer.with_successors(merged.successors(session, project.id))  # merged since it was checked
    return _give(session, project, ids, answer, person, act, seen, with_tests=False)


def reject(
    session: Session,
    project: Project,
    ids: Iterable[int],
    reason: str,
    person: str,
    act: Act | None = None,
    seen: int | None = None,
) -> Done:
    """Sends images back to the queue, with the reason; see `label`."""
    act = act or Act.start(Action.REJECT, reason)
    return _give(session, project, ids, Answer(Status.WAITING), person, act, seen, with_tests=True)


def confirm(
    session: Session,
    project: Project,
    ids: Iterable[int],
    person: str,
    act: Act | None = None,
    seen: int | None = None,
) -> Done:
    """Records that a person has looked at labels again and that they are right; see `label`.

    Images without a label stay as they are.
    """
    act = act or Act.start(Action.CONFIRM)
    return _give(session, project, ids, None, person, act, seen, with_tests=True)


def _give(
    session: Session,
    project: Project,
    ids: Iterable[int],
    answer: Answer | None,
    person: str,
    act: Act,
    seen: int | None,
    with_tests: bool,
) -> Done:
    """Gives images an answer; None confirms what they have."""
    held = tests = newer = 0
    given = []
    for image in images.by_id(session, project.id, ids):
        if labels.is_held(image):
            held += 1
        elif seen is not None and (image.event_id or 0) > seen:
            newer += 1
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
    return Done(len(given), held, tests, newer, act.batch)
