"""Reads the files of a saved project, one by one, out of its zip or the folder that it was unpacked to.

Either may come from anyone. A zip's list of files is checked before any is unpacked, and only those that are
asked for are.
"""

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from catalog.language import N_, _
from pipeline.common.errors import UserError
from pipeline.sources import archives

DETAILS = "project.json"
MAX_DIRECTORY = 24_000_000  # bytes of a zip's list of files, with about 150 for each
CHUNK = 1 << 20  # bytes that are unpacked at once

DAMAGED = N_("it is damaged")
ENCRYPTED = N_("it is encrypted")
OUTSIDE = N_("it has a link, or a file outside of it")
PACKED = N_("it is packed in a way that isn't read here")


class Files(Protocol):
    """The files beside ``project.json``, and itself."""

    def size(self, file: str) -> int:
        """Bytes of a file; 0 if it is missing."""

    def read(self, file: str, most: int = archives.MAX_BYTES) -> bytes | None:
        """A file's content; None if it is missing, damaged or larger than `most`."""


@contextmanager
def opened(source: Path, name: str) -> Iterator[Files]:
    """The files of a saved project.

    Args:
        source: the zip or the folder; ``project.json`` may lie in a folder in it.
        name: of the source, for messages.

    Raises:
        UserError: there is no ``project.json``, or the zip is damaged, encrypted or hostile.
    """
    if source.is_dir():
        yield _Folder(source, name)
    elif not zipfile.is_zipfile(source):
        raise UserError(_("{name} is no zip file; choose one that this page has saved").format(name=name))
    else:
        with _Limited(source) as stream:
            try:
                archive = zipfile.ZipFile(stream)
            except Exception as error:  # all kinds of errors for malformed archives
                raise _refused(name, DAMAGED) from error
            yield _Zip(archive, name)


def _refused(name: str, reason: str) -> UserError:
    message = _("{name} can't be opened: {reason}; save the project again")
    return UserError(message.format(name=name, reason=_(reason)))


def _no_details(name: str) -> UserError:
    message = _("{name} has no {details}; choose a project that this page has saved")
    return UserError(message.format(name=name, details=DETAILS))


class _Limited(io.FileIO):
    """Refuses to read much at once, as `zipfile` does with the list of files, whatever its size."""

    def read(self, size: int = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        if min(left, left if size is None or size < 0 else size) > MAX_DIRECTORY:
            raise ValueError("its list of files is too long")
        return super().read(size)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, name: str):
        self._archive = archive
        members = {_path(member, name): member for member in archive.infolist() if not member.is_dir()}
        found = (path for path in members if path.name == DETAILS and not archives.is_litter(path.parts))
        details = next(found, None)
        if details is None:
            raise _no_details(name)
        folder = details.parent
        self._members = {
            str(path.relative_to(folder)): member
            for path, member in members.items()
            if path.is_relative_to(folder)
        }

    def size(self, file: str) -> int:
        return self._members[file].file_size if file in self._members else 0

    def read(self, file: str, most: int = archives.MAX_BYTES) -> bytes | None:
        if file not in self._members or self.size(file) > most:
            return None
        try:
            with self._archive.open(self._members[file]) as stream:  # it gives no more than `size` bytes
                return b"".join(iter(lambda: stream.read(CHUNK), b""))
        except Exception:  # all kinds of errors for malformed archives
            return None


def _path(member: zipfile.ZipInfo, name: str) -> PurePosixPath:
    """A member's path in the zip.

    Raises:
        UserError: it is no file inside the zip, or can't be unpacked.
    """
    path = PurePosixPath(member.filename.replace("\\", "/"))  # older tools of Windows write backslashes
    kind = stat.S_IFMT(member.external_attr >> 16)
    is_outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(path).drive
    if is_outside or kind not in (0, stat.S_IFREG):
        raise _refused(name, OUTSIDE)
    if member.flag_bits & 1:
        raise _refused(name, ENCRYPTED)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(name, PACKED)
    return path


class _Folder:
    def __init__(self, folder: Path, name: str):
        places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        found = [place for place in places if (place / DETAILS).is_file()]
        if not found:
            raise _no_details(name)
        self._folder = found[0]

    def size(self, file: str) -> int:
        path = self._folder / file
        return path.stat().st_size if path.is_file() and not path.is_symlink() else 0

    def read(self, file: str, most: int = archives.MAX_BYTES) -> bytes | None:
        if not 0 < self.size(file) <= most:
            return None
        try:
            return (self._folder / file).read_bytes()
        except OSError:
            return None
