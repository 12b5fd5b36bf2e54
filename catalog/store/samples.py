"""Samples of the teach page: images that people put into a class one by one, move, remove and restore."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store import images, labels, projects
from catalog.store.images import NewImage
from catalog.store.labels import Answer
from catalog.store.tables import Event, Image, LabelClass, Project, Status
from pipeline.common.errors import UserError


@dataclass(frozen=True)
class Sample:
    """An image in a class that the model learns.

    Attributes:
        burst: the webcam recording that it belongs to, or None.
    """

    id: int
    sha256: str
    suffix: str
    class_id: int
    burst: str | None


@dataclass(frozen=True)
class Added:
    """What became of images that were put into a class: new ones, and those that the project had already."""

    new: int
    known: int


def add(
    session: Session,
    project: Project,
    label_class: LabelClass,
    found: Sequence[NewImage],
    burst: str | None,
    person: str,
) -> Added:
    """Puts images into a class; one that the project has in another class, or removed, is moved there."""
    new = list({image.sha256: image for image in found}.values())
    present = _by_hash(session, project.id, [image.sha256 for image in new])
    images.add(session, project, [image for image in new if image.sha256 not in present])
    rows = _by_hash(session, project.id, [image.sha256 for image in new])
    for image in new:
        row = rows[image.sha256]
        if image.sha256 not in present:
            row.burst = burst
        _give(session, row, label_class, person)
    return Added(len(new) - len(present), len(found) - len(new) + len(present))


def _by_hash(session: Session, project_id: int, hashes: list[str]) -> dict[str, Image]:
    found = {}
    for start in range(0, len(hashes), images.CHUNK):
        chunk = Image.sha256.in_(hashes[start : start + images.CHUNK])
        query = select(Image).where(Image.project_id == project_id, chunk)
        found |= {image.sha256: image for image in session.scalars(query)}
    return found


def _give(session: Session, image: Image, label_class: LabelClass, person: str) -> None:
    answer = Answer(Status.LABELED, (label_class.id,))
    if labels.current(image) != answer:
        labels.give(session, image, answer, person)


def move(
    session: Session, project: Project, ids: Iterable[int], label_class: LabelClass, person: str
) -> None:
    """Puts the project's images with these ids into another class."""
    for image in _by_id(session, project.id, ids):
        _give(session, image, label_class, person)


def remove(session: Session, project: Project, ids: Iterable[int], person: str) -> None:
    """Takes images out of their classes; they can be restored until they are erased."""
    for image in _by_id(session, project.id, ids):
        if image.status != Status.REMOVED:
            labels.give(session, image, Answer(Status.REMOVED), person)


def restore(session: Session, project: Project, ids: Iterable[int], person: str) -> int:
    """Puts removed images back into the classes that they were in; returns how many."""
    classes = {found.id for found in projects.classes(session, project.id)}
    restored = 0
    for image in _by_id(session, project.id, ids):
        before = session.get(Event, image.event_id).before
        if image.status == Status.REMOVED and classes.issuperset(before["classes"]):
            labels.give(session, image, Answer.of(before), person)
            restored += 1
    return restored


def _by_id(session: Session, project_id: int, ids: Iterable[int]) -> list[Image]:
    return list(images.by_id(session, project_id, ids))


def of_class(session: Session, label_class: LabelClass, offset: int, limit: int) -> list[Image]:
    """Some of a class's images, newest first."""
    return list(session.scalars(_in(label_class).order_by(Image.event_id.desc()).offset(offset).limit(limit)))


def ids_of_class(session: Session, label_class: LabelClass) -> list[int]:
    """Ids of all images in a class, and of those that were removed from it."""
    query = (
        select(Image.id, Event.before)
        .join(Event, Event.id == Image.event_id)
        .where(Image.project_id == label_class.project_id, Image.status == Status.REMOVED)
    )
    removed_ids = [
        image_id for image_id, before in session.execute(query) if before["classes"] == [label_class.id]
    ]
    return [*(image.id for image in session.scalars(_in(label_class))), *removed_ids]


def _in(label_class: LabelClass):
    return select(Image).where(
        Image.project_id == label_class.project_id,
        Image.status == Status.LABELED,
        Image.classes == [label_class.id],
    )


def removed(session: Session, project_id: int) -> list[int]:
    """Ids of the images that were removed and not erased."""
    query = select(Image.id).where(Image.project_id == project_id, Image.status == Status.REMOVED)
    return list(session.scalars(query))


def all_images(session: Session, project_id: int) -> list[Image]:
    """All images of a project, in the order in which they joined it."""
    return list(session.scalars(select(Image).where(Image.project_id == project_id).order_by(Image.id)))


@dataclass(frozen=True)
class ClassCount:
    """Number of images in a class, and the last event that put one there."""

    images: int = 0
    newest: int = 0


def counts(session: Session, project_id: int) -> dict[int, ClassCount]:
    """The images in each class that has any, by the class's id."""
    query = (
        select(Image.classes, func.count(), func.max(Image.event_id))
        .where(Image.project_id == project_id, Image.status == Status.LABELED)
        .group_by(Image.classes)
    )
    return {
        classes[0]: ClassCount(count, newest)
        for classes, count, newest in session.execute(query)
        if len(classes) == 1
    }


def taught(session: Session, project_id: int) -> list[Sample]:
    """The images of all enabled classes, in the order in which they joined the project."""
    enabled = {found.id for found in projects.classes(session, project_id) if found.is_enabled}
    query = (
        select(Image.id, Image.sha256, Image.suffix, Image.classes, Image.burst)
        .where(Image.project_id == project_id, Image.status == Status.LABELED)
        .order_by(Image.id)
    )
    return [
        Sample(image_id, sha256, suffix, classes[0], burst)
        for image_id, sha256, suffix, classes, burst in session.execute(query)
        if len(classes) == 1 and classes[0] in enabled
    ]


def add_class(session: Session, project: Project, name: str) -> LabelClass:
    """Adds a class behind the present ones.

    Raises:
        UserError: the name is taken or can't be used.
    """
    present = projects.classes(session, project.id)
    _check_name(name, [found.name for found in present])
    position = max((found.position for found in present), default=-1) + 1
    label_class = LabelClass(project_id=project.id, name=name, position=position, is_enabled=True)
    session.add(label_class)
    session.flush()
    return label_class


def rename_class(session: Session, label_class: LabelClass, name: str) -> None:
    """Renames a class.

    Raises:
        UserError: the name is taken or can't be used.
    """
    others = [found for found in projects.classes(session, label_class.project_id) if found != label_class]
    _check_name(name, [found.name for found in others])
    label_class.name = name


def _check_name(name: str, others: list[str]) -> None:
    """Raises UserError if a class beside these can't have a name."""
    if not name:
        raise UserError(_("A class needs a name."))
    if name in others:
        raise UserError(_("There already is a class “{name}”.").format(name=name))
    projects.check_classes([*others, name], least=1)


def class_of(session: Session, project_id: int, class_id: int) -> LabelClass:
    """A class of a project.

    Raises:
        UserError: the project has no such class.
    """
    label_class = session.get(LabelClass, class_id)
    if label_class is None or label_class.project_id != project_id:
        raise UserError(_("this class was deleted meanwhile; reload the page"))
    return label_class


def class_id_of(session: Session, image: Image) -> int | None:
    """Id of the class that an image is in, or was removed from; None if it is in none."""
    classes = image.classes
    if image.status == Status.REMOVED:
        classes = session.get(Event, image.event_id).before["classes"]
    return classes[0] if len(classes) == 1 else None
