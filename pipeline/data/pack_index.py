"""The pack's index, known to who writes it and to who reads it."""

import hashlib
import json
from pathlib import Path

from pipeline.common import tables
from pipeline.common.errors import UserError

VERSION = 3  # raised when pixels or index change their meaning
# Of text, even where it looks like numbers: folders called 001 and 002, or None, are classes too.
# `label` has several names with `tasks.SEPARATOR` between them, or none, where the task allows it; `boxes` is
# for where they are in the image, and empty yet.
TEXT = ("path", "label", "species", "breed", "official", "boxes", "sha256", "phash")
NUMBERS = ("height", "width", "offset")
PICTURE = ("sha256", "label")  # what a picture is known by; its path is a name that anyone may change


def content_hash(table, *more: str) -> str:
    """Hash of a set of pictures with their labels: neither paths, nor order, nor times count.

    Args:
        table: with the columns of `PICTURE`.
        more: further columns that count.
    """
    rows = zip(*(table[column] for column in (*PICTURE, *more)), strict=True)
    return hashlib.sha256("".join(sorted(" ".join(row) + "\n" for row in rows)).encode()).hexdigest()


def read_summary(pack: Path) -> dict:
    """What ``pack.json`` says.

    Raises:
        UserError: the pack is of another version of this project.
    """
    summary = json.loads((pack / "pack.json").read_text(encoding="utf-8"))
    if summary.get("schema") != VERSION:
        raise UserError(f"{pack} was written by another version of this project; run: dvc repro pack")
    return summary


def read_index(pack: Path):
    """The table of a pack's pictures, a row a picture, by path."""
    return _read(pack / "index.csv", TEXT)


def read_split(file: Path):
    """The table of an assignment: path, label, group and split, in the index's order."""
    return _read(file, ("path", "label", "split"))


def _read(file: Path, text: tuple[str, ...]):
    """A table whose columns of `text` are read as text, as `tables.write` wrote it."""
    import pandas

    table = pandas.read_csv(file, keep_default_na=False, dtype=dict.fromkeys(text, str))
    for column in text:
        table[column] = table[column].map(tables.unprotect)
    return table
