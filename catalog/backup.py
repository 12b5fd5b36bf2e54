"""Backups of a catalog while people label, and catalogs from them.

A backup is a folder: the database as a file of SQLite, and the catalog's files. Images and thumbnails are
named by their content, so only new ones are copied. The database comes last: whenever a backup is cut off,
the folder holds the last one, whole.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from catalog import belonging
from catalog.library import Library
from catalog.store import Database, UnavailableError, copying, identity, images, projects, snapshot
from pipeline.artifacts import atomic
from pipeline.common.errors import UserError

DATABASE = "catalog.db"
MARKER = "BACKUP.txt"  # shows that the folder is a backup, whose files may be deleted
_TEXT = "A backup of a Pet Faces catalog. To make a catalog from it: petfaces catalog restore FOLDER\n"
_CATALOG = "catalog: "  # begins the marker's line with the catalog that the backup belongs to
_BY_CONTENT = ("images", "thumbnails")
# Computed again, its own, or a secret: with a new key people sign in again.
_SKIPPED = ("features", "backbone", "exported", "tmp", "unused", MARKER, belonging.FILE, "session.key")
_TRIES = 3  # if somebody deletes images meanwhile


@dataclass(frozen=True)
class Outcome:
    """What a backup holds, or what was restored.

    Attributes:
        images: all of them.
        copied: files that were not there before.
        missing: paths of images below the folder whose file is missing or damaged.
    """

    images: int
    copied: int
    missing: tuple[str, ...]


def write(library: Library, database: Database, folder: Path) -> Outcome:
    """Brings a backup up to date; people can go on labeling.

    Args:
        library: of the catalog.
        database: the catalog's.
        folder: of an earlier backup, or empty; it is created.

    Raises:
        UserError: the folder holds something else, another catalog's backup, or the catalog itself; or
            another backup is being written.
    """
    folder = folder.resolve()
    if folder.is_relative_to(library.folder.resolve()):
        raise UserError(f"{folder} is in the catalog's own folder; name one on another disk")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise UserError(f"{folder} holds other files than a backup; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # nobody else may see the images
    try:
        with FileLock(folder / ".lock", timeout=0):
            _claim(folder, database)
            return _write(library, database, folder)
    except Timeout:
        raise UserError(f"another backup to {folder} is being written") from None


def _claim(folder: Path, database: Database) -> None:
    """Records whose backup the folder holds.

    Raises:
        UserError: it holds another catalog's, which would be deleted.
    """
    marker = folder / MARKER
    lines = marker.read_text(encoding="utf-8").splitlines() if marker.is_file() else []
    known = next((line.removeprefix(_CATALOG) for line in lines if line.startswith(_CATALOG)), "")
    with database.read() as session:
        own, has_images = identity.of(session).catalog, images.exist(session)
    # One from before the line was written is anybody's, but not replaced by an empty one.
    is_lost = not known and not has_images and identity.look(folder / DATABASE).has_images
    if is_lost or known not in ("", own):
        raise UserError(f"{folder} holds another catalog's backup; name another folder")
    atomic.replace_text(marker, f"{_TEXT}{_CATALOG}{own}\n")


def _write(library: Library, database: Database, folder: Path) -> Outcome:
    part = folder / f".{DATABASE}.part"
    # Uploads come before the snapshot, too: one that is read after it isn't among its images.
    before = _others(library.folder)
    copied = _copy_others(library.folder, folder, before)
    damaged: set[Path] = set()
    copied += sum(_copy_new(library.folder, folder, path, damaged) for path in _content(library.folder))
    for _ in range(_TRIES):
        part.unlink(missing_ok=True)
        snapshot.write(database, part)
        with snapshot.opened(part) as taken:
            wanted = _wanted(taken, library)
        for path in wanted.values():
            copied += _copy_new(library.folder, folder, path, damaged)
        missing = {sha for sha, path in wanted.items() if not (folder / path).is_file()}
        with database.read() as session:
            lost = missing & images.used(session, missing)
        if lost == missing:
            break
        # The others were deleted after the snapshot: one without them is made.
    after = _others(library.folder)
    copied += _copy_others(library.folder, folder, after)
    for path in _others(folder) - after - {path for path in before if path.parts[0] == "uploads"}:
        (folder / path).unlink()
    os.sync()
    os.replace(part, folder / DATABASE)
    os.sync()
    _delete_erased(folder, set(wanted))
    problems = {wanted[sha] for sha in missing} | (damaged & set(wanted.values()))
    return Outcome(len(wanted), copied, tuple(sorted(map(str, problems))))


def _wanted(database: Database, library: Library) -> dict[str, Path]:
    """The path of each image below the library's folder, by hash."""
    with database.read() as session:
        return {
            sha256: library.image(sha256, suffix).relative_to(library.folder)
            for project in projects.all_projects(session)
            for sha256, suffix in images.suffixes(session, project.id).items()
        }


