"""What a file of labels would change in a project."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from catalog.exchange.records import Record
from catalog.language import _
from catalog.store import projects
from catalog.store.import_rows import Names, Outcome, Present, Row, present_labels, rows
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
        ours, theirs: the label here, and in the file.
    """

    where: int
    name: str
    reason: str = ""
    image_id: int | None = None
    sha256: str = ""
    ours: str = ""
    theirs: str = ""


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
        unknown_classes: the images of each class that the project doesn't have; MAX_UNKNOWN at most, the
            most frequent first.
        more_classes: further ones.
        unusable_classes: why some of these can't be added.
        reasons: rows by the reason why they give no label.
        examples: the first rows of each outcome.
    """

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    tests: int = 0
    imported: int = 0
    by: Counter[str] = field(default_factory=Counter)
    unknown_classes: Counter[str] = field(default_factory=Counter)
    more_classes: int = 0
    unusable_classes: dict[str, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)


def preview(session: Session, project: Project, records: Sequence[Record]) -> Preview:
    """What the rows of a file would change."""
    everything, names = rows(session, project, records), Names(session, project)
    ids = list(dict.fromkeys(row.found.image_id for row in everything if row.found.image_id is not None))
    present = present_labels(session, project.id, ids)
    shown, seen = Preview(rows=len(records)), set()
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
        if outcome == Outcome.DIFFERENT:
            shown.imported += image.is_imported
        shown.unknown_classes.update(row.unknown)
        examples = shown.examples.setdefault(outcome, [])
        if len(examples) < EXAMPLES:
            examples.append(_example(row, image, names))
    shown.more_classes = max(0, len(shown.unknown_classes) - MAX_UNKNOWN)
    shown.unknown_classes = Counter(dict(shown.unknown_classes.most_common(MAX_UNKNOWN)))
    _check_classes(session, project, shown)
    return shown


def _example(row: Row, image: Present | None, names: Names) -> Example:
    theirs = names.shown(row.answer) if row.answer else ", ".join(row.record.classes)
    return Example(
        where=row.record.where,
        name=image.path if image else next(iter(row.record.paths), row.record.sha256 or ""),
        reason=row.reason,
        image_id=row.found.image_id,
        sha256=image.sha256 if image else "",
        ours=text.shortened(names.shown(image.answer), MAX_SHOWN) if image else "",
        theirs=text.shortened(theirs, MAX_SHOWN),
    )


def _check_classes(session: Session, project: Project, shown: Preview) -> None:
    """Finds out which unknown classes can't be added, one by one and all together."""
    present = [found.name for found in projects.classes(session, project.id)]
    folded: dict[str, str] = {}
    for name in shown.unknown_classes:
        try:
            projects.check_classes([*present, name])
        except UserError as error:
            shown.unusable_classes[name] = str(error)
            continue
        if other := folded.get(text.folded(name)):
            message = _("it looks like {name}")
            shown.unusable_classes[name] = message.format(name=text.shortened(other, 60))
        folded.setdefault(text.folded(name), name)
