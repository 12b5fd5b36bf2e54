"""Labels from files: ``labels.csv`` or COCO annotations."""

import io
import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.common import tables, text
from pipeline.common.errors import UserError
from pipeline.tasks import SEPARATOR

CSV = "labels.csv"
SPLITS = ("", "train", "val", "test")
FORMATS = (  # for error messages
    f"{CSV} with the columns path and labels (names separated by {SEPARATOR}, or none; an optional column "
    "split has train, val or test), or COCO annotations in a .json file"
)


@dataclass(frozen=True)
class Entry:
    """An image's entry in an annotation file.

    Attributes:
        path: path as given in the file.
        labels: class names.
        official: `train`, `val` or `test` if the file assigns a split, else empty.
    """

    path: str
    labels: tuple[str, ...]
    official: str = ""


class Annotations:
    """Entries of one or more annotation files.

    Attributes:
        files: paths of the annotation files in the archive.
        unreadable: paths of JSON files that could not be read, for example because they are too large.
        unmatched: paths of entries for which `assign` found no image.
    """

    def __init__(self):
        self.files: list[str] = []
        self.unreadable: list[str] = []
        self.unmatched: list[str] = []
        self._entries: dict[str, Entry] = {}

    def add(self, path: str, data: bytes | str | None) -> bool:
        """Reads a file of the archive if it holds annotations; returns whether it does.

        Raises:
            UserError: the annotations are invalid.
        """
        where = PurePosixPath(path)
        if where.name != CSV and where.suffix != ".json":
            return False
        if not isinstance(data, bytes):
            if where.name != CSV:
                self.unreadable.append(path)
                return False
            raise UserError(f"{text.shortened(path, 200)} in the archive is unreadable or too large")
        entries = _csv(path, data) if where.name == CSV else _coco(path, data)
        if entries is None:
            return False
        self.files.append(path)
        for entry in entries:
            key = str(where.parent / entry.path)
            if key in self._entries:
                raise UserError(f"{text.shortened(path, 200)} lists {text.shortened(entry.path, 200)} twice")
            self._entries[key] = entry
        return True

    def assign(self, paths: Collection[str]) -> dict[str, Entry]:
        """Matches entries to images; returns the entries by the images' paths in the archive.

        First by paths relative to the annotation file; then by images' paths that end with an entry's path,
        if the match is unique both ways. Sets `unmatched`.
        """
        found = {path: self._entries[path] for path in paths if path in self._entries}
        by_name = defaultdict(list)
        for key, entry in self._entries.items():
            if key not in found:
                by_name[PurePosixPath(entry.path).name].append((key, f"/{entry.path}"))
        matches = defaultdict(list)
        for path in paths:
            if path not in found:
                keys = [key for key, end in by_name[PurePosixPath(path).name] if f"/{path}".endswith(end)]
                if len(keys) == 1:
                    matches[keys[0]].append(path)
        unique = {key: matched[0] for key, matched in matches.items() if len(matched) == 1}
        self.unmatched = [
            entry.path for key, entry in self._entries.items() if key not in found and key not in unique
        ]
        return found | {path: self._entries[key] for key, path in unique.items()}


def _csv(path: str, data: bytes) -> list[Entry]:
    """The entries of a ``labels.csv``; raises UserError if it is invalid."""
    shown = text.shortened(path, 200)
    try:
        columns, *lines = tables.parse(io.StringIO(data.decode("utf-8-sig"), newline="")) or [[]]
    except ValueError as error:
        raise UserError(f"{shown} is not a CSV file in UTF-8 ({text.shortened(str(error), 100)})") from error
    if not {"path", "labels"} <= set(columns) or len(set(columns)) < len(columns):
        raise UserError(f"{shown} has columns {text.shortened(', '.join(columns), 100)}; expected {FORMATS}")
    entries = []
    for number, line in enumerate(lines, start=2):
        row = dict(zip(columns, line, strict=False))
        official = row.get("split", "").strip().lower()
        if len(line) != len(columns):
            raise UserError(
                f"{shown}, line {number}: {len(columns)} columns, but cells: {len(line)}; put several labels "
                f"into one cell, separated by {SEPARATOR}"
            )
        if not row["path"] or official not in SPLITS:
            raise UserError(f"{shown}, line {number}: needs a path, and train, val, test or nothing as split")
        names = tuple(name.strip() for name in row["labels"].split(SEPARATOR) if name.strip())
        entries.append(Entry(str(PurePosixPath(row["path"])), tuple(dict.fromkeys(names)), official))
    return entries


def _coco(path: str, data: bytes) -> list[Entry] | None:
    """The entries of a COCO file; None for other JSON. Raises UserError if the annotations are invalid."""
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
            raise TypeError("a category name is not a string")
        if len(names) < len(tree["categories"]) or len(found) < len(tree["images"]):
            raise TypeError("duplicate id")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{text.shortened(path, 200)} is not a valid COCO file ({text.shortened(repr(error), 100)})"
        ) from error
    return entries
