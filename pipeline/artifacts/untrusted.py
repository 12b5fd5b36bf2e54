"""Validates untrusted input: the files of a model folder, and names that become parts of paths."""

import math
import re
from pathlib import Path

from pipeline import portable
from pipeline.artifacts import seal
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT

MAX_YAML = 256 << 10  # bytes; a resolved config has about 4,000
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git commit (SHA-1 or SHA-256), or SHA-256


def name(value: object, where: object) -> str:
    """The value if it is a valid model or data set name, safe in a path, a command or a registry URI.

    Raises:
        UserError: it is not a valid name.
    """
    if isinstance(value, str) and portable.NAME.fullmatch(value):
        return value
    raise UserError(f"{where}: {str(value)[:50]!r} is not a valid name; use letters, digits and _.-")


def commit(value: object, where: object) -> str:
    """The value if it is a commit id, safe to pass to git.

    Raises:
        UserError: it is not a commit id.
    """
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value
    raise UserError(f"{where}: {str(value)[:50]!r} is not a commit id")


def card(folder: Path) -> portable.ModelCard:
    """A model's card, validated by `portable.read_card`.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return portable.read_card(folder)
    except portable.DamagedError as error:
        raise UserError(str(error).removeprefix(f"{ROOT}/")) from error


def metrics(file: Path, *keys: str) -> dict:
    """A JSON file's metrics by name, each a number or NaN.

    Args:
        file: the JSON file.
        keys: metrics that it must have.

    Raises:
        UserError: the file is missing or damaged, lacks one of the keys, or a value is not a number.
    """
    tree = json_object(file, *keys)
    for key, value in tree.items():
        if not (portable.is_number(value) or (type(value) is float and math.isnan(value))):
            raise UserError(f"{seal.relative_to_root(file)}: {key[:50]}={str(value)[:50]} is not a number")
    return tree


def json_object(file: Path, *keys: str) -> dict:
    """A JSON file's object, which has these keys; its numbers may be NaN.

    Raises:
        UserError: the file is missing or damaged, or lacks one of the keys.
    """
    try:
        tree = portable.read_json(file, numbers_only=False)
    except portable.DamagedError as error:
        raise UserError(f"{seal.relative_to_root(file)} is missing or damaged") from error
    missing = [key for key in keys if not isinstance(tree, dict) or key not in tree]
    if missing or not isinstance(tree, dict):
        raise UserError(
            f"{seal.relative_to_root(file)} was written by an older version; it has no "
            f"{', '.join(missing) or 'keys'}"
        )
    return tree


def lineage(folder: Path, *keys: str) -> dict:
    """A model's lineage, with hashes and names validated.

    Raises:
        UserError: it is missing, damaged or in an older format.
    """
    file = folder / "lineage.json"
    tree = json_object(file, *keys)
    where, data = seal.relative_to_root(file), tree.get("data")
    if not isinstance(data, dict) or not isinstance(tree.get("environment", {}), dict):
        raise UserError(f"{where} is damaged: data and environment must be mappings")
    name(data.get("name"), f"{where}: data.name")
    for key in ("commit", "code", "start"):
        if tree.get(key) is not None and not (isinstance(tree[key], str) and _HASH.fullmatch(tree[key])):
            raise UserError(f"{where}: {key}={str(tree[key])[:50]!r} is not a hash")
    for group in (data, tree.get("environment", {})):
        for key, value in group.items():
            if not portable.is_plain(value):
                raise UserError(f"{where}: {key[:50]!r} is not a plain value")
    for key in ("pictures", "classes"):
        if not portable.is_number(data.get(key, 0)):
            raise UserError(f"{where}: data.{key} is not a number")
    if type(tree.get("dirty", False)) is not bool:
        raise UserError(f"{where}: dirty must be true or false")
    return tree


def settings(folder: Path) -> dict:
    """A run's resolved config: plain values, with names validated.

    Raises:
        UserError: it is missing, damaged or in an older format.
    """
    file = folder / "config.yaml"
    tree = yaml_object(file)
    required = [tree.get(group) for group in ("data", "model")]
    optional = [tree.get(group, {}) for group in ("augment", "trainer", "runtime", "pack", "split")]
    if type(tree.get("seed")) is not int or not all(isinstance(group, dict) for group in required + optional):
        raise UserError(f"{seal.relative_to_root(file)} is damaged or was written by an older version")
    for group in ("data", "model"):
        name(tree[group].get("name"), f"{seal.relative_to_root(file)}: {group}.name")
    return tree


def yaml_object(file: Path, resolved: bool = True) -> dict:
    """A YAML file's mapping of plain values, without aliases and tags.

    Args:
        file: the YAML file.
        resolved: whether to refuse interpolations (``${…}``) too, since OmegaConf would resolve them.

    Raises:
        UserError: it is missing, damaged or holds something else.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # much faster; a sweep has hundreds of files
    message = f"{seal.relative_to_root(file)} is missing or damaged"
    try:
        if not file.is_file() or file.stat().st_size > MAX_YAML:
            raise UserError(message)
        text = file.read_text(encoding="utf-8")
        # A few lines of nested aliases can expand to gigabytes.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise UserError(f"{seal.relative_to_root(file)} has YAML aliases, which are refused")
        tree = yaml.load(text, Loader=loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(message) from error
    if not isinstance(tree, dict) or not _is_plain_tree(tree, resolved):
        raise UserError(f"{seal.relative_to_root(file)} contains other than mappings, lists and plain values")
    return tree


def _is_plain_tree(value: object, resolved: bool, depth: int = 12) -> bool:
    """Whether a value consists of mappings, lists and plain values, at most `depth` levels deep."""
    if isinstance(value, dict):
        return depth > 0 and all(
            isinstance(key, str) and _is_plain_tree(item, resolved, depth - 1) for key, item in value.items()
        )
    if isinstance(value, list):
        return depth > 0 and all(_is_plain_tree(item, resolved, depth - 1) for item in value)
    if isinstance(value, str):
        return not (resolved and "${" in value)
    return value is None or type(value) in (bool, int) or (type(value) is float and not math.isnan(value))
