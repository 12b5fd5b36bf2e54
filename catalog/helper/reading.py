"""Reads a project's images from its folder, archive or data set, and from uploads."""

import errno
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from catalog import sentences
from catalog.helper.folder_scan import Entry, scan
from catalog.helper.progress import Progress
from catalog.helper.watching import has_settled
from catalog.library import Library, suffix_of
from catalog.store import Database, images, projects, seen_files
from catalog.store.images import NewImage
from catalog.store.seen_files import Seen
from catalog.store.tables import Project, Quarantined, Source
from pipeline import portable
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.common.paths import main_checkout
from pipeline.sources import archives, photos

RECORDED = 1000  # files that are no images, recorded in a transaction
_OF_FILES = {os.strerror(code) for code in (errno.EACCES, errno.EPERM, errno.ENOENT)}  # never of an upload
BATCH = 64  # images per transaction: the first ones can be labeled at once


@dataclass(frozen=True)
class Found:
    """A file to read.

    Attributes:
        path: for display.
        data: its bytes, or why they can't be read.
        upload: the file in which a browser's upload waits; None for other sources.
        entry: the file of a folder.
    """

    path: str
    data: bytes | str
    upload: Path | None = None
    entry: Entry | None = None


@dataclass
class Known:
    """What needs not be read, and what is found out about it.

    Attributes:
        suffixes: of the project's images, by hash; new images are added.
        files: of the project's folder that were read before, by path.
        unchanged: number of files that are as they were.
        skipped: files of a folder that are no images, by suffix.
        others: those of them that are not recorded yet.
    """

    suffixes: dict[str, str]
    files: dict[str, Seen]
    unchanged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    others: list[Seen] = field(default_factory=list)


def find(project: Project, library: Library, known: Known) -> Iterator[Found]:
    """The files that were uploaded, and those of a project's source that are not known.

    Args:
        project: the project.
        library: of the catalog.
        known: files that are not read again; it is updated.

    Raises:
        UserError: the source is missing or damaged.
    """
    yield from _uploads(library.uploads(project.id))
    path = Path(project.source_path)
    if project.source == Source.DATASET:
        path = main_checkout() / "data" / project.source_path / "archive"
        if not path.is_file():
            raise UserError(
                f"data/{project.source_path} has no archive yet; run: dvc repro fetch, or name a folder"
            )
    if project.source == Source.UPLOAD:
        return
    if _is_file(path):
        status = path.stat()
        yield from _members(path)
        known.others.append(Seen(text.path(path.name), status.st_size, status.st_mtime_ns, ""))
    elif path.is_dir():
        yield from _files(path, project.is_watched, library, known)
    else:
        raise UserError(f"{path} is not there; name a folder or an archive of this machine")


def _is_file(path: Path) -> bool:
    """Whether the source is a file.

    Raises:
        UserError: the folder above it can't be read.
    """
    try:
        return path.is_file()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(sentences.UNREADABLE_FOLDER.format(path=path, reason=reason)) from error


def _members(archive: Path) -> Iterator[Found]:
    for path, data in archives.members(archive):
        if data is None:
            data = f"more than {archives.MAX_BYTES:,} bytes"
        if photos.is_named_as_picture(path):
            yield Found(path, data)


def _files(folder: Path, is_watched: bool, library: Library, known: Known) -> Iterator[Found]:
    """Files of a folder; of a watched one without those that may still be written."""
    hidden: list[Path] = []
    for entry in scan(folder, hidden):
        file = folder / entry.path
        seen = known.files.get(entry.key)
        if seen is not None and (seen.size, seen.modified) == (entry.size, entry.modified):
            suffix = known.suffixes.get(seen.sha256)
            if not seen.sha256:
                known.skipped[entry.suffix] += 1
                continue
            if suffix is not None and library.holds(seen.sha256, suffix, seen.size):
                known.unchanged += 1
                continue
        if not _is_picture(file, entry):
            known.skipped[entry.suffix] += 1
            if entry.size >= 0:
                known.others.append(Seen(entry.key, entry.size, entry.modified, ""))
            continue
        if is_watched and entry.size >= 0 and not has_settled(entry.modified):
            continue  # the next look finds it
        try:
            data = photos.read(str(file))
        except portable.UnreadableError as error:
            if entry.is_denied or os.path.lexists(file):  # else it was moved away or deleted meanwhile
                yield Found(entry.path, str(error))
            continue
        if not (is_watched and _has_changed(file, entry)):
            yield Found(entry.path, data, entry=entry)
    if count := sum(1 for path in hidden for _ in photos.files_in_hidden(path)):
        known.skipped[photos.HIDDEN] += count


def _is_picture(file: Path, entry: Entry) -> bool:
    """Whether a file counts as an image: by its suffix, else by its first bytes."""
    if entry.is_denied:
        return True  # reading it gives the reason
    if entry.suffix in photos.SUFFIXES:
        return entry.size >= 0 or not file.exists()  # no pipe or device; a broken link
    if entry.size < 0:
        return False
    try:
        with Image.open(file, formats=portable.FORMATS):
            return True
    except Exception:  # Pillow raises many types for what is no image
        return False


def _has_changed(file: Path, entry: Entry) -> bool:
    """Whether a file was written while it was read."""
    try:
        status = file.stat()
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) != (entry.size, entry.modified)


def _uploads(folder: Path) -> Iterator[Found]:
    """Files that a browser has sent."""
    for name in sorted(folder.glob("*.json")):  # written after the image's bytes
        path = json.loads(name.read_text(encoding="utf-8"))["path"]
        yield Found(path, name.with_suffix(".bin").read_bytes(), name)


