"""Labels that the pipeline's audit of a training holds for wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from catalog.store import derived, history
from catalog.store.images import CHUNK
from catalog.store.tables import Image, Project, Status, Suspect


@dataclass(frozen=True)
class Doubt:
    """A finding of the audit.

    Attributes:
        sha256: of the image.
        label, proposed: names of the classes that it had, and that the audit holds for right.
        own_probability, probability: of both.
    """

    sha256: str
    label: tuple[str, ...]
    proposed: tuple[str, ...]
    own_probability: float
    probability: float


def replace(session: Session, project: Project, found: Iterable[Doubt], last_event: int) -> int:
    """Replaces a project's suspicious labels by those of a new audit; returns how many still are a label.

    Left out are images that were labeled again since `last_event`, the last one that the audit has seen, and
    test images: if only those labels were corrected that a model doubts, it would look better than it is.
    """
    session.execute(delete(Suspect).where(Suspect.project_id == project.id))
    doubts = {doubt.sha256: doubt for doubt in found}
    numbers = {name: number for number, name in history.names(session, project.id).items()}
    rows = []
    for image in _images(session, project.id, list(doubts)):
        doubt = doubts[image.sha256]
        is_old = (image.event_id or 0) <= last_event and image.status == Status.LABELED and not image.is_test
        label = sorted(numbers.get(name, 0) for name in doubt.label)
        proposed = [numbers[name] for name in doubt.proposed if name in numbers]
        if is_old and label == image.classes and len(proposed) == len(doubt.proposed):
            rows.append(
                {
                    "image_id": image.id,
                    "project_id": project.id,
                    "event_id": image.event_id,
                    "class_key": derived.class_key(label),
                    "proposed": proposed,
                    "own_probability": doubt.own_probability,
                    "probability": doubt.probability,
                }
            )
    if rows:
        session.execute(insert(Suspect), rows)
    return len(rows)


def _images(session: Session, project_id: int, hashes: list[str]) -> Iterator[Image]:
    for start in range(0, len(hashes), CHUNK):
        chunk = Image.sha256.in_(hashes[start : start + CHUNK])
        yield from session.scalars(select(Image).where(Image.project_id == project_id, chunk))
