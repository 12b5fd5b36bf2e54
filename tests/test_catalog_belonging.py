"""A catalog's folder and its database stay together; no command deletes images or backups otherwise."""

import os
import sqlite3
import time
from pathlib import Path

import pytest
from catalog_server import Catalog, folder_of

from catalog.store import UnavailableError, failures
from catalog.sweep import sweep

pytestmark = pytest.mark.integration  # some start PostgreSQL


def image_files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "images").rglob("*") if file.is_file())


def make_old(folder: Path) -> None:
    """Lets the sweep take all files for ones that no program is writing."""
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - 86400,) * 2)


def test_a_database_without_images_deletes_none(tmp_path, database_url):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    empty = Catalog.create(tmp_path / "other", database_url).database
    make_old(catalog.library.folder)
    assert sweep(empty, catalog.library) == 0
    assert len(image_files(catalog.library.folder)) == 3
    for database in (empty, catalog.database):
        database.close()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("SQLITE_FULL", "free space on its disk"),
        ("SQLITE_IOERR_READ", "check its disk"),
        ("SQLITE_CANTOPEN", "check the permissions"),
        ("SQLITE_NOTADB", "restore a backup"),
        ("SQLITE_CORRUPT", "restore a backup"),
    ],
)
def test_nobody_is_told_to_move_a_database_away(code, advice):
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = code
    found = failures.of_file(error, "catalog.db")
    assert advice in str(found) and "move" not in str(found)
    assert isinstance(found, UnavailableError) == ("restore" not in advice)
