"""The rows of a file of labels, with the images and classes of a project that they mean."""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.exchange.records import Problem, Record
from catalog.language import N_
from catalog.store import matching, projects
from catalog.store.images import CHUNK
from catalog.store.labels import Answer
from catalog.store.matching import Found
from catalog.store.tables import Action, Event, Image, Project, Status
from pipeline.common import text

SEVERAL = N_("it has several classes, and this project has one per image")
TWICE = N_("the file labels this image twice, differently")


class Outcome(enum.StrEnum):
    """What becomes of a row."""

    NEW = "new"  # its image has no label here
    DIFFERENT = "different"  # its image has another label here
    EQUAL = "equal"
    UNKNOWN_CLASS = "unknown_class"
    UNMATCHED = "unmatched"  # the project doesn't have its image
    REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """A row of a file with its image and answer, or with the reason why it gives none."""

    record: Record
    found: Found
    outcome: Outcome | None = None  # None: it follows from the image's label
    answer: Answer | None = None
    reason: str = ""
    unknown: tuple[str, ...] = ()


class Names:
    """The classes of a project by name; capitals, spaces and Unicode forms may differ."""

    def __init__(self, session: Session, project: Project, new_classes: Iterable[str] = ()):
        everything = {found.id: found for found in projects.all_classes(session, project.id)}
        self._ids = {}
        for found in everything.values():
            taken_over = found
            while taken_over.merged_into is not None:
                taken_over = everything[taken_over.merged_into]
            key = text.folded(found.name)
            if found.merged_into is None or key not in self._ids:
                self._ids[key] = taken_over.id
        self._names = {number: found.name for number, found in everything.items()}
        self._several = project.task == "multi_label"

    def ids(self, classes: Iterable[str]) -> dict[str, int | None]:
        """The id of each class, None if there is none."""
        return {name: self._ids.get(text.folded(name)) for name in classes}

    def of(self, answer: Answer) -> list[str]:
        """The names of an answer's classes, sorted."""
        return sorted(self._names[number] for number in answer.classes)

    def row(self, record: Record, found: Found) -> Row:
        """The row with its answer, as far as it follows from the file and the classes."""
        if record.problem:
            return Row(record, found, Outcome.REFUSED, reason=str(record.problem))
        if found.problem:
            return Row(record, found, Outcome.UNMATCHED, reason=str(found.problem))
        if record.is_unknown:
            return Row(record, found, answer=Answer(Status.UNKNOWN))
        if not self._several and len(set(map(text.folded, record.classes))) != 1:
            reason = SEVERAL if record.classes else str(Problem.NO_LABEL)
            return Row(record, found, Outcome.REFUSED, reason=reason)
        ids = self.ids(record.classes)
        if unknown := tuple(name for name, number in ids.items() if number is None):
            return Row(record, found, Outcome.UNKNOWN_CLASS, unknown=unknown)
        return Row(record, found, answer=Answer(Status.LABELED, tuple(sorted(set(ids.values())))))


def rows(session: Session, project: Project, records: Sequence[Record]) -> list[Row]:
    """The rows of a file with their images; those that contradict each other are refused."""
    names = Names(session, project)
    found = matching.find(session, project.id, records)
    everything = [names.row(record, each) for record, each in zip(records, found, strict=True)]
    answers: dict[int, set[object]] = {}
    for row in everything:
        if row.outcome in (None, Outcome.UNKNOWN_CLASS):
            spelled = frozenset(map(text.folded, row.record.classes))
            answers.setdefault(row.found.image_id, set()).add(row.answer or spelled)
    return [
        Row(row.record, row.found, Outcome.REFUSED, reason=TWICE)
        if row.outcome in (None, Outcome.UNKNOWN_CLASS) and len(answers[row.found.image_id]) > 1
        else row
        for row in everything
    ]


@dataclass(frozen=True)
class Present:
    """An image's label here.

    Attributes:
        is_imported: whether it came from a file.
    """

    sha256: str
    path: str
    answer: Answer
    is_test: bool
    is_imported: bool

    def outcome(self, answer: Answer) -> Outcome:
        if self.answer == answer:
            return Outcome.EQUAL
        is_free = self.answer.status in (Status.WAITING, Status.SKIPPED)
        return Outcome.NEW if is_free else Outcome.DIFFERENT


def present_labels(session: Session, project_id: int, ids: Sequence[int]) -> dict[int, Present]:
    found = {}
    # With the project in the query, SQLite would read all images of the project for each part.
    columns = (Image.id, Image.project_id, Image.sha256, Image.path, Image.status, Image.classes)
    columns += (Image.is_test, Event.action)
    for start in range(0, len(ids), CHUNK):
        query = (
            select(*columns)
            .outerjoin(Event, Event.id == Image.event_id)
            .where(Image.id.in_(ids[start : start + CHUNK]))
        )
        for number, own, sha256, path, status, classes, is_test, action in session.execute(query):
            if own != project_id:
                continue
            answer = Answer(Status(status), tuple(classes))
            found[number] = Present(sha256, path, answer, is_test, action == Action.IMPORT)
    return found
