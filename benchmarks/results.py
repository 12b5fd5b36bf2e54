"""CSV files with one row per trial, so that an interrupted benchmark can resume."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.common import tables


def add_row(file: Path, row: Mapping[str, object]) -> None:
    """Appends a row to a file; writes the header first if the file is new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    is_new = not file.is_file()
    with open(file, "a", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        write_row = tables.writer(stream)
        if is_new:
            write_row(row)
        write_row(row.values())
