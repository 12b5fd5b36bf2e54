"""Atomic writes of files and folders that never delete a user's files.

Train, pack, evaluate, register and export replace their output folder. The old one is deleted only if this
program wrote it (it is sealed and intact, and nothing was added); otherwise a UserError names the files.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline import portable
from pipeline.artifacts import seal
from pipeline.common.errors import UserError
from pipeline.common.text import listed, printable

MARKER = ".unfinished"  # file in a temporary folder: one that a killed process left may be deleted


@dataclass(frozen=True)
class Target:
    """An output folder to replace atomically.

    Attributes:
        out: must be missing, empty, or unchanged since this program wrote it.
        required: files that each folder of this kind has.
        what: name used in messages, such as ``out=runs/single/mine``; defaults to the path.
        advice: ends the message if the folder can't be replaced.
    """

    out: Path
    required: tuple[str, ...]
    what: str = ""
    advice: str = "move it away"

    @property
    def part(self) -> Path:
        """Temporary folder that is renamed to `out` when complete."""
        return self.out.with_name(f"{self.out.name}.part")

    def check(self) -> None:
        """Checks that replacing `out` would lose none of the user's files.

        Raises:
            UserError: `out` holds something that this program did not write.
        """
        _check(self.out, self.what or str(seal.relative_to_root(self.out)), self.required, self.advice)

    def begin(self) -> Path:
        """Creates and returns the temporary folder; deletes one that a killed process left.

        Raises:
            UserError: as `check`, or something else has the temporary folder's name.
        """
        self.check()
        if self.part.is_symlink() or not (self.part / MARKER).is_file():
            what = str(seal.relative_to_root(self.part))
            _check(self.part, what, self.required, "it is in the way: move it away")
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        (self.part / MARKER).touch()
        return self.part

    def finish(self) -> None:
        """Replaces `out` with the written and sealed folder.

        Raises:
            UserError: as `check`; the user may have put something there in the meantime.
        """
        (self.part / MARKER).unlink()
        self.check()
        shutil.rmtree(self.out, ignore_errors=True)
        os.replace(self.part, self.out)

    @contextmanager
    def replace(self) -> Iterator[Path]:
        """Yields the temporary folder; replaces `out` on success, deletes the temporary folder on error."""
        part = self.begin()
        try:
            yield part
            self.finish()
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder, which is created; what is written there replaces `file`.

    If the context raises, `file` stays as it was. Of several writers at once, in threads too, either one's
    file remains, whole.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: its files can be read by their owner only.
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def replace_text(file: Path, content: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    with replace_file(file) as part:
        part.write_text(content, encoding="utf-8")


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Like `replace_file`, for a cache folder; of two concurrent writers, either one's folder remains."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check(folder: Path, what: str, required: tuple[str, ...], advice: str) -> None:
    """`Target.check` for any folder."""
    if folder.is_symlink():
        raise UserError(f"{what} is a symbolic link, which is not replaced; {advice}")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{what} is a file; {advice}")
    if all(portable.is_litter(name) for name in portable.entries(folder)):
        return
    try:
        known = portable.sealed(folder)
    except portable.DamagedError:
        known = {}
    if not set(required) <= known.keys():
        raise UserError(f"{what} contains other files than this program writes; {advice}")
    check_unchanged(folder, what, advice)


def check_unchanged(folder: Path, what: str, advice: str, *written: str, recursive: bool = False) -> None:
    """Checks that a folder is unchanged since this program wrote it.

    Args:
        folder: an existing directory.
        what: its name in the message.
        advice: ends the message.
        written: see `seal.foreign_files`.
        recursive: see `seal.foreign_files`.

    Raises:
        UserError: names the files that were added or changed.
    """
    if found := seal.foreign_files(folder, *written, recursive=recursive):
        shown = listed(list(map(printable, found)), 3)
        raise UserError(f"{what} contains added or changed files ({shown}); {advice}")
