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
from pipeline.tracking.address import local_file, shown

_log = logging.getLogger(__name__)

WAIT = 3600  # seconds to wait for another of our programs, which may be uploading to a server
NOTICE = 3  # seconds after which the wait is reported
_wait: float = WAIT


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Limits the wait for another program's lock within the context."""
    global _wait
    previous, _wait = _wait, seconds
    try:
        yield
    finally:
        _wait = previous


def creating() -> AbstractContextManager[None]:
    """Locks a search and the creation that depends on its result; held only briefly.

    MLflow has no such lock: two programs that search, find nothing and create would duplicate runs and
    versions. All programs that use the same SQLite file share it, from any checkout; with a server, only
    those on this machine do, so callers search again after creating.

    Raises:
        UserError: another program holds the lock for too long, or it can't be created.
    """
    return _locked("")


def writing() -> AbstractContextManager[None]:
    """Locks the writing of a run or version from its files, uploads included; acquired before `creating`.

    Raises:
        UserError: as `creating`.
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
            lock.acquire(timeout=min(NOTICE, _wait))
        except Timeout:
            if _wait > NOTICE:
                _log.info("waiting for another program that writes to MLflow at %s", shown())
            lock.acquire(timeout=max(_wait - NOTICE, 0))
    except Timeout as error:
        raise UserError(
            f"another program has been writing to MLflow at {shown()} for {_wait:.0f} s; "
            "let it end, then try again"
        ) from error
    except OSError as error:
        raise UserError(
            f"MLflow at {shown()} can't be written to: {lock.lock_file}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _server_lock_path() -> Path:
    """Path in this user's own cache: in a shared folder, another user could have put something there."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # no home directory, as in some containers
        folder = paths.main_checkout() / "data/.cache"
    return folder / "petfaces" / hashlib.sha256(shown().encode()).hexdigest()[:16]


@cache
def _lock(file: Path):
    """One instance per file, so that only the thread that holds the lock can acquire it again."""
    from filelock import FileLock

    return FileLock(file)
