"""A private PostgreSQL server for tests; they are skipped where it is not installed."""

import contextlib
import functools
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "not:a/secret@all"  # characters that a URL must escape
USERS = ("postgres", "nobody")  # who run the server if the tests run as root, which it refuses
_numbers = itertools.count()


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`: the newest version's; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[4]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Server:
    """A server on a port of its own, which can be killed and started again.

    Args:
        fsync: whether it waits for the disk; only a power failure shows the difference.
    """

    def __init__(self, fsync: bool = False):
        self._folder = Path(tempfile.mkdtemp(prefix="petfaces-postgresql-"))
        self._data, self._programs, self._fsync = self._folder / "data", programs(), fsync
        self._process: subprocess.Popen | None = None
        self._as_user: dict[str, object] = {"cwd": self._folder}
        if os.getuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            entry = pwd.getpwnam(next(name for name in USERS if name in names))
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
            self._as_user |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        # An order of texts that differs from SQLite's shows which queries rely on it.
        options = ["--locale-provider=icu", "--icu-locale=en", "--encoding=UTF8", "--no-sync"]
        command = ["initdb", "-D", "data", "-U", "tests", "-A", "scram-sha-256", "--pwfile=password"]
        self._run(*command, *options)
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._as_user)
        if done.returncode:
            pytest.fail(f"{program}: {done.stderr}")

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "."}
        settings |= {"fsync": "on" if self._fsync else "off", "log_min_messages": "panic"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [self._programs / "postgres", "-D", "data", *options]
        log = open(self._folder / "log", "ab")  # noqa: SIM115
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_user)
        for _ in range(600):
            with contextlib.suppress(self._driver().OperationalError), self._admin():
                return
            time.sleep(0.05)
        pytest.fail(f"PostgreSQL didn't start: {(self._folder / 'log').read_text(errors='replace')}")

    def kill(self) -> None:
        """`kill -9` of all of its processes."""
        import psutil

        parent = psutil.Process(self._process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self._process.send_signal(signal.SIGQUIT)  # at once
        self._process.wait()
        shutil.rmtree(self._folder)

    @staticmethod
    def _driver():
        return pytest.importorskip("psycopg", reason="psycopg is not installed")

    def _admin(self):
        return self._driver().connect(
            host="127.0.0.1",
            port=self.port,
            user="tests",
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
        )

    def execute(self, statement: str) -> None:
        """Runs a statement as the administrator."""
        with self._admin() as connection:
            connection.execute(statement)

    def url(self, name: str) -> str:
        """The URL of one of its databases."""
        from urllib.parse import quote

        return f"postgresql://tests:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{name}"

    @functools.cached_property
    def _template(self) -> str:
        """A database with the catalog's tables, copied for each test."""
        from catalog.store import open_database

        self.execute("CREATE DATABASE migrated TEMPLATE template0")
        open_database(self.url("migrated")).close()
        return "migrated"

    def create(self, migrated: bool = True) -> str:
        """The URL of a new database, with the catalog's tables or empty."""
        template = self._template if migrated else "template0"
        name = f"test_{next(_numbers)}_{secrets.token_hex(4)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@functools.cache
def _of_session() -> Server:
    import atexit

    server = Server()
    atexit.register(server.close)
    return server


def skip_if_missing() -> None:
    """Skips a test where PostgreSQL or its driver is not installed."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")


def session_server() -> Server:
    """The server that all tests of this process share; skips the test where there is none."""
    skip_if_missing()
    return _of_session()


@contextlib.contextmanager
def own_server() -> Iterator[Server]:
    """A server that a test may kill, with durable commits."""
    skip_if_missing()
    server = Server(fsync=True)
    try:
        yield server
    finally:
        server.close()
