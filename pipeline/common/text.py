"""Escapes untrusted text (class names, notes, file names, error messages) for display.

Each output format has its own escaping; all apply `printable` first, so that no control character reaches a
terminal, a table or a log.
"""

import codecs
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# Marks that reorder adjacent text, so that one name can look like another (CVE-2021-42574).
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_MARKDOWN = re.compile(r"([\\`*{}\[\]|~$]|(?<!\w)_|_(?!\w))")  # an underscore within a word has no effect
_BLOCK = re.compile(r"^(\s*\d*)([#+\-.)]+)(?=\s|$)")  # starts a heading or a list
MAX_CLASS_NAME = 200  # characters; file systems allow 255 bytes

_USER = re.compile(r"(\w[\w+.-]*://)([^\s/]*)@")
# SQLAlchemy accepts raw "@" and "/" in passwords, which other URLs must percent-encode.
_DATABASE = re.compile(r"((?:postgresql|mysql|mariadb|mssql|oracle)[\w+]*://[^\s:/@]*):\S*@")
# "/" in a password of another URL, unless what follows the colon is a port.
_UNQUOTED = re.compile(r"(\w[\w+.-]*://[^\s/@:]+):(?!\d{1,5}/)[^\s@]*@")
_PARAMETER = re.compile(
    r"(?i)([?&][\w.-]*(?:password|passwd|pwd|token|secret|api_?key|access_?key|signature|credential|\bsig)=)"
    r"[^\s&#\"']+"
)


def unsafe(character: str) -> bool:
    """Whether a character must be escaped before it is shown on a terminal."""
    return unicodedata.category(character) in _UNSAFE or character in _BIDIRECTIONAL


def printable(text: object) -> str:
    r"""The text in one line, with control characters as Python escapes such as ``\x1b``."""
    return "".join(_escape(character) if unsafe(character) else character for character in str(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def lines(text: object) -> str:
    """Like `printable`, but keeps line breaks."""
    return "\n".join(map(printable, str(text).split("\n")))


def shortened(text: object, length: int) -> str:
    """Like `printable`, truncated to `length` characters."""
    shown = printable(text)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def listed(words: Sequence[str], count: int) -> str:
    """The first `count` words and the number of further ones: ``a, b, c and 4 more``."""
    return ", ".join(words[:count]) + (f" and {len(words) - count} more" if len(words) > count else "")


def path(name: str) -> str:
    r"""Escapes a path for tables: UTF-8, one line, and unique per path.

    A byte that is not UTF-8 becomes ``\xe4``, an unsafe character ``\n`` or ``\u202e``, and a backslash
    ``\\``, as in a shell's ``$'…'``. Other characters are unchanged.
    """
    return "".join(map(_escape_in_path, name))


def _escape_in_path(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code <= 0x9F:  # a control character: \x.. would denote a byte
        return f"\\u{code:04x}"
    return _escape(character) if unsafe(character) or character == "\\" else character


def class_name_problem(name: str) -> str | None:
    """Describes why a class name is invalid; None if it is valid.

    Class names appear in ``labels.txt``, as folders, in tables and on terminals. They have 1 to 200
    characters, without control characters, line breaks, bidirectional marks or bytes that are not UTF-8.
    """
    if not name.strip() or name in (".", ".."):
        return "is empty"
    if any(unicodedata.category(character) == "Cs" for character in name):
        return "is not UTF-8"
    if any(map(unsafe, name)):
        return "has control characters"
    if len(name) > MAX_CLASS_NAME:
        return f"has more than {MAX_CLASS_NAME} characters"
    return None


def folded(name: str) -> str:
    """The name without what `look_alikes` ignores."""
    lower = unicodedata.normalize("NFKC", name).casefold()
    return "".join(unicodedata.normalize("NFKC", lower).split())


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in case, whitespace, width or Unicode normalization."""
    groups = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def tolerant_output() -> None:
    """Makes stdout and stderr escape characters that they can't encode, instead of raising an error.

    Bytes of file names that are not UTF-8 are written unchanged.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_TOLERANT)


def _tolerate(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of `codecs`: the replacement of the character, and where encoding continues."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _escape(character), error.start + 1


_TOLERANT = "petfaces.tolerant"
codecs.register_error(_TOLERANT, _tolerate)


def html(value: object) -> object:
    """Escapes control characters; for jinja2's `finalize`, which runs before its HTML escaping."""
    return lines(value) if type(value) is str else value  # Markup is a subclass of str


def rich(text: object) -> "Text":
    """Text for a cell of a Rich table; markup such as ``[red]`` is shown literally."""
    from rich.text import Text

    return Text(printable(text))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Iterable[object]],
    title: str | None = None,
    right: Collection[str] = (),
    width: int | None = None,
) -> None:
    """Prints a table, at most as wide as the terminal.

    Args:
        columns: the headings.
        rows: cells as in `rich`.
        title: heading of the whole table.
        right: headings of the right-aligned columns.
        width: in characters, if the output is not a terminal; None: rich's default.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None if title is None else rich(title))
    for column in columns:
        table.add_column(rich(column), justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*map(rich, row))
    Console(width=None if sys.stdout.isatty() else width).print(table)


def markdown(text: object) -> str:
    """Escapes Markdown and HTML, for a line or a table cell of Markdown."""
    escaped = _MARKDOWN.sub(r"\\\1", printable(text))
    escaped = _BLOCK.sub(r"\1\\\2", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: object) -> str:
    """Formats inline code for a line or a table cell of Markdown."""
    shown = printable(text).replace("|", r"\|")  # GitHub splits table cells before parsing code
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def without_password(text: object) -> str:
    """Masks passwords and tokens in URLs, such as ``user:password@`` and ``?password=``."""
    masked = _DATABASE.sub(r"\1:***@", str(text))
    masked = _UNQUOTED.sub(r"\1:***@", _USER.sub(_mask, masked))
    return _PARAMETER.sub(r"\1***", masked)


def _mask(found: re.Match) -> str:
    scheme, user = found.groups()
    name, colon, _ = user.partition(":")
    return f"{scheme}{name}:***@" if colon else f"{scheme}***@"
