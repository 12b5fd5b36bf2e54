"""Labels in CSV files: a column that names the image, and one with its class or classes."""

import csv
import io
import re
from collections.abc import Iterator

from catalog.exchange.records import Format, LabelFile, Problem, Record, checked, record
from catalog.language import N_, _, number
from pipeline import tasks
from pipeline.common import text
from pipeline.common.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
HASHES = ("sha256", "hash")
PATHS = ("path", "file", "filename", "file_name", "image", "image_path")
LABELS = ("labels", "label", "classes", "class", "category")
STATUS = "status"
_START = re.compile(r"[\r\n]*")
_NEWLINE = re.compile(r"\r\n|\n|\r")
_SEPARATOR = re.compile(r"sep=([,;\t|])[ \t]*[\r\n]+", re.IGNORECASE)
_NOT_CLOSED = N_("a quotation mark is not closed")
_REASONS = {  # what is shown, by a part of what Python's parser says
    "unexpected end of data": _NOT_CLOSED,
    "expected after": N_("after a closing quotation mark comes something else than {delimiter}"),
    "field larger than": N_("a field is too long"),
    "NUL": N_("it has a character with the number 0"),
}
FORMULA = "=+-@\t\r"  # with which a spreadsheet's formula begins


def unescaped(value: str) -> str:
    """A value without the apostrophe that keeps a spreadsheet from running it; see `escaped`."""
    return value[1:] if value[:1] == "'" and value[1:2] and value[1] in FORMULA else value


def escaped(value: str) -> str:
    """The value with an apostrophe before it if a spreadsheet would take it for a formula."""
    return f"'{value}" if value and value[0] in FORMULA else value


def read(content: str) -> LabelFile:
    """Reads a CSV file with a header, which may follow after a line ``sep=;`` as Excel writes and reads it.

    Raises:
        UserError: the header has no such columns, or the file is no CSV.
    """
    skipped, delimiters = _START.match(content)[0], DELIMITERS
    if told := _SEPARATOR.match(content, len(skipped)):
        skipped, delimiters = skipped + told[0], (told[1],)
    content = content[len(skipped) :]
    delimiter, header = _header(content, delimiters)
    lines = len(_NEWLINE.findall(skipped))
    return LabelFile(Format.TABLE, checked(_records(content, lines, delimiter, header)))


def _header(content: str, delimiters: tuple[str, ...]) -> tuple[str, list[str]]:
    """The delimiter, and the names of the columns."""
    first = _NEWLINE.split(content, 1)[0]
    for delimiter in delimiters:
        try:
            names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
        except csv.Error:
            continue
        names = [name.strip().casefold() for name in names]
        if _column(names, HASHES + PATHS) is not None and _column(names, LABELS) is not None:
            for name in (*HASHES, *PATHS, *LABELS, STATUS):
                if names.count(name) > 1:
                    message = _("the CSV file has two columns named {name}")
                    raise UserError(message.format(name=name))
            return delimiter, names
    message = _(
        "the first line must name the columns: one of {images} for the image and one of {labels} for its "
        "label; it is: {line}"
    )
    raise UserError(
        message.format(
            images=", ".join(("sha256", *PATHS)), labels=", ".join(LABELS), line=text.shortened(first, 80)
        )
    )


def _column(names: list[str], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _rows(content: str, lines: int, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows, each with the line in which it ends.

    Args:
        content: from the header on.
        lines: before it.
        delimiter: between fields.

    Raises:
        UserError: a row is no CSV.
    """
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    start = 0
    while True:
        start = lines + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            known = next((reason for part, reason in _REASONS.items() if part in str(error)), None)
            line = start if known == _NOT_CLOSED else lines + reader.line_num
            message = _("line {line} of the CSV file can't be read: {reason}")
            reason = _(known).format(delimiter=delimiter) if known else str(error)
            raise UserError(message.format(line=number(line), reason=reason)) from None
        yield lines + reader.line_num, row


def _records(content: str, lines: int, delimiter: str, header: list[str]) -> Iterator[Record]:
    hashed, labels = _column(header, HASHES), _column(header, LABELS)
    paths = [column for column, name in enumerate(header) if name in PATHS]
    status = _column(header, (STATUS,))
    rows = _rows(content, lines, delimiter)
    next(rows)
    for where, row in rows:
        if not row:
            continue
        if len(row) != len(header):
            yield Record(
                where, paths=tuple(text.path(each[:200]) for each in row[:1]), problem=Problem.BAD_ROW
            )
            continue
        state = "" if status is None else row[status].strip().casefold()
        classes, problem = [], None
        if state not in ("", "labeled", "unknown"):
            problem = Problem.BAD_STATUS
        elif state != "unknown":
            value = unescaped(row[labels].strip())
            classes = [unescaped(each) for each in value.split(tasks.SEPARATOR)] if value else []
            if not classes and state != "labeled":
                problem = Problem.NO_LABEL
        sha256 = None if hashed is None else row[hashed].strip()
        # A path that begins with an apostrophe may be one that was escaped, or not.
        names = [each for column in paths for each in (unescaped(row[column]), row[column])]
        yield record(where, sha256, names, classes, state == "unknown", problem)
