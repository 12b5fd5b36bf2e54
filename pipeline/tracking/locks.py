"""Locks on MLflow's store, between the programs of this project that write into it."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.tracking.address import local_file, shown

WAIT = 3600  # seconds to wait for another program of ours that writes; it may be uploading to a server
NOTICE = 3  # seconds after which it is said that there is something to wait for
_wait: float = WAIT


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Within, another program's lock is waited for so long at most."""
    global _wait
    before, _wait = _wait, seconds
    try:
        yield
    finally:
        _wait = before


@contextmanager
def creating() -> Iterator[None]:
    """The lock between a search and the creation that follows from it, held for moments only.

    MLflow has none: two programs that search, find nothing and create would double runs and versions. All
    programs that use the same SQLite file share it, whatever checkout they belong to; with a server it is
    shared by the programs on this machine alone, so what is created there is looked for once more.

    Raises:
        UserError: another program holds it for too long, or it can't be made.
    """
    with _locked(""):
        yield


@contextmanager
def writing() -> Iterator[None]:
    """The lock on writing a run or a version from its files, uploads included; taken before `creating`.

    Raises:
        UserError: as `creating`.
    """
    with _locked(".writing"):
        yield


@contextmanager
def _locked(kind: str) -> Iterator[None]:
    from filelock import Timeout

    file = local_file() or _of_server()
    lock = _lock(file.with_name(f"{file.name}{kind}.lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=min(NOTICE, _wait))
        except Timeout:
            if _wait > NOTICE:
                print(f"waiting for another program that writes to MLflow at {shown()}", file=sys.stderr)
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


def _of_server() -> Path:
    """A name in a folder of this user's own: in a shared one anybody could have put something there."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as in some containers
        folder = paths.main_checkout() / "data/.cache"
    return folder / "petfaces" / hashlib.sha256(shown().encode()).hexdigest()[:16]


@cache
def _lock(file: Path):
    """One instance a file: it may be taken again by the thread that holds it, and by no other."""
    from filelock import FileLock

    return FileLock(file)
