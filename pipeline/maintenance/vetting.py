"""Validates a version's recorded diff, settings, params and lock before its commit's code uses them.

All of it is untrusted input. Settings must be plain data. A diff is code: it is shown, and the user decides.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from pipeline import portable
from pipeline.artifacts import untrusted
from pipeline.artifacts.provenance import CHANGES, CODE
from pipeline.common.errors import UserError
from pipeline.common.text import printable
from pipeline.config import components

MOST = 16 << 20  # maximum bytes of a diff, and of the binary files in it
# Header lines of a git diff. Links, submodules, mode changes and renames are refused.
_MODE = re.compile(rb"^(?:(?:new file |deleted file |old |new )mode|index [^\s]+)[ \t]+(.*)$", re.MULTILINE)
_KINDS = re.compile(rb"^(old mode|new mode|rename |copy |similarity |dissimilarity )", re.MULTILINE)
_FILE = (b"100644", b"100755")
_BINARY = re.compile(rb"^(?:literal|delta) (\d{1,18})\s*$", re.MULTILINE)
# Larger values would make this machine unusable.
_AT_MOST = {
    "trainer": {"devices": 64, "threads": 256, "workers": 64},  # the last two in earlier versions
    "runtime": {"threads": 256, "workers": 64},
    "model": {"batch_size": 65_536, "epochs": 100_000},
}


@dataclass(frozen=True)
class Changed:
    """A file that a diff changes.

    Attributes:
        path: relative to the tree's root.
        added: number of lines; None for a binary file.
        removed: number of lines; None for a binary file.
    """

    path: str
    added: int | None
    removed: int | None

    def __str__(self) -> str:
        if self.added is None:
            return f"{printable(self.path)}, binary"
        return f"{printable(self.path)}  +{self.added} −{self.removed}"


def changes(file: Path, tree: Path) -> list[Changed]:
    """The files that a diff would change in a tree; changes nothing.

    Raises:
        UserError: it is not a diff, is too large, or would change anything but code files: a path outside
            the tree or in ``.git`` or ``.dvc``, a link, a submodule, a file's mode.
    """
    if not file.is_file() or file.stat().st_size > MOST:
        raise UserError(f"{CHANGES} is missing, or larger than {MOST >> 20} MB; it is not applied")
    data = file.read_bytes()
    if sum(int(found[1]) for found in _BINARY.finditer(data)) > MOST:
        raise UserError(f"{CHANGES} brings more than {MOST >> 20} MB of binary files; it is not applied")
    modes = {found[1] for found in _MODE.finditer(data)}
    if kind := _KINDS.search(data):
        raise UserError(f"{CHANGES} changes a file's mode or name ({kind[1].decode()}); it is not applied")
    if modes - set(_FILE):
        raise UserError(f"{CHANGES} brings a link or a submodule; it is not applied")
    # Asks git for the paths, because the diff's headers may be misleading.
    command = ["git", "apply", "--numstat", "-z", str(file)]
    result = subprocess.run(command, cwd=tree, capture_output=True, check=False)
    if result.returncode:
        why = printable(" ".join(result.stderr.decode(errors="replace").split()))[:200]
        raise UserError(f"{CHANGES} can't be read ({why}); it is not applied")
    found = [_changed(line) for line in result.stdout.split(b"\0") if line]
    for each in found:
        is_code = any(each.path == code or each.path.startswith(f"{code}/") for code in CODE)
        parts = Path(each.path).parts
        if not is_code or {"..", ".git", ".dvc"} & {part.lower() for part in parts} or _links(tree, parts):
            raise UserError(
                f"{CHANGES} changes {printable(each.path)[:100]}, which is none of the code "
                f"({', '.join(CODE)}); it is not applied"
            )
    return found


def _changed(line: bytes) -> Changed:
    added, removed, path = line.split(b"\t", 2)
    counts = [None if count == b"-" else int(count) for count in (added, removed)]
    return Changed(path.decode(errors="surrogateescape"), *counts)


def _links(tree: Path, parts: tuple[str, ...]) -> bool:
    """Whether a path is a symlink or contains one."""
    return any((tree / Path(*parts[: length + 1])).is_symlink() for length in range(len(parts)))


def settings(tree: dict, code: Path, whose: object) -> None:
    """Checks that a configuration names only networks, transforms and components, with plain arguments.

    Earlier code passes it to Hydra's `instantiate`, which imports and calls any ``_target_``.

    Args:
        tree: the settings, as `untrusted.settings` reads them.
        code: the worktree of the commit whose code will use them.
        whose: the version, for error messages.

    Raises:
        UserError: it names anything else.
    """
    from pipeline.data import augment

    for group in ("augment", "trainer", "pack", "split"):
        if not isinstance(tree.get(group), dict):
            raise UserError(f"{whose}: {group} is no mapping in its config.yaml; it can't be rebuilt")
    source, net = tree["data"].get("source"), tree["model"].get("net")
    if not isinstance(source, dict) or not isinstance(net, dict):
        raise UserError(f"{whose}: its config.yaml is damaged; it can't be rebuilt")
    _net(net, code, whose)
    for key, group in (("callbacks", tree), ("metrics", tree), ("loss", tree["model"])):
        if not isinstance(group.get(key) or {}, dict):
            raise UserError(f"{whose}: {key} is no mapping in its config.yaml; it can't be rebuilt")
    for group, key, node in components.configured(tree):
        _component(group, key, node, code, whose)
    rest = tree | {"callbacks": {}, "metrics": {}, "model": tree["model"] | {"net": {}, "loss": {}}}
    # Hydra's special keys begin with an underscore.
    if hidden := sorted(key for key, _ in _nodes(rest) if str(key).startswith("_")):
        raise UserError(f"{whose}: its config.yaml has the key {printable(hidden[0])[:50]}; it is not run")
    augment.check(tree["augment"].get("transforms"))
    for group, bounds in _AT_MOST.items():
        for key, most in bounds.items():
            _bounded(f"{group}.{key}", tree.get(group, {}).get(key, 1), most, whose)


def _bounded(key: str, value: object, most: int, whose: object) -> None:
    if key == "trainer.devices" and value == "auto":
        return
    numbers = value if key == "trainer.devices" and isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise UserError(f"{whose}: {key}={printable(value)[:50]} is no whole number; it is not run")
    if len(numbers) > most or max(numbers, default=0) > most:
        raise UserError(f"{whose}: {key}={printable(value)[:50]} is more than {most}; it is not run")


def _net(net: dict, code: Path, whose: object) -> None:
    from models import build

    named = str(net.get("_target_"))
    parts = re.fullmatch(r"models\.(\w+)\.(\w+)", named)
    if parts and parts[2] == "create":  # timm networks, whose arguments have not changed
        try:
            build.check(net)
        except build.NetworkError as error:
            raise UserError(f"{whose}: {printable(error)}; it is not run") from error
        return
    # A network in that commit's models/ may not exist today, or take other arguments.
    _own_class(net, "model.net", code, whose)


def _own_class(tree: dict, where: str, code: Path, whose: object) -> None:
    """Checks that a node names a class in the commit's ``models/``, with plain arguments."""
    named = str(tree.get("_target_"))
    parts = re.fullmatch(r"models\.(\w+)\.(\w+)", named)
    file = code / "models" / f"{parts[1]}.py" if parts else code
    classes = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    if not parts or parts[2] not in {node.name for node in classes if isinstance(node, ast.ClassDef)}:
        raise UserError(
            f"{whose}: {where}._target_={printable(named)[:100]} is no class in that commit's models/; "
            "it is not run"
        )
    _plain_arguments(tree, where, whose)


