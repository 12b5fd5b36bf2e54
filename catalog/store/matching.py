"""Finds the images of a project that the rows of a file of labels mean."""

import enum
from collections.abc import Iterable, Sequence
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
    AMBIGUOUS = N_("several images of this project are called so")


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

    def __init__(self, session: Session, project_id: int, records: Iterable[Record]):
        wanted = {tail for record in records for path in record.paths for tail in _tails(path)}
        self._whole: dict[str, int | None] = {}  # None: several images
        self._tails: dict[str, int | None] = {}
        query = select(Image.id, Image.path).where(Image.project_id == project_id)
        for image_id, path in session.execute(query.execution_options(yield_per=10_000)):
            for number, tail in enumerate(_tails(path)):
                if tail in wanted:
                    if number == 0:
                        self._whole[tail] = None if tail in self._whole else image_id
                    self._tails[tail] = None if tail in self._tails else image_id

    def find(self, record: Record) -> Found:
        problem = Unmatched.MISSING
        for tails in map(_tails, record.paths):
            for number, tail in enumerate(tails):
                image_id = self._whole.get(tail) or self._tails.get(tail)
                if image_id is not None:
                    is_path = "/" in tail or (number == 0 and tail in self._whole)
                    return Found(image_id, By.PATH if is_path else By.NAME)
                if tail in self._tails:
                    problem = Unmatched.AMBIGUOUS  # so are its ends
                    break
        return Found(problem=problem)


def _tails(path: str) -> list[str]:
    """A path and its ends, the longest first: ``a/b.jpg`` and ``b.jpg``."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(max(0, len(parts) - MAX_PARTS), len(parts))]
