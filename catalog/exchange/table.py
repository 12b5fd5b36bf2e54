"""Labels in CSV files: a column that names the image, and one with its class or classes."""

import csv
import io
from collections.abc import Iterator

from catalog.exchange.records import Format, LabelFile, Problem, Record, checked, record
from catalog.language import _
from pipeline import tasks
from pipeline.common import text
from pipeline.common.errors import UserError

DELIMITERS = (",", ";", "\t", "|")
HASHES = ("sha256", "hash")
PATHS = ("path", "file", "filename", "file_name", "image", "image_path")
LABELS = ("labels", "label", "classes", "class", "category")
STATUS = "status"
FORMULA = "=+-@\t\r"  # with which a spreadsheet's formula begins


def unescaped(value: str) -> str:
    """A value without the apostrophe that keeps a spreadsheet from running it; see `escaped`."""
    return value[1:] if value[:1] == "'" and value[1:2] and value[1] in FORMULA else value


def escaped(value: str) -> str:
    """The value with an apostrophe before it if a spreadsheet would take it for a formula."""
    return f"'{value}" if value and value[0] in FORMULA else value


def read(content: str) -> LabelFile:
    """Reads a CSV file with a header.

    Raises:
        UserError: the header has no such columns, or the file is no CSV.
    """
    delimiter, header = _header(content)
    try:
        return LabelFile(Format.TABLE, checked(_records(content, delimiter, header)))
    except csv.Error as error:
        raise UserError(_("the CSV file is damaged: {reason}").format(reason=error)) from None


def _header(content: str) -> tuple[str, list[str]]:
    """The delimiter, and the names of the columns."""
    first = content.lstrip("\r\n").split("\n", 1)[0]
    for delimiter in DELIMITERS:
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


def _records(content: str, delimiter: str, header: list[str]) -> Iterator[Record]:
    hashed, labels = _column(header, HASHES), _column(header, LABELS)
    paths = [number for number, name in enumerate(header) if name in PATHS]
    status = _column(header, (STATUS,))
    reader = csv.reader(io.StringIO(content.lstrip("\r\n"), newline=""), delimiter=delimiter, strict=True)
    next(reader)
    for row in reader:
        where = reader.line_num
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
