"""Saves a project of the teach page as a zip, and opens it again, perhaps on another machine.

A zip has ``project.json`` and ``images/``. It may come from anyone, so it is only data: names are checked,
and images are decoded in a process of their own before they are kept.
"""

import contextlib
import hashlib
import json
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from catalog import decoding
from catalog.language import _, number
from catalog.library import Library
from catalog.store import Database, Session, erasing, projects, samples
from catalog.store import images as stored_images
from catalog.store.images import NewImage
from catalog.store.tables import Help, Image, Kind, Project, Source, Status
from catalog.teach import saved_files
from catalog.teach.saved_files import DETAILS, Files
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable import UnreadableError

FORMAT = 1
MAX_IMAGES = 100_000
MAX_DETAILS = 32_000_000  # bytes of project.json, which has about 250 for each image
MAX_VALUES = 10 * MAX_IMAGES  # in project.json; each image has five
MAX_TOTAL = 20_000_000_000  # bytes of all images
MAX_CLASSES = 100  # of a project of the teach page: each step of the training is recorded for all of them
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip's member

_FILE = re.compile(r"images/([0-9a-f]{64})\.[a-z]{3,5}")


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
            or not _FILE.fullmatch(self.file)
            or not isinstance(self.path, str)
            or not (index is None or type(index) is int)
            or type(self.is_removed) is not bool
            or not (self.burst is None or (isinstance(self.burst, str) and len(self.burst) <= 40))
        ):
            raise ValueError(f"image {str(self.file)[:80]!r}")

    @property
    def sha256(self) -> str:
        return PurePosixPath(self.file).stem


def save(session: Session, project: Project, library: Library, target: Path) -> None:
    """Writes a project with its images, also those that were removed from a class that it still has.

    Equal projects give equal bytes.

    Raises:
        UserError: it is too large to be opened again, or an image's file is missing.
    """
    classes = projects.classes(session, project.id)
    indices = {found.id: index for index, found in enumerate(classes)}
    saved = [
        (image, _saved(image, indices[class_id]))
        for image in samples.all_images(session, project.id)
        if (class_id := samples.class_id_of(session, image)) in indices
    ]
    details = {
        "format": FORMAT,
        "name": project.name,
        "classes": [{"name": found.name, "is_enabled": found.is_enabled} for found in classes],
        "images": [vars(each) for _image, each in saved],
    }
    content = json.dumps(details, ensure_ascii=False, indent=1).encode()
    if len(saved) > MAX_IMAGES or len(content) > MAX_DETAILS:
        raise _too_many()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo(DETAILS, _EPOCH), content, zipfile.ZIP_DEFLATED)
        for image, each in saved:
            file = library.image(image.sha256, image.suffix)
            try:
                archive.writestr(zipfile.ZipInfo(each.file, _EPOCH), file.read_bytes())
            except FileNotFoundError:
                raise UserError(
                    _("{file} is missing, so the project can't be saved whole").format(file=file.name)
                ) from None


def _saved(image: Image, class_index: int) -> SavedImage:
    file = f"images/{image.sha256}{image.suffix}"
    return SavedImage(file, image.path, class_index, image.status == Status.REMOVED, image.burst)


@dataclass(frozen=True)
class Opened:
    """A project that was opened.

    Attributes:
        project_id: its id.
        images: number of its images.
        left_out: number of those that are missing or damaged in the file, or in no class.
    """

    project_id: int
    images: int
    left_out: int


