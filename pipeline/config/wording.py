"""Says in one line what is wrong with a key or a value, and which is meant, from the schema of settings."""

import difflib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError

from pipeline.common import yaml_files
from pipeline.common.paths import CONF, PARAMS
from pipeline.common.text import printable, without_password
from pipeline.config import components, settings
from pipeline.config.files import choices

_ABSENT = object()
_LONGEST = 80  # characters of a value that an error shows
# Arguments of Lightning's Trainer that have another home here, or that would undo what is promised.
_ELSEWHERE = {
    "trainer.max_epochs": "model.epochs",
    "trainer.max_steps": "model.epochs, or trainer.max_time",
    "trainer.default_root_dir": "out",
    "trainer.enable_checkpointing": "runtime.checkpoint_minutes: a training always has checkpoints",
    "trainer.logger": "MLFLOW_TRACKING_URI: a training is always logged",
}


@functools.cache
def adapter() -> TypeAdapter:
    return TypeAdapter(settings.Settings)


@functools.cache
def _schema() -> dict:
    return adapter().json_schema()


@functools.cache
def known_keys() -> tuple[str, ...]:
    """All dotted keys of the schema, groups too."""
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
    """Says that a key is not one, and which is meant.

    Args:
        key: dotted.
        group_choice: the file chosen of the key's group, where that is known.
    """
    group, _, rest = key.partition(".")
    shown = f"{_written_in(key)}{printable(key)}"
    for free in components.ALLOWED:
        if key == free or key.startswith(f"{free}."):
            name = ".NAME" if free != "model.loss" else ""
            return f"{shown}: to add one, begin with a plus sign: +{free}{name}._target_=MODULE.CLASS"
    if key in _ELSEWHERE:
        return f"{shown} is Lightning's word; here it is {_ELSEWHERE[key]}"
    if key in known_keys() and rest:
        having = [name for name in choices(group) if name != group_choice and _holds(group, name, rest)]
        owners = f"; it belongs to {', '.join(having)}" if having else ""
        return f"{group}={group_choice} has no {printable(rest)}{owners}"
    near = _near(key)
    if near:
        return f"{shown} is not a key; near: {', '.join(near)}"
    parent = key.rpartition(".")[0]
    siblings = [name.rpartition(".")[2] for name in known_keys() if name.rpartition(".")[0] == parent]
    if siblings:
        return f"{shown} is not a key; {parent or 'the configuration'} has {', '.join(siblings)}"
    return f"{shown} is not a key of conf/"


def unknown_choice(name: object, there: list[str]) -> str:
    """Says that a file of a group is not one, and which is meant."""
    near = difflib.get_close_matches(str(name), there, n=1)
    hint = f"near: {near[0]}" if near else f"choose one of {', '.join(there) or 'none'}"
    return f"{shown(name)} is not known; {hint}"


def _near(key: str) -> list[str]:
    """Known keys that may be meant: the same last word elsewhere, or nearly the same letters."""
    known = known_keys()
    last = key.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] == last]
    parent = key.rpartition(".")[0]
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    close = [beside[word] for word in difflib.get_close_matches(last, beside, n=2, cutoff=0.7)]
    return list(dict.fromkeys([*close, *same, *difflib.get_close_matches(key, known, n=2, cutoff=0.8)]))[:3]


@functools.lru_cache
def _loaded(file: Path, changed: int) -> DictConfig:
    """A YAML file, read once until it is changed."""
    return yaml_files.load(file)


def _held(file: Path, key: str) -> object:
    """What a YAML file holds under a dotted key, or `_ABSENT`."""
    tree = _loaded(file, file.stat().st_mtime_ns)
    for part in key.split("."):
        if not isinstance(tree, DictConfig) or part not in tree:
            return _ABSENT
        tree = tree._get_node(part)
    return OmegaConf.to_container(tree) if OmegaConf.is_config(tree) else tree._value()


