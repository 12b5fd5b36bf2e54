"""Reads a project's images from its folder, archive or data set, and from uploads."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from catalog import sentences
from catalog.helper.progress import Progress
from catalog.library import Library, suffix_of
from catalog.store import Database, images
from catalog.store.images import NewImage
from catalog.store.tables import Project, Source
from pipeline import portable
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.common.paths import main_checkout
from pipeline.sources import archives, photos

BATCH = 64  # images per transaction: the first ones can be labeled at once


@dataclass(frozen=True)
class Found:
    """A file to read.

    Attributes:
        path: for display.
        data: its bytes, or why they can't be read.
        upload: the file in which a browser's upload waits; None for other sources.
    """

    path: str
    data: bytes | str
    upload: Path | None = None


def find(project: Project, library: Library, skipped: Counter[str]) -> Iterator[Found]:
    """The files that were uploaded, and those of a project's source.

    Args:
        project: the project.
        library: of the catalog.
        skipped: counts files of a folder that are no images, by suffix.

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
    if path.is_file():
        yield from _members(path)
    elif path.is_dir():
        yield from _files(path, skipped)
    else:
        raise UserError(f"{path} is not there; name a folder or an archive of this machine")


def _members(archive: Path) -> Iterator[Found]:
    for path, data in archives.members(archive):
        if data is None:
            data = f"more than {archives.MAX_BYTES:,} bytes"
        if photos.is_named_as_picture(path):
            yield Found(path, data)


def _files(folder: Path, skipped: Counter[str]) -> Iterator[Found]:
    for name in photos.image_paths([str(folder)], skipped):
        path = str(Path(name).relative_to(folder))
        try:
            yield Found(path, photos.read(name))
        except portable.UnreadableError as error:
            yield Found(path, str(error))


def _uploads(folder: Path) -> Iterator[Found]:
    """Files that a browser has sent."""
    for name in sorted(folder.glob("*.json")):  # written after the image's bytes
        path = json.loads(name.read_text(encoding="utf-8"))["path"]
        yield Found(path, name.with_suffix(".bin").read_bytes(), name)


@dataclass(frozen=True)
class Result:
    """What became of a file: a usable image, a reason why it isn't one, or neither if it was known."""

    found: Found
    image: NewImage | None = None
    reason: str | None = None

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
        known = images.suffixes(session, project.id)
    skipped: Counter[str] = Counter()
    seen = added = bad = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for results in _in_batches(pool, find(project, library, skipped), known, library):
            problems = {result.path: result.reason for result in results if result.reason}
            usable = {result.path for result in results if not result.reason}
            with database.write() as session:
                for result in results:  # an image may have been erased in another project since it was stored
                    if result.image and not library.image(result.image.sha256, result.image.suffix).is_file():
                        _read(result.found, result.image.sha256, library, is_new=True)
                added += images.add(session, project, [each.image for each in results if each.image])
                images.quarantine(session, project.id, problems, usable)
            for upload in (result.found.upload for result in results):
                if upload is not None:
                    upload.with_suffix(".bin").unlink(missing_ok=True)
                    upload.unlink()
            seen, bad = seen + len(results), bad + len(problems)
            progress.report(seen, 0, sentences.FILES_READ.format(files=f"{seen:,}"))
    more = f"; {photos.skipped_message(skipped)}" if skipped else ""
    return sentences.RESULT.format(files=f"{seen:,}", added=f"{added:,}", bad=f"{bad:,}") + more


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

    def finished(count: int) -> list[Result]:
        done = [each.result() if isinstance(each, Future) else each for each in pending[:count]]
        del pending[:count]
        return done

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
                pending.append(Result(found))
            if len(pending) >= 2 * BATCH:
                yield finished(BATCH)
    except UserError:  # the source ended early; what came before it is kept
        yield finished(len(pending))
        raise
    yield finished(len(pending))


def _read(found: Found, sha256: str, library: Library, is_new: bool) -> Result:
    """Checks and stores one image."""
    if isinstance(found.data, str):
        return Result(found, reason=text.printable(found.data))
    try:
        image = portable.read_picture(found.data)
    except portable.UnreadableError as error:
        return Result(found, reason=text.printable(error))
    width, height = image.size
    suffix = _suffix(found.data)
    library.store(found.data, sha256, suffix)
    if found.upload is not None:
        library.flush(sha256, suffix)
    library.store_thumbnail(image, sha256)
    result = Result(found)
    if is_new:
        result = Result(found, NewImage(result.path, sha256, suffix, width, height))
    return result


def _suffix(data: bytes) -> str:
    """The suffix of an image's format, detected from its content."""
    with Image.open(io.BytesIO(data), formats=portable.FORMATS) as image:
        return suffix_of(image.format)
