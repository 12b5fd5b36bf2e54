"""What goes wrong between the catalog and its database, as errors that people understand."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from catalog.language import _
from pipeline.common.errors import UserError

# SQLite reports mistakes of the program as OperationalError, too; these are none. With what to do.
_ADVICE = {
    "SQLITE_BUSY": "another program uses it: try again in a moment",
    "SQLITE_LOCKED": "another program uses it: try again in a moment",
    "SQLITE_FULL": "free space on its disk",
    "SQLITE_IOERR": "check its disk",
    "SQLITE_READONLY": "check the permissions of the file and its folder",
    "SQLITE_CANTOPEN": "check the permissions of the file and its folder",
}
_IS_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "55P03", "57014", "40001", "40P01")  # and PostgreSQL's codes
_OUT_OF_RANGE = "22003"

_log = logging.getLogger(__name__)


class UnavailableError(UserError):
    """The database can't be reached or is busy. The same request may succeed later."""


def busy() -> UnavailableError:
    """The error of somebody who has waited too long for others."""
    return UnavailableError(_("the database is busy; try again in a moment"))


def reason(error: DBAPIError) -> str:
    """The first line of what the database says."""
    lines = [line.strip() for line in str(error.orig).splitlines() if line.strip()]
    return (lines or [type(error.orig).__name__])[0]


def is_unavailable(error: DBAPIError) -> bool:
    """Whether the database, and not the statement, is the cause."""
    if name := getattr(error.orig, "sqlite_errorname", ""):
        return name.startswith(tuple(_ADVICE))
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def of_file(error: BaseException, name: str) -> UserError:
    """Why a file of SQLite can't be opened, and what to do; never to move it away, since labels are in it."""
    code = getattr(error, "sqlite_errorname", "")
    for start, advice in _ADVICE.items():
        if code.startswith(start):
            return UnavailableError(f"the database {name} can't be opened ({error}); {advice}")
    advice = "restore a backup into an empty folder, see docs/catalog.md, and leave this one as it is"
    return UserError(f"{name} is damaged, or is no database of the catalog ({error}); {advice}")


@contextmanager
def translated() -> Iterator[None]:
    """Turns errors of the database into those that handlers and the helper know.

    Raises:
        UnavailableError: the database can't be reached, or is busy.
        OverflowError: a number that no column can hold; SQLite's driver raises this one by itself.
        UserError: a text that no column can hold.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise busy() from error
    except DataError as error:
        if getattr(error.orig, "sqlstate", None) == _OUT_OF_RANGE:
            raise OverflowError(reason(error)) from error
        message = _("a text is too long, or has characters that the database can't store")
        raise UserError(message) from error
    except DBAPIError as error:
        if not is_unavailable(error):
            raise
        _log.warning("the database: %s", reason(error))
        code = getattr(error.orig, "sqlite_errorname", "") or getattr(error.orig, "sqlstate", None) or ""
        if code.startswith(_IS_BUSY):
            raise busy() from error
        if code in ("SQLITE_FULL", "53100"):
            raise UnavailableError(_("the database's disk is full; nothing was saved")) from error
        raise UnavailableError(_("the database can't be reached; try again in a moment")) from error
