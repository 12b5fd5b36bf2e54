"""Folders and files that are written whole or not at all, and that delete nothing of a person's.

Train, pack, evaluate, register and export write their folder anew. What stood there goes only where it is a
folder that this program left: sealed, whole, with nothing added. Anything else is named instead.
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
from pipeline.common.text import printable

MARK = ".unfinished"  # in a folder that is being written: what a killed process left may be deleted


@dataclass(frozen=True)
class Target:
    """A folder that is to be written anew.

    Attributes:
        out: missing, empty, or as this program left it.
        needed: files by which a folder of this kind is known.
        what: how messages call it, such as ``out=runs/single/mine``; its path otherwise.
        advice: what to do where something else is there.
    """

    out: Path
    needed: tuple[str, ...]
    what: str = ""
    advice: str = "move it away"

    @property
    def part(self) -> Path:
        """Where it is written until it is whole."""
        return self.out.with_name(f"{self.out.name}.part")

    def check(self) -> None:
        """Makes sure that nothing a person put there would be lost.

        Raises:
            UserError: there is something else.
        """
        _check(self.out, self.what or str(seal.near(self.out)), self.needed, self.advice)

    def begin(self) -> Path:
        """Makes the folder to write into; what a killed process left of it is removed.

        Raises:
            UserError: as `check`; or something else bears its name.
        """
        self.check()
        if self.part.is_symlink() or not (self.part / MARK).is_file():
            _check(self.part, str(seal.near(self.part)), self.needed, "it is in the way: move it away")
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        (self.part / MARK).touch()
        return self.part

    def finish(self) -> None:
        """Puts what was written and sealed in its place.

        Raises:
            UserError: as `check`; a person may have put something there meanwhile.
        """
        (self.part / MARK).unlink()
        self.check()
        shutil.rmtree(self.out, ignore_errors=True)
        os.replace(self.part, self.out)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Begins, and finishes when the context ends well; otherwise nothing is left of it."""
        part = self.begin()
        try:
            yield part
            self.finish()
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """Where to write a file that takes the place of the former one when the context ends well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def replace_text(file: Path, content: str) -> None:
    """Writes a small file in one step."""
    with replaced(file) as part:
        part.write_text(content, encoding="utf-8")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Likewise a folder of a cache; of two that are written at the same moment either one stays."""
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
    """Makes sure that all in a folder is as this program left it.

    Args:
        folder: a directory.
        what: how the message calls it.
        advice: what to do otherwise.
        written: as of `seal.foreign`.
        below: likewise.

    Raises:
        UserError: names what was added or changed.
    """
    if found := seal.foreign(folder, *written, below=below):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        shown = ", ".join(map(printable, found[:3]))
        raise UserError(f"{what} holds what was added or changed there ({shown}{more}); {advice}")