def open_saved(source: Path, database: Database, library: Library, person: str, name: str = "") -> Opened:
    """Adds a saved project; nothing is left of one that can't be opened.

    Args:
        source: the zip, or the folder that it was unpacked to.
        database: the catalog's.
        library: keeps the images.
        person: who is recorded with its labels.
        name: of the source, for messages; its own by default.

    Raises:
        UserError: it is no saved project, or is damaged.
    """
    source_name = name or source.name
    with saved_files.opened(source, source_name) as files:
        name, classes, images = _parsed(_details(files))
        with database.read() as session:  # checks the names before any image is kept
            _draft(session, name, classes)
        wanted = [image for image in images if image.class_index is not None]
        if sum(files.size(image.file) for image in wanted) > MAX_TOTAL:
            message = _("the images of {name} have more than {size} GB")
            raise UserError(message.format(name=source_name, size=number(MAX_TOTAL // 10**9)))
        begun: list[SavedImage] = []
        try:
            kept = _kept(files, wanted, begun, library)
            with database.write() as session:
                # Some may have been erased in another project since they were kept.
                lost = [image for image in wanted if image.file in kept and not _is_kept(image, library)]
                kept |= _kept(files, lost, begun, library)
                project = projects.create(session, _draft(session, name, classes))
                whole = [image for image in wanted if image.file in kept]
                _fill(session, project, classes, whole, kept, person)
                return Opened(project.id, len(kept), len(images) - len(kept))
        except BaseException:
            _discard(begun, database, library)
            raise


def _kept(
    files: Files, images: list[SavedImage], begun: list[SavedImage], library: Library
) -> dict[str, NewImage]:
    """Keeps the images that are whole; returns them by their file. Those that it has begun are collected."""
    kept = {}
    for image in images:
        data = files.read(image.file)
        if data is None or hashlib.sha256(data).hexdigest() != image.sha256:
            continue
        begun.append(image)
        with contextlib.suppress(UnreadableError):
            kept[image.file] = decoding.store(data, image.path, library)
    return kept


def _is_kept(image: SavedImage, library: Library) -> bool:
    return library.thumbnail(image.sha256).is_file()  # it is deleted with the original


def _discard(images: list[SavedImage], database: Database, library: Library) -> None:
    """Deletes the files of images that no project has."""
    pairs = [(image.sha256, PurePosixPath(image.file).suffix) for image in images]
    with database.write() as session:  # no image joins a project meanwhile
        for image in erasing.unused(session, pairs):
            library.erase(image.sha256, image.suffix)


def _draft(session: Session, name: str, classes: list[dict]) -> projects.Draft:
    """The project's form; its name gets a number if it is taken."""
    taken = {project.name for project in projects.all_projects(session)}
    names = [name, *(f"{name[:90]} ({count})" for count in range(2, len(taken) + 3))]
    return projects.Draft(
        name=next(each for each in names if each not in taken),
        task="single_label",
        source=Source.UPLOAD,
        source_path="",
        classes=tuple(each["name"] for each in classes),
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


def _details(files: Files) -> object:
    """The content of ``project.json``."""
    data = files.read(DETAILS, MAX_DETAILS)
    if data is None:
        too_large = files.size(DETAILS) > MAX_DETAILS
        raise _too_many() if too_large else _damaged(_("its bytes are not those that were saved"))
    if data.count(b",") > MAX_VALUES:  # which would take up to 200 bytes each
        raise _too_many()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(error) from error


def _damaged(reason: object) -> UserError:
    message = _("{details} is damaged ({reason}); save the project again")
    return UserError(message.format(details=DETAILS, reason=text.shortened(str(reason), 100)))


def _too_many() -> UserError:
    message = _("a project has at most {images} images and {classes} classes")
    return UserError(message.format(images=number(MAX_IMAGES), classes=MAX_CLASSES))


def _parsed(details: object) -> tuple[str, list[dict], list[SavedImage]]:
    """The checked content of ``project.json``: name, classes and images.

    Raises:
        UserError: something is missing or of another kind than it must be.
    """
    try:
        if not isinstance(details, dict) or details["format"] != FORMAT:
            raise UserError(_("this project was saved by a newer version; update the checkout"))
        if not isinstance(details["images"], list) or not isinstance(details["classes"], list):
            raise ValueError("a value is of the wrong kind")
        if len(details["images"]) > MAX_IMAGES or len(details["classes"]) > MAX_CLASSES:
            raise _too_many()
        classes = [{"name": each["name"], "is_enabled": each["is_enabled"]} for each in details["classes"]]
        images = [SavedImage(**each) for each in details["images"]]
        name = details["name"]
        are_valid = all(type(each["is_enabled"]) is bool for each in classes) and all(
            image.class_index is None or 0 <= image.class_index < len(classes) for image in images
        )
        names = [name, *(each["name"] for each in classes)]
        if not are_valid or not all(isinstance(each, str) and len(each) <= 1000 for each in names):
            raise ValueError("a value is of the wrong kind")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(error) from error
    if len({image.sha256 for image in images}) < len(images):
        raise UserError(_("{details} names an image twice").format(details=DETAILS))
    return name, classes, images
