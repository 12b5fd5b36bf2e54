"""Labels in files beside the images: ``labels.csv``, or COCO's annotations."""

import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline import tables, text
from pipeline.config import UserError
from pipeline.tasks import SEPARATOR

CSV = "labels.csv"
SPLITS = ("", "train", "val", "test")
WANTED = (
    f"{CSV} with the columns path and labels (names with {SEPARATOR} between them, or none; a column split "
    "may say train, val or test), or COCO's annotations as a .json file"
)


@dataclass
class Entry:
    """What a file says of an image.

    Attributes:
        path: as it stands there.
        labels: names of classes.
        official: split that it belongs to, or empty.
        is_taken: whether an image was found.
    """

    path: str
    labels: tuple[str, ...]
    official: str = ""
    is_taken: bool = False


class Annotations:
    """Entries of one or more files, found by the path of an image in the archive."""

    def __init__(self):
        self.files: list[str] = []
        self._exact: dict[str, Entry] = {}
        self._named: dict[str, list[Entry]] = defaultdict(list)

    def add(self, path: str, data: bytes | str | None) -> bool:
        """Reads a file of the archive; returns whether it holds annotations.

        Raises:
            UserError: it does, and is wrong.
        """
        where = PurePosixPath(path)
        if where.name != CSV and where.suffix != ".json":
            return False
        if not isinstance(data, bytes):
            if where.name != CSV:
                return False
            raise UserError(f"{text.shortened(path, 200)} of the archive can't be read, or is too large")
        entries = _csv(path, data) if where.name == CSV else _coco(path, data)
        if entries is None:
            return False
        self.files.append(path)
        for entry in entries:
            key = str(where.parent / entry.path)
            if key in self._exact:
                raise UserError(f"{text.shortened(path, 200)} names {text.shortened(entry.path, 200)} twice")
            self._exact[key] = entry
            self._named[PurePosixPath(entry.path).name].append(entry)
        return True

    def take(self, path: str) -> Entry | None:
        """The entry of an image: of its path beside the file, else the only one that its path ends in."""
        entry = self._exact.get(path)
        if entry is None:
            ends = [
                each for each in self._named[PurePosixPath(path).name] if f"/{path}".endswith(f"/{each.path}")
            ]
            entry = ends[0] if len(ends) == 1 else None
        if entry is None or entry.is_taken:
            return None
        entry.is_taken = True
        return entry

    def left(self) -> Iterator[str]:
        """Paths of entries that no image was found of."""
        return (entry.path for entry in self._exact.values() if not entry.is_taken)


def _csv(path: str, data: bytes) -> list[Entry]:
    shown = text.shortened(path, 200)
    try:
        columns, *lines = tables.parse(io.StringIO(data.decode("utf-8-sig"), newline="")) or [[]]
    except ValueError as error:
        raise UserError(f"{shown} is no CSV file in UTF-8 ({text.shortened(str(error), 100)})") from error
    if not {"path", "labels"} <= set(columns):
        raise UserError(f"{shown} has the columns {text.shortened(', '.join(columns), 100)}; write {WANTED}")
    entries = []
    for number, line in enumerate(lines, start=2):
        row = dict(zip(columns, line, strict=False))
        official = row.get("split", "").strip().lower()
        if not row["path"] or "labels" not in row or official not in SPLITS:
            raise UserError(f"{shown}, line {number}: a path, labels, and train, val or test if any split")
        names = tuple(name.strip() for name in row["labels"].split(SEPARATOR) if name.strip())
        entries.append(Entry(str(PurePosixPath(row["path"])), tuple(dict.fromkeys(names)), official))
    return entries


def _coco(path: str, data: bytes) -> list[Entry] | None:
    """Categories of each image; None where it is another kind of file."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict) or not {"images", "annotations", "categories"} <= tree.keys():
        return None
    try:
        names = {each["id"]: each["name"] for each in tree["categories"]}
        found: dict = {each["id"]: {} for each in tree["images"]}
        for each in tree["annotations"]:
            found[each["image_id"]][names[each["category_id"]]] = None
        entries = [
            Entry(str(PurePosixPath(each["file_name"])), tuple(found[each["id"]])) for each in tree["images"]
        ]
        if not all(isinstance(name, str) for name in names.values()):
            raise TypeError("a category's name is no text")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{text.shortened(path, 200)} is no sound COCO file ({text.shortened(repr(error), 100)})"
        ) from error
    return entries
