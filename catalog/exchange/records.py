"""What files of labels have in common: each row says which labels an image has."""

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from catalog.language import N_, _, number
from pipeline.common import text
from pipeline.common.errors import UserError

MAX_RECORDS = 1_000_000  # rows of a file
MAX_CLASSES = 1000  # of one image
MAX_PATH = 4096  # characters of a path or an address
MAX_NAME = 1000  # characters of a class
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # no character, or half a one, which JSON can spell
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_OF_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio's name of an uploaded file


class Format(enum.StrEnum):
    """A format of files of labels."""

    LABEL_STUDIO = "Label Studio JSON"
    LABEL_STUDIO_MIN = "Label Studio JSON-MIN"
    COCO = "COCO"
    TABLE = "CSV"


class Problem(enum.StrEnum):
    """Why a row of a file gives no label; the texts are shown to people."""

    NO_IMAGE = N_("it names no image")
    NO_IMAGE_THERE = N_("this annotation belongs to no image of the file")
    NO_LABEL = N_("it has no label")
    BAD_ROW = N_("it has another number of fields than the header")
    BAD_VALUE = N_("it isn't written as this format has it")
    TOO_MANY = N_("it has too many labels")
    BAD_STATUS = N_("its status is neither labeled nor unknown")
    DISAGREE = N_("people have labeled it differently there")
    SKIPPED = N_("it was skipped there")


@dataclass(frozen=True)
class Record:
    """What one row says.

    Attributes:
        where: the row, as a person finds it: the number of a line or a task.
        sha256: of the image's file; None if the row doesn't tell.
        paths: how the row calls the image, the best one first.
        classes: names; empty for an image that has none of them, or that is unknown.
        is_unknown: a person has looked and couldn't tell.
        problem: why the row gives no label; None if it does.
    """

    where: int
    sha256: str | None = None
    paths: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    is_unknown: bool = False
    problem: Problem | None = None


@dataclass(frozen=True)
class LabelFile:
    """The rows of a file, and its format."""

    format: Format
    records: list[Record]


class TooManyError(UserError):
    """A file with more rows than can be imported at once."""

    def __init__(self):
        message = _("the file has more than {count} rows; split it")
        super().__init__(message.format(count=number(MAX_RECORDS)))


def checked(records: Iterable[Record]) -> list[Record]:
    """The records as a list.

    Raises:
        UserError: there are none.
        TooManyError: there are too many.
    """
    found = []
    for record in records:
        if len(found) == MAX_RECORDS:
            raise TooManyError
        found.append(record)
    if not found:
        raise UserError(_("the file has no rows; nothing to import"))
    return found


def hash_of(value: object) -> str | None:
    """The value as a SHA-256 hash; None if it is none."""
    return value.lower() if isinstance(value, str) and _SHA256.fullmatch(value) else None


def record(
    where: int,
    sha256: object,
    paths: Iterable[object],
    classes: Iterable[object],
    is_unknown: bool = False,
    problem: Problem | None = None,
) -> Record:
    """A row from values of any type; what can't be used becomes its problem."""
    found = hash_of(sha256)
    names = list(dict.fromkeys(path for path in paths if isinstance(path, str) and 0 < len(path) <= MAX_PATH))
    shown = tuple(dict.fromkeys(form for name in names for form in _forms(name)))
    if problem is None and found is None and not shown:
        problem = Problem.NO_IMAGE
    given = []
    for name in classes:
        if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME or _UNUSABLE.search(name):
            problem = problem or Problem.BAD_VALUE
        elif len(given) == MAX_CLASSES:
            problem = problem or Problem.TOO_MANY
            break
        else:
            given.append(name.strip())
    unique = tuple(sorted(set(given)))
    return Record(where, found, shown, () if problem else unique, is_unknown, problem)


def _forms(path: str) -> list[str]:
    """A path as it is in a file, and as the catalog stores it: with control characters escaped."""
    stored = text.path(path)
    return [stored] if any(map(text.unsafe, path)) else [path, stored]


def hash_in_name(record: Record) -> str | None:
    """The hash that one of the row's file names consists of, as those of the catalog's own copies do."""
    paths = (PurePosixPath(path.replace("\\", "/")) for path in record.paths)
    return next(filter(None, (hash_of(path.stem) for path in paths)), None)


def paths_of(address: object) -> list[str]:
    """How an address may call an image: as it is, the path in it, and the name from before an upload.

    ``/data/local-files/?d=photos/a%20b.jpg`` is ``photos/a b.jpg``; ``/data/upload/1/0a1b2c3d-cat.jpg`` was
    ``cat.jpg``.
    """
    if not isinstance(address, str) or not 0 < len(address) <= MAX_PATH:
        return []
    found = [address]
    try:
        parts = urlsplit(address)
        inner = parse_qs(parts.query, max_num_fields=100).get("d", []) if "d=" in parts.query else []
    except ValueError:  # no address, such as one with a bracket
        return found
    found += inner or [unquote(parts.path)]
    if not inner and "/upload/" in parts.path:
        uploaded = _OF_UPLOAD.fullmatch(PurePosixPath(unquote(parts.path)).name)
        found += [uploaded[1]] if uploaded else []
    return list(dict.fromkeys(path for path in found if path))