@dataclass(frozen=True)
class Result:
    """What became of a file: a usable image, a reason why it isn't one, or neither if it was known."""

    found: Found
    sha256: str
    image: NewImage | None = None
    reason: str | None = None

    @property
    def seen(self) -> Seen | None:
        """The file for the record; None if it can't be read, or was written a moment ago and may be still."""
        entry = self.found.entry
        if entry is None or not has_settled(entry.modified):
            return None
        return Seen(entry.key, entry.size, entry.modified, self.sha256)

    @property
    def path(self) -> str:
        """The path as it is shown and stored."""
        return text.shortened(text.path(self.found.path), 1000)


def read(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Adds new images to a project, and unusable files to its quarantine.

    Returns:
        What was found, in one line.

    Raises:
        UserError: the source is missing or damaged; what was read before stays.
    """
    with database.read() as session:
        known = Known(images.suffixes(session, project.id), seen_files.of(session, project.id))
    read_files = added = 0
    bad: set[str] = set()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for results in _in_batches(pool, find(project, library, known), known.suffixes, library):
            problems = {result.path: result.reason for result in results if result.reason}
            usable = {result.path for result in results if not result.reason}
            with database.write() as session:
                for result in results:  # an image may have been erased in another project since it was stored
                    if result.image and not library.image(result.image.sha256, result.image.suffix).is_file():
                        _read(result.found, result.sha256, library, is_new=True)
                added += images.add(session, project, [each.image for each in results if each.image])
                images.quarantine(session, project.id, problems, usable)
                seen_files.record(session, project.id, filter(None, (result.seen for result in results)))
            for upload in (result.found.upload for result in results):
                if upload is not None:
                    upload.with_suffix(".bin").unlink(missing_ok=True)
                    upload.unlink()
            read_files += len(results)
            bad.update(problems)
            files = read_files + known.unchanged
            progress.report(files, 0, sentences.FILES_READ.format(files=f"{files:,}"))
    for start in range(0, len(known.others), RECORDED):
        with database.write() as session:
            seen_files.record(session, project.id, known.others[start : start + RECORDED])
    outdated = _outdated(database, project, known, bad)
    with database.write() as session:
        projects.note_refresh(session, project.id)
        images.forget_quarantined(session, project.id, outdated)
    files = read_files + known.unchanged
    more = f"; {photos.skipped_message(known.skipped)}" if known.skipped else ""
    return sentences.RESULT.format(files=f"{files:,}", added=f"{added:,}", bad=f"{len(bad):,}") + more


def _outdated(database: Database, project: Project, known: Known, bad: set[str]) -> list[str]:
    """Paths in the quarantine of folders that can be read by now, and of files that are gone.

    Uploads that can't be used stay, for nothing else is left of them.

    Args:
        database: the catalog's.
        project: one whose source was read to its end.
        known: what was known of its files.
        bad: paths that can't be used.
    """
    folder = Path(project.source_path)
    if project.source != Source.FOLDER or not folder.is_dir():
        return []
    with database.read() as session:
        found = [each for each in images.quarantined(session, project.id) if each.path not in bad]
    return [each.path for each in found if _is_outdated(each, folder / each.path, known)]


def _is_outdated(found: Quarantined, file: Path, known: Known) -> bool:
    if os.path.lexists(file):
        return os.access(file, os.R_OK | os.X_OK) and file.is_dir()
    return found.path in known.files or found.reason in _OF_FILES


def _in_batches(
    pool: ThreadPoolExecutor, files: Iterator[Found], known: dict[str, str], library: Library
) -> Iterator[list[Result]]:
    """Results of `_read`, in batches; at most two batches of files are in memory.

    Args:
        pool: threads.
        files: what to read.
        known: suffixes of images that need not be read again, by hash; new images are added.
        library: of the catalog.
    """
    pending: list[Future[Result] | Result] = []
    reasons: dict[str, str | None] = {}  # by hash; copies of a file are checked once

    def finished(count: int) -> list[Result]:
        done = [each.result() if isinstance(each, Future) else each for each in pending[:count]]
        del pending[:count]
        reasons.update({each.sha256: each.reason for each in done if each.sha256 and each.reason})
        return [replace(each, reason=each.reason or reasons.get(each.sha256)) for each in done]

    try:
        for found in files:
            sha256 = hashlib.sha256(found.data).hexdigest() if isinstance(found.data, bytes) else ""
            suffix = known.get(sha256)
            if suffix is None:
                known |= {sha256: ""} if sha256 else {}
                pending.append(pool.submit(_read, found, sha256, library, is_new=True))
            elif suffix and not library.holds(sha256, suffix, len(found.data)):
                pending.append(pool.submit(_read, found, sha256, library, is_new=False))
            else:
                pending.append(Result(found, sha256))
            if len(pending) >= 2 * BATCH:
                yield finished(BATCH)
    except UserError:  # the source ended early; what came before it is kept
        yield finished(len(pending))
        raise
    yield finished(len(pending))


def _read(found: Found, sha256: str, library: Library, is_new: bool) -> Result:
    """Checks and stores one image."""
    if isinstance(found.data, str):
        return Result(found, sha256, reason=text.printable(found.data))
    try:
        image = portable.read_picture(found.data)
    except portable.UnreadableError as error:
        return Result(found, sha256, reason=text.printable(error))
    width, height = image.size
    suffix = _suffix(found.data)
    library.store(found.data, sha256, suffix)
    if found.upload is not None:
        library.flush(sha256, suffix)
    library.store_thumbnail(image, sha256)
    result = Result(found, sha256)
    if is_new:
        result = Result(found, sha256, NewImage(result.path, sha256, suffix, width, height))
    return result


def _suffix(data: bytes) -> str:
    """The suffix of an image's format, detected from its content."""
    with Image.open(io.BytesIO(data), formats=portable.FORMATS) as image:
        return suffix_of(image.format)
