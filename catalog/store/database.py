"""Opens the catalog's database, migrates it, and gives transactions."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from catalog.store.session import CatalogSession
from pipeline.common.errors import UserError

MIGRATIONS = Path(__file__).parents[1] / "migrations"
BUSY_SECONDS = 30  # a writer waits this long for another one


class Database:
    """Transactions on one database."""

    def __init__(self, engine: Engine):
        self.engine = engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one state of the database; nothing is kept of what is changed in it."""
        with CatalogSession(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that is committed at the end, or rolled back on an error.

        SQLite has one writer at a time. The transaction takes the write lock at its start: one that reads
        first and upgrades its lock later fails at once if another has written in between.
        """
        with CatalogSession(self.engine.execution_options(writes=True)) as session, session.begin():
            yield session

    def close(self) -> None:
        self.engine.dispose()


def open_database(file: Path) -> Database:
    """Opens the database, after creating it or migrating it to the current version.

    Raises:
        UserError: the file is no database of the catalog, or is of a newer version.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Alembic replaces tables of SQLite to change them, which foreign keys would refuse.
    engine = _engine(file, foreign_keys=False)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    try:
        with FileLock(f"{file}.lock"), engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            if current is not None and current not in known:
                raise UserError(f"{file} is of a newer version of this project; update the checkout")
            config.attributes["connection"] = connection
            logging.getLogger("alembic").setLevel(logging.WARNING)  # else each start logs two lines
            command.upgrade(config, "head")
            connection.commit()
    except DatabaseError as error:
        raise UserError(f"{file} is no database of the catalog ({error.orig}); move it away") from error
    finally:
        engine.dispose()
    return Database(_engine(file, foreign_keys=True))


def _engine(file: Path, foreign_keys: bool) -> Engine:
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _) -> None:
        connection.isolation_level = None  # the sqlite3 module begins no transactions by itself
        connection.execute("PRAGMA journal_mode = WAL")  # readers don't wait for the writer
        connection.execute("PRAGMA synchronous = FULL")  # a committed label survives a power failure
        connection.execute("PRAGMA secure_delete = ON")  # what people delete is overwritten
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def begin(connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
