"""Finds the images of a project that the rows of a file of labels mean."""

import enum
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.exchange.records import Record, hash_in_name
from catalog.language import N_
from catalog.store.images import CHUNK
from catalog.store.tables import Image

MAX_PARTS = 12  # of a path, from its end, that are compared


class By(enum.StrEnum):
    """What an image was recognised by."""

    CONTENT = "content"
    PATH = "path"
    NAME = "name"


class Unmatched(enum.StrEnum):
    """Why no image was found; the texts are shown to people."""

    MISSING = N_("this project has no such image")
    OTHER_CONTENT = N_("this project has no image with that content (sha256)")
    AMBIGUOUS = N_("several images have this name")


@dataclass(frozen=True)
class Found:
    """The image of a row, by its id and what it was recognised by; or why there is none."""

    image_id: int | None = None
    by: By | None = None
    problem: Unmatched | None = None


def find(session: Session, project_id: int, records: Sequence[Record]) -> list[Found]:
    """The image of each row: by its content, else by its path, else by a file name that only one image has.

    A row that tells the content is not matched by its path: the image there is another one.
    """
    hashes = [record.sha256 or hash_in_name(record) for record in records]
    by_hash = _by_hash(session, project_id, filter(None, hashes))
    found: list[Found | None] = []
    for record, sha256 in zip(records, hashes, strict=True):
        if sha256 in by_hash:
            found.append(Found(by_hash[sha256], By.CONTENT))
        elif record.sha256 is not None:
            found.append(Found(problem=Unmatched.OTHER_CONTENT))
        else:
            found.append(None if record.paths else Found(problem=Unmatched.MISSING))
    rest = [record for record, each in zip(records, found, strict=True) if each is None]
    if not rest:
        return [each for each in found if each is not None]
    names = _Names(session, project_id, rest)
    return [names.find(record) if each is None else each for record, each in zip(records, found, strict=True)]


def _by_hash(session: Session, project_id: int, hashes: Iterable[str]) -> dict[str, int]:
    wanted, found = list(dict.fromkeys(hashes)), {}
    for start in range(0, len(wanted), CHUNK):
        query = select(Image.sha256, Image.id).where(
            Image.project_id == project_id, Image.sha256.in_(wanted[start : start + CHUNK])
        )
        found.update(session.execute(query).tuples().all())
    return found


class _Names:
    """Images by their paths, and by the ends of their paths, as far as the rows name them.

    It reads all paths of the project once.
    """

    def __init__(self, session: Session, project_id: int, records: Sequence[Record]):
        self._exact = _Index(path for record in records for path in record.paths)
        self._similar = _Index(path for record in records for path in _similar_forms(record))
        query = select(Image.id, Image.path).where(Image.project_id == project_id)
        for image_id, path in session.execute(query.execution_options(yield_per=10_000)):
            tails = _tails(path)
            self._exact.add(image_id, tails)
            self._similar.add(image_id, tails if path.isascii() else _tails(_composed(path)))

    def find(self, record: Record) -> Found:
        """The image of a row: as the path is written, else as other systems write the same path."""
        found = self._exact.find(record.paths)
        return found if found.image_id is not None else self._similar.find(_similar_forms(record), found)


class _Index:
    """The paths of images, and their ends, as far as they are wanted."""

    def __init__(self, wanted: Iterable[str]):
        self._wanted = {tail for path in wanted for tail in _tails(path)}
        self._whole: dict[str, int | None] = {}  # None: several images
        self._tails: dict[str, int | None] = {}

    def add(self, image_id: int, tails: Iterable[str]) -> None:
        for number, tail in enumerate(tails):
            if tail in self._wanted:
                if number == 0:
                    self._whole[tail] = None if tail in self._whole else image_id
                self._tails[tail] = None if tail in self._tails else image_id

    def find(self, paths: Iterable[str], otherwise: Found = Found(problem=Unmatched.MISSING)) -> Found:
        """The image with the first of the paths that only one has; `otherwise` if none has any."""
        for tails in map(_tails, paths):
            for number, tail in enumerate(tails):
                image_id = self._whole.get(tail) or self._tails.get(tail)
                if image_id is not None:
                    is_path = "/" in tail or (number == 0 and tail in self._whole)
                    return Found(image_id, By.PATH if is_path else By.NAME)
                if tail in self._tails:
                    otherwise = Found(problem=Unmatched.AMBIGUOUS)  # so are its ends
                    break
        return otherwise


def _composed(path: str) -> str:
    """The path in the Unicode form of most systems: macOS writes an accent as a character of its own."""
    return unicodedata.normalize("NFC", path)


def _similar_forms(record: Record) -> Iterator[str]:
    """A row's paths with composed characters, and with slashes in place of the backslashes of Windows."""
    for path in map(_composed, record.paths):
        yield path
        if "\\" in path:
            yield path.replace("\\", "/")


def _tails(path: str) -> list[str]:
    """A path and its ends, the longest first: ``a/b.jpg`` and ``b.jpg``."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(max(0, len(parts) - MAX_PARTS), len(parts))]
