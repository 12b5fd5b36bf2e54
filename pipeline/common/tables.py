"""CSV files that are safe to open in spreadsheets, and read back unchanged.

A spreadsheet evaluates a cell that begins with ``=``, ``+``, ``-`` or ``@`` (OWASP, "CSV injection"). Such
text is prefixed with an apostrophe, the spreadsheet mark for text; text that already has apostrophes before
such a character gets one more, so that reading can remove exactly one. Numbers are written unchanged.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

# Includes full-width forms, which some spreadsheets evaluate too.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def protect(cell: object) -> object:
    """Prefixes text that a spreadsheet would evaluate with an apostrophe; returns other cells unchanged."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unprotect(cell: str) -> str:
    """Reverts `protect`; leaves unprotected text unchanged."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def writer(stream: TextIO) -> Callable[[Iterable[object]], None]:
    """A function that writes a row of protected cells to `stream`."""
    minimal = csv.writer(stream, lineterminator="\n")
    quoting = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write_row(cells: Iterable[object]) -> None:
        row = [protect(cell) for cell in cells]
        # csv.writer quotes a \n, its own line terminator, but not a \r.
        (quoting if any("\r" in str(cell) for cell in row) else minimal).writerow(row)

    return write_row


def write(file: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """Writes rows under a header.

    Args:
        file: the path.
        rows: cells by column; missing cells are left empty.
        columns: the columns in order; by default all keys in order of first appearance.
    """
    columns = list(columns or dict.fromkeys(key for row in rows for key in row))
    with open(file, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        write_row = writer(stream)
        write_row(columns)
        for row in rows:
            write_row(row.get(column, "") for column in columns)


def read(file: Path) -> list[dict[str, str]]:
    """Reads the rows of a file as cells by column.

    Raises:
        ValueError: it is not CSV.
    """
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        try:
            columns, *lines = parse(stream) or [[]]
        except ValueError as error:
            raise ValueError(f"{file} is no CSV ({error})") from error
    empty = dict.fromkeys(columns, "")
    return [empty | dict(zip(columns, line, strict=False)) for line in lines]


def parse(stream: Iterable[str]) -> list[list[str]]:
    """The unprotected cells of each non-empty line, including the header.

    Raises:
        ValueError: it is not CSV.
    """
    try:
        return [[unprotect(cell) for cell in line] for line in csv.reader(stream) if line]
    except csv.Error as error:
        raise ValueError(str(error)) from error
