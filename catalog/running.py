"""Whether a catalog's folder is in use: one server at a time, and none while its database is replaced."""

import contextlib
from collections.abc import Iterator

from filelock import FileLock, Timeout

from catalog.library import Library
from pipeline.common.errors import UserError

_SERVER, _HELPER = "server.lock", "helper.lock"  # a helper may outlive a server that was killed


@contextlib.contextmanager
def server(library: Library) -> Iterator[None]:
    """Held by the server as long as it runs.

    Raises:
        UserError: another one runs, or the database is being copied or restored.
    """
    with _held(library, _SERVER, "is running already, or its database is being copied"):
        yield


@contextlib.contextmanager
def stopped(library: Library) -> Iterator[None]:
    """Keeps the catalog from being started meanwhile.

    Raises:
        UserError: it runs.
    """
    message = "is running; stop it first"
    with _held(library, _SERVER, message), _held(library, _HELPER, message):
        yield


@contextlib.contextmanager
def _held(library: Library, name: str, message: str) -> Iterator[None]:
    try:
        library.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # nobody else may see the images
        lock = FileLock(library.folder / name)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"the catalog in {library.folder} {message}") from None
    except OSError as error:
        raise UserError(f"{library.folder}: {error.strerror or error}; name another folder") from error
    try:
        yield
    finally:
        lock.release()
