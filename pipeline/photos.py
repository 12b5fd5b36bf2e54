"""The pictures that a person names: files, folders, patterns, or standard input, one after the other."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pipeline.archives import MAX_BYTES, is_litter
from pipeline.portable import FORMATS, UnreadableError
from pipeline.text import printable

# In a folder these are pictures whatever they hold, so that a damaged one is told; others by content.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    *(".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"),
)
SHOWN = 5  # suffixes of files that were skipped


def named(words: list[str], skipped: Counter | None = None) -> Iterator[str]:
    """Paths in the order of the words; ``-`` is standard input.

    A folder gives the pictures in it and below, sorted, folder by folder, so that a large tree needs the
    memory of one folder's names. A pattern that the shell left is looked up here; `**` goes through folders.
    What is not there comes through: reading it tells so.

    Args:
        words: files, folders, patterns, or ``-``.
        skipped: counts the files of folders that are no pictures, by suffix.
    """
    skipped = Counter() if skipped is None else skipped
    for word in words:
        if word == "-":
            yield word
        elif Path(word).is_dir():
            yield from _below(word, skipped)
        elif glob.has_magic(word) and not Path(word).exists():
            found = sorted(glob.iglob(word, recursive=True))  # noqa: PTH207 (Path.glob wants a folder apart)
            # A pattern that meets nothing is told as a file that is not there.
            for path in found or [word]:
                yield from _below(path, skipped) if Path(path).is_dir() else [path]
        else:
            yield word


def _below(folder: str, skipped: Counter) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_litter([name]))
        for name in sorted(files):
            if is_litter([name]):
                continue
            path, suffix = Path(place) / name, Path(name).suffix.lower()
            if _is_picture(path, suffix):
                yield str(path)
            else:
                skipped[suffix] += 1


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
        UnreadableError: it is not there, may not be read, or is larger than MAX_BYTES.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    if len(data) > MAX_BYTES:
        raise UnreadableError(f"more than {MAX_BYTES:,} bytes")
    return data
