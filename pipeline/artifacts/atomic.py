"""Atomic writes of files and folders that never delete a user's files.

Train, pack, evaluate, register and export replace their output folder. The old one is deleted only if this
program wrote it: sealed, intact, nothing added. Otherwise a UserError names what is in the way.
"""

import os
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

MARK = ".unfinished"  # marks a folder as being written, so leftovers of a killed process can be deleted


@dataclass(frozen=True)
class Target:
    """An output folder to replace atomically.

    Attributes:
        out: must be missing, empty, or unchanged since this program wrote it.
        needed: files that identify a folder of this kind.
        what: name used in messages, such as ``out=runs/single/mine``; defaults to the path.
        advice: what the user should do if the folder can't be replaced.
    """

    out: Path
    needed: tuple[str, ...]
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
        _check(self.out, self.what or str(seal.relative_to_root(self.out)), self.needed, self.advice)

    def begin(self) -> Path:
        """Creates and returns the temporary folder, after deleting leftovers of a killed process.

        Raises:
            UserError: as `check`, or something else has the temporary folder's name.
        """
        self.check()
        if self.part.is_symlink() or not (self.part / MARK).is_file():
            what = str(seal.relative_to_root(self.part))
            _check(self.part, what, self.needed, "it is in the way: move it away")
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        (self.part / MARK).touch()
        return self.part

    def finish(self) -> None:
        """Replaces `out` with the written and sealed folder.

        Raises:
            UserError: as `check`; the user may have put something there in the meantime.
        """
        (self.part / MARK).unlink()
        self.check()
        shutil.rmtree(self.out, ignore_errors=True)
        os.replace(self.part, self.out)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Yields the temporary folder; replaces `out` on success, deletes the temporary folder on error."""
        part = self.begin()
        try:
            yield part
            self.finish()
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Yields a temporary path; the file written there replaces `file` if the context raises nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def replace_text(file: Path, content: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    with replaced(file) as part:
        part.write_text(content, encoding="utf-8")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Like `replaced`, for a cache folder; of two concurrent writers, either one's folder remains."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        yield part
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check(folder: Path, what: str, needed: tuple[str, ...], advice: str) -> None:
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
    if not set(needed) <= known.keys():
        raise UserError(f"{what} holds something else than what is written there; {advice}")
    check_own(folder, what, advice)


def check_own(folder: Path, what: str, advice: str, *written: str, below: bool = False) -> None:
    """Checks that a folder is unchanged since this program wrote it.

    Args:
        folder: an existing directory.
        what: its name in the message.
        advice: what the user should do if it was changed.
        written: see `seal.foreign_files`.
        below: see `seal.foreign_files`.

    Raises:
        UserError: names the files that were added or changed.
    """
    if found := seal.foreign_files(folder, *written, below=below):
        shown = listed(list(map(printable, found)), 3)
        raise UserError(f"{what} holds what was added or changed there ({shown}); {advice}")
