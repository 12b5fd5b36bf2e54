"""The model card, ``model.json``, read as untrusted data."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from .errors import DamagedError

_Check = Callable[[object], bool]  # whether a value is valid

NAME = re.compile(r"\w[\w.-]{0,99}")  # of models and data sets; used in paths and URLs
MAX_JSON = 32 << 20  # bytes: 100,000 long class names
MAX_DEPTH = 32  # of nesting in a JSON file; a card has 3
MAX_CLASSES = 100_000
MIN_STD, MIN_CROP_PCT = 1e-3, 0.25  # of a card's input


def read_json(file: Path, numbers_only: bool = True) -> object:
    """Returns the content of an untrusted JSON file.

    Args:
        file: the path.
        numbers_only: whether to reject NaN and Infinity, which are not JSON.

    Raises:
        DamagedError: the file is missing, not a regular file, too large or too deeply nested, not valid JSON,
            or has a duplicate key.
    """

    def constant(text: str) -> float:
        if numbers_only:
            raise ValueError(f"{text} is not a number")
        return float(text)

    def unique(pairs: list[tuple[str, object]]) -> dict:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise ValueError("duplicate key")
        return mapping

    try:
        if not file.is_file():  # reading a pipe or a device might never end
            raise DamagedError(f"{file} is missing")
        with open(file, "rb") as opened:
            data = opened.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise DamagedError(f"{file} is larger than {MAX_JSON >> 20} MB")
        tree = json.loads(data.decode(), parse_constant=constant, object_pairs_hook=unique)
        _check_depth(tree)
        # JSON can escape a lone surrogate, which can't be encoded for output.
        json.dumps(tree, ensure_ascii=False).encode()
        return tree
    except OSError as error:
        raise DamagedError(f"{file} can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        why = "too deeply nested" if isinstance(error, RecursionError) else error
        raise DamagedError(f"{file} is not valid JSON ({why})") from error


def _check_depth(tree: object) -> None:
    """Raises RecursionError beyond MAX_DEPTH, as serializing a deeply nested tree would elsewhere."""
    level = [tree] if isinstance(tree, dict | list) else []
    for _ in range(MAX_DEPTH):
        nodes = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in nodes for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise RecursionError


def is_plain(value: object, depth: int = 1) -> bool:
    """Whether a value is None, a bool, a finite number, a short string, or a list of them, `depth` deep."""
    if isinstance(value, list):
        return depth > 0 and len(value) <= 64 and all(is_plain(item, depth - 1) for item in value)
    if isinstance(value, str):
        return len(value) <= 1000
    return value is None or type(value) is bool or is_number(value)


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float, at most 1e15 in magnitude."""
    return _number_in(-1e15, 1e15)(value)


def _number_in(low: float, high: float, *types: type) -> _Check:
    return lambda value: type(value) in (types or (int, float)) and low <= value <= high


def _list_of(is_valid: _Check, low: int = 0, high: int = MAX_CLASSES) -> _Check:
    return lambda value: type(value) is list and low <= len(value) <= high and all(map(is_valid, value))


def _is_a(kind: type) -> _Check:
    return lambda value: type(value) is kind


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _are_classes(value: object) -> bool:
    return _list_of(_is_text, low=2)(value) and "" not in value and len(set(value)) == len(value)


def _is_net(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 64
        and isinstance(value.get("_target_"), str)
        and all(is_plain(argument) for argument in value.values())
    )


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: the field `input` of a card.

    Attributes:
        max_side: maximum of the longer side in pixels; larger images are shrunk first.
        size: side length of the network's input in pixels.
        interpolation: a member of Pillow's `Resampling`, in lower case.
        crop: `squash` or `center`, see `to_square`.
        crop_pct: used only by `center`.
        mean: per channel, for values in 0–1.
        std: per channel, for values in 0–1.
    """

    max_side: int
    size: int
    interpolation: str
    crop: str
    crop_pct: float
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class ModelCard:
    """How to rebuild a trained model and preprocess its images; stored as ``model.json``.

    Attributes:
        name: of the model's configuration.
        data: name of the data set.
        drawings: whether it was trained on synthetic drawings.
        classes: names, in the order of the outputs.
        species: one per class; an empty string if unknown.
        net: `_target_`, a registered network's name, and its arguments (see `models.build`).
        input: the preprocessing.
        channels_last: whether the network uses the channels-last memory format.
        flip: whether predictions are averaged over the image and its mirror image.
        temperature: divisor of the logits.
        unsure_below: the model abstains if the highest probability is below this.
        task: one of `TASKS`.
        thresholds: minimum probability per class at which it counts as present; empty for single-label tasks.
    """

    name: str
    data: str
    drawings: bool
    classes: list[str]
    species: list[str]
    net: dict[str, object]
    input: Preprocessing
    channels_last: bool
    flip: bool
    temperature: float
    unsure_below: float
    task: str
    thresholds: list[float]

    @property
    def several(self) -> bool:
        """Whether the task is multi-label: an image may have any number of classes."""
        return self.task == "multi_label"

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps(asdict(self))

    def write(self, folder: Path) -> None:
        """Writes ``model.json``."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / "model.json").write_text(text, encoding="utf-8")


