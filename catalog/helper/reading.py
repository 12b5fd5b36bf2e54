"""Reads a project's images from its folder, archive or data set, and from uploads."""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from catalog.helper.progress import Progress
from catalog.library import Library
from catalog.store import Database, images
from catalog.store.images import NewImage
from catalog.store.tables import Project, Source
from pipeline import portable
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.common.paths import main_checkout
from pipeline.sources import archives, photos

BATCH = 64  # images per transaction: the first ones can be labeled at once
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg"}  # others: the format's name


@dataclass(frozen=True)
class Found:
    """A file to read: its path for display, and its bytes or why they can't be read."""

    path: str
    data: bytes | str
    file: Path | None = None  # on this machine, where it is a file of its own


def find(project: Project, library: Library) -> Iterator[Found]:
    """The files of a project's source, and those that were uploaded.

    Raises:
        UserError: the source is missing or damaged.
    """
    if project.source == Source.DATASET:
        archive = main_checkout() / "data" / project.source_path / "archive"
        if not archive.is_file():
            raise UserError(
                f"data/{project.source_path} has no archive yet; run: dvc repro fetch, or name a folder"
            )
        yield from _members(archive)
    elif project.source == Source.FOLDER:
        path = Path(project.source_path)
        if path.is_file():
            yield from _members(path)
        elif path.is_dir():
            yield from _files(path)
        else:
            raise UserError(f"{path} is not there; name a folder or an archive of this machine")
    yield from _uploads(library.uploads(project.id))


def _members(archive: Path) -> Iterator[Found]:
    for path, data in archives.members(archive):
        if data is None:
            data = f"more than {archives.MAX_BYTES:,} bytes"
        if photos.is_named_as_picture(path):
            yield Found(path, data)


def _files(folder: Path) -> Iterator[Found]:
    for name in photos.image_paths([str(folder)]):
        path = str(Path(name).relative_to(folder))
        try:
            yield Found(path, photos.read(name), Path(name))
        except portable.UnreadableError as error:
            yield Found(path, str(error))


def _uploads(folder: Path) -> Iterator[Found]:
    """Files that a browser has sent."""
    for name in sorted(folder.glob("*.json")):  # written after the image's bytes
        data = name.with_suffix(".bin")
        yield Found(json.loads(name.read_text(encoding="utf-8"))["path"], data.read_bytes())


def _clear_uploads(folder: Path, before: float) -> None:
    """Deletes uploads that were complete at this time (seconds since 1970); called after they were stored."""
    for name in folder.glob("*.json"):
        if name.stat().st_mtime <= before:
            name.with_suffix(".bin").unlink(missing_ok=True)
            name.unlink()


def read(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Adds new images to a project, and unusable files to its quarantine.

    Returns:
        What was found, in one line.

    Raises:
        UserError: the source is missing or damaged; what was read before stays.
    """
    started = time.time()
    with database.read() as session:
        known = images.hashes(session, project.id)
    seen = added = bad = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for results, files in _in_batches(pool, find(project, library), known, library):
            usable = [result for result in results if isinstance(result, NewImage)]
            problems = dict(result for result in results if not isinstance(result, NewImage))
            with database.write() as session:
                added += images.add(session, project, usable)
                images.quarantine(session, project.id, problems)
            seen, bad = seen + files, bad + len(problems)
            progress.report(seen, 0, f"{seen:,} files read")
    _clear_uploads(library.uploads(project.id), started)
    return f"{seen:,} files: {added:,} new images, {bad:,} that can't be used"


def _in_batches(
    pool: ThreadPoolExecutor, files: Iterator[Found], known: set[str], library: Library
) -> Iterator[tuple[list[NewImage | tuple[str, str]], int]]:
    """Results of `_read` for files that are not `known`, in batches, with the number of files gone through.

    At most two batches of files are in memory.
    """
    pending: list[Future] = []
    count = 0
    for found in files:
        count += 1
        sha256 = hashlib.sha256(found.data).hexdigest() if isinstance(found.data, bytes) else ""
        if sha256 not in known:
            known.update({sha256} - {""})
            pending.append(pool.submit(_read, found, sha256, library))
        if len(pending) >= 2 * BATCH:
            yield [future.result() for future in pending[:BATCH]], count
            count = 0
            del pending[:BATCH]
    yield [future.result() for future in pending], count


def _read(found: Found, sha256: str, library: Library) -> NewImage | tuple[str, str]:
    """Checks and stores one image; returns (path, reason) if it can't be used."""
    path = text.shortened(text.path(found.path), 1000)
    if isinstance(found.data, str):
        return path, text.printable(found.data)
    try:
        image = portable.read_picture(found.data)
    except portable.UnreadableError as error:
        return path, text.printable(error)
    width, height = image.size
    suffix = _suffix(found.data)
    library.store(found.data, sha256, suffix, found.file)
    library.store_thumbnail(image, sha256)
    return NewImage(path, sha256, suffix, width, height)


def _suffix(data: bytes) -> str:
    """The suffix of an image's format, detected from its content."""
    with Image.open(io.BytesIO(data), formats=portable.FORMATS) as image:
        kind = image.format
    return _SUFFIXES.get(kind, f".{kind.lower()}")
