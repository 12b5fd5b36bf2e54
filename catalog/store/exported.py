"""The labels of a project in the form of exports."""

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store import merged, projects, suggestions
from catalog.store.tables import Event, Image, Project, Status

_UNLABELED = (Status.WAITING, Status.SKIPPED, Status.DISPUTED)


@dataclass(frozen=True)
class LabeledImage:
    """An image that people have looked at.

    Attributes:
        classes: names; empty for an image that is unknown.
        split: `test` for images that were labeled without suggestions, else `train`.
        labeled_by, labeled_at: who gave the label, and when.
    """

    id: int
    path: str
    sha256: str
    suffix: str
    width: int
    height: int
    is_unknown: bool
    classes: tuple[str, ...]
    split: str
    labeled_by: str = ""
    labeled_at: float = 0.0


@dataclass(frozen=True)
class Labels:
    """The state of a project's labels.

    Attributes:
        images: sorted by hash.
        last_event: id of the last event; 0 without one.
        switched_off: the classes that people have left out of training.
        waiting: the images that nobody has labeled, sorted by hash, if they were asked for.
    """

    project: str
    task: str
    classes: tuple[str, ...]
    images: tuple[LabeledImage, ...]
    last_event: int
    switched_off: frozenset[str] = frozenset()
    waiting: tuple[LabeledImage, ...] = ()

    @property
    def labeled(self) -> list[LabeledImage]:
        """The images without those that are unknown."""
        return [image for image in self.images if not image.is_unknown]

    @property
    def chosen(self) -> list[LabeledImage]:
        """The labeled images without those of classes that people have left out of training."""
        return [image for image in self.labeled if self.switched_off.isdisjoint(image.classes)]

    @property
    def trainable(self) -> list[LabeledImage]:
        """The chosen images without those of classes with too few images to train and validate a model."""
        found = Counter(name for image in self.chosen if image.split == "train" for name in image.classes)
        least = 1 if self.task == "multi_label" else 2  # as the stage split requires
        taught = {name for name, count in found.items() if count >= least}
        return [image for image in self.chosen if taught.issuperset(image.classes)]


def count(session: Session, project: Project) -> dict[str, int]:
    """Number of labeled and of unknown images."""
    counts = projects.counts(session, project.id)
    return {"labels": counts[Status.LABELED], "unknown": counts[Status.UNKNOWN]}


def labels(session: Session, project: Project, with_waiting: bool = False) -> Labels:
    """All labels of a project; the images without one too, if they are asked for."""
    classes = projects.classes(session, project.id)
    names = {found.id: found.name for found in classes}
    # While images are still being changed after a merge of classes.
    successor_of = merged.successors(session, project.id)
    names |= {number: names[successor] for number, successor in successor_of.items()}
    return Labels(
        project=project.name,
        task=project.task,
        classes=tuple(found.name for found in classes),
        images=_images(session, project, names, (Status.LABELED, Status.UNKNOWN)),
        last_event=suggestions.last_event(session, project.id),
        switched_off=frozenset(found.name for found in classes if not found.is_enabled),
        waiting=_images(session, project, names, _UNLABELED) if with_waiting else (),
    )


def _images(
    session: Session, project: Project, names: dict[int, str], statuses: tuple[Status, ...]
) -> tuple[LabeledImage, ...]:
    query = (
        select(Image, Event.person, Event.at)
        .outerjoin(Event, Event.id == Image.event_id)
        .where(Image.project_id == project.id, Image.status.in_(statuses))
        .order_by(Image.sha256)
    )
    return tuple(
        LabeledImage(
            id=image.id,
            path=image.path,
            sha256=image.sha256,
            suffix=image.suffix,
            width=image.width,
            height=image.height,
            is_unknown=image.status == Status.UNKNOWN,
            classes=tuple(sorted({names[class_id] for class_id in image.classes})),
            split="test" if image.is_test else "train",
            labeled_by=person or "",
            labeled_at=at or 0.0,
        )
        for image, person, at in session.execute(query)
    )
