"""Builds a network from a registered name and plain arguments.

A config or a model card describes a network by `_target_`, a name registered here, and its arguments. Cards
are untrusted: they can't import code, open files or use the network connection, and arguments are checked
against the types and bounds of the signature.
"""

import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

import models
from pipeline.portable import reason

MOST = 100_000  # upper bound of numeric arguments and of the number of classes


class NetworkError(ValueError):
    """A network can't be built as described."""


class WeightsError(RuntimeError):
    """Pretrained weights are not available; the message says what to do."""


@dataclass(frozen=True)
class Network:
    """A registered network.

    Attributes:
        make: called with `num_classes` and the checked arguments.
        arguments: type of each argument except `num_classes`.
        required: arguments without a default.
        own: arguments that a config may set but a card may not, such as the source of the weights.
        check: validates the arguments together.
    """

    make: Callable[..., nn.Module]
    arguments: dict[str, object]
    required: frozenset[str]
    own: frozenset[str]
    check: Callable[[dict], None]


_known: dict[str, Network] = {}


def network(
    *, more: dict[str, object] | None = None, own: tuple[str, ...] = (), check: Callable = lambda _: None
) -> Callable:
    """Decorator that registers a class or function of `models` under its own name, for configs and cards.

    Its type hints define the valid arguments: `int`, `float`, `bool`, `str`, `Annotated` with bounds or
    choices, lists of these, or a union with None.

    Args:
        more: types of arguments accepted through ``**options``.
        own: arguments that a card can't set.
        check: called with the arguments; raises NetworkError if they are invalid.
    """

    def register(make: Callable) -> Callable:
        signature = inspect.signature(make).parameters.values()
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make, include_extras=True)
        named = [each for each in signature if each.kind is not each.VAR_KEYWORD]
        named = [each for each in named if each.name != "num_classes"]
        arguments = {each.name: hints[each.name] for each in named} | (more or {})
        required = frozenset(each.name for each in named if each.default is each.empty)
        _known[f"{make.__module__}.{make.__qualname__}"] = Network(
            make, arguments, required, frozenset(own), check
        )
        return make

    return register


def find(name: object) -> Network:
    """The network registered under a name.

    Raises:
        NetworkError: no network of this checkout is registered under it.
    """
    parts = re.fullmatch(r"models\.(\w+)\.(\w+)", name) if isinstance(name, str) else None
    modules = {module.name for module in pkgutil.iter_modules(models.__path__)}
    if parts and parts[1] in modules:
        importlib.import_module(f"models.{parts[1]}")  # safe: only modules that exist in this checkout
        if name in _known:
            return _known[name]
    for module in modules:
        importlib.import_module(f"models.{module}")
    raise NetworkError(
        f"net._target_={str(name)[:100]}: no network of this checkout is registered so "
        f"(docs/models.md says how); there is {', '.join(sorted(_known))}"
    )


def check(net: dict) -> tuple[Network, dict]:
    """The network and the checked arguments of a description.

    Raises:
        NetworkError: unknown network, unknown or missing argument, or a value of the wrong type or out of
            bounds.
    """
    found = find(net.get("_target_"))
    arguments = {name: value for name, value in net.items() if name != "_target_"}
    title = net["_target_"].rpartition(".")[2]
    if unknown := sorted(map(str, arguments.keys() - found.arguments.keys())):
        raise NetworkError(
            f"net: {title} takes no argument {unknown[0][:50]!r}; it takes {', '.join(found.arguments)}"
        )
    if missing := sorted(found.required - arguments.keys()):
        raise NetworkError(f"net: {title} needs the argument {missing[0]!r}")
    for name, value in arguments.items():
        if not _fits(value, found.arguments[name]):
            raise NetworkError(f"net.{name}={str(value)[:50]} is not what {title} takes, or out of bounds")
    found.check(arguments)
    return found, arguments


def _fits(value: object, kind: object) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Annotated:  # a number with bounds, or a string with its choices
        base, allowed = inner
        if not _fits(value, base):
            return False
        return value in allowed if base is str else allowed[0] <= value <= allowed[1]
    if origin is list:
        return isinstance(value, list) and len(value) <= 64 and all(_fits(item, inner[0]) for item in value)
    if kind in (None, type(None)):
        return value is None
    if kind is bool:
        return type(value) is bool
    if kind is int:
        return type(value) is int and 0 <= value <= MOST
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MOST
    if kind is str:
        return isinstance(value, str) and len(value) <= 1000
    return False


def build(net: dict, num_classes: int) -> nn.Module:
    """Builds a network from the config, with the weights it names.

    Raises:
        NetworkError: the description is invalid.
        WeightsError: the weights are not available.
    """
    found, arguments = check(net)
    return _make(found, arguments, num_classes, expected=(WeightsError,))


def _make(found: Network, arguments: dict, num_classes: int, expected: tuple = ()) -> nn.Module:
    try:
        return found.make(num_classes=num_classes, **arguments)
    except (NetworkError, *expected):
        raise
    except Exception as error:  # networks raise many types if their sizes don't fit together
        raise NetworkError(f"net: the network can't be built ({reason(error)[:200]})") from error


def from_card(net: dict, num_classes: int, shapes: dict[str, tuple[int, ...]] | None = None) -> nn.Module:
    """Builds the network of a model card with random weights; the model's own are loaded later.

    Args:
        net: the card's description of the network.
        num_classes: length of the output.
        shapes: shapes of the weights to load. They are compared before memory is allocated, so a card can't
            allocate more than its weights fill.

    Raises:
        NetworkError: the description is invalid, or does not match the weights.
    """
    found, arguments = check(net)
    arguments |= {name: None for name in found.own & arguments.keys()}
    if not 2 <= num_classes <= MOST:
        raise NetworkError(f"{num_classes} classes; a network has 2 to {MOST:,}")
    if shapes is not None:
        # Allows for parameters that a network creates and then replaces.
        with torch.device("meta"), _limit_parameters(2 * len(shapes) + 100):
            empty = _make(found, arguments, num_classes)
            wanted = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
        if wanted != shapes:
            names = sorted(wanted.keys() | shapes.keys())
            different = [name for name in names if wanted.get(name) != shapes.get(name)]
            raise NetworkError(
                f"the weights are of another network than the card's: {different[0][:100]} is "
                f"{_shape(shapes, different[0])} there, {_shape(wanted, different[0])} here"
            )
    return _make(found, arguments, num_classes)


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return "×".join(map(str, shapes[name])) or "one number" if name in shapes else "missing"


@contextmanager
def _limit_parameters(parameters: int) -> Iterator[None]:
    """Within, a network with more parameter tensors than this raises NetworkError while it is built."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    left = parameters

    def count(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        nonlocal left
        left -= value is not None
        if left < 0:
            raise NetworkError("the card's network is far larger than the weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