def _plain_arguments(tree: dict, where: str, whose: object) -> None:
    for key, value in tree.items():
        if (key.startswith("_") and key != "_target_") or not portable.is_plain(value):
            raise UserError(f"{whose}: {where}.{printable(key)[:50]} is no plain argument; it is not run")


def _component(group: str, where: str, tree: object, code: Path, whose: object) -> None:
    """Checks that a callback, metric or loss is from Lightning, PyTorch or the commit's ``models/``."""
    if not isinstance(tree, dict):
        raise UserError(f"{whose}: {where} is no mapping in its config.yaml; it can't be rebuilt")
    if str(tree.get("_target_")).startswith("models."):
        _own_class(tree, where, code, whose)
        return
    for problem in components.problems(group, tree, where):
        raise UserError(f"{whose}: {problem}; it is not run")
    _plain_arguments(tree, where, whose)
    # A Lightning callback may write to a path: allow only paths in the worktree, and not in .git.
    for text in _texts({key: value for key, value in tree.items() if key != "_target_"}):
        parts = PurePosixPath(text).parts
        if re.search(r"[:\\~$]", text) or text.startswith("/") or any(part.startswith(".") for part in parts):
            raise UserError(f"{whose}: {where}: {printable(text)[:50]} may be a place outside; it is not run")


