"""Checksums of a folder's files, as ``SHA256SUMS`` keeps them."""

import hashlib
import os
import re
import sys
from pathlib import Path

from .errors import DamagedError

SUMS = "SHA256SUMS"  # a line a file of the folder, as sha256sum writes and checks it
# What systems and Python leave in any folder: in lower case, whole names and beginnings.
LITTER = frozenset(
    (
        *("desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r", ".ds_store", ".directory", ".localized"),
        *("__pycache__", "__macosx", "@eadir"),
    )
)
LITTER_BEGINS = ("._", ".nfs", ".fuse_hidden")
_TOLD: set[tuple] = set()  # folders and names of which this process has warned
_OWN_MAKING = re.compile(r"/(__pycache__/|\.nfs[0-9a-f]+$)")
# Names that some program reads from a sealed folder: unsealed, such a file is no person's addition.
READ = frozenset(
    (
        *("model.onnx", "model.json", "weights.safetensors", "config.yaml", "lineage.json", "changes.diff"),
        *("metrics.json", "curves.csv", "predictions.csv", "probabilities.npy", "model.sha256"),
        *("classes.csv", "confusions.csv", "pack.json", "pixels.bin", "index.csv", "quarantine.csv"),
        "trunk.onnx",
    )
)


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its name from there, sorted, as a seal lists them.

    Left out are ``SHA256SUMS`` itself, hidden files, and what systems leave anywhere (`is_litter`).
    """
    names = (name for name in entries(folder) if name != SUMS and not is_litter(name))
    return {
        name: _sha256(folder / name) for name in names if "/." not in f"/{name}" and (folder / name).is_file()
    }


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:  # in pieces: a pack may be larger than the memory
        return hashlib.file_digest(stream, "sha256").hexdigest()


def entries(folder: Path) -> list[str]:
    """Names of all that lies in a folder and below it but plain directories; links are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        found += [Path(place, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def is_litter(name: str) -> bool:
    """Whether a name is one that systems and Python leave in any folder: nobody's work, and never sealed."""
    return any(part in LITTER or part.startswith(LITTER_BEGINS) for part in name.lower().split("/"))


def sealed(folder: Path) -> dict[str, str]:
    """What ``SHA256SUMS`` says of a folder: SHA-256 by the files' names.

    Raises:
        DamagedError: it is missing, can't be read, or is not as `sums` gives it.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DamagedError(f"{SUMS} is missing") from None
    except OSError as error:  # what a dying disk answers
        raise DamagedError(f"{SUMS} can't be read ({error.strerror})") from error
    except ValueError:
        lines = []
    found = [line.partition("  ") for line in lines]
    # A seal without a line would make everything whole.
    if not found or not all(is_sealable(name, digest) for digest, _, name in found):
        raise DamagedError(f"{SUMS} is damaged")
    return {name: digest for digest, _, name in found}


def is_sealable(name: object, digest: object) -> bool:
    """Whether these are the name of a file inside a folder and a SHA-256; a stranger's could lie outside."""
    return (
        isinstance(name, str)
        and isinstance(digest, str)
        and re.fullmatch(r"[0-9a-f]{64}", digest) is not None
        and re.fullmatch(r".+", name) is not None
        and not {"", ".."} & set(name.split("/"))
    )


def damaged(folder: Path) -> list[str]:
    """What of a sealed folder is not as it was sealed, a phrase a file; empty where all is whole.

    Further files are nobody's damage (`extra`), unless they bear a name that the programs read.
    """
    try:
        known = sealed(folder)
    except DamagedError as error:
        return [str(error)]
    return differing(folder, known) + [f"{name} is not sealed" for name in extra(folder) if name in READ]


def differing(folder: Path, known: dict[str, str]) -> list[str]:
    """A phrase for each file of a folder that is missing or has another SHA-256 than the known one."""
    wrong = []
    for name, digest in sorted(known.items()):
        try:
            if not (folder / name).is_file():
                wrong.append(f"{name} is missing")
            elif _sha256(folder / name) != digest:
                wrong.append(f"{name} is damaged")
        except OSError as error:
            wrong.append(f"{name} can't be read ({error.strerror})")
    return wrong


def extra(folder: Path) -> list[str]:
    """Names of what lies in a sealed folder and is not sealed, but for what Python and NFS make unasked."""
    known = {SUMS, *sealed(folder)}
    return [name for name in entries(folder) if name not in known and not _OWN_MAKING.search(f"/{name}")]


def tell_extra(folder: Path, name: str) -> None:
    """Warns in one line, once a process, of what lies in a whole folder and is not sealed."""
    names = extra(folder)
    told = (folder.resolve(), *names)
    if not names or told in _TOLD:
        return
    _TOLD.add(told)
    shown = ", ".join("".join(map(_printable, name)) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    print(f"warning: {name} also holds {shown}{more}: not sealed, and not used", file=sys.stderr)


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()
