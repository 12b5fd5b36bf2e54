"""Saves a project of the teach page as a zip, and opens it again, perhaps on another machine.

A zip has ``project.json`` and ``images/``. It may come from anyone, so it is only data: names are checked,
and images are decoded in a process of their own before they are kept.
"""

import hashlib
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catalog.language import _, number
from catalog.library import Library
from catalog.store import Database, Session, projects, samples
from catalog.store import images as stored_images
from catalog.store.images import NewImage
from catalog.store.tables import Event, Help, Image, Kind, Project, Source, Status
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable import UnreadableError
from pipeline.sources import archives

FORMAT = 1
DETAILS = "project.json"
MAX_IMAGES = 100_000
MAX_CLASSES = 100  # of a project of the teach page: each step of the training is recorded for all of them
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip's member

Store = Callable[[bytes, str], NewImage]  # checks and keeps an image; raises UnreadableError


@dataclass(frozen=True)
class SavedImage:
    """An image of a saved project.

    Attributes:
        file: its name in the zip, ``images/SHA256.SUFFIX``.
        path: its name when it was added, for display.
        class_index: its class; None if it was in none.
        is_removed: whether it was removed from that class.
        burst: the recording that it is from, or None.
    """

    file: str
    path: str
    class_index: int | None
    is_removed: bool
    burst: str | None

    def __post_init__(self):
        """Raises ValueError for a field of another kind than it must be."""
        index = self.class_index
        if (
            not isinstance(self.file, str)
            or not isinstance(self.path, str)
            or not (index is None or type(index) is int)
            or type(self.is_removed) is not bool
            or not (self.burst is None or (isinstance(self.burst, str) and len(self.burst) <= 40))
        ):
            raise ValueError(f"image {str(self.file)[:80]!r}")


def save(session: Session, project: Project, library: Library, target: Path) -> None:
    """Writes a project with all of its images, also removed ones; equal projects give equal bytes."""
    classes = projects.classes(session, project.id)
    indices = {found.id: index for index, found in enumerate(classes)}
    images = samples.all_images(session, project.id)
    saved = [_saved(session, image, indices) for image in images]
    details = {
        "format": FORMAT,
        "name": project.name,
        "classes": [{"name": found.name, "is_enabled": found.is_enabled} for found in classes],
        "images": [vars(each) for each in saved],
    }
    with zipfile.ZipFile(target, "w") as archive:
        content = json.dumps(details, ensure_ascii=False, indent=1)
        archive.writestr(zipfile.ZipInfo(DETAILS, _EPOCH), content, zipfile.ZIP_DEFLATED)
        for image, each in zip(images, saved, strict=True):
            file = library.image(image.sha256, image.suffix)
            try:
                archive.writestr(zipfile.ZipInfo(each.file, _EPOCH), file.read_bytes())
            except FileNotFoundError:
                raise UserError(
                    _("{file} is missing, so the project can't be saved whole").format(file=file.name)
                ) from None


def _saved(session: Session, image: Image, indices: dict[int, int]) -> SavedImage:
    classes = image.classes
    if image.status == Status.REMOVED:
        classes = session.get(Event, image.event_id).before["classes"]
    index = indices.get(classes[0]) if len(classes) == 1 else None
    file = f"images/{image.sha256}{image.suffix}"
    return SavedImage(file, image.path, index, image.status == Status.REMOVED, image.burst)


@dataclass(frozen=True)
class Opened:
    """A project that was opened: its id, its images, and those that are missing or damaged in the file."""

    project_id: int
    images: int
    missing: int


def open_saved(source: Path, database: Database, store: Store, person: str) -> Opened:
    """Adds a saved project.

    Args:
        source: the zip, or the folder that it was unpacked to.
        database: the catalog's.
        store: checks and keeps an image.
        person: who is recorded with its labels.

    Raises:
        UserError: it is no saved project, or is damaged.
    """
    prefix, details = _details(source)
    name, classes, images = _parsed(details)
    with database.read() as session:  # checks the names before any image is kept
        _draft(session, name, [each["name"] for each in classes])
    wanted = {prefix + image.file: image for image in images}
    kept: dict[str, NewImage] = {}
    for path, data in _members(source):
        image = wanted.get(path)
        if image is None or not isinstance(data, bytes):
            continue
        if hashlib.sha256(data).hexdigest() != PurePosixPath(image.file).stem:
            continue  # damaged: it counts as missing
        try:
            kept[image.file] = store(data, image.path)
        except UnreadableError:
            continue
    with database.write() as session:
        project = projects.create(session, _draft(session, name, [each["name"] for each in classes]))
        _fill(session, project, classes, [image for image in images if image.file in kept], kept, person)
        return Opened(project.id, len(kept), len(images) - len(kept))