def params(tree: dict) -> None:
    """Checks that every string in a ``params.yaml`` is a plain name, because DVC puts values into commands.

    Raises:
        UserError: a string is not a name, or a group is not a mapping.
    """
    for group in ("fetch", "pack", "split"):
        if not isinstance(tree.get(group, {}), dict):
            raise UserError(f"params.yaml: {group} is no mapping in the version's copy; it can't be rebuilt")
    # `fetch` is replaced by this checkout's own.
    for text in _texts({key: value for key, value in tree.items() if key != "fetch"}):
        untrusted.name(text, "params.yaml")


def _nodes(tree: object) -> Iterator[tuple[object, object]]:
    """Yields key and value of everything in a tree; items of lists by their index."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield key, value
        yield from _nodes(value)


def _texts(tree: object) -> list[str]:
    """All keys and values that are text."""
    return [text for node in _nodes(tree) for text in node if isinstance(text, str)]


def _is_of_the_cache(entry: dict) -> bool:
    """Whether an entry of a ``dvc.lock`` has an MD5, and no other keys than DVC writes."""
    numbers = (entry.get(key, 0) for key in ("size", "nfiles"))
    return (
        entry.keys() <= {"path", "hash", "md5", "size", "nfiles", "isexec"}
        and entry.get("hash", "md5") == "md5"
        and re.fullmatch(r"[0-9a-f]{32}(\.dir)?", str(entry["md5"])) is not None
        and all(type(number) is int and number >= 0 for number in numbers)
        and type(entry.get("isexec", False)) is bool
    )


def lock(file: Path) -> str:
    """The validated text of a recorded ``dvc.lock``.

    Raises:
        UserError: it is damaged, or names something outside the worktree and DVC's cache.
    """
    tree = untrusted.yaml_object(file, resolved=False)  # it contains conf/ unresolved
    stages = tree.get("stages")
    try:
        entries = [
            entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind) or ()
        ]
        paths = [PurePosixPath(each["path"]) for each in entries]
        outside = [path for path in paths if path.is_absolute() or ".." in path.parts]
        # DVC builds paths from the hash, and deletes files there whose content differs.
        invalid = [each for each in entries if not _is_of_the_cache(each)]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError("the kept dvc.lock is damaged") from error
    if outside:
        raise UserError(
            f"the kept dvc.lock names {printable(outside[0])[:100]}, which is outside the project"
        )
    if invalid:
        raise UserError(
            f"the kept dvc.lock has for {printable(invalid[0]['path'])[:100]} something else than an MD5 of "
            "DVC's cache; it is not used"
        )
    return yaml.safe_dump(tree, sort_keys=False)
