"""Seals: a folder's own ``SHA256SUMS``, written when it is whole and checked before it is used.

DVC trusts the objects of its cache unseen, and a file of the workspace by its time and size; a disk's error
changes neither. By hand: ``sha256sum -c SHA256SUMS`` in the folder.
"""

import functools
import hashlib
from pathlib import Path

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT

REPAIR = "petfaces verify --repair"


def seal(folder: Path) -> None:
    """Writes ``SHA256SUMS`` over all files of a folder."""
    lines = (f"{digest}  {name}\n" for name, digest in portable.sums(folder).items())
    (folder / portable.SUMS).write_text("".join(lines), encoding="utf-8")


def near(path: Path) -> Path:
    """A path as messages tell it: from the project's root, where it lies there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def check(folder: Path, name: str | None = None) -> None:
    """Makes sure that a folder's files are those that were sealed.

    A process reads a folder once, however often it asks, unless a file was touched in between. Further files
    are told once and do no harm.

    Args:
        folder: a sealed one.
        name: what a person knows it by; its path otherwise.

    Raises:
        UserError: a file is damaged or missing, or the folder was never sealed.
    """
    if not (folder / portable.SUMS).is_file():
        raise UserError(
            f"{name or near(folder)} has no {portable.SUMS} (an older version made it?); make it again, "
            f"or take it as it is: petfaces verify --seal {near(folder)}"
        )
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = ((file, file.stat()) for file in files)
    stamps = tuple((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in stats)
    if wrong := _damaged(folder, stamps):
        raise UserError(f"{name or near(folder)}: {', '.join(wrong)}; run: {REPAIR}")
    portable.tell_extra(folder, str(name or near(folder)))


@functools.cache
def _damaged(folder: Path, stamps: tuple) -> list[str]:
    return portable.damaged(folder)


def digest(folder: Path) -> str:
    """Hash of a folder's sealed files by name and bytes; of one that was never sealed, of all its files."""
    try:
        files = [folder / name for name in (*portable.sealed(folder), portable.SUMS)]
    except portable.DamagedError:
        files = [folder / name for name in portable.entries(folder)]
    whole = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        whole.update(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def foreign(folder: Path, *written: str, below: bool = False) -> list[str]:
    """What of a folder is not as this program left it, a phrase a file: what a person added or changed.

    Args:
        folder: a directory.
        written: names of files that are not sealed, and the program's own.
        below: whether seals of folders within it count, and not its own alone.
    """
    seals = [name for name in portable.entries(folder) if name.rpartition("/")[2] == portable.SUMS]
    known, wrong = set(written), []
    for place in {Path(name).parent for name in seals if below or name == portable.SUMS}:
        try:
            known |= {(place / name).as_posix() for name in (*portable.sealed(folder / place), portable.SUMS)}
        except portable.DamagedError as error:
            wrong.append(f"{place / portable.SUMS}: {error}")
        else:
            wrong += [(place / phrase).as_posix() for phrase in portable.damaged(folder / place)]
    others = (name for name in portable.entries(folder) if name not in known and not portable.is_litter(name))
    return [*others, *wrong]


def model_hash(train: Path) -> str:
    """SHA-256 of a train folder's weights and card (classes, preprocessing)."""
    whole = hashlib.sha256((train / "weights.safetensors").read_bytes())
    whole.update((train / "model.json").read_bytes())
    return whole.hexdigest()
