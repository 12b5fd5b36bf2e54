"""Finds the images in the files, folders and glob patterns that a user passes, and reads them."""

import errno
import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.common.text import printable, shortened
from pipeline.portable import FORMATS, UnreadableError
from pipeline.sources.archives import MAX_BYTES, is_litter

# In folders, these suffixes count as images, so damaged ones are reported; other files by content.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    *(".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"),
)
ALL_SUFFIXES = (*SUFFIXES, ".heic", ".heif", ".jp2", ".jxl")  # includes unsupported formats
MAX_SHOWN = 5  # skipped suffixes listed in a message
HIDDEN = "hidden"  # key for hidden files, in place of a suffix
MAX_HIDDEN = 10_000  # files counted per hidden folder; a file server's .snapshot repeats everything
# Limit behind links to folders: 20 nested folders with two links each to the next give a million paths.
MAX_LINKED = 1_000_000
LOOP = "a link to a folder that it lies in"


def image_paths(arguments: list[str], skipped: Counter | None = None) -> Iterator[str]:
    """Yields image paths in the order of the arguments; ``-`` is standard input.

    A folder yields the images in it and its subfolders, sorted within each folder, so memory is bounded by
    the largest folder. Patterns that the shell did not expand are expanded here; `**` is recursive. Missing
    files are yielded too; reading them gives the error.

    Args:
        arguments: files, folders, patterns, or ``-``.
        skipped: counts files in folders that are not images, by suffix, and hidden ones under HIDDEN.

    Raises:
        UserError: there are more than MAX_LINKED files behind links to folders.
    """
    skipped = Counter() if skipped is None else skipped
    for argument in arguments:
        if argument == "-":
            yield argument
        elif os.path.isdir(argument):  # noqa: PTH112 (Path.is_dir raises if a name is too long)
            yield from _images_below(argument, skipped)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found = sorted(glob.iglob(argument, recursive=True))  # noqa: PTH207 (Path.glob needs a separate base folder)
            # A pattern without matches is reported as a missing file.
            for path in found or [argument]:
                yield from _images_below(path, skipped) if Path(path).is_dir() else [path]
        else:
            yield argument


def _images_below(folder: str, skipped: Counter) -> Iterator[str]:
    hidden: list[Path] = []
    for _, path in walk(Path(folder), [], hidden):
        suffix = path.suffix.lower()
        if _is_inaccessible(path) or _is_picture(path, suffix):
            yield str(path)
        else:
            skipped[suffix] += 1
    if count := sum(1 for entry in hidden for _ in files_in_hidden(entry)):
        skipped[HIDDEN] += count


def _is_inaccessible(path: Path) -> bool:
    """Whether a folder can't be listed or a file can't be accessed; reading it gives the error."""
    try:
        why_not_a_file(path)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ELOOP)  # a broken link is classified by its suffix
    return False


def walk(root: Path, links: list[Path], hidden: list[Path]) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Yields (relative path parts, path) of all files below a folder, sorted within each folder.

    Links to folders are followed. Links to a parent folder, which would loop, and folders that can't be
    listed are yielded like files; `why_not_a_file` gives the reason.

    Args:
        root: the folder.
        links: collects the links to folders that were followed.
        hidden: collects skipped paths whose name begins with a dot, without files that operating systems
            create.

    Raises:
        UserError: there are more than MAX_LINKED files behind links.
    """
    linked = 0
    # Stack of folders to list: path parts, identities of the folder and its parents, whether behind a link.
    waiting = [((), frozenset([_identity(root)]), False)]
    while waiting:
        parts, above, is_linked = waiting.pop()
        folder = root.joinpath(*parts)
        try:
            files = sorted(folder.iterdir())
        except OSError:
            yield parts, folder
            continue
        linked += len(files) if is_linked else 0
        if linked > MAX_LINKED:
            raise UserError(
                f"{shortened(folder, 200)}: more than {MAX_LINKED:,} files behind links to folders; "
                "remove some links"
            )
        folders = []
        for file in files:
            if is_litter([file.name]):
                hidden.extend([] if portable.is_litter(file.name) else [file])
                continue
            below = (*parts, file.name)
            identity = _identity(file)
            if identity is None or identity in above:
                yield below, file
                continue
            is_link = file.is_symlink()
            folders.append((below, above | {identity}, is_linked or is_link))
            links.extend([file] if is_link else [])
        waiting += reversed(folders)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; None if it is not a folder or can't be accessed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def why_not_a_file(path: Path) -> str | None:
    """Why a path from `walk` is not a regular file, or None if it is; pipes and devices are not opened.

    Raises:
        OSError: it does not exist, or is a folder that can't be listed.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        list(path.iterdir())
        return LOOP
    return None if stat.S_ISREG(status.st_mode) else "no plain file: a pipe, a socket or a device"


def files_in_hidden(entry: Path) -> Iterator[Path]:
    """Yields a hidden file, or at most MAX_HIDDEN files in a hidden folder, except those that systems create.

    Links to folders are not followed.
    """
    if _identity(entry) is None or entry.is_symlink():
        yield entry
    else:
        found = (Path(directory, name) for directory, _, files in os.walk(entry) for name in files)
        yield from islice((file for file in found if not portable.is_litter(file.name)), MAX_HIDDEN)


def is_named_as_picture(name: str) -> bool:
    """Whether a file name has an image suffix, including unsupported formats."""
    return name.lower().endswith(ALL_SUFFIXES)


def hidden_message(names: list[str]) -> str:
    """A one-line message with the number of images skipped because they are hidden, and the first names."""
    shown = ", ".join(shortened(name, 60) for name in sorted(names)[:3])
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"skipped hidden pictures (a file or folder name begins with a dot): {len(names):,}, {shown}{more}"


def _is_picture(path: Path, suffix: str) -> bool:
    """Whether a file is an image by suffix or content; pipes and devices are not opened and give False."""
    try:
        if path.exists() and not path.is_file():
            return False
        if suffix in SUFFIXES:
            return True
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:  # reading the image later gives the error
        return suffix in SUFFIXES
    Image.init()
    if start.startswith(b"BM") and any(start[6:10]):  # BM alone is ambiguous; BMP has zeros in these bytes
        return False
    return any(Image.OPEN[kind][1](start) for kind in FORMATS)


def skipped_message(skipped: Counter) -> str:
    """A one-line message with the number of skipped files and their suffixes."""
    shown = skipped.most_common(MAX_SHOWN)
    kinds = [f"{count:,} {printable(suffix) or 'without a suffix'}" for suffix, count in shown]
    if more := skipped.total() - sum(count for _, count in shown):
        kinds.append(f"{more:,} others")
    return f"skipped files: {skipped.total():,} ({', '.join(kinds)})"


def read(name: str) -> bytes:
    """The bytes of an image file, or of standard input for ``-``.

    Raises:
        UnreadableError: it is missing, not readable, not a regular file, or larger than MAX_BYTES.
    """
    try:
        if name == "-":
            if sys.stdin is None:
                raise UnreadableError("standard input is closed")
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        elif reason := why_not_a_file(Path(name)):
            raise UnreadableError(reason)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"more than {MAX_BYTES:,} bytes")
    return data
