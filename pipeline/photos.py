"""The pictures that a person names: files, folders, patterns, or standard input, one after the other."""

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.archives import LITTER, MAX_BYTES
from pipeline.portable import UnreadableError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")  # looked for in folders


def named(words: list[str]) -> Iterator[str]:
    """Paths in the order of the words; ``-`` is standard input.

    A folder gives what has a picture's suffix in it and below, sorted, folder by folder, so that a large
    tree needs the memory of one folder's names. A pattern that the shell left is looked up here; `**` goes
    through folders. What is not there comes through: reading it tells so.
    """
    for word in words:
        if word == "-":
            yield word
        elif Path(word).is_dir():
            yield from _below(word)
        elif glob.has_magic(word) and not Path(word).exists():
            found = sorted(glob.iglob(word, recursive=True))  # noqa: PTH207 (Path.glob wants a folder apart)
            # A pattern that meets nothing is told as a file that is not there.
            for path in found or [word]:
                yield from _below(path) if Path(path).is_dir() else [path]
        else:
            yield word


def _below(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LITTER)
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield str(Path(place) / name)


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
