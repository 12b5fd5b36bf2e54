"""Callbacks, metrics and losses that a configuration names by ``_target_``."""

import importlib
import inspect

import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import Metric

from pipeline.common.errors import UserError
from pipeline.common.text import printable
from pipeline.portable import reason
from pipeline.tasks import Task


def callbacks(tree: dict[str, dict]) -> list[pl.Callback]:
    """The callbacks of a configuration, in its order.

    Raises:
        UserError: one is not a Lightning callback, or does not accept its arguments.
    """
    return [_make(node, pl.Callback, f"callbacks.{name}") for name, node in tree.items()]


def metrics(tree: dict[str, dict], **defaults: object) -> dict[str, Metric]:
    """The metrics of a configuration by name.

    Args:
        tree: maps names to ``_target_`` nodes.
        defaults: default arguments of the classes that accept them.

    Raises:
        UserError: one is not a torchmetrics metric, or does not accept its arguments.
    """
    return {name: _make(node, Metric, f"metrics.{name}", defaults) for name, node in tree.items()}


def loss(tree: dict) -> nn.Module:
    """The loss of a configuration; called with logits and targets.

    Raises:
        UserError: it is not a PyTorch module, or does not accept its arguments.
    """
    return _make(tree, nn.Module, "model.loss")


def check_metrics(by_name: dict[str, Metric], task: Task, classes: list[str]) -> None:
    """Checks that each metric maps a task's probabilities and targets to one number.

    Raises:
        UserError: one does not.
    """
    probabilities = torch.full((2, len(classes)), 0.5)
    targets = torch.from_numpy(task.targets(classes[:2], classes))
    for name, metric in by_name.items():
        try:
            float(metric.clone()(probabilities, targets.long()))
        except Exception as error:  # a class may raise anything for unsupported inputs
            raise UserError(f"metrics.{name} returns no number for this task ({_short(error)})") from error


def check_loss(function: nn.Module, num_classes: int) -> None:
    """Checks that a loss maps logits and dense targets, N×num_classes, to one number.

    Raises:
        UserError: it does not.
    """
    try:
        value = function(torch.zeros(2, num_classes), torch.eye(2, num_classes))
        if value.numel() != 1:
            raise ValueError(f"{value.numel()} numbers")
    except Exception as error:  # as above
        raise UserError(f"model.loss returns no number for logits and targets ({_short(error)})") from error


def _short(error: Exception) -> str:
    return printable(reason(error))[:200]


def _make(node: dict, base: type, setting: str, defaults: dict | None = None) -> object:
    """An instance of the class that a ``_target_`` node names, which must derive from `base`.

    Args:
        node: ``_target_`` and arguments.
        base: the base class.
        setting: the node's key in the configuration, for messages.
        defaults: default arguments that are passed if the class accepts them.

    Raises:
        UserError: the class can't be imported, is another kind of class, or does not accept its arguments.
    """
    target = node["_target_"]
    module, _, name = target.rpartition(".")
    try:
        component = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{setting}._target_={target} can't be imported ({error})") from error
    if not (isinstance(component, type) and issubclass(component, base)):
        raise UserError(
            f"{setting}._target_={target} is not a {base.__module__.partition('.')[0]} {base.__name__}"
        )
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    parameters = inspect.signature(component).parameters
    arguments = {key: value for key, value in (defaults or {}).items() if key in parameters} | arguments
    try:
        return component(**arguments)
    except Exception as error:  # a class may raise anything for invalid arguments
        raise UserError(f"{setting}: {target} does not take these arguments ({_short(error)})") from error
