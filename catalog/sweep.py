"""Deletes what interrupted work has left in the catalog's folder: files that nothing refers to."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from catalog.library import Library
from catalog.store import Database, erasing, images, import_log, projects
from catalog.store.tables import ImportState

KEPT_FILES = 7 * 86400  # seconds; a file of labels waits so long for a person to apply it
KEPT = 30 * 86400  # seconds for which images are kept that nothing refers to
OLD = 3600  # seconds; younger files may belong to a program that is at work


def sweep(database: Database, library: Library) -> int:
    """Deletes files of projects that are gone and temporary files, and sets images without a row aside.

    An older state of the database, put back by other means than `restore`, doesn't have the newest images:
    they are kept for some weeks, and put back when a database has them again.

    Returns:
        The number of images that were set aside.
    """
    for path in _temporary(library):
        if _is_old(path, OLD):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with database.read() as session:
        if not images.exist(session):
            return 0  # this may be another database than the one that the folder's files belong to
        known = {str(project.id) for project in projects.all_projects(session)}
    for folder in ("exported", "taught", "compared", "maps", "uploads", "imports"):
        for path in (library.folder / folder).glob("[0-9]*"):
            if path.name.partition(".")[0] not in known and _is_old(path, OLD):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _delete_imports(database, library)
    _put_back(database, library)
    moved = 0
    for folder in (library.folder / "images").glob("??"):
        found = [(file.stem, file.suffix) for file in folder.iterdir() if _is_old(file, OLD)]
        for start in range(0, len(found), images.CHUNK):
            # In a write transaction, so that no image of these is added meanwhile.
            with database.write() as session:
                for image in erasing.unused(session, found[start : start + images.CHUNK]):
                    library.set_aside(image.sha256, image.suffix)
                    moved += 1
    return moved


def _delete_imports(database: Database, library: Library) -> None:
    """Deletes files of labels that were imported, or that nobody has applied for a week, with their notes."""
    for file in (library.folder / "imports").glob("[0-9]*/*"):
        project_id, batch = int(file.parent.name), file.name.removesuffix(".lock")
        with database.read() as session:
            entry = import_log.find(session, project_id, batch)
            is_needed = entry is not None and entry.state != ImportState.DONE and entry.undone_at is None
        if _is_old(file, OLD) and not (is_needed and time.time() - entry.at < KEPT_FILES):
            file.unlink(missing_ok=True)
    with database.write() as session:
        import_log.delete_waiting(session, time.time() - KEPT_FILES)


def _put_back(database: Database, library: Library) -> None:
    """Puts images back that a project has again, and deletes those that have been unused for long."""
    found = list(library.unused.glob("*"))
    for start in range(0, len(found), images.CHUNK):
        chunk = found[start : start + images.CHUNK]
        with database.write() as session:  # so that no image of these is added meanwhile
            used = images.used(session, [file.stem for file in chunk])
            for file in chunk:
                if file.stem in used:
                    library.put_back(file)
                elif _is_old(file, KEPT):
                    file.unlink()
                    library.erase(file.stem, file.suffix)


def _temporary(library: Library) -> Iterator[Path]:
    yield from (library.folder / "tmp").glob("*")
    yield from library.folder.glob(".?*")
    for folder in ("images/??", "thumbnails/??", "exported/*", "taught", "maps", "features/*", "champions"):
        yield from library.folder.glob(f"{folder}/.?*")


def _is_old(path: Path, seconds: float) -> bool:
    try:
        return time.time() - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return False
