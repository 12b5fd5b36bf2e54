"""The pictures that a person names: files, folders, patterns, or standard input, one after the other."""

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

# In a folder these are pictures whatever they hold, so that a damaged one is told; others by content.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    *(".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"),
)
NAMED_AS_PICTURES = (*SUFFIXES, ".heic", ".heif", ".jp2", ".jxl")  # also of formats that are not read
SHOWN = 5  # suffixes of files that were skipped
HIDDEN = "hidden"  # in the place of a suffix
MAX_HIDDEN = 10_000  # files of a hidden folder that are counted: .snapshot of a file server has all again
# Behind links to folders: two links in each of 20 folders, all to the next one, would give a million.
MAX_LINKED = 1_000_000
LOOP = "a link to a folder that it lies in"


def named(words: list[str], skipped: Counter | None = None) -> Iterator[str]:
    """Paths in the order of the words; ``-`` is standard input.

    A folder gives the pictures in it and below, sorted, folder by folder, so that a large tree needs the
    memory of one folder's names. A pattern that the shell left is looked up here; `**` goes through folders.
    What is not there comes through: reading it tells so.

    Args:
        words: files, folders, patterns, or ``-``.
        skipped: counts the files of folders that are no pictures, by suffix, and those that are HIDDEN.

    Raises:
        UserError: there is more than MAX_LINKED behind links to folders.
    """
    skipped = Counter() if skipped is None else skipped
    for word in words:
        if word == "-":
            yield word
        elif os.path.isdir(word):  # noqa: PTH112 (Path.is_dir raises where a name is too long)
            yield from _below(word, skipped)
        elif glob.has_magic(word) and not os.path.lexists(word):
            found = sorted(glob.iglob(word, recursive=True))  # noqa: PTH207 (Path.glob wants a folder apart)
            # A pattern that meets nothing is told as a file that is not there.
            for path in found or [word]:
                yield from _below(path, skipped) if Path(path).is_dir() else [path]
        else:
            yield word


def _below(folder: str, skipped: Counter) -> Iterator[str]:
    hidden: list[Path] = []
    for _, path in walk(Path(folder), [], hidden):
        suffix = path.suffix.lower()
        if _is_closed(path) or _is_picture(path, suffix):
            yield str(path)
        else:
            skipped[suffix] += 1
    if count := sum(1 for entry in hidden for _ in below_hidden(entry)):
        skipped[HIDDEN] += count


def _is_closed(path: Path) -> bool:
    """Whether it can't be listed, being a folder, or can't be looked at; reading tells why."""
    try:
        why_no_file(path)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ELOOP)  # broken links, of which the suffix decides
    return False


def walk(root: Path, links: list[Path], hidden: list[Path]) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Everything below a folder that is no folder, by its parts, sorted, folder by folder.

    Links to folders are followed. One to a folder that it lies in would go round for ever: it is given as a
    file, as is a folder that can't be listed, and `why_no_file` says why.

    Args:
        root: the folder.
        links: is given the links to folders that were followed.
        hidden: is given what is passed over for a name that begins with a dot, but not what systems leave.

    Raises:
        UserError: there is more than MAX_LINKED behind links.
    """
    linked = 0
    # Of each folder still to be listed: its parts, what identifies it and the folders that it lies in, and
    # whether it lies behind a link.
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
                f"{shortened(folder, 200)}: more than {MAX_LINKED:,} files lie behind links to folders; "
                "take some links away"
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
    """Device and inode of a folder; None where it is none."""
    try:
        known = path.stat()
    except OSError:
        return None
    return (known.st_dev, known.st_ino) if stat.S_ISDIR(known.st_mode) else None


def why_no_file(path: Path) -> str | None:
    """Why something that `walk` gave is no file that can be read; a pipe or a device is not opened.

    Raises:
        OSError: it is not there, or a folder that can't be listed.
    """
    known = path.stat()
    if stat.S_ISDIR(known.st_mode):
        list(path.iterdir())
        return LOOP
    return None if stat.S_ISREG(known.st_mode) else "no plain file: a pipe, a socket or a device"


def below_hidden(entry: Path) -> Iterator[Path]:
    """A hidden file, or those of a hidden folder: MAX_HIDDEN at most, without what systems leave.

    Links to folders are not followed.
    """
    if _identity(entry) is None or entry.is_symlink():
        yield entry
    else:
        found = (Path(place, name) for place, _, files in os.walk(entry) for name in files)
        yield from islice((file for file in found if not portable.is_litter(file.name)), MAX_HIDDEN)


def is_named_as_picture(name: str) -> bool:
    """Whether a name ends as that of a picture, also of a format that is not read."""
    return name.lower().endswith(NAMED_AS_PICTURES)


def told_of_hidden(names: list[str]) -> str:
    """How many pictures were passed over for hidden names, and the first of them, in one line."""
    shown = ", ".join(shortened(name, 60) for name in sorted(names)[:3])
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"pictures passed over, for a dot begins their or a folder's name: {len(names):,} ({shown}{more})"


def _is_picture(path: Path, suffix: str) -> bool:
    """Whether a file is called a picture or begins as one; a pipe or a device is neither and isn't read."""
    try:
        if path.exists() and not path.is_file():
            return False
        if suffix in SUFFIXES:
            return True
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:  # reading it tells why
        return suffix in SUFFIXES
    Image.init()
    if start.startswith(b"BM") and any(start[6:10]):  # two letters alone begin many a text
        return False
    return any(Image.OPEN[kind][1](start) for kind in FORMATS)


def told_of(skipped: Counter) -> str:
    """How many files were skipped and which suffixes they have, in one line."""
    shown = skipped.most_common(SHOWN)
    kinds = [f"{count:,} {printable(suffix) or 'without a suffix'}" for suffix, count in shown]
    if more := skipped.total() - sum(count for _, count in shown):
        kinds.append(f"{more:,} others")
    return f"skipped as no pictures: {skipped.total():,} ({', '.join(kinds)})"


def read(name: str) -> bytes:
    """A picture's bytes, or those of standard input.

    Raises:
        UnreadableError: it is not there, may not be read, is no plain file, or larger than MAX_BYTES.
    """
    try:
        if name == "-":
            if sys.stdin is None:
                raise UnreadableError("standard input is closed")
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        elif reason := why_no_file(Path(name)):
            raise UnreadableError(reason)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"more than {MAX_BYTES:,} bytes")
    return data
