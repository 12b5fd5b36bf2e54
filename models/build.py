"""Builds a network from a registered name and plain arguments.

A config or a model card describes a network by `_target_`, a name registered here, and its arguments. Cards
are untrusted: they can't import code, open files or download anything, and their arguments are checked
against the types and bounds in the signature.
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

MAX_VALUE = 100_000  # of numeric arguments and of the number of classes


class NetworkError(ValueError):
    """A network can't be built as described."""


class WeightsError(RuntimeError):
    """Pretrained weights are not available; the message says what to do."""


@dataclass(frozen=True)
class Network:
    """A registered network.

    Attributes:
        factory: called with `num_classes` and the checked arguments.
        arguments: type hint of each argument except `num_classes`.
        required: arguments without a default.
        config_only: arguments that a config may set but a card may not, such as the source of the weights.
        check: raises NetworkError if the arguments are invalid together.
    """

    factory: Callable[..., nn.Module]
    arguments: dict[str, object]
    required: frozenset[str]
    config_only: frozenset[str]
    check: Callable[[dict], None]


_registry: dict[str, Network] = {}


def network(
    *, options: dict[str, object] | None = None, config_only: tuple = (), check: Callable = lambda _: None
) -> Callable:
    """Decorator that registers a class or function of `models` under its own name, for configs and cards.

    Its type hints define the valid arguments: `int`, `float`, `bool`, `str`, `Annotated` with bounds or
    choices, lists of these, or a union with None.

    Args:
        options: type hints of the arguments accepted through ``**options``.
        config_only: see `Network`.
        check: see `Network`.
    """

    def register(factory: Callable) -> Callable:
        parameters = inspect.signature(factory).parameters.values()
        annotated = factory.__init__ if inspect.isclass(factory) else factory
        hints = typing.get_type_hints(annotated, include_extras=True)
        named = [each for each in parameters if each.name != "num_classes" and each.kind != each.VAR_KEYWORD]
        arguments = {each.name: hints[each.name] for each in named} | (options or {})
        required = frozenset(each.name for each in named if each.default is each.empty)
        name = f"{factory.__module__}.{factory.__qualname__}"
        _registry[name] = Network(factory, arguments, required, frozenset(config_only), check)
        return factory

    return register


def find(name: object) -> Network:
    """The network registered under a name; imports the module of `models` that it is in.

    Raises:
        NetworkError: no network is registered under it; the message lists those that are.
    """
    parts = re.fullmatch(r"models\.(\w+)\.(\w+)", name) if isinstance(name, str) else None
    modules = {module.name for module in pkgutil.iter_modules(models.__path__)}
    if parts and parts[1] in modules:
        importlib.import_module(f"models.{parts[1]}")  # safe: only modules that exist in this checkout
        if name in _registry:
            return _registry[name]
    for module in modules:
        importlib.import_module(f"models.{module}")
    raise NetworkError(
        f"net._target_={str(name)[:100]} is not a registered network (see docs/models.md); "
        f"registered: {', '.join(sorted(_registry))}"
    )


def check(net: dict) -> tuple[Network, dict]:
    """The network and the checked arguments of a description.

    Raises:
        NetworkError: unknown network, unknown or missing argument, or a value of the wrong type or out of
            bounds.
    """
    entry = find(net.get("_target_"))
    arguments = {name: value for name, value in net.items() if name != "_target_"}
    title = net["_target_"].rpartition(".")[2]
    if unknown := sorted(map(str, arguments.keys() - entry.arguments.keys())):
        raise NetworkError(
            f"net: {title} takes no argument {unknown[0][:50]!r}; it takes {', '.join(entry.arguments)}"
        )
    if missing := sorted(entry.required - arguments.keys()):
        raise NetworkError(f"net: {title} needs the argument {missing[0]!r}")
    for name, value in arguments.items():
        if not _valid(value, entry.arguments[name]):
            raise NetworkError(f"net.{name}={str(value)[:50]}: wrong type for {title}, or out of bounds")
    entry.check(arguments)
    return entry, arguments


def _valid(value: object, hint: object) -> bool:
    """Whether a value has the type of a hint, and is within its bounds or among its choices."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_valid(value, each) for each in inner)
    if origin is typing.Annotated:  # a number with its bounds, or a string with its choices
        base, allowed = inner
        if not _valid(value, base):
            return False
        return value in allowed if base is str else allowed[0] <= value <= allowed[1]
    if origin is list:
        return isinstance(value, list) and len(value) <= 64 and all(_valid(item, inner[0]) for item in value)
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return type(value) is bool
    if hint is int:
        return type(value) is int and 0 <= value <= MAX_VALUE
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MAX_VALUE
    return hint is str and isinstance(value, str) and len(value) <= 1000


def build(net: dict, num_classes: int) -> nn.Module:
    """Builds a network from the config, with the weights it names.

    Raises:
        NetworkError: the description is invalid.
        WeightsError: the weights are not available.
    """
    entry, arguments = check(net)
    return _build(entry, arguments, num_classes, passed_on=(WeightsError,))


def _build(entry: Network, arguments: dict, num_classes: int, passed_on: tuple = ()) -> nn.Module:
    """Calls the factory; exceptions of other types than `passed_on` become a NetworkError."""
    try:
        return entry.factory(num_classes=num_classes, **arguments)
    except (NetworkError, *passed_on):
        raise
    except Exception as error:  # networks raise many types if their sizes don't fit together
        raise NetworkError(f"net: the network can't be built ({reason(error)[:200]})") from error


def from_card(net: dict, num_classes: int, shapes: dict[str, tuple[int, ...]] | None = None) -> nn.Module:
    """Builds the network of a model card with random weights; the trained weights are loaded later.

    Args:
        net: the card's description of the network.
        num_classes: length of the output.
        shapes: shapes of the weights to load. They are compared before memory is allocated, so a card can't
            allocate more than its weights fill.

    Raises:
        NetworkError: the description is invalid, or does not match the weights.
    """
    entry, arguments = check(net)
    arguments |= {name: None for name in entry.config_only & arguments.keys()}
    if not 2 <= num_classes <= MAX_VALUE:
        raise NetworkError(f"{num_classes} classes; a network has 2 to {MAX_VALUE:,}")
    if shapes is not None:
        # Twice as many, since a network may replace parameters that it has created.
        with torch.device("meta"), _limit_parameters(2 * len(shapes) + 100):
            skeleton = _build(entry, arguments, num_classes)
            expected = {name: tuple(value.shape) for name, value in skeleton.state_dict().items()}
        if expected != shapes:
            names = sorted(expected.keys() | shapes.keys())
            name = next(name for name in names if expected.get(name) != shapes.get(name))
            raise NetworkError(
                f"the weights do not match the card's network: {name[:100]} is {_shape(shapes, name)} in the "
                f"weights, {_shape(expected, name)} in the network"
            )
    return _build(entry, arguments, num_classes)


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return "×".join(map(str, shapes[name])) or "a scalar" if name in shapes else "missing"


@contextmanager
def _limit_parameters(limit: int) -> Iterator[None]:
    """Building a network with more parameter tensors than this raises NetworkError within the context."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    created = 0

    def count(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        nonlocal created
        created += value is not None
        if created > limit:
            raise NetworkError("the card's network is far larger than the weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
