"""Validates a version's recorded diff, settings, params and lock before its commit's code uses them.

All of them are untrusted input. Settings must be plain data. A diff is code: it is shown, and the user
decides.
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

MAX_DIFF = 16 << 20  # bytes of a diff, and of the binary files in it
# Header lines of a git diff. Links, submodules, mode changes and renames are refused.
_MODE = re.compile(rb"^(?:(?:new file |deleted file |old |new )mode|index [^\s]+)[ \t]+(.*)$", re.MULTILINE)
_MODE_OR_NAME = re.compile(rb"^(old mode|new mode|rename |copy |similarity |dissimilarity )", re.MULTILINE)
_FILE_MODES = {b"100644", b"100755"}
_BINARY = re.compile(rb"^(?:literal|delta) (\d{1,18})\s*$", re.MULTILINE)
# Larger values would make this machine unusable.
_MAXIMA = {
    "trainer": {"devices": 64, "threads": 256, "workers": 64},  # the last two in earlier versions
    "runtime": {"threads": 256, "workers": 64},
    "model": {"batch_size": 65_536, "epochs": 100_000},
}


@dataclass(frozen=True)
class ChangedFile:
    """A file that a diff changes.

    Attributes:
        path: relative to the tree's root.
        added: number of added lines; None for a binary file.
        removed: number of removed lines; None for a binary file.
    """

    path: str
    added: int | None
    removed: int | None

    def __str__(self) -> str:
        if self.added is None:
            return f"{printable(self.path)}, binary"
        return f"{printable(self.path)}  +{self.added} −{self.removed}"


def changes(file: Path, tree: Path) -> list[ChangedFile]:
    """The files that a diff would change in a tree; changes nothing.

    Args:
        file: the diff.
        tree: a git worktree.

    Raises:
        UserError: it is not a diff, is too large, or would change anything but code files: a path outside
            the tree or in ``.git`` or ``.dvc``, a link, a submodule, a file's mode.
    """
    if not file.is_file() or file.stat().st_size > MAX_DIFF:
        raise UserError(f"{CHANGES} is missing, or larger than {MAX_DIFF >> 20} MB; it is not applied")
    data = file.read_bytes()
    if sum(int(size) for size in _BINARY.findall(data)) > MAX_DIFF:
        raise UserError(f"{CHANGES} has more than {MAX_DIFF >> 20} MB of binary files; it is not applied")
    if header := _MODE_OR_NAME.search(data):
        raise UserError(f"{CHANGES} changes a file's mode or name ({header[1].decode()}); it is not applied")
    if set(_MODE.findall(data)) - _FILE_MODES:
        raise UserError(f"{CHANGES} adds a link or a submodule; it is not applied")
    # Asks git for the paths, because the diff's headers may be misleading.
    command = ["git", "apply", "--numstat", "-z", str(file)]
    result = subprocess.run(command, cwd=tree, capture_output=True)
    if result.returncode:
        reason = printable(" ".join(result.stderr.decode(errors="replace").split()))[:200]
        raise UserError(f"{CHANGES} can't be read ({reason}); it is not applied")
    changed = [_changed_file(line) for line in result.stdout.split(b"\0") if line]
    for each in changed:
        is_code = any(each.path == code or each.path.startswith(f"{code}/") for code in CODE)
        parts = Path(each.path).parts
        if not is_code or {"..", ".git", ".dvc"} & {part.lower() for part in parts} or _has_link(tree, parts):
            raise UserError(
                f"{CHANGES} changes {printable(each.path)[:100]}, which is none of the code "
                f"({', '.join(CODE)}); it is not applied"
            )
    return changed


def _changed_file(line: bytes) -> ChangedFile:
    """Parses a line of ``git apply --numstat -z``."""
    added, removed, path = line.split(b"\t", 2)
    counts = [None if count == b"-" else int(count) for count in (added, removed)]
    return ChangedFile(path.decode(errors="surrogateescape"), *counts)


def _has_link(tree: Path, parts: tuple[str, ...]) -> bool:
    """Whether a path in the tree is a symlink or leads through one."""
    return any((tree / Path(*parts[: length + 1])).is_symlink() for length in range(len(parts)))


def settings(tree: dict, code: Path, version: object) -> None:
    """Checks that a configuration names only networks, transforms and components, with plain arguments.

    Earlier code passes it to Hydra's `instantiate`, which imports and calls any ``_target_``.

    Args:
        tree: the settings, as `untrusted.settings` reads them.
        code: the worktree of the commit whose code will use them.
        version: the version, for error messages.

    Raises:
        UserError: it names anything else, or a number is too large for this machine.
    """
    from pipeline.data import augment

    for group in ("augment", "trainer", "pack", "split"):
        if not isinstance(tree.get(group), dict):
            raise UserError(f"{version}: {group} is no mapping in its config.yaml; it can't be rebuilt")
    source, net = tree["data"].get("source"), tree["model"].get("net")
    if not isinstance(source, dict) or not isinstance(net, dict):
        raise UserError(f"{version}: its config.yaml is damaged; it can't be rebuilt")
    _check_net(net, code, version)
    for key, group in (("callbacks", tree), ("metrics", tree), ("loss", tree["model"])):
        if not isinstance(group.get(key) or {}, dict):
            raise UserError(f"{version}: {key} is no mapping in its config.yaml; it can't be rebuilt")
    for group, key, node in components.configured(tree):
        _check_component(group, key, node, code, version)
    rest = tree | {"callbacks": {}, "metrics": {}, "model": tree["model"] | {"net": {}, "loss": {}}}
    # Hydra's special keys begin with an underscore.
    if special := sorted(key for key, _ in _nodes(rest) if str(key).startswith("_")):
        raise UserError(f"{version}: its config.yaml has the key {printable(special[0])[:50]}; it is not run")
    augment.check(tree["augment"].get("transforms"))
    for group, maxima in _MAXIMA.items():
        for key, maximum in maxima.items():
            _check_number(f"{group}.{key}", tree.get(group, {}).get(key, 1), maximum, version)


def _check_number(key: str, value: object, maximum: int, version: object) -> None:
    if key == "trainer.devices" and value == "auto":
        return
    numbers = value if key == "trainer.devices" and isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise UserError(f"{version}: {key}={printable(value)[:50]} is no whole number; it is not run")
    if len(numbers) > maximum or max(numbers, default=0) > maximum:
        raise UserError(f"{version}: {key}={printable(value)[:50]} is more than {maximum}; it is not run")


def _check_net(net: dict, code: Path, version: object) -> None:
    from models import build

    # Only timm networks take the same arguments today as in any commit.
    if re.fullmatch(r"models\.\w+\.create", str(net.get("_target_"))):
        try:
            build.check(net)
        except build.NetworkError as error:
            raise UserError(f"{version}: {printable(error)}; it is not run") from error
        return
    _check_own_class(net, "model.net", code, version)


def _check_own_class(tree: dict, where: str, code: Path, version: object) -> None:
    """Checks that a node names a class in the commit's ``models/``, with plain arguments."""
    target = str(tree.get("_target_"))
    parts = re.fullmatch(r"models\.(\w+)\.(\w+)", target)
    file = code / "models" / f"{parts[1]}.py" if parts else code
    nodes = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    if not parts or parts[2] not in {node.name for node in nodes if isinstance(node, ast.ClassDef)}:
        raise UserError(
            f"{version}: {where}._target_={printable(target)[:100]} is no class in that commit's models/; "
            "it is not run"
        )
    _check_arguments(tree, where, version)


