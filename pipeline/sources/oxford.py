"""Converts Oxford-IIIT Pet's two archives to one with class folders: full photos, or heads cropped by box.

Parkhi, Vedaldi, Zisserman, Jawahar 2012, "Cats and Dogs", https://www.robots.ox.ac.uk/~vgg/data/pets/
"""

import io
import logging
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.common.errors import UserError
from pipeline.sources import archives

_log = logging.getLogger(__name__)

# Crop rules of Pet Faces, found by comparison; they reproduce 3,207 of the 3,211 published faces.
MIN_BOX = 64  # pixels; both sides of a box must be longer
MAX_WIDTH, MAX_HEIGHT = 1.40, 1.42  # relative to the other side
FACE_SIDE = 128  # pixels, longer side of a face
QUALITY = 95  # JPEG quality of the faces; the published ones' is lower

SPECIES = {"1": "cat", "2": "dog"}


@dataclass(frozen=True)
class Annotation:
    """Annotations of a photo.

    Attributes:
        species: `cat` or `dog`.
        split: official split, `trainval` or `test`.
        box: head box in pixels: left, top, right, bottom; None if not annotated.
    """

    species: str
    split: str
    box: tuple[int, int, int, int] | None


def annotations(archive: Path) -> dict[str, Annotation]:
    """Annotations from ``trainval.txt``, ``test.txt`` and the head boxes, by file name without suffix.

    Raises:
        UserError: the archive has neither list.
    """
    listed: dict[str, tuple[str, str]] = {}
    boxes = {}
    for path, data in _files(archive):
        if path.name in ("trainval.txt", "test.txt"):
            for line in data.decode().splitlines():
                if line and not line.startswith("#"):
                    name, _, species, _ = line.split()
                    listed[name] = (SPECIES[species], path.stem)
        elif path.suffix == ".xml":
            box = ElementTree.fromstring(data).find("./object/bndbox")
            if box is not None:
                sides = (int(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
                boxes[path.stem] = tuple(sides)
    if not listed:
        raise UserError(
            f"{archive} has no trainval.txt and test.txt; is it Oxford-IIIT Pet's annotations.tar.gz?"
        )
    return {name: Annotation(*known, boxes.get(name)) for name, known in listed.items()}


def _files(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields an archive's files, without those too large or unreadable."""
    return (
        (PurePosixPath(name), data) for name, data in archives.members(archive) if isinstance(data, bytes)
    )


def write_photos(images: Path, annotations_archive: Path, target: Path) -> None:
    """Writes ``oxford/<split>/<species>_<breed>/<name>.jpg``: the original bytes, even of broken photos.

    Args:
        images: ``images.tar.gz``.
        annotations_archive: ``annotations.tar.gz``.
        target: the archive to write.
    """
    known = annotations(annotations_archive)
    unlisted = 0
    with tarfile.open(target, "w") as archive:
        for path, data in _files(images):
            if path.suffix.lower() not in (".jpg", ".jpeg"):
                continue
            if path.stem not in known:
                unlisted += 1
                continue
            entry = known[path.stem]
            breed = path.stem.rpartition("_")[0]
            archives.add(archive, f"oxford/{entry.split}/{entry.species}_{breed}/{path.name}", data)
    _log.info("%d photos are in neither official list and are skipped", unlisted)


def write_faces(images: Path, annotations_archive: Path, target: Path) -> None:
    """Writes ``petfaces/<species>_<first word of the breed>/<name>.jpg``: a reconstruction of Pet Faces.

    Args:
        images: ``images.tar.gz``.
        annotations_archive: ``annotations.tar.gz``.
        target: the archive to write.
    """
    from PIL import Image

    from pipeline import portable

    known = annotations(annotations_archive)
    faces = unreadable = 0
    with tarfile.open(target, "w") as archive:
        for path, data in _files(images):
            entry = known.get(path.stem)
            if entry is None or entry.box is None or not _is_face(entry.box):
                continue
            try:
                face = portable.read_picture(data).crop(entry.box)
            except portable.UnreadableError:
                unreadable += 1
                continue
            face = Image.fromarray(portable.shrink(face, FACE_SIDE))
            buffer = io.BytesIO()
            face.save(buffer, "JPEG", quality=QUALITY)
            breed = path.stem.split("_")[0]
            archives.add(archive, f"petfaces/{entry.species}_{breed}/{path.name}", buffer.getvalue())
            faces += 1
    _log.info(
        "cropped %d faces from Oxford-IIIT Pet by head box; %d photos were unreadable", faces, unreadable
    )


def _is_face(box: tuple[int, int, int, int]) -> bool:
    """Whether Pet Faces includes a head with this box."""
    width, height = box[2] - box[0], box[3] - box[1]
    return min(width, height) > MIN_BOX and width / height <= MAX_WIDTH and height / width <= MAX_HEIGHT
