"""Where MLflow's SQLite store says that its files are.

MLflow notes absolute addresses, so the store of a copied or moved project still names the folder of the
original: it would write there, and finds nothing once that is gone. Such a store is not used until `rewrite`,
which ``petfaces tracking sync`` calls, has made it name the folder beside it.
"""

import shlex
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

from pipeline.common import paths, text
from pipeline.common.errors import UserError
from pipeline.tracking.address import local_file
from pipeline.tracking.locks import creating, writing

FOLDER = "mlartifacts"
ROOTS = ("experiments", "artifact_location")  # what new runs inherit
FILES = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))  # a folder each
OTHERS = (("model_versions", "source"), ("model_versions", "storage_location"))
SYNC = "petfaces tracking sync"


def own_folder() -> Path | None:
    """Where files of a SQLite store belong: beside it; None of any other store."""
    file = local_file()
    return file.parent / FOLDER if file else None


def check() -> None:
    """Looks at this checkout's own store; another one may keep its files where it likes.

    Raises:
        UserError: it was copied or moved here and still names the original's folder.
    """
    for root in _foreign(_store()):
        raise UserError(
            f"MLflow's store {_store()} was copied or moved here from {text.printable(_path(root).parent)}, "
            f"where its files would still be written; run: {SYNC}"
        )


def rewrite() -> None:
    """Makes this checkout's own store name the files beside it; the database as it was is kept.

    Raises:
        UserError: the files are not beside it.
    """
    file = _store()
    if not _foreign(file):
        return
    with writing(), creating():
        roots = _foreign(file)
        for root in roots:
            _check_files(file, root)
        kept = _copy(file)
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            for root in roots:
                _replace(database, root, (file.parent / FOLDER).as_uri())
                _replace(database, str(_path(root)), str(file.parent / FOLDER))
            database.execute("COMMIT")
    places = text.printable(", ".join(str(_path(root)) for root in roots))
    print(
        f"tracking: MLflow's store named files in {places}, from where it was copied or moved; now it names "
        f"those in {file.parent / FOLDER} (the database as it was: {kept.name})"
    )


def _store() -> Path | None:
    """This checkout's own store, where it is in use."""
    own = (paths.main_checkout() / "mlflow.db").resolve()
    return own if local_file() == own and own.is_file() else None


def _foreign(file: Path | None) -> list[str]:
    """Folders of other checkouts that a store names, as it spells them."""
    if file is None:
        return []
    here, (table, column) = file.parent / FOLDER, ROOTS
    with suppress(sqlite3.DatabaseError), closing(_open(file)) as database:  # what is wrong is said elsewhere
        found = database.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
        return sorted(
            root
            for (root,) in found
            if root and _is_local(root) and _path(root).name == FOLDER and not _same(_path(root), here)
        )
    return []


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)


def _is_local(root: str) -> bool:
    return root.startswith("/") or (root.startswith("file:") and urlparse(root).netloc in ("", "localhost"))


def _path(root: str) -> Path:
    return Path(unquote(urlparse(root).path) if root.startswith("file:") else root)


def _same(one: Path, two: Path) -> bool:
    """Whether two paths are one folder, be it under two names."""
    with suppress(OSError):
        return one.samefile(two)
    return one == two


def _check_files(file: Path, root: str) -> None:
    """Makes sure that the files of runs and models are beside the store.

    Raises:
        UserError: they are where the store was copied from, or nowhere.
    """
    here, there = file.parent / FOLDER, _path(root)
    with closing(_open(file)) as database:
        inside = [
            unquote(address.removeprefix(root)).strip("/")
            for table, column in FILES
            if column in _columns(database, table)
            for (address,) in database.execute(f"SELECT {column} FROM {table}")
            if address and address.startswith(f"{root}/")
        ]
    brought = [path for path in inside if (here / path).is_dir()]
    left = [path for path in inside if (there / path).is_dir() and path not in set(brought)]
    if left:
        raise UserError(
            f"{len(left)} folders of MLflow's store {file} are in {there} and not in {here}; copy them, "
            f"then run {SYNC} again: cp -Rn {shlex.quote(f'{there}/.')} {shlex.quote(str(here))}"
        )
    if inside and not brought:
        raise UserError(
            f"MLflow's store {file} names files in {there}, but they are neither there nor in {here}; bring "
            f"{FOLDER}/ here, or move {file.name} away and run: {SYNC}"
        )


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def _copy(file: Path) -> Path:
    """A copy of the database beside it, under a name that is free."""
    names = (file.with_name(f"{file.name}.before-move{number or ''}") for number in range(1000))
    kept = next(name for name in names if not name.exists())
    with closing(_open(file)) as database, closing(sqlite3.connect(kept)) as copy:
        database.backup(copy)
    return kept


def _replace(database: sqlite3.Connection, old: str, new: str) -> None:
    """Replaces a folder at the beginning of addresses, and no other text."""
    for table, column in (ROOTS, *FILES, *OTHERS):
        if column in _columns(database, table):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )
