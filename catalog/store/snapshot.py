"""One state of the database as a file of SQLite, made while people label."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from catalog.store import copying
from catalog.store.database import Database, open_database

_COMPANIONS = ("-wal", "-shm", ".lock")  # of a file of SQLite that was opened


def write(database: Database, file: Path) -> None:
    """Writes a snapshot, whatever the database is, and waits until it is on the disk.

    Args:
        database: the catalog's; people can go on labeling.
        file: must not exist.

    Raises:
        OSError: it can't be written, or is damaged.
    """
    with _os_errors(file):
        if database.is_postgresql:
            with opened(file) as copy:
                copying.copy(database, copy)
        else:
            source = database.engine.raw_connection()
            with closing(source), closing(sqlite3.connect(file)) as target:
                # In one step: on one state, without holding up writers.
                source.driver_connection.backup(target)
            _make_single(file)
        with closing(sqlite3.connect(file)) as written:
            found = written.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise OSError(f"the snapshot {file} is damaged: {found}")
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def opened(file: Path) -> Iterator[Database]:
    """A database in a file, which is one file again afterwards.

    Raises:
        OSError: it can't be made one file.
    """
    database = open_database(file)
    try:
        yield database
    finally:
        database.close()
        with _os_errors(file):
            _make_single(file)


@contextmanager
def _os_errors(file: Path) -> Iterator[None]:
    """Turns errors of SQLite into an OSError that names the file: callers know no database."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"the snapshot {file} can't be written: {error}") from error


def _make_single(file: Path) -> None:
    """Writes everything into the file itself, and deletes its companions."""
    with closing(sqlite3.connect(file)) as written:
        written.execute("PRAGMA journal_mode = DELETE")
    for companion in _COMPANIONS:
        file.with_name(file.name + companion).unlink(missing_ok=True)
