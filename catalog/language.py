"""The language of the texts that people see: English, which is in the code, or a translation of it.

Translations are gettext catalogues in ``catalog/locale``. A request's language is in a context variable, so
texts can be translated where they are made; outside of requests they are English.
"""

import contextlib
import functools
import gettext as standard
import hashlib
import io
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from babel import dates, numbers
from babel.messages import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

ENGLISH = "en"
LANGUAGES = {ENGLISH: "English", "nl": "Nederlands"}  # by code, each named in itself
LOCALE = Path(__file__).parent / "locale"
DOMAIN = "catalog"

_current: ContextVar[str] = ContextVar("language", default=ENGLISH)


def current() -> str:
    """The code of the present language."""
    return _current.get()


@contextlib.contextmanager
def using(language: str) -> Iterator[None]:
    """Sets the language of what runs in the context."""
    token = _current.set(language)
    try:
        yield
    finally:
        _current.reset(token)


def file(language: str) -> Path:
    """The file of a translation."""
    return LOCALE / language / "LC_MESSAGES" / f"{DOMAIN}.po"


@functools.cache
def translation(language: str) -> Catalog:
    """The messages of a translation; none for English."""
    if language == ENGLISH:
        return Catalog(ENGLISH)
    with open(file(language), "rb") as source:
        return read_po(source, locale=language)


@functools.cache
def _translations(language: str) -> standard.NullTranslations:
    if language == ENGLISH:
        return standard.NullTranslations()
    compiled = io.BytesIO()
    write_mo(compiled, translation(language))
    compiled.seek(0)
    return standard.GNUTranslations(compiled)


def gettext(message: str) -> str:
    """The message in the present language. Values are put in afterwards: ``_("{count} left").format(…)``."""
    return _translations(current()).gettext(message)


def ngettext(singular: str, plural: str, count: int) -> str:
    """The message for a number, in the present language."""
    return _translations(current()).ngettext(singular, plural, count)


def N_(text: str) -> str:  # noqa: N802 - gettext's name for it
    """Marks a text that is translated later."""
    return text


_ = gettext


def number(value: float) -> str:
    """A number in the present language: 1,234.5 or 1.234,5."""
    return numbers.format_decimal(value, locale=current())


def percent(share: float) -> str:
    """A share with at most one decimal in the present language: 12.5 % or 12,5 %."""
    return numbers.format_decimal(100 * share, "#,##0.#", locale=current()) + "\N{NO-BREAK SPACE}%"


def date(seconds: float) -> str:
    """The day of a time, such as Nov 30, 2026 or 30 nov 2026."""
    return dates.format_date(datetime.fromtimestamp(seconds), locale=current())


def ago(seconds: float) -> str:
    """A time in the past in the present language: 3 minutes ago."""
    return dates.format_timedelta(-max(1.0, seconds), add_direction=True, locale=current())


def moment(seconds: float) -> str:
    """A time, in seconds since 1970, as the date and time on this machine in the present language."""
    return dates.format_datetime(datetime.fromtimestamp(seconds), "medium", locale=current())


@functools.cache
def for_scripts(language: str) -> dict[str, str | tuple[str, ...]]:
    """Translations by English text; those of texts with a plural have two forms."""
    found = {}
    for message in translation(language):
        if message.id and message.string and not message.fuzzy:
            plural = isinstance(message.id, tuple)
            found[message.id[0] if plural else message.id] = (
                list(message.string) if plural else message.string
            )
    return found


@functools.cache
def version(language: str) -> str:
    """Changes with the translation, so that browsers can keep it."""
    return hashlib.sha256(file(language).read_bytes()).hexdigest()[:16]
