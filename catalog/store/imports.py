"""Gives a project the labels of a file."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store import class_changes, jobs, labels
from catalog.store.images import CHUNK
from catalog.store.import_rows import Names, Outcome, present_labels
from catalog.store.labels import Act, Answer
from catalog.store.tables import Help, Image, Project


class Replace(enum.StrEnum):
    """Which labels of the project a file may replace with different ones."""

    NONE = "none"
    IMPORTED = "imported"  # those that came from a file, too
    ALL = "all"  # those that people gave here, too


@dataclass(frozen=True)
class Choices:
    """What a person has decided on the preview.

    Attributes:
        replace: which labels the file may replace.
        new_classes: names that become classes; rows with other unknown classes are left out.
        with_tests: whether test images get labels of the file.
        with_names: whether images that were recognised by their file name alone do.
    """

    replace: Replace = Replace.NONE
    new_classes: frozenset[str] = frozenset()
    with_tests: bool = True
    with_names: bool = True


def add_classes(session: Session, project: Project, new: Iterable[str], person: str) -> list[str]:
    """Adds classes behind the present ones, without those that the project has by now; returns their names.

    Raises:
        UserError: a name can't be used, or there are too many.
    """
    ids = Names(session, project).ids(sorted(new))
    missing = [name for name, number in ids.items() if number is None]
    if not missing:
        return []
    class_changes.add(session, project, missing, person)
    return missing


@dataclass
class Imported:
    """What an import has done.

    Attributes:
        new: images that got a label; `replaced`: those that got another one.
        equal: images that had the same label; `kept`: those that kept another one.
        held: images that were left alone since somebody has them open.
        tests: test images that were left out.
        named: rows left out because their image was recognised by its file name alone.
        skipped: rows without an image, with an unknown class, or refused.
        added: classes.
        batch: of the events, to take them back.
    """

    new: int = 0
    replaced: int = 0
    equal: int = 0
    kept: int = 0
    held: int = 0
    tests: int = 0
    named: int = 0
    skipped: int = 0
    added: list[str] = field(default_factory=list)
    batch: str = ""

    @property
    def given(self) -> int:
        """Images whose label is from the file now."""
        return self.new + self.replaced

    def again(self) -> "Imported":
        """With what a further attempt goes on: it counts anew what it leaves as it is."""
        return Imported(new=self.new, replaced=self.replaced, added=self.added, batch=self.batch)


def give(
    session: Session,
    project: Project,
    answers: Mapping[int, Answer],
    choices: Choices,
    person: str,
    act: Act,
    done: Imported,
) -> None:
    """Gives images of a project their labels from a file, and counts them in `done`.

    Args:
        session: of a write transaction.
        project: the project.
        answers: by image id.
        choices: the person's.
        person: who imports.
        act: of the whole import.
        done: the counts so far.
    """
    ids = list(answers)
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        present = present_labels(session, project.id, chunk)
        changed = []
        for image in session.scalars(select(Image).where(Image.id.in_(chunk))):
            if image.id not in present:
                continue  # of another project
            answer, here = answers[image.id], present[image.id]
            outcome = here.outcome(answer)
            is_free = choices.replace == Replace.ALL or (
                choices.replace == Replace.IMPORTED and here.is_imported
            )
            if outcome == Outcome.EQUAL:
                done.equal += 1
            elif image.is_test and not choices.with_tests:
                done.tests += 1
            elif outcome == Outcome.DIFFERENT and not is_free:
                done.kept += 1
            elif labels.is_held(image):
                done.held += 1
            else:
                image.page_token = image.leased_until = None
                changed.append((image, answer))
                done.new += outcome == Outcome.NEW
                done.replaced += outcome == Outcome.DIFFERENT
        labels.give_all(session, changed, person, act)


def ask_for_suggestions(session: Session, project: Project) -> None:
    """Lets the model learn from what was imported."""
    if project.model_help != Help.NONE:
        jobs.request(session, project.id, jobs.Kind.SUGGEST)
