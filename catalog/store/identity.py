"""By what a folder and a backup know the catalog's database, wherever it is and whatever it is called."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import DatabaseError, InterfaceError
from sqlalchemy.orm import Session

from catalog.store import address, database, engine
from catalog.store.tables import Identity, Image


@dataclass(frozen=True)
class Found:
    """What is in a database before the catalog changes anything in it.

    Attributes:
        is_catalog: whether it has a catalog's tables.
        identity: of `Identity.database`; empty in one of an older version.
        has_images: whether any project has an image.
    """

    is_catalog: bool = False
    identity: str = ""
    has_images: bool = False


def of(session: Session) -> Identity:
    """The database's only row of identities."""
    return session.scalars(select(Identity)).one()


def are_same(one: database.Database, other: database.Database) -> bool:
    """Whether two are the same database, perhaps by different names."""
    with one.read() as session, other.read() as second:
        return of(session).database == of(second).database


def look(where: Path | str) -> Found:
    """Looks into a database; neither creates nor migrates it.

    Args:
        where: a file of SQLite, or a URL.

    Raises:
        UserError: it can't be reached, or is damaged.
    """
    url = address.url_of(where)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite and not (Path(url.database).is_file() and Path(url.database).stat().st_size):
        return Found()
    looking = engine.existing_sqlite(url) if is_sqlite else engine.create(url)
    try:
        with contextlib.closing(looking.connect()) as connection:
            return _found(connection)
    except (DatabaseError, InterfaceError) as error:
        raise database.explained(error, url) from error
    finally:
        looking.dispose()


def _found(connection: Connection) -> Found:
    tables = set(inspect(connection).get_table_names())
    if not {"alembic_version", "project", "image"} <= tables:
        return Found()
    known = connection.scalar(select(Identity.database)) if "identity" in tables else None
    has_images = connection.scalar(select(Image.id).limit(1)) is not None
    return Found(True, known or "", has_images)
