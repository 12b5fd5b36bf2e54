"""A model's card, ``model.json``: data that a stranger may have written."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from .errors import DamagedError

NAME = re.compile(r"\w[\w.-]{0,99}")  # of models and data sets; becomes part of paths and addresses
MAX_JSON = 32 << 20  # bytes: 100,000 long class names
MAX_DEPTH = 32  # of a JSON file; a card has 3
MAX_CLASSES = 100_000
LEAST_DEVIATION, LEAST_CROP = 1e-3, 0.25  # of a card's `std` and `crop_pct`


def read_json(file: Path, numbers_only: bool = True) -> object:
    """Reads a JSON file that anyone may have written.

    Args:
        file: which.
        numbers_only: whether NaN and Infinity, which JSON does not have, are refused.

    Raises:
        DamagedError: it is missing, no regular file, too large, or not plain JSON (NaN, a key twice).
    """

    def constant(text: str) -> float:
        if numbers_only:
            raise ValueError(f"{text} is no number")
        return float(text)

    def unique(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        if not file.is_file():  # a pipe or a device would never end
            raise DamagedError(f"{file} is missing")
        with open(file, "rb") as opened:
            data = opened.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise DamagedError(f"{file} is larger than {MAX_JSON >> 20} MB")
        tree = json.loads(data.decode(), parse_constant=constant, object_pairs_hook=unique)
        _check_depth(tree)
        # A lone surrogate, which JSON can spell, can't be written anywhere.
        json.dumps(tree, ensure_ascii=False).encode()
        return tree
    except OSError as error:
        raise DamagedError(f"{file} can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        why = "too deeply nested" if isinstance(error, RecursionError) else error
        raise DamagedError(f"{file} is no sound JSON ({why})") from error


def _check_depth(tree: object) -> None:
    """Raises RecursionError where others, that write the tree again, would."""
    level = [tree] if isinstance(tree, dict | list) else []
    for _ in range(MAX_DEPTH):
        nodes = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in nodes for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise RecursionError


def is_plain(value: object, deep: int = 1) -> bool:
    """Whether a value is None, a bool, a finite number, a short text, or a list of such."""
    if isinstance(value, list):
        return deep > 0 and len(value) <= 64 and all(is_plain(item, deep - 1) for item in value)
    if isinstance(value, str):
        return len(value) <= 1000
    return value is None or type(value) is bool or is_number(value)


def is_number(value: object) -> bool:
    """Whether a value is a number of ordinary size, neither NaN nor infinite."""
    return _number(-1e15, 1e15)(value)


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _three(low: float, high: float) -> Callable[[object], bool]:
    number = _number(low, high)
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(number, value))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _are_classes(value: object) -> bool:
    return (
        isinstance(value, list)
        and 2 <= len(value) <= MAX_CLASSES
        and all(_is_text(name) and name for name in value)
        and len(set(value)) == len(value)
    )


def _are_shares(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_CLASSES and all(map(_number(0, 1), value))


def _is_net(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 64
        and isinstance(value.get("_target_"), str)
        and all(is_plain(argument) for argument in value.values())
    )


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input; a card's `input`.

    Attributes:
        max_side: pixels to which the longer side is shrunk first.
        size: side of the network's input in pixels.
        interpolation: a name of Pillow's `Resampling`, in lower case.
        crop: `squash` or `center`, see `to_square`.
        crop_pct: used by `center` alone.
        mean: per channel, in 0–1.
        std: per channel, in 0–1.
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
    """What rebuilds a trained model and prepares its images; the file ``model.json``.

    Attributes:
        name: of the model's configuration.
        data: name of the data set.
        drawings: whether it was trained on drawings.
        classes: names, in the order of the outputs.
        species: of each class; empty where unknown.
        net: `_target_`, a registered network's name, and its arguments (see `models.build`).
        input: how an image is prepared.
        channels_last: memory layout of the network.
        flip: whether it answers by the mean over an image and its mirror image.
        temperature: the logits are divided by it.
        unsure_below: no class is named where the highest probability is below.
        task: what its answers are, one of `TASKS`.
        thresholds: of each class the probability from which on an image has it; empty where an image has one
            class only.
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
        """Whether an image may have several classes, or none."""
        return self.task == "multi_label"

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def write(self, folder: Path) -> None:
        """Writes ``model.json``."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / "model.json").write_text(text, encoding="utf-8")


def upgrade(tree: dict) -> dict:
    """A card's fields as today's code knows them: what cards of earlier versions lack, they get here.

    Their models were neither calibrated nor mirrored, and named one class for every image.
    """
    former = {
        "flip": False,
        "temperature": 1.0,
        "unsure_below": 0.0,
        "task": "single_label",
        "thresholds": [],
    }
    return former | tree


TASKS = ("single_label", "multi_label")  # kinds of answers that this version knows
_CARD = {  # of each field what it has to be, and how that is said
    "name": (_is_name, "a name of letters, digits and _.-"),
    "data": (_is_name, "a name of letters, digits and _.-"),
    "drawings": (_is_bool, "true or false"),
    "classes": (_are_classes, f"2 to {MAX_CLASSES:,} different names"),
    "species": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names"),
    "net": (_is_net, "a mapping with _target_ and plain arguments"),
    "input": (lambda value: isinstance(value, dict), "a mapping"),
    "channels_last": (_is_bool, "true or false"),
    "flip": (_is_bool, "true or false"),
    "temperature": (_number(1e-3, 1e3), "a number from 0.001 to 1,000"),
    "unsure_below": (_number(0, 1), "a number from 0 to 1"),
    "task": (lambda value: isinstance(value, str) and value in TASKS, " or ".join(TASKS)),
    "thresholds": (_are_shares, "a list of numbers from 0 to 1"),
}
_INPUT = {
    "max_side": (_whole(1, 1 << 16), "a whole number from 1 to 65,536"),
    "size": (_whole(1, 1024), "a whole number from 1 to 1,024"),
    "interpolation": (
        lambda value: isinstance(value, str) and value.upper() in Image.Resampling.__members__,
        "a filter of Pillow",
    ),
    "crop": (lambda value: value in ("squash", "center"), "squash or center"),
    "crop_pct": (_number(LEAST_CROP, 2), f"a number from {LEAST_CROP} to 2"),
    "mean": (_three(-10, 10), "three numbers"),
    "std": (_three(LEAST_DEVIATION, 100), f"three numbers from {LEAST_DEVIATION} on"),
}


def read_card(folder: str | Path) -> ModelCard:
    """Reads a model's card, ``model.json``, which a stranger may have written.

    A card is data: plain values within bounds. What its `net` names is checked by who builds it. A field that
    this version does not know has no effect, so that cards of later versions can be read; in `input`, where
    it would change the answers, it is an error.

    Raises:
        DamagedError: says which field is wrong, and what it has to be.
    """
    file = Path(folder) / "model.json"
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise DamagedError(f"{file} is no model card")
    tree = upgrade(tree)
    _check(tree, _CARD, f"{file}: ")
    _check(tree["input"], _INPUT, f"{file}: input.")
    if unknown := sorted(tree["input"].keys() - _INPUT.keys()):
        raise DamagedError(f"{file}: input has the unknown field {unknown[0][:50]!r}")
    if len(tree["species"]) != len(tree["classes"]):
        raise DamagedError(f"{file}: species must name one for each of the classes")
    if len(tree["thresholds"]) != (len(tree["classes"]) if tree["task"] == "multi_label" else 0):
        raise DamagedError(f"{file}: thresholds must have one for each class of multi_label, and else none")
    fields = {name: tree[name] for name in _CARD}
    return ModelCard(**fields | {"input": Preprocessing(**tree["input"])})


def _check(tree: dict, rules: dict, where: str) -> None:
    for name, (fits, wanted) in rules.items():
        if name not in tree:
            raise DamagedError(f"{where}{name} is missing; the card is damaged or of an older form")
        if not fits(tree[name]):
            raise DamagedError(f"{where}{name} must be {wanted}, not {str(tree[name])[:50]!r}")
