"""One-line error messages, with suggestions, for keys and values that the schema in `settings` rejects."""

import functools
import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from pipeline.common import yaml_files
from pipeline.common.paths import CONF, PARAMS
from pipeline.common.text import listed, printable, without_password
from pipeline.config import components, settings
from pipeline.config.files import choices
from pipeline.config.renamed import RENAMED

_ABSENT = object()
_MAX_LENGTH = 80  # characters of a value shown in an error
# Arguments of Lightning's Trainer that another key sets; logging and checkpoints are always on.
_ELSEWHERE = {
    "trainer.max_epochs": "model.epochs",
    "trainer.max_steps": "model.epochs or trainer.max_time",
    "trainer.default_root_dir": "out",
    "trainer.enable_checkpointing": "runtime.checkpoint_minutes (checkpointing can't be turned off)",
    "trainer.logger": "the variable MLFLOW_TRACKING_URI (logging can't be turned off)",
}


@functools.cache
def adapter() -> TypeAdapter:
    return TypeAdapter(settings.Settings)


@functools.cache
def _schema() -> dict:
    return adapter().json_schema()


@functools.cache
def known_keys() -> tuple[str, ...]:
    """All dotted keys of the schema, including groups."""
    return tuple(_walk(_schema(), ""))


def _walk(spec: dict, prefix: str) -> Iterator[str]:
    for key, value in _resolved(spec).get("properties", {}).items():
        yield prefix + key
        yield from _walk(value, f"{prefix}{key}.")


def _resolved(spec: dict) -> dict:
    if "$ref" in spec:
        return _schema()["$defs"][spec["$ref"].rpartition("/")[2]]
    return spec


def unknown(key: str, group_choice: str | None = None) -> str:
    """Error message for an unknown key, with a suggestion.

    Args:
        key: dotted key.
        group_choice: the selected choice of the key's group, if known.
    """
    group, _, rest = key.partition(".")
    shown = f"{_written_in(key)}{printable(key)}"
    for open_group in components.ALLOWED:
        if key == open_group or key.startswith(f"{open_group}."):
            name = ".NAME" if open_group != "model.loss" else ""
            return f"{shown}: to add one, use +{open_group}{name}._target_=MODULE.CLASS"
    if key in _ELSEWHERE:
        return f"{shown} is not used here; set {_ELSEWHERE[key]}"
    if key in RENAMED:
        return f"{shown} is not a key; it is called {RENAMED[key]} now"
    if key in known_keys() and rest:
        found_in = [name for name in choices(group) if name != group_choice and _defines(group, name, rest)]
        owners = f"; it belongs to {', '.join(found_in)}" if found_in else ""
        return f"{group}={group_choice} has no {printable(rest)}{owners}"
    if near := _near(key):
        return f"{shown} is not a key; near: {', '.join(near)}"
    if siblings := _siblings(key):
        parent = key.rpartition(".")[0] or "the configuration"
        return f"{shown} is not a key; {parent} has {', '.join(siblings)}"
    return f"{shown} is not a key of conf/"


def unknown_choice(name: object, available: list[str]) -> str:
    """Error message for an unknown choice of a group, with a suggestion."""
    near = get_close_matches(str(name), available, n=1)
    hint = f"near: {near[0]}" if near else f"choose one of {', '.join(available) or 'none'}"
    return f"{format_value(name)} is not known; {hint}"


def _siblings(key: str) -> dict[str, str]:
    """The known keys of the same group, by their last part."""
    parent = key.rpartition(".")[0]
    return {name.rpartition(".")[2]: name for name in known_keys() if name.rpartition(".")[0] == parent}


def _near(key: str) -> list[str]:
    """At most three similar known keys: the same last part elsewhere, or similar spelling."""
    known, siblings = known_keys(), _siblings(key)
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    close = [siblings[match] for match in get_close_matches(last, siblings, n=2, cutoff=0.7)]
    return list(dict.fromkeys([*close, *same, *get_close_matches(key, known, n=2, cutoff=0.8)]))[:3]


@functools.lru_cache
def _loaded(file: Path, changed: int) -> DictConfig:
    """Loads a YAML file, cached by modification time."""
    return yaml_files.load(file)


def _value_at(file: Path, key: str) -> object:
    """The value at a dotted key of a YAML file, or `_ABSENT`."""
    tree = _loaded(file, file.stat().st_mtime_ns)
    for part in key.split("."):
        if not isinstance(tree, DictConfig) or part not in tree:
            return _ABSENT
        tree = tree._get_node(part)
    return OmegaConf.to_container(tree) if OmegaConf.is_config(tree) else tree._value()


def _defines(group: str, choice: str, key: str) -> bool:
    """Whether a choice's file, or a file in its defaults list, has a dotted key."""
    file = CONF / group / f"{choice}.yaml"
    if not file.is_file():
        return False
    defaults = _value_at(file, "defaults")
    bases = [each for each in (defaults if isinstance(defaults, list) else []) if isinstance(each, str)]
    return _value_at(file, key) is not _ABSENT or any(_defines(group, base, key) for base in bases)


