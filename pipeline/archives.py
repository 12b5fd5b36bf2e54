"""Reads archives of files that nobody vouches for: tar, compressed or not, and zip."""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.config import UserError

MAX_BYTES = 64_000_000  # of one encoded picture
MAX_RATIO = 1000  # of a member's bytes to the archive's: deflate reaches no more, pictures hardly 2
BUFFER = 1 << 20  # tarfile skips a member by reading it in such pieces
LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what systems leave beside pictures


def _refuse(archive: Path, name: str) -> UserError:
    return UserError(f"{archive}: member '{name}' is no plain file inside the archive; refused")


def members(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    """Streams (path, bytes) of an archive's files, in the archive's order; bytes above MAX_BYTES are None.

    Args:
        archive: tar, compressed or not, or zip.

    Raises:
        UserError: the archive is damaged, or a member is not a plain file inside it.
    """
    try:
        read = _zip_members if zipfile.is_zipfile(archive) else _tar_members
        for name, data in read(archive):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise _refuse(archive, name)
            if not any(part.startswith(".") or part in LITTER for part in path.parts):
                yield str(path), data
    except UserError:
        raise
    except Exception as error:  # Python's readers raise whatever they meet in hostile bytes, TypeError too
        told = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive} is damaged ({told}); fetch it anew: dvc repro -f fetch") from error


def _tar_members(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    most = max(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
    with tarfile.open(archive, "r|*", bufsize=BUFFER) as stream:
        for member in stream:
            if member.isdir():
                continue
            if not member.isfile():
                raise _refuse(archive, member.name)
            # A size is told before the bytes come: what only claims a terabyte costs nothing.
            if member.size > most:
                raise ValueError(f"member '{member.name}' claims {member.size:,} bytes")
            yield member.name, stream.extractfile(member).read() if member.size <= MAX_BYTES else None


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    with zipfile.ZipFile(archive) as stream:
        for member in stream.infolist():
            if member.is_dir():
                continue
            kind = member.external_attr >> 16
            if kind and stat.S_IFMT(kind) not in (0, stat.S_IFREG):
                raise _refuse(archive, member.filename)
            with stream.open(member) as file:  # what the directory says of the size need not be true
                data = file.read(MAX_BYTES + 1)
            yield member.filename, data if len(data) <= MAX_BYTES else None