def _content(folder: Path) -> Iterator[Path]:
    """Relative paths of the files that are named by their content."""
    for kind in _BY_CONTENT:
        for file in (folder / kind).glob("??/*"):
            if not file.name.startswith("."):  # being written
                yield file.relative_to(folder)


def _copy_new(source: Path, target: Path, path: Path, damaged: set[Path]) -> bool:
    """Copies a file that never changes, unless the target has it; False, too, if it is gone.

    An image whose content isn't that of its name is added to `damaged`, and replaces nothing.
    """
    new, old = source / path, target / path
    try:
        if old.is_file() and old.stat().st_size == new.stat().st_size:
            return False
        with atomic.replace_file(old) as part:
            shutil.copyfile(new, part)
            if path.parts[0] == "images" and not _is_intact(part, path.stem):
                raise _DamagedError
    except _DamagedError:
        damaged.add(path)
        return False
    except FileNotFoundError:
        return False
    return True


class _DamagedError(Exception):
    """An image has another content than it had when it was added."""


def _others(folder: Path) -> set[Path]:
    """Relative paths of the files that are neither content nor database nor computed again."""
    skipped = {*_BY_CONTENT, *_SKIPPED}
    return {
        file.relative_to(folder)
        for top in (folder.iterdir() if folder.is_dir() else ())
        if not (top.name in skipped or top.name.startswith((DATABASE, ".")) or top.suffix == ".lock")
        for file in ([top] if top.is_file() else top.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


def _copy_others(source: Path, target: Path, paths: set[Path]) -> int:
    """Copies those of the files that differ by size or time."""
    copied = 0
    for path in paths:
        new, old = source / path, target / path
        try:
            stat = new.stat()
            if old.is_file() and (old.stat().st_size, old.stat().st_mtime) == (stat.st_size, stat.st_mtime):
                continue
            with atomic.replace_file(old) as part:
                shutil.copy2(new, part)
            copied += 1
        except FileNotFoundError:  # deleted meanwhile
            continue
    return copied


def _delete_erased(folder: Path, wanted: set[str]) -> None:
    """Deletes images that the backup's database doesn't have: people have deleted them for good."""
    for path in list(_content(folder)):
        if path.stem not in wanted:
            (folder / path).unlink()


def check_target(library: Library) -> None:
    """Checks that a backup can be restored into a folder.

    Raises:
        UserError: it holds a catalog, unless it is what a restore that was cut off has left.
    """
    if (library.folder / belonging.RESTORING).is_file():
        return
    for name in (DATABASE, "images", belonging.FILE):
        if (library.folder / name).exists():
            raise UserError(f"{library.folder} holds a catalog ({name}); name an empty folder with --folder")


def restore(library: Library, database: Database, folder: Path) -> Outcome:
    """Makes a catalog from a backup; one that was cut off can be repeated.

    Each image is compared with its hash. Missing and damaged ones are named; everything else is restored.

    Args:
        library: of the new catalog.
        database: the new catalog's, empty.
        folder: of the backup, which stays as it is.

    Raises:
        UserError: the folder is no finished backup, or the database isn't empty.
    """
    if not (folder / MARKER).is_file() or not (folder / DATABASE).is_file():
        raise UserError(f"{folder} is no finished backup; name the folder that petfaces catalog backup wrote")
    with database.read() as session:
        copying.check_empty(session, database)
    part = library.temporary / Path(belonging.RESTORING).name
    shutil.copyfile(folder / DATABASE, part)
    damaged: set[Path] = set()
    try:
        identity.look(part)
    except UnavailableError:
        raise
    except UserError as error:
        part.unlink()
        raise UserError(f"the database of the backup in {folder} is damaged; name another backup") from error
    with snapshot.opened(part) as kept:  # which migrates it, if it is of an older version
        wanted, copied = _wanted(kept, library), 0
        for path in _content(folder):
            copied += _copy_new(folder, library.folder, path, damaged)
        missing = [path for sha, path in wanted.items() if not _is_intact(library.folder / path, sha)]
        copied += sum(_copy_other(folder, library.folder, path) for path in _others(folder))
        copying.copy(kept, database)
    part.unlink()
    return Outcome(len(wanted), copied, tuple(sorted(map(str, missing))))


def _copy_other(source: Path, target: Path, path: Path) -> bool:
    with atomic.replace_file(target / path) as part:
        shutil.copy2(source / path, part)
    return True


def _is_intact(file: Path, sha256: str) -> bool:
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
