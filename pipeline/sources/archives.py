"""Reads archives of files that nobody vouches for: tar, compressed or not, and zip."""

import contextlib
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

MAX_BYTES = 64_000_000  # of one encoded picture
MAX_RATIO = 1000  # of a member's bytes to the archive's: deflate reaches no more, pictures hardly 2
DOS = 0  # a zip member's create_system on FAT and NTFS
BUFFER = 1 << 20  # tarfile skips a member by reading it in such pieces
# Of an empty member, why the file's bytes are not there; `fetch` writes it (a PAX header, which tar allows).
UNREADABLE = "PETFACES.unreadable"


def _refuse(archive: Path, name: str) -> UserError:
    return UserError(
        f"{archive}: member '{text.shortened(name, 200)}' is no plain file inside the archive; refused"
    )


def is_litter(parts: Iterable[str]) -> bool:
    """Whether a file is hidden, or left by a system beside pictures."""
    return any(part.startswith(".") or portable.is_litter(part) for part in parts)


def members(archive: Path, hidden: list[str] | None = None) -> Iterator[tuple[str, bytes | str | None]]:
    """Streams (path, bytes) of an archive's files, in the archive's order, a tar's hard links last.

    A path may hold anything but ``..``: bytes that are not UTF-8 are lone surrogates (PEP 383). Instead of
    a file's bytes comes None where they are more than MAX_BYTES, or the reason why `fetch` could not read it.

    Args:
        archive: tar, compressed or not, or zip.
        hidden: is given the paths that are passed over for a name that begins with a dot, but not what
            systems leave.

    Raises:
        UserError: the archive is damaged or has a password, or a member is not a plain file inside it.
    """
    try:
        read = _zip_members if zipfile.is_zipfile(archive) else _tar_members
        for name, data in read(archive):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise _refuse(archive, name)
            if not is_litter(path.parts):
                yield str(path), data
            elif hidden is not None and not portable.is_litter(str(path)):
                hidden.append(str(path))
    except UserError:
        raise
    except NotImplementedError as error:
        raise UserError(
            f"{archive} is compressed in a way that can't be read here ({text.shortened(error, 100)}); "
            "unpack it, and name the folder as fetch.path"
        ) from error
    except Exception as error:  # Python's readers raise whatever they meet in hostile bytes, TypeError too
        told = text.shortened(portable.reason(error), 300)
        raise UserError(f"{archive} is damaged ({told}); fetch it anew: dvc repro -f fetch") from error


def _tar_members(archive: Path) -> Iterator[tuple[str, bytes | str | None]]:
    """The files of a tar; hard links to files before them come last, from a second reading.

    A compressed tar can't be read backwards at a fair price, nor can all of it be kept.
    """
    most = max(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
    seen, links, linked = set(), defaultdict(list), 0
    for member, data in _tar_files(archive, most):
        if not member.islnk():
            seen.add(PurePosixPath(member.name))
            yield member.name, data()
        elif (first := PurePosixPath(member.linkname)) in seen:
            links[first].append(member.name)
        else:
            raise _refuse(archive, member.name)
    if not links:
        return
    for member, data in _tar_files(archive, most):
        names = [] if member.islnk() else links.pop(PurePosixPath(member.name), [])
        if linked + len(names) * member.size > most:  # links cost nothing, what they stand for is decoded
            raise ValueError(f"hard links to '{member.name}' stand for more than {most:,} bytes")
        linked += len(names) * member.size
        content = data() if names else None
        yield from ((name, content) for name in names)


def _tar_files(
    archive: Path, most: int
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes | str | None]]]:
    """Files and hard links of a tar, each with what reads it, until the next is asked for."""
    with tarfile.open(archive, "r|*", bufsize=BUFFER, encoding="utf-8", errors="surrogateescape") as stream:

        def read(member: tarfile.TarInfo) -> bytes | str | None:
            if reason := member.pax_headers.get(UNREADABLE):
                return text.shortened(reason, 200)
            return stream.extractfile(member).read() if member.size <= MAX_BYTES else None

        for member in stream:
            if member.isdir():
                continue
            if not member.isfile() and not member.islnk():
                raise _refuse(archive, member.name)
            # A size is told before the bytes come: what only claims a terabyte costs nothing.
            if member.size > most:
                raise ValueError(f"member '{member.name}' claims {member.size:,} bytes")
            yield member, partial(read, member)


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes | str | None]]:
    with zipfile.ZipFile(archive) as stream:
        files = stream.infolist()
        slashes = any("/" in member.filename for member in files)
        for member in files:
            name = _zip_name(member)
            # Windows' own tools put "/" there, .NET's former ones and PowerShell's a backslash.
            if member.create_system == DOS or not slashes:
                if PureWindowsPath(name).drive:
                    raise _refuse(archive, name)
                name = name.replace("\\", "/")
            if name.endswith("/"):
                continue
            kind = member.external_attr >> 16
            if kind and stat.S_IFMT(kind) not in (0, stat.S_IFREG):
                raise _refuse(archive, name)
            if member.flag_bits & 1:
                raise UserError(f"{archive} has a password; unpack it, and name the folder as fetch.path")
            with stream.open(member) as file:  # what the directory says of the size need not be true
                data = file.read(MAX_BYTES + 1)
            yield name, data if len(data) <= MAX_BYTES else None


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name: UTF-8 where it is marked or valid, as macOS and Linux write it, else code page 437."""
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return member.filename.encode("cp437").decode()
    return member.filename
