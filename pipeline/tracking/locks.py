"""Locks between the programs of this project that write to MLflow's store."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.tracking.address import display_uri, local_file

_log = logging.getLogger(__name__)

TIMEOUT = 3600  # seconds to wait for another of our programs, which may be uploading to a server
REPORT_AFTER = 3  # seconds after which the wait is reported
_timeout: float = TIMEOUT


@contextmanager
def lock_timeout(seconds: float) -> Iterator[None]:
    """Limits the wait for another program's lock within the context."""
    global _timeout
    previous, _timeout = _timeout, seconds
    try:
        yield
    finally:
        _timeout = previous


def creation_lock() -> AbstractContextManager[None]:
    """Locks a search and the creation that depends on its result; held only briefly.

    MLflow has no such lock: two programs that search, find nothing and create would duplicate runs and
    versions. It covers all programs that use the same SQLite file, from any checkout; with a server, only
    those on this machine, so callers search again after creating.

    Raises:
        UserError: another program holds the lock for too long, or it can't be created.
    """
    return _locked("")


def write_lock() -> AbstractContextManager[None]:
    """Locks the writing of a run or version, including uploads; acquired before `creation_lock`.

    Raises:
        UserError: see `creation_lock`.
    """
    return _locked(".writing")


@contextmanager
def _locked(kind: str) -> Iterator[None]:
    from filelock import Timeout

    file = local_file() or _server_lock_path()
    lock = _lock(file.with_name(f"{file.name}{kind}.lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=min(REPORT_AFTER, _timeout))
        except Timeout:
            if _timeout > REPORT_AFTER:
                _log.info("waiting for another program that writes to MLflow at %s", display_uri())
            lock.acquire(timeout=max(_timeout - REPORT_AFTER, 0))
    except Timeout as error:
        raise UserError(
            f"another program has been writing to MLflow at {display_uri()} for {_timeout:.0f} s; "
            "try again when it has ended"
        ) from error
    except OSError as error:
        raise UserError(
            f"MLflow at {display_uri()} can't be written to: {lock.lock_file}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _server_lock_path() -> Path:
    """Path of the lock file for a server, in this user's cache: other users can write to shared folders."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # no home directory, as in some containers
        folder = paths.main_checkout() / "data/.cache"
    return folder / "petfaces" / hashlib.sha256(display_uri().encode()).hexdigest()[:16]


@cache
def _lock(file: Path):
    """A lock, one instance per file: the thread that holds it can acquire it again."""
    from filelock import FileLock

    return FileLock(file)