def upgrade(tree: dict) -> dict:
    """Adds the fields that cards of earlier versions lack.

    Their models were single-label, uncalibrated, and had neither flip averaging nor abstention.
    """
    defaults = {"flip": False, "temperature": 1.0, "unsure_below": 0.0}
    return {**defaults, "task": "single_label", "thresholds": [], **tree}


TASKS = ("single_label", "multi_label")  # that this version supports
_CARD = {  # per field: the check, and the requirement as shown in the error message
    "name": (_is_name, "a name of letters, digits and _.-"),
    "data": (_is_name, "a name of letters, digits and _.-"),
    "drawings": (_is_a(bool), "true or false"),
    "classes": (_are_classes, f"2 to {MAX_CLASSES:,} different names"),
    "species": (_list_of(_is_text), "a list of names"),
    "net": (_is_net, "a mapping with _target_ and plain arguments"),
    "input": (_is_a(dict), "a mapping"),
    "channels_last": (_is_a(bool), "true or false"),
    "flip": (_is_a(bool), "true or false"),
    "temperature": (_number_in(1e-3, 1e3), "a number from 0.001 to 1,000"),
    "unsure_below": (_number_in(0, 1), "a number from 0 to 1"),
    "task": (lambda value: value in TASKS, " or ".join(TASKS)),
    "thresholds": (_list_of(_number_in(0, 1)), "a list of numbers from 0 to 1"),
}
_INPUT = {
    "max_side": (_number_in(1, 1 << 16, int), "a whole number from 1 to 65,536"),
    "size": (_number_in(1, 1024, int), "a whole number from 1 to 1,024"),
    "interpolation": (
        lambda value: isinstance(value, str) and value.upper() in Image.Resampling.__members__,
        "a resampling filter of Pillow",
    ),
    "crop": (lambda value: value in ("squash", "center"), "squash or center"),
    "crop_pct": (_number_in(MIN_CROP_PCT, 2), f"a number from {MIN_CROP_PCT} to 2"),
    "mean": (_list_of(_number_in(-10, 10), 3, 3), "three numbers"),
    "std": (_list_of(_number_in(MIN_STD, 100), 3, 3), f"three numbers from {MIN_STD} to 100"),
}


def read_card(folder: str | Path) -> ModelCard:
    """Reads and validates an untrusted model card, ``model.json``.

    Accepts only plain values within bounds; the builder of the network checks what `net` names. Unknown
    fields are ignored so that cards of later versions can be read, except in `input`, where they would change
    the predictions.

    Raises:
        DamagedError: names the invalid field and what it must be.
    """
    file = Path(folder) / "model.json"
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise DamagedError(f"{file} is not a model card")
    tree = upgrade(tree)
    _check(tree, _CARD, f"{file}: ")
    _check(tree["input"], _INPUT, f"{file}: input.")
    if unknown := sorted(tree["input"].keys() - _INPUT.keys()):
        raise DamagedError(f"{file}: input has the unknown field {unknown[0][:50]!r}")
    if len(tree["species"]) != len(tree["classes"]):
        raise DamagedError(f"{file}: species must have one entry per class")
    if len(tree["thresholds"]) != (len(tree["classes"]) if tree["task"] == "multi_label" else 0):
        raise DamagedError(f"{file}: thresholds must have one entry per class for multi_label, else none")
    fields = {name: tree[name] for name in _CARD}
    return ModelCard(**fields | {"input": Preprocessing(**tree["input"])})


def _check(tree: dict, rules: dict, prefix: str) -> None:
    for name, (is_valid, requirement) in rules.items():
        if name not in tree:
            raise DamagedError(f"{prefix}{name} is missing; the card is damaged or in an older format")
        if not is_valid(tree[name]):
            raise DamagedError(f"{prefix}{name} must be {requirement}, not {str(tree[name])[:50]!r}")
