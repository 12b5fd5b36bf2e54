"""Connections to SQLite and PostgreSQL that behave alike: one writer at a time, and durable commits."""

import sqlite3
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from pipeline.common.errors import UserError

BUSY_SECONDS = 30  # a writer waits this long for another one
STATEMENT_SECONDS = 300  # no statement of the catalog takes nearly as long
CONNECT_SECONDS = 5
# A server may have 64 requests at once. The first connections are kept open.
KEPT, MORE = 16, 56
WRITER = 0x7065746661636573  # PostgreSQL's advisory lock of the one who writes
MIGRATION = WRITER + 1  # and of the one who creates or changes the tables


def create(url: URL, foreign_keys: bool = True) -> Engine:
    """An engine for one of the two databases.

    Transactions begin as `Database` asks by the execution option ``writes``.

    Args:
        url: of `address.url_of`.
        foreign_keys: whether SQLite checks them; PostgreSQL always does.

    Raises:
        UserError: the driver for PostgreSQL is not installed.
    """
    return _sqlite(url, foreign_keys) if url.get_backend_name() == "sqlite" else _postgresql(url)


def _sqlite(url: URL, foreign_keys: bool) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _) -> None:
        connection.isolation_level = None  # the sqlite3 module begins no transactions by itself
        connection.execute("PRAGMA journal_mode = WAL")  # readers don't wait for the writer
        connection.execute("PRAGMA synchronous = FULL")  # a committed label survives a power failure
        connection.execute("PRAGMA secure_delete = ON")  # what people delete is overwritten
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def existing_sqlite(url: URL) -> Engine:
    """An engine for a file of SQLite that is only looked at; it creates none, and changes no setting."""

    def connected() -> sqlite3.Connection:
        file = Path(url.database).absolute().as_uri()
        return sqlite3.connect(f"{file}?mode=rw", uri=True, timeout=BUSY_SECONDS)

    return create_engine("sqlite://", creator=connected, poolclass=NullPool)


def _postgresql(url: URL) -> Engine:
    arguments = {"connect_timeout": CONNECT_SECONDS, "application_name": "petfaces catalog"}
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    try:
        engine = create_engine(
            url,
            connect_args=arguments,
            pool_size=KEPT,
            max_overflow=MORE,
            pool_timeout=BUSY_SECONDS,
            pool_pre_ping=True,  # after a restart of the server, the first request connects again
            pool_use_lifo=True,
        )
    except ImportError as error:
        message = "PostgreSQL needs a driver, which is not installed: pip install -e '.[postgresql]'"
        raise UserError(message) from error

    @event.listens_for(engine, "connect")
    def connected(connection, _) -> None:
        connection.autocommit = True  # else a rollback would take the settings back
        connection.execute(
            f"SELECT set_config('lock_timeout', '{BUSY_SECONDS}s', false),"
            f" set_config('statement_timeout', '{STATEMENT_SECONDS}s', false),"
            f" set_config('idle_in_transaction_session_timeout', '{STATEMENT_SECONDS}s', false)"
        )
        # With `off` an answered label could be lost; a stricter setting of the administrator stays.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.autocommit = False

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("writes", False):
            # Waits until the last writer has committed; the statements after it see what that one wrote.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")

    return engine
