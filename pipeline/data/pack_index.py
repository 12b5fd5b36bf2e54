"""Format of the pack's index and of ``split.csv``, shared by their writers and readers."""

import hashlib
import json
from pathlib import Path

from pipeline.common import tables
from pipeline.common.errors import UserError

VERSION = 3  # increased when the format of pixels or index changes
# Read as text even if they look like numbers: folders named 001 or None are classes too.
# In multi-label data, `label` has any number of names joined by `tasks.SEPARATOR`. `boxes` is reserved for
# bounding boxes and still empty.
TEXT_COLUMNS = ("path", "label", "species", "breed", "official", "boxes", "sha256", "phash")
NUMBER_COLUMNS = ("height", "width", "offset")
IDENTITY = ("sha256", "label")  # columns that identify an image; its path may change


def content_hash(table, *extra: str) -> str:
    """SHA-256 of a set of labelled images, independent of paths, order and timestamps.

    Args:
        table: DataFrame or dict of lists, a row per image, with the columns `IDENTITY`.
        extra: names of further columns to include.
    """
    rows = zip(*(table[column] for column in (*IDENTITY, *extra)), strict=True)
    return hashlib.sha256("".join(sorted(" ".join(row) + "\n" for row in rows)).encode()).hexdigest()


def read_summary(pack: Path) -> dict:
    """The contents of ``pack.json``.

    Raises:
        UserError: the pack was written by another version of this project.
    """
    summary = json.loads((pack / "pack.json").read_text(encoding="utf-8"))
    if summary.get("schema") != VERSION:
        raise UserError(f"{pack} was written by another version of this project; run: dvc repro pack")
    return summary


def read_index(pack: Path):
    """The pack's index as a DataFrame, a row per image, sorted by path."""
    return _read(pack / "index.csv", TEXT_COLUMNS)


def read_split(file: Path):
    """``split.csv`` as a DataFrame: path, label, group and split, in the index's order."""
    return _read(file, ("path", "label", "split"))


def _read(file: Path, text: tuple[str, ...]):
    """Reads a table that `tables.write` wrote; the columns in `text` are not converted."""
    import pandas

    table = pandas.read_csv(file, keep_default_na=False, dtype=dict.fromkeys(text, str))
    for column in text:
        table[column] = table[column].map(tables.unprotect)
    return table
