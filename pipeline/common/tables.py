"""CSV files that people open in spreadsheets: no cell runs as a formula, and every cell reads back unchanged.

A spreadsheet computes a cell that begins with ``=``, ``+``, ``-`` or ``@`` (OWASP, "CSV injection"). Such
text is written after an apostrophe, which a spreadsheet takes for "this is text"; text that already has
apostrophes before such a character gets one more, so that reading can remove exactly one. Numbers are written
as they are.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

# Their full-width forms count too: some spreadsheets take them for the same.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def protect(cell: object) -> object:
    """A cell as it is written: text that a spreadsheet would compute gets an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unprotect(cell: str) -> str:
    """Text as it was before `protect`; also of files that were written without it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def writer(stream: TextIO) -> Callable[[Iterable[object]], None]:
    """What writes a row of cells into a stream, protected."""
    usual = csv.writer(stream, lineterminator="\n")
    quoting = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write_row(cells: Iterable[object]) -> None:
        row = [protect(cell) for cell in cells]
        # csv quotes the line end that it writes itself, not the other one.
        (quoting if any("\r" in str(cell) for cell in row) else usual).writerow(row)

    return write_row


def write(file: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """Writes rows under a header.

    Args:
        file: where to.
        rows: cells by column; what a row lacks is left empty.
        columns: which, in this order; default: all keys, in the order in which they first appear.
    """
    columns = list(columns or dict.fromkeys(key for row in rows for key in row))
    with open(file, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        write_row = writer(stream)
        write_row(columns)
        for row in rows:
            write_row(row.get(column, "") for column in columns)


def append(file: Path, row: Mapping[str, object]) -> None:
    """Adds a row to a file, and before it a header where there is no file yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = not file.is_file()
    with open(file, "a", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        write_row = writer(stream)
        if fresh:
            write_row(row)
        write_row(row.values())


def read(file: Path) -> list[dict[str, str]]:
    """Rows of a file, by column.

    Raises:
        ValueError: it is no CSV.
    """
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        try:
            columns, *lines = parse(stream) or [[]]
        except ValueError as error:
            raise ValueError(f"{file} is no CSV ({error})") from error
    empty = dict.fromkeys(columns, "")
    return [empty | dict(zip(columns, line, strict=False)) for line in lines]


def parse(stream: Iterable[str]) -> list[list[str]]:
    """The cells of each line that has any, the header's first.

    Raises:
        ValueError: it is no CSV.
    """
    try:
        return [[unprotect(cell) for cell in line] for line in csv.reader(stream) if line]
    except csv.Error as error:
        raise ValueError(str(error)) from error