def _holds(group: str, choice: str, key: str) -> bool:
    """Whether a file of a group, or one that it builds on, holds a dotted key."""
    file = CONF / group / f"{choice}.yaml"
    if not file.is_file():
        return False
    defaults = _held(file, "defaults")
    bases = [each for each in (defaults if isinstance(defaults, list) else []) if isinstance(each, str)]
    return _held(file, key) is not _ABSENT or any(_holds(group, base, key) for base in bases)


def explain(error: ValidationError, tree: dict) -> str:
    """The most telling of the problems that pydantic found."""
    problems = error.errors(include_url=False, include_context=False)

    def order(problem: dict) -> int:
        kinds = ("invalid_key", "unexpected_keyword_argument", "missing")
        return kinds.index(problem["type"]) if problem["type"] in kinds else len(kinds)

    first = min(problems, key=order)
    place = [str(part) for part in first["loc"]]
    if first["type"] in ("invalid_key", "unexpected_keyword_argument"):
        return unknown(_dotted(place))
    if first["type"] == "missing":
        absent = [
            _dotted([str(part) for part in item["loc"]]) for item in problems if item["type"] == "missing"
        ]
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        return f"{', '.join(absent[:5])}{more} {'is' if len(absent) == 1 else 'are'} missing"
    key, value, spec = _locate(first["loc"], tree)
    hint = ""
    if isinstance(value, bool | int | float) and "text" in _allowed(spec):
        hint = f"""; in quotes it is one: {key}="'{value}'" """.rstrip()
    words = _choices(spec)
    if isinstance(value, str) and value:
        near = [word for word in words if word.startswith(value)] or difflib.get_close_matches(value, words)
        hint = f"; near: {near[0]}" if near else ""
    if value == "" and not words:
        return f"{_written_in(key, value)}{key} is empty; give {_allowed(spec)}"
    return f"{_written_in(key, value)}{key}={shown(value)}: must be {_allowed(spec)}{hint}"


def _dotted(place: list[str]) -> str:
    key = ""
    for part in place:
        key += f"[{part}]" if part.isdigit() else f".{part}" if key else part
    return key


def _locate(loc: tuple, tree: dict) -> tuple[str, object, dict]:
    """Key, value and schema of what an error is about: of a list of plain items the whole list."""
    spec, node, place = _schema(), tree, []
    for part in loc:
        spec = _resolved(spec)
        if isinstance(node, dict) and part in spec.get("properties", {}):
            spec, node = spec["properties"][part], node[part]
        elif isinstance(node, list) and isinstance(part, int) and "$ref" in spec.get("items", {}):
            spec, node = spec["items"], node[part]
        else:  # a plain item of a list, or one of several types that are allowed
            break
        place.append(str(part))
    return _dotted(place), node, _resolved(spec)


def shown(value: object) -> str:
    """A value as it is written on the command line or in YAML, cut where it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, str) and not _like_number(value):
        text = value
    text = without_password(printable(text))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _like_number(text: str) -> bool:
    """Whether only quotes make this a text."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false", "null")
    return True


def _written_in(key: str, value: object = _ABSENT) -> str:
    """The project's files that hold a key, to begin an error with; nothing where it is the command line's.

    Args:
        key: dotted.
        value: if given, only files that give the key this value.
    """
    group, _, rest = key.partition(".")
    places = [(PARAMS, key), (CONF / "config.yaml", key)]
    places += [(file, key) for file in sorted((CONF / "experiment").glob("*.yaml"))]
    places += [(file, rest) for file in sorted((CONF / group).rglob("*.yaml")) if rest]
    found = []
    for file, name in places:
        held = _held(file, name)
        if held is not _ABSENT and (value is _ABSENT or repr(held) == repr(value)):
            found.append(str(file.relative_to(CONF.parent)))
    return f"{', '.join(found)}: " if found else ""


def _choices(spec: dict) -> list[str]:
    found = [str(item) for item in spec.get("enum", [])]
    return found + [word for option in spec.get("anyOf", []) for word in _choices(option)]


def _allowed(spec: dict) -> str:
    """What a JSON schema allows, in words."""
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
            like = f"a text like {spec['pattern']}" if "pattern" in spec else "a text"
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
