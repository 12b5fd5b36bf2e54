"""Sealed folders: ``SHA256SUMS`` has the checksums of their files."""

import hashlib
import logging
import os
import re
from pathlib import Path

from .errors import DamagedError

_log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"  # one line per file, in the format of sha256sum
# Files that operating systems and Python create anywhere: lower-case names, and prefixes below.
LITTER = frozenset(
    (
        *("desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r", ".ds_store", ".directory", ".localized"),
        *("__pycache__", "__macosx", "@eadir"),
    )
)
LITTER_PREFIXES = ("._", ".nfs", ".fuse_hidden")
_WARNED: set[tuple] = set()  # (folder, *names) already warned about in this process
_GENERATED = re.compile(r"/(__pycache__/|\.nfs[0-9a-f]+$)")
# Files that the code reads from a sealed folder; without a checksum, such a file counts as damage.
READ = frozenset(
    (
        *("model.onnx", "model.json", "weights.safetensors", "config.yaml", "lineage.json", "changes.diff"),
        *("metrics.json", "curves.csv", "predictions.csv", "probabilities.npy", "model.sha256"),
        *("classes.csv", "confusions.csv", "pack.json", "pixels.bin", "index.csv", "quarantine.csv"),
        "trunk.onnx",
    )
)


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path of each file in a folder, sorted.

    Omits ``SHA256SUMS`` itself, hidden files and litter (`is_litter`).
    """
    visible = (name for name in entries(folder) if "/." not in f"/{name}" and not is_litter(name))
    return {name: sha256_of(folder / name) for name in visible if name != SUMS and (folder / name).is_file()}


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    with open(file, "rb") as stream:  # in chunks: a packed data set may exceed the memory
        return hashlib.file_digest(stream, "sha256").hexdigest()


def entries(folder: Path) -> list[str]:
    """Relative paths of everything below a folder except plain directories; links are not followed."""
    found = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def is_litter(name: str) -> bool:
    """Whether a path is a file that operating systems or Python create anywhere; these are never sealed."""
    return any(part in LITTER or part.startswith(LITTER_PREFIXES) for part in name.lower().split("/"))


def sealed(folder: Path) -> dict[str, str]:
    """Reads ``SHA256SUMS``: SHA-256 by relative path.

    Raises:
        DamagedError: it is missing, unreadable or malformed.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DamagedError(f"{SUMS} is missing") from None
    except OSError as error:
        raise DamagedError(f"{SUMS} can't be read ({error.strerror})") from error
    except ValueError:
        lines = []
    parsed = [line.partition("  ") for line in lines]
    # An empty SHA256SUMS would pass any folder as intact.
    if not parsed or not all(is_sealable(name, digest) for digest, _, name in parsed):
        raise DamagedError(f"{SUMS} is damaged")
    return {name: digest for digest, _, name in parsed}


def is_sealable(name: object, digest: object) -> bool:
    """Whether these are a path within the folder and a SHA-256; an untrusted path could point outside."""
    return (
        isinstance(name, str)
        and isinstance(digest, str)
        and re.fullmatch(r"[0-9a-f]{64}", digest) is not None
        and re.fullmatch(r".+", name) is not None
        and not {"", ".."} & set(name.split("/"))
    )


def damaged(folder: Path) -> list[str]:
    """Describes each damaged file of a sealed folder; empty if the folder is intact.

    Files without a checksum (`extra`) are no damage, unless their name is in `READ`.
    """
    try:
        known = sealed(folder)
    except DamagedError as error:
        return [str(error)]
    return differing(folder, known) + [f"{name} is not sealed" for name in extra(folder) if name in READ]


def differing(folder: Path, known: dict[str, str]) -> list[str]:
    """Describes each file that is missing, unreadable, or whose SHA-256 differs from the known one."""
    wrong = []
    for name, digest in sorted(known.items()):
        try:
            if not (folder / name).is_file():
                wrong.append(f"{name} is missing")
            elif sha256_of(folder / name) != digest:
                wrong.append(f"{name} is damaged")
        except OSError as error:
            wrong.append(f"{name} can't be read ({error.strerror})")
    return wrong


def extra(folder: Path) -> list[str]:
    """Paths in a sealed folder that are not sealed, except those that Python and NFS generate."""
    known = {SUMS, *sealed(folder)}
    return [name for name in entries(folder) if name not in known and not _GENERATED.search(f"/{name}")]


def warn_of_unsealed(folder: Path, name: str) -> None:
    """Logs one warning about the unsealed files in an intact folder, once per process."""
    names = extra(folder)
    key = (folder.resolve(), *names)
    if not names or key in _WARNED:
        return
    _WARNED.add(key)
    shown = ", ".join("".join(map(_printable, name)) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    _log.warning("%s also holds %s%s: not sealed, and not used", name, shown, more)


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()
