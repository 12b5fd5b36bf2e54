"""Artifact locations in MLflow's SQLite store.

MLflow stores absolute URIs, so the store of a copied or moved project still points to the original's folder:
it would write there, and loses its artifacts when that folder is deleted. `check` rejects such a store until
`rewrite`, called by ``petfaces tracking sync``, has pointed it to the folder next to it.
"""

import logging
import shlex
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

from pipeline.common import paths, text
from pipeline.common.errors import UserError
from pipeline.tracking.address import local_file
from pipeline.tracking.locks import creation_lock, write_lock

_log = logging.getLogger(__name__)

FOLDER = "mlartifacts"
# Tables and columns of MLflow's schema.
ROOT_COLUMN = ("experiments", "artifact_location")  # new runs inherit it
FOLDER_COLUMNS = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))  # a folder per row
SOURCE_COLUMNS = (("model_versions", "source"), ("model_versions", "storage_location"))
SYNC = "petfaces tracking sync"


def own_folder() -> Path | None:
    """The artifact folder next to a SQLite store; None for any other store."""
    file = local_file()
    return file.parent / FOLDER if file else None


def check() -> None:
    """Checks this checkout's own store; other stores may use any artifact folder.

    Raises:
        UserError: the store was copied or moved here and still points to the original's folder.
    """
    for root in _foreign_roots(_store()):
        raise UserError(
            f"MLflow's store {_store()} was copied or moved here from {text.printable(_path(root).parent)}, "
            f"where its files would still be written; run: {SYNC}"
        )


def rewrite() -> None:
    """Points this checkout's own store to the artifact folder next to it, after a backup of the database.

    Raises:
        UserError: the artifacts are not in that folder.
    """
    file = _store()
    if not _foreign_roots(file):
        return
    with write_lock(), creation_lock():
        roots = _foreign_roots(file)
        for root in roots:
            _check_files(file, root)
        backup = _back_up(file)
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            for root in roots:
                _replace(database, root, (file.parent / FOLDER).as_uri())
                _replace(database, str(_path(root)), str(file.parent / FOLDER))
            database.execute("COMMIT")
    _log.info(
        "MLflow's store had its artifacts in %s, from where it was copied or moved; now it uses %s (backup "
        "of the database: %s)",
        ", ".join(str(_path(root)) for root in roots),
        file.parent / FOLDER,
        backup.name,
    )


def _store() -> Path | None:
    """This checkout's own store if it exists and is in use, else None."""
    own = (paths.main_checkout() / "mlflow.db").resolve()
    return own if local_file() == own and own.is_file() else None


def _foreign_roots(file: Path | None) -> list[str]:
    """Artifact folders of other checkouts in a store, as the store spells them."""
    if file is None:
        return []
    own, (table, column) = file.parent / FOLDER, ROOT_COLUMN
    with suppress(sqlite3.DatabaseError), closing(_open(file)) as database:  # `store.check` reports these
        rows = database.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
        return sorted(
            root
            for (root,) in rows
            if root and _is_local(root) and _path(root).name == FOLDER and not _is_same(_path(root), own)
        )
    return []


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)


def _is_local(root: str) -> bool:
    return root.startswith("/") or (root.startswith("file:") and urlparse(root).netloc in ("", "localhost"))


def _path(root: str) -> Path:
    return Path(unquote(urlparse(root).path) if root.startswith("file:") else root)


def _is_same(first: Path, second: Path) -> bool:
    """Whether two paths are the same folder, also through links."""
    with suppress(OSError):
        return first.samefile(second)
    return first == second


def _check_files(file: Path, root: str) -> None:
    """Checks that the artifacts of runs and models are next to the store.

    Raises:
        UserError: some are only in the original's folder, or all are missing.
    """
    new, old = file.parent / FOLDER, _path(root)
    with closing(_open(file)) as database:
        expected = [
            unquote(address.removeprefix(root)).strip("/")
            for table, column in FOLDER_COLUMNS
            if column in _columns(database, table)
            for (address,) in database.execute(f"SELECT {column} FROM {table}")
            if address and address.startswith(f"{root}/")
        ]
    present = [path for path in expected if (new / path).is_dir()]
    missing = [path for path in expected if (old / path).is_dir() and path not in set(present)]
    if missing:
        raise UserError(
            f"{len(missing)} artifact folders of MLflow's store {file} are in {old} and not in {new}; copy "
            f"them, then run {SYNC} again: cp -Rn {shlex.quote(f'{old}/.')} {shlex.quote(str(new))}"
        )
    if expected and not present:
        raise UserError(
            f"MLflow's store {file} has its artifacts in {old}, but they are neither there nor in {new}; "
            f"copy {FOLDER}/ here, or move {file.name} away and run: {SYNC}"
        )


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def _back_up(file: Path) -> Path:
    """Copies the database to an unused name next to it; returns the copy's path."""
    names = (file.with_name(f"{file.name}.before-move{number or ''}") for number in range(1000))
    target = next(name for name in names if not name.exists())
    with closing(_open(file)) as database, closing(sqlite3.connect(target)) as copy:
        database.backup(copy)
    return target


def _replace(database: sqlite3.Connection, old: str, new: str) -> None:
    """Replaces a folder at the start of the stored URIs and paths, and no other text."""
    for table, column in (ROOT_COLUMN, *FOLDER_COLUMNS, *SOURCE_COLUMNS):
        if column in _columns(database, table):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )
