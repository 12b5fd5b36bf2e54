"""Where a catalog's database is: a file of SQLite, or a database of a PostgreSQL server."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from pipeline.common import text
from pipeline.common.errors import UserError

# Messages mask what stands before "@".
_EXAMPLE = "postgresql://localhost/catalog?user=petfaces"
_SHOWN = {"host", "hostaddr", "port", "dbname", "service", "sslmode", "user"}  # parameters in messages


def url_of(where: Path | str) -> URL:
    """The URL for SQLAlchemy.

    Args:
        where: a file, or a URL such as ``postgresql://USER@HOST/NAME`` or ``sqlite:///FILE``.

    Raises:
        UserError: it is no URL of PostgreSQL or SQLite, or part of its password would be taken for a host.
    """
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):  # names a port that is no number, for example
        raise UserError(f"the database's URL can't be read; it looks like {_EXAMPLE}") from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return URL.create("sqlite", database=str(Path(url.database).absolute()))
    if "@" in (url.host or "") + (url.database or ""):
        raise UserError(
            "the database's URL has a second @; write an @ of its password as %40, and a / as %2F"
        )
    if backend in ("postgresql", "postgres"):  # libpq accepts both
        return url.set(drivername="postgresql+psycopg")
    raise UserError(f"{text.shortened(backend, 40)} is no database of the catalog; use a URL like {_EXAMPLE}")


def shown(url: URL) -> str:
    """The database's name for messages, without a password; a mistyped parameter might hold one."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    url = url.difference_update_query(url.query.keys() - _SHOWN)
    plain = url.set(drivername="postgresql").render_as_string(hide_password=True)
    return text.without_password(plain)


def place(url: URL) -> str:
    """Where the database is, for messages: services and other parameters may lead two URLs to one name."""
    return shown(url.set(username=None, password=None, query={}))
