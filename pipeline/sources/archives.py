"""Reads files out of untrusted archives (tar, compressed or not, and zip), and adds files to tars."""

import contextlib
import io
import stat
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from pipeline import portable
from pipeline.common import text
from pipeline.common.errors import UserError

MAX_BYTES = 64_000_000  # per encoded image
MAX_RATIO = 1000  # member size to archive size; deflate's maximum is about 1000, images rarely reach 2
DOS = 0  # a zip member's create_system on FAT and NTFS
BUFFER = 1 << 20  # bytes; tarfile skips members by reading blocks of this size
# PAX header of an empty member: why the stage fetch could not read the file.
UNREADABLE = "PETFACES.unreadable"


def _unsafe(archive: Path, name: str) -> UserError:
    name = text.shortened(name, 200)
    return UserError(f"{archive}: member '{name}' is not a regular file in the archive; repack without it")


def add(archive: tarfile.TarFile, name: str, data: bytes, headers: dict[str, str] | None = None) -> None:
    """Adds a file to a tar without timestamp, owner and mode, so that equal files give equal bytes.

    Args:
        archive: open for writing.
        name: path in the archive.
        data: contents.
        headers: PAX headers.
    """
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = len(data), headers or {}
    archive.addfile(member, io.BytesIO(data))


def is_litter(parts: Iterable[str]) -> bool:
    """Whether a path has a hidden part, or one that operating systems create."""
    return any(part.startswith(".") or portable.is_litter(part) for part in parts)


def members(archive: Path, hidden: list[str] | None = None) -> Iterator[tuple[str, bytes | str | None]]:
    """Yields (path, bytes) of an archive's files in archive order, with a tar's hard links last.

    Paths are relative and without ``..``; bytes that are not UTF-8 become lone surrogates (PEP 383). Yields
    None instead of bytes for files over MAX_BYTES, and a string, the reason, for files that the stage fetch
    could not read.

    Args:
        archive: tar, compressed or not, or zip.
        hidden: collects the paths skipped because a part begins with a dot, without files that operating
            systems create.

    Raises:
        UserError: the archive is damaged or encrypted, or a member is not a regular file inside it.
    """
    try:
        read = _zip_members if zipfile.is_zipfile(archive) else _tar_members
        for name, data in read(archive):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise _unsafe(archive, name)
            if not is_litter(path.parts):
                yield str(path), data
            elif hidden is not None and not portable.is_litter(str(path)):
                hidden.append(str(path))
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(
            f"{archive} uses an unsupported compression ({text.shortened(error, 100)}); unpack it and set "
            "fetch.path to the folder"
        ) from error
    except Exception as error:  # Python's readers raise many types for malformed archives, even TypeError
        message = text.shortened(portable.reason(error), 300)
        raise UserError(f"{archive} is damaged ({message}); fetch it again: dvc repro -f fetch") from error


def _tar_members(archive: Path) -> Iterator[tuple[str, bytes | str | None]]:
    """The files of a tar; hard links to earlier files come last, from a second pass.

    Seeking backwards in a compressed tar is too slow, and its contents may not fit in memory.
    """
    max_bytes = max(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
    files, links, linked_bytes = set(), defaultdict(list), 0
    for member, data in _tar_files(archive, max_bytes):
        if not member.islnk():
            files.add(PurePosixPath(member.name))
            yield member.name, data()
        elif (target := PurePosixPath(member.linkname)) in files:
            links[target].append(member.name)
        else:
            raise _unsafe(archive, member.name)
    if not links:
        return
    for member, data in _tar_files(archive, max_bytes):
        names = [] if member.islnk() else links.pop(PurePosixPath(member.name), [])
        if linked_bytes + len(names) * member.size > max_bytes:  # links are tiny, but each is decoded
            raise ValueError(f"hard links to '{member.name}' expand to more than {max_bytes:,} bytes")
        linked_bytes += len(names) * member.size
        content = data() if names else None
        yield from ((name, content) for name in names)


def _tar_files(
    archive: Path, max_bytes: int
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes | str | None]]]:
    """Files and hard links of a tar with functions that read them, valid until the next iteration."""
    with tarfile.open(archive, "r|*", bufsize=BUFFER, encoding="utf-8", errors="surrogateescape") as stream:

        def read(member: tarfile.TarInfo) -> bytes | str | None:
            if reason := member.pax_headers.get(UNREADABLE):
                return text.shortened(reason, 200)
            return stream.extractfile(member).read() if member.size <= MAX_BYTES else None

        for member in stream:
            if member.isdir():
                continue
            if not member.isfile() and not member.islnk():
                raise _unsafe(archive, member.name)
            # The header has the size, so oversized members are rejected before they are read.
            if member.size > max_bytes:
                raise ValueError(f"member '{member.name}' has a size of {member.size:,} bytes")
            yield member, partial(read, member)


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes | str | None]]:
    with zipfile.ZipFile(archive) as stream:
        files = stream.infolist()
        slashes = any("/" in member.filename for member in files)
        for member in files:
            name = _zip_name(member)
            # Windows' own tools write "/", older .NET versions and PowerShell a backslash.
            if member.create_system == DOS or not slashes:
                if PureWindowsPath(name).drive:
                    raise _unsafe(archive, name)
                name = name.replace("\\", "/")
            if name.endswith("/"):
                continue
            kind = member.external_attr >> 16
            if kind and stat.S_IFMT(kind) not in (0, stat.S_IFREG):
                raise _unsafe(archive, name)
            if member.flag_bits & 1:
                raise UserError(f"{archive} is encrypted; unpack it and set fetch.path to the folder")
            with stream.open(member) as file:  # the size in the zip directory may be wrong
                data = file.read(MAX_BYTES + 1)
            yield name, data if len(data) <= MAX_BYTES else None


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name: as UTF-8 if flagged or valid (macOS and Linux don't set the flag), else as CP437."""
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return member.filename.encode("cp437").decode()
    return member.filename
