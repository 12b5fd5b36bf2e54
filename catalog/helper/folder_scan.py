"""Lists the files of a folder with their sizes and times, without opening one: 500,000 take seconds."""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catalog import sentences
from pipeline import portable
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.sources import archives, photos


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a folder.

    Attributes:
        path: within the folder.
        size: in bytes; -1 if it is no plain file, or can't be looked at.
        modified: time of its last change, nanoseconds.
        changed: the same of its attributes, of its permissions for example.
        is_denied: whether it, or the folder that it is, may not be looked at.
    """

    path: str
    size: int = -1
    modified: int = 0
    changed: int = 0
    is_denied: bool = False

    @property
    def key(self) -> str:
        """The path as the database can hold it."""
        return text.path(self.path)

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path)[1].lower()  # noqa: PTH122 (a Path for each file takes too long)


def scan(folder: Path, hidden: list[Path]) -> Iterator[Entry]:
    """The files below a folder, sorted within each folder; links to folders are followed.

    Args:
        folder: the folder.
        hidden: collects what is left out since its name begins with a dot.

    Raises:
        UserError: the folder can't be listed, or there are too many files behind links.
    """
    linked = 0
    # Folders to list: path within `folder`, identities of it and its parents, whether it is behind a link.
    waiting = [("", frozenset[tuple[int, int]](), False)]
    while waiting:
        below, above, is_linked = waiting.pop()
        try:
            identity = _identity((folder / below).stat())
            with os.scandir(folder / below) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                reason = error.strerror or str(error)
                raise UserError(sentences.UNREADABLE_FOLDER.format(path=folder, reason=reason)) from error
            yield Entry(below, is_denied=True)
            continue
        linked += len(entries) if is_linked else 0
        if linked > photos.MAX_LINKED:
            raise UserError(
                f"{folder}: more than {photos.MAX_LINKED:,} files behind links; remove some links"
            )
        folders = []
        for entry in entries:
            path = os.path.join(below, entry.name)  # noqa: PTH118 (as above)
            if archives.is_litter([entry.name]):
                hidden.extend([] if portable.is_litter(entry.name) else [Path(entry.path)])
                continue
            try:
                status = entry.stat()
            except OSError as error:
                is_missing = error.errno in (errno.ENOENT, errno.ELOOP)  # a broken link
                yield Entry(path, is_denied=not is_missing)
                continue
            if not stat.S_ISDIR(status.st_mode):
                is_plain = stat.S_ISREG(status.st_mode)
                yield Entry(path, status.st_size if is_plain else -1, status.st_mtime_ns, status.st_ctime_ns)
            elif _identity(status) not in above | {identity}:  # else a link to a folder that it lies in
                folders.append((path, above | {identity}, is_linked or entry.is_symlink()))
        waiting += reversed(folders)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
