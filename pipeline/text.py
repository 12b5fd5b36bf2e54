"""Text that others wrote (class names, notes, file names, error messages), made safe for where it is shown.

Each kind of output has its own escape; `printable` comes first in all of them, so that no control character
reaches a terminal, a table or a log.
"""

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# Marks that reorder what stands around them: a name could look like another one (CVE-2021-42574).
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_MARKDOWN = re.compile(r"([\\`*{}\[\]|~$]|(?<!\w)_|_(?!\w))")  # an underscore within a word is one

_USER = re.compile(r"(\w[\w+.-]*://)([^\s/]*)@")
# SQLAlchemy takes a password as it is, where other addresses need "@" and "/" encoded.
_DATABASE = re.compile(r"((?:postgresql|mysql|mariadb|mssql|oracle)[\w+]*://[^\s:/@]*):\S*@")
_UNQUOTED = re.compile(r"(\w[\w+.-]*://[^\s/@:]+):(?!\d{1,5}/)[^\s@]*@")
_PARAMETER = re.compile(
    r"(?i)([?&](?:password|passwd|pwd|token|secret|api_?key|access_?key|signature)=)[^\s&#\"']+"
)


def unsafe(character: str) -> bool:
    """Whether a character must not reach a terminal as it is."""
    return unicodedata.category(character) in _UNSAFE or character in _BIDIRECTIONAL


def printable(text: object) -> str:
    r"""One line without control characters; those become their Python escapes, such as ``\x1b``."""
    return "".join(_escape(character) if unsafe(character) else character for character in str(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def rich(text: object) -> "Text":
    """For a cell of a Rich table: markup such as ``[red]`` is shown, not obeyed."""
    from rich.text import Text

    return Text(printable(text))


def markdown(text: object) -> str:
    """For a line or a table cell of Markdown: neither Markdown nor HTML in it has an effect."""
    escaped = _MARKDOWN.sub(r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def without_password(text: object) -> str:
    """Masks in each address of a text its password, or a lone token: ``user:password@``, ``?password=``."""
    masked = _DATABASE.sub(r"\1:***@", str(text))
    masked = _UNQUOTED.sub(r"\1:***@", _USER.sub(_mask, masked))
    return _PARAMETER.sub(r"\1***", masked)


def _mask(found: re.Match) -> str:
    scheme, user = found.groups()
    name, colon, _ = user.partition(":")
    return f"{scheme}{name}:***@" if colon else f"{scheme}***@"
