"""Opens the catalog's database, migrates it, and gives transactions."""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError
from sqlalchemy.orm import Session

from catalog.store import address, engine, failures
from catalog.store.engine import BUSY_SECONDS
from catalog.store.failures import UnavailableError
from catalog.store.fair_lock import FairLock
from catalog.store.session import CatalogSession
from pipeline.common.errors import UserError

MIGRATIONS = Path(__file__).parents[1] / "migrations"
_READS = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# Each statement sees what was committed before it, and nobody else commits: as good as serializable.
_WRITES = {"isolation_level": "READ COMMITTED"}


class Database:
    """Transactions on one database; both methods raise `UnavailableError` while it can't be used."""

    def __init__(self, connected: Engine):
        self.engine = connected
        options = (_READS, _WRITES) if self.is_postgresql else ({}, {})
        self._reading = connected.execution_options(**options[0])
        self._writing = connected.execution_options(writes=True, **options[1])
        self._writers = FairLock()  # of this process; the database keeps those of others apart

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @property
    def name(self) -> str:
        """Its file or URL, without a password."""
        return address.shown(self.engine.url)

    @property
    def place(self) -> str:
        """Its file, or server and name, for messages: two may have the same."""
        return address.place(self.engine.url)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one state of the database; nothing is kept of what is changed in it."""
        with failures.translated(), CatalogSession(self._reading) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that is committed at the end, or rolled back on an error.

        There is one writer at a time, in PostgreSQL as in SQLite: what a transaction has read stays true
        until its end. It takes the lock at its start: one of SQLite that reads first and upgrades its lock
        later fails at once if another has written in between.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._writers.hold(BUSY_SECONDS))
            except TimeoutError as error:
                raise failures.busy() from error
            with failures.translated(), CatalogSession(self._writing) as session, session.begin():
                yield session

    def close(self) -> None:
        self.engine.dispose()


def open_database(where: Path | str) -> Database:
    """Opens the database, after creating its tables or migrating them to the current version.

    Args:
        where: a file of SQLite, or a URL.

    Raises:
        UnavailableError: it can't be reached.
        UserError: it is no database of the catalog, or is of a newer version; or the driver is missing.
    """
    url = address.url_of(where)
    # Alembic replaces tables of SQLite to change them, which foreign keys would refuse.
    migrating = engine.create(url, foreign_keys=False)
    try:
        with _alone(url), migrating.connect() as connection:
            if migrating.dialect.name == "postgresql":
                _prepare(connection, url)
            _migrate(connection, url)
            connection.commit()
    except (DatabaseError, InterfaceError) as error:
        raise explained(error, url) from error
    finally:
        migrating.dispose()
    return Database(engine.create(url))


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """Keeps other processes from migrating the same file of SQLite."""
    if url.get_backend_name() != "sqlite":
        yield
        return
    file = Path(f"{url.database}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()  # FileLock would wait for a file that can't be made
        lock = FileLock(file)
        lock.acquire(timeout=BUSY_SECONDS)
    except Timeout as error:
        raise failures.busy() from error
    except OSError as error:
        message = f"the database {url.database} can't be opened ({error.strerror}: {file})"
        raise UserError(f"{message}; correct the path, or the permissions of its folder") from error
    try:
        yield
    finally:
        lock.release()


def _prepare(connection: Connection, url: URL) -> None:
    """Waits for other processes that migrate the same database, and checks that it can hold any text."""
    # Others wait as long as a migration takes, and none of its statements is cut off.
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({engine.MIGRATION})")
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        message = f"the database {address.shown(url)} has the encoding {encoding}"
        raise UserError(f"{message}; create it with: ENCODING 'UTF8' TEMPLATE template0")


def _migrate(connection: Connection, url: URL) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        message = "is of a newer version of this project; update the checkout"
        raise UserError(f"{address.shown(url)} {message}")
    config.attributes["connection"] = connection
    logging.getLogger("alembic").setLevel(logging.WARNING)  # else each start logs two lines
    command.upgrade(config, "head")


def explained(error: DBAPIError, url: URL) -> UserError:
    """Why a database can't be opened, and what to do."""
    name, reason = address.shown(url), failures.reason(error)
    if url.get_backend_name() == "sqlite":
        return failures.of_file(error.orig, name)
    if any(words in reason for words in ("connection option", "bad value for", "invalid value for")):
        return UserError(f"the database {name} can't be opened ({reason}); correct the URL's parameters")
    if failures.is_unavailable(error):
        advice = "start the server or correct the URL"
        if "password" in reason:
            advice = "put the password into the file that PGPASSFILE names, or into the URL"
        elif "does not exist" in reason:
            advice = "create it, see docs/catalog.md"
        return UnavailableError(f"the database {name} can't be opened ({reason}); {advice}")
    advice = "name an empty database that belongs to the role"
    return UserError(f"the database {name} can't hold the catalog ({reason}); {advice}")