def explain(error: ValidationError, tree: dict) -> str:
    """Error message for the most informative problem that pydantic found."""
    problems = error.errors(include_url=False, include_context=False)

    def order(problem: dict) -> int:
        kinds = ("invalid_key", "unexpected_keyword_argument", "missing")
        return kinds.index(problem["type"]) if problem["type"] in kinds else len(kinds)

    first = min(problems, key=order)
    if first["type"] in ("invalid_key", "unexpected_keyword_argument"):
        return unknown(_dotted(first["loc"]))
    if first["type"] == "missing":
        absent = [_dotted(problem["loc"]) for problem in problems if problem["type"] == "missing"]
        return f"{listed(absent, 5)} {'is' if len(absent) == 1 else 'are'} missing"
    key, value, spec = _locate(first["loc"], tree)
    hint = ""
    if isinstance(value, bool | int | float) and "string" in _allowed(spec):
        hint = f"""; quote it: {key}="'{value}'" """.rstrip()
    options = _choices(spec)
    if isinstance(value, str) and value:
        near = [name for name in options if name.startswith(value)] or get_close_matches(value, options)
        hint = f"; near: {near[0]}" if near else ""
    if value == "" and not options:
        return f"{_written_in(key, value)}{key} is empty; must be {_allowed(spec)}"
    return f"{_written_in(key, value)}{key}={format_value(value)}: must be {_allowed(spec)}{hint}"


def _dotted(path: Iterable[str | int]) -> str:
    key = ""
    for part in map(str, path):
        key += f"[{part}]" if part.isdigit() else f".{part}" if key else part
    return key


def _locate(loc: tuple, tree: dict) -> tuple[str, object, dict]:
    """Key, value and schema that an error refers to; for a list of plain items, the whole list."""
    spec, node, path = _schema(), tree, []
    for part in loc:
        spec = _resolved(spec)
        if isinstance(node, dict) and part in spec.get("properties", {}):
            spec, node = spec["properties"][part], node[part]
        elif isinstance(node, list) and isinstance(part, int) and "$ref" in spec.get("items", {}):
            spec, node = spec["items"], node[part]
        else:  # a plain list item, or one option of a union
            break
        path.append(part)
    return _dotted(path), node, _resolved(spec)


def format_value(value: object) -> str:
    """A value as written on the command line or in YAML, truncated if long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, str) and not _like_number(value):
        text = value
    text = without_password(printable(text))
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"


def _like_number(text: str) -> bool:
    """Whether YAML reads this as a non-string unless it is quoted."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false", "null")
    return True


def _written_in(key: str, value: object = _ABSENT) -> str:
    """Prefix of an error message: the project's files that set a key; empty if none does.

    Args:
        key: dotted key.
        value: if given, only files that set the key to this value.
    """
    group, _, rest = key.partition(".")
    candidates = [(PARAMS, key), (CONF / "config.yaml", key)]
    candidates += [(file, key) for file in sorted((CONF / "experiment").glob("*.yaml"))]
    candidates += [(file, rest) for file in sorted((CONF / group).rglob("*.yaml")) if rest]
    files = []
    for file, name in candidates:
        current = _value_at(file, name)
        if current is not _ABSENT and (value is _ABSENT or repr(current) == repr(value)):
            files.append(str(file.relative_to(CONF.parent)))
    return f"{', '.join(files)}: " if files else ""


def _choices(spec: dict) -> list[str]:
    found = [str(item) for item in spec.get("enum", [])]
    return found + [name for option in spec.get("anyOf", []) for name in _choices(option)]


def _allowed(spec: dict) -> str:
    """Describes what a JSON schema allows."""
    spec = _resolved(spec)
    if "anyOf" in spec:
        *others, last = (_allowed(option) for option in spec["anyOf"])
        return f"{', '.join(others)}, or {last}"
    if "enum" in spec:
        *others, last = map(str, spec["enum"])
        return f"{', '.join(others)} or {last}" if others else last
    match spec.get("type"):
        case "integer":
            return f"a whole number{_range(spec)}"
        case "number":
            return f"a number{_range(spec)}"
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            like = f"a string like {spec['pattern']}" if "pattern" in spec else "a string"
            return spec.get("description", like)
        case "array":
            low, high = spec.get("minItems", 0), spec.get("maxItems")
            length = f" of {low}" if low == high else f" of at least {low}" if low else ""
            return f"a list{length}, each {_allowed(spec['items'])}"
        case _:
            if spec.get("maxProperties") == 1:
                return "a mapping of one name to its arguments"
            keys = ", ".join(spec.get("properties", {}))
            return f"a mapping{f' of {keys}' if keys else ''}"


def _range(spec: dict) -> str:
    low, high = spec.get("minimum"), spec.get("maximum")
    above, below = spec.get("exclusiveMinimum"), spec.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {low:.15g} to {high:.15g}"
    both = sum(bound is not None for bound in (low, above, high, below)) > 1
    least = "of at least" if both else "from"
    parts = [
        f"{word} {bound:.15g}"
        for word, bound in ((least, low), ("above", above), ("up to", high), ("below", below))
        if bound is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""
