"""What a file of labels would change in a project."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from catalog.exchange.records import Record
from catalog.store import projects
from catalog.store.import_rows import Names, Outcome, Present, Row, present_labels, rows
from catalog.store.matching import By
from catalog.store.tables import Project
from pipeline.common import text
from pipeline.common.errors import UserError

EXAMPLES = 6  # of each outcome
MAX_UNKNOWN = 200  # classes that are offered
MAX_SHOWN = 200  # characters of an example's label


@dataclass(frozen=True)
class Example:
    """A row for the preview; classes are names.

    Attributes:
        name: how the file calls the image.
        ours, theirs: the classes here, and in the file.
        our_status, their_status: of `Status`, which says more where there are no classes.
    """

    where: int
    name: str
    reason: str = ""
    image_id: int | None = None
    sha256: str = ""
    ours: str = ""
    theirs: str = ""
    our_status: str = ""
    their_status: str = ""


@dataclass
class Preview:
    """What a file would change.

    Attributes:
        rows: of the file.
        counts: rows by outcome; an image that the file names twice in the same way counts once.
        repeated: the further rows of such images.
        tests: test images that would get a label or another one.
        imported: rows with a different label whose image got its label from a file.
        by: matched rows by what their image was recognised by.
        named: images that would get a label, and were recognised by their file name alone.
        labels: images with a new or different label by what a person chooses by, see `choice_key`.
        unknown_classes: the images of each class that the project doesn't have; MAX_UNKNOWN at most, the
            most frequent first. Those that differ in capitals, spaces or Unicode forms are one class.
        spellings: the names of such a class, if there are several, by the one in `unknown_classes`.
        more_classes: further ones.
        reasons: rows by the reason why they give no label.
        examples: the first rows of each outcome.
    """

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    tests: int = 0
    imported: int = 0
    by: Counter[str] = field(default_factory=Counter)
    named: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    unknown_classes: Counter[str] = field(default_factory=Counter)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    more_classes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)


def preview(session: Session, project: Project, records: Sequence[Record]) -> Preview:
    """What the rows of a file would change."""
    everything, names = rows(session, project, records), Names(session, project)
    ids = list(dict.fromkeys(row.found.image_id for row in everything if row.found.image_id is not None))
    present = present_labels(session, project.id, ids)
    shown, seen, unknown = Preview(rows=len(records)), set(), _Unknown()
    for row in everything:
        image = present.get(row.found.image_id)
        outcome = row.outcome or image.outcome(row.answer)
        if outcome not in (Outcome.REFUSED, Outcome.UNMATCHED):
            if row.found.image_id in seen:
                shown.repeated += 1
                continue
            seen.add(row.found.image_id)
        shown.counts[outcome] += 1
        if row.found.by:
            shown.by[row.found.by] += 1
        if row.reason:
            shown.reasons[row.reason] += 1
        if outcome in (Outcome.NEW, Outcome.DIFFERENT, Outcome.UNKNOWN_CLASS):
            shown.tests += image.is_test
            shown.named += row.found.by == By.NAME
        if outcome in (Outcome.NEW, Outcome.DIFFERENT):
            shown.labels[choice_key(outcome, image, row.found.by)] += 1
        if outcome == Outcome.DIFFERENT:
            shown.imported += image.is_imported
        unknown.count(row.unknown)
        examples = shown.examples.setdefault(outcome, [])
        if len(examples) < EXAMPLES:
            examples.append(_example(row, image, names))
    shown.more_classes = max(0, len(unknown.images) - MAX_UNKNOWN)
    for key, count in unknown.images.most_common(MAX_UNKNOWN):
        names = [name for name, _count in unknown.spelled[key].most_common()]
        shown.unknown_classes[names[0]] = count
        if len(names) > 1:
            shown.spellings[names[0]] = names
    return shown


class _Unknown:
    """Unknown classes by what remains of their names without capitals and spaces."""

    def __init__(self):
        self.images: Counter[str] = Counter()
        self.spelled: dict[str, Counter[str]] = defaultdict(Counter)

    def count(self, names: Iterable[str]) -> None:
        """Counts the unknown classes of one image."""
        keys = {name: text.folded(name) for name in names}
        self.images.update(set(keys.values()))
        for name, key in keys.items():
            self.spelled[key][name] += 1


def choice_key(outcome: Outcome, image: Present, by: By) -> str:
    """What decides whether an image gets its label: `new`, `imported` or `all`, then `test` and `name`."""
    replaces = "imported" if image.is_imported else "all"
    parts = ["new" if outcome == Outcome.NEW else replaces]
    return " ".join([*parts, *["test"] * image.is_test, *["name"] * (by == By.NAME)])


def _example(row: Row, image: Present | None, names: Names) -> Example:
    theirs = names.of(row.answer) if row.answer else row.record.classes
    return Example(
        where=row.record.where,
        name=image.path if image else next(iter(row.record.paths), row.record.sha256 or ""),
        reason=row.reason,
        image_id=row.found.image_id,
        sha256=image.sha256 if image else "",
        ours=text.shortened(", ".join(names.of(image.answer)), MAX_SHOWN) if image else "",
        theirs=text.shortened(", ".join(theirs), MAX_SHOWN),
        our_status=str(image.answer.status) if image else "",
        their_status=str(row.answer.status) if row.answer else "",
    )


def unusable_classes(session: Session, project: Project, unknown: Iterable[str]) -> dict[str, str]:
    """Why some of these classes can't be added to a project, in the language of the request."""
    present = [found.name for found in projects.classes(session, project.id)]
    found = {}
    for name in unknown:
        try:
            projects.check_classes([*present, name])
        except UserError as error:
            found[name] = str(error)
    return found