def _draft(session: Session, name: str, classes: list[str]) -> projects.Draft:
    """The project's form; its name gets a number if it is taken."""
    taken = {project.name for project in projects.all_projects(session)}
    names = [name, *(f"{name[:90]} ({count})" for count in range(2, len(taken) + 3))]
    return projects.Draft(
        name=next(each for each in names if each not in taken),
        task="single_label",
        source=Source.UPLOAD,
        source_path="",
        classes=tuple(classes),
        model_help=Help.NONE,
        test_fraction=0,
        kind=Kind.TEACH,
    )


def _fill(
    session: Session,
    project: Project,
    classes: list[dict],
    images: list[SavedImage],
    kept: dict[str, NewImage],
    person: str,
) -> None:
    """Adds the images in their old order, on which the last bits of the trained model depend."""
    stored_images.add(session, project, [kept[image.file] for image in images])
    rows = {row.sha256: row for row in samples.all_images(session, project.id)}
    members = defaultdict(list)
    for image in images:
        row = rows[kept[image.file].sha256]
        row.burst = image.burst
        members[image.class_index].append(row.id)
        if image.is_removed:
            members["removed"].append(row.id)
    for index, found in enumerate(projects.classes(session, project.id)):
        found.is_enabled = classes[index]["is_enabled"]
        samples.move(session, project, members[index], found, person)
    samples.remove(session, project, members["removed"], person)


def _members(source: Path) -> Iterator[tuple[str, bytes | str | None]]:
    """Files of a zip or folder, by their path with slashes."""
    if source.is_file():
        yield from archives.members(source)
        return
    for file in sorted(source.rglob("*")):
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= archives.MAX_BYTES:
            yield file.relative_to(source).as_posix(), file.read_bytes()


def _details(source: Path) -> tuple[str, object]:
    """The folder of ``project.json`` in the source, and its content."""
    if source.is_file() and not zipfile.is_zipfile(source):
        raise UserError(
            _("{name} is no zip file; choose one that this page has saved").format(name=source.name)
        )
    for path, data in _members(source):
        if PurePosixPath(path).name == DETAILS and isinstance(data, bytes):
            try:
                return path[: -len(DETAILS)], json.loads(data)
            except (ValueError, RecursionError) as error:
                raise _damaged(error) from error
    raise UserError(
        _("{name} has no {details}; choose a project that this page has saved").format(
            name=source.name, details=DETAILS
        )
    )


def _damaged(error: Exception) -> UserError:
    why = text.shortened(str(error), 100)
    return UserError(_("{details} is damaged: {reason}").format(details=DETAILS, reason=why))


def _parsed(details: object) -> tuple[str, list[dict], list[SavedImage]]:
    """The checked content of ``project.json``: name, classes and images.

    Raises:
        UserError: something is missing or of another kind than it must be.
    """
    try:
        if not isinstance(details, dict) or details["format"] != FORMAT:
            raise UserError(_("this project was saved by a newer version; update the checkout"))
        classes = [{"name": each["name"], "is_enabled": each["is_enabled"]} for each in details["classes"]]
        images = [SavedImage(**each) for each in details["images"]]
        name = details["name"]
        are_valid = all(type(each["is_enabled"]) is bool for each in classes) and all(
            image.class_index is None or 0 <= image.class_index < len(classes) for image in images
        )
        names = [name, *(each["name"] for each in classes)]
        if not are_valid or not all(isinstance(each, str) for each in names):
            raise ValueError("a value is of the wrong kind")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(error) from error
    if len(images) > MAX_IMAGES or len(classes) > MAX_CLASSES:
        raise UserError(
            _("a project has at most {images} images and {classes} classes").format(
                images=number(MAX_IMAGES), classes=MAX_CLASSES
            )
        )
    if len({image.file for image in images}) < len(images):
        raise UserError(_("{details} names an image twice").format(details=DETAILS))
    return name, classes, images
