"""Seals: a folder's own ``SHA256SUMS``, written when the folder is complete and checked before use.

DVC does not verify objects in its cache, and workspace files only by mtime and size, so it misses disk
corruption. To check by hand: ``sha256sum -c SHA256SUMS`` in the folder.
"""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT

REPAIR = "petfaces verify --repair"


def seal(folder: Path) -> None:
    """Writes the ``SHA256SUMS`` of all files of a folder."""
    lines = (f"{digest}  {name}\n" for name, digest in portable.sums(folder).items())
    (folder / portable.SUMS).write_text("".join(lines), encoding="utf-8")


def relative_to_root(path: Path) -> Path:
    """A path for messages: relative to the project's root if it is inside."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def check(folder: Path, name: str | None = None) -> None:
    """Checks a folder's files against its seal.

    The result is cached per process until a file's size or timestamps change. Extra files only give a
    warning, once.

    Args:
        folder: a sealed folder.
        name: its name in messages; defaults to the path.

    Raises:
        UserError: a file is damaged or missing, or the folder was never sealed.
    """
    if not (folder / portable.SUMS).is_file():
        raise UserError(
            f"{name or relative_to_root(folder)} has no {portable.SUMS} (written by an older version?); make "
            f"it again, or seal it as it is: petfaces verify --seal {relative_to_root(folder)}"
        )
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = ((file, file.stat()) for file in files)
    stamps = tuple((str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in stats)
    if wrong := _damaged(folder, stamps):
        raise UserError(f"{name or relative_to_root(folder)}: {', '.join(wrong)}; run: {REPAIR}")
    portable.warn_of_unsealed(folder, str(name or relative_to_root(folder)))


@functools.cache
def _damaged(folder: Path, stamps: tuple) -> list[str]:
    """`portable.damaged`, cached until the stamps change."""
    return portable.damaged(folder)


def digest(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's sealed files, or of all files if never sealed."""
    try:
        files = [folder / name for name in (*portable.sealed(folder), portable.SUMS)]
    except portable.DamagedError:
        files = [folder / name for name in portable.entries(folder)]
    files = sorted(file for file in files if file.is_file())
    return hash_of((file.relative_to(folder), portable.sha256_of(file)) for file in files)


def hash_of(files: Iterable[tuple[Path, str]]) -> str:
    """SHA-256 of (path, SHA-256) pairs, in the given order."""
    return hashlib.sha256("".join(f"{file} {sha256}\n" for file, sha256 in files).encode()).hexdigest()


def foreign_files(folder: Path, *written: str, recursive: bool = False) -> list[str]:
    """Files that were added or changed since this program wrote a folder.

    Args:
        folder: an existing directory.
        written: names of unsealed files that this program wrote itself.
        recursive: whether files that the seals of subfolders list count as written, too.

    Returns:
        The names of added files, then a message for each changed or missing one.
    """
    seals = [name for name in portable.entries(folder) if name.rpartition("/")[2] == portable.SUMS]
    known, wrong = set(written), []
    for base in {Path(name).parent for name in seals if recursive or name == portable.SUMS}:
        try:
            known |= {(base / name).as_posix() for name in (*portable.sealed(folder / base), portable.SUMS)}
        except portable.DamagedError as error:
            wrong.append(f"{base / portable.SUMS}: {error}")
        else:
            wrong += [(base / message).as_posix() for message in portable.damaged(folder / base)]
    added = (name for name in portable.entries(folder) if name not in known and not portable.is_litter(name))
    return [*added, *wrong]


def model_hash(train: Path) -> str:
    """SHA-256 of a train folder's weights and card (classes, preprocessing)."""
    digest = hashlib.sha256((train / "weights.safetensors").read_bytes())
    digest.update((train / "model.json").read_bytes())
    return digest.hexdigest()