def _check_arguments(tree: dict, where: str, version: object) -> None:
    for key, value in tree.items():
        if (key.startswith("_") and key != "_target_") or not portable.is_plain(value):
            raise UserError(f"{version}: {where}.{printable(key)[:50]} is no plain argument; it is not run")


def _check_component(group: str, where: str, tree: object, code: Path, version: object) -> None:
    """Checks that a callback, metric or loss is from Lightning, PyTorch or the commit's ``models/``."""
    if not isinstance(tree, dict):
        raise UserError(f"{version}: {where} is no mapping in its config.yaml; it can't be rebuilt")
    if str(tree.get("_target_")).startswith("models."):
        _check_own_class(tree, where, code, version)
        return
    for problem in components.problems(group, tree, where):
        raise UserError(f"{version}: {problem}; it is not run")
    _check_arguments(tree, where, version)
    # A Lightning callback may write to a path: allow only paths in the worktree, and not in .git.
    for text in _strings({key: value for key, value in tree.items() if key != "_target_"}):
        parts = PurePosixPath(text).parts
        if re.search(r"[:\\~$]", text) or text.startswith("/") or any(part.startswith(".") for part in parts):
            raise UserError(
                f"{version}: {where}: {printable(text)[:50]} may be outside the worktree; it is not run"
            )


def params(tree: dict) -> None:
    """Checks that every string in a ``params.yaml`` is a plain name, because DVC puts values into commands.

    Raises:
        UserError: a string is not a name, or a group is not a mapping.
    """
    for group in ("fetch", "pack", "split"):
        if not isinstance(tree.get(group, {}), dict):
            raise UserError(f"params.yaml: {group} is no mapping in the version's copy; it can't be rebuilt")
    # `fetch` is replaced by this checkout's own.
    for text in _strings({key: value for key, value in tree.items() if key != "fetch"}):
        untrusted.name(text, "params.yaml")


def _nodes(tree: object) -> Iterator[tuple[object, object]]:
    """Yields key and value of everything in a tree of mappings and lists; items of lists by their index."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield key, value
        yield from _nodes(value)


def _strings(tree: object) -> list[str]:
    """All keys and values that are strings."""
    return [text for node in _nodes(tree) for text in node if isinstance(text, str)]


def _is_cached(entry: dict) -> bool:
    """Whether an entry of a ``dvc.lock`` has an MD5, and only keys that DVC writes for its cache."""
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
        UserError: it is damaged, or names anything outside the worktree and DVC's cache.
    """
    tree = untrusted.yaml_object(file, resolved=False)  # it contains parts of conf/ with interpolations
    stages = tree.get("stages")
    try:
        entries = [
            entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind) or ()
        ]
        paths = [PurePosixPath(each["path"]) for each in entries]
        outside = [path for path in paths if path.is_absolute() or ".." in path.parts]
        # DVC builds paths from the hash, and deletes files there whose content differs.
        invalid = [each for each in entries if not _is_cached(each)]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError("the recorded dvc.lock is damaged; it is not used") from error
    if outside:
        name = printable(outside[0])[:100]
        raise UserError(f"the recorded dvc.lock names {name}, which is outside the project; it is not used")
    if invalid:
        name = printable(invalid[0]["path"])[:100]
        raise UserError(f"the recorded dvc.lock has no MD5 of DVC's cache for {name}; it is not used")
    return yaml.safe_dump(tree, sort_keys=False)
