"""Callbacks, metrics and losses that a configuration names by ``_target_``."""

import importlib
import inspect

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn

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


def metrics(tree: dict[str, dict], **offered: object) -> dict[str, torchmetrics.Metric]:
    """The metrics of a configuration by name.

    Args:
        tree: maps names to ``_target_`` nodes.
        offered: arguments passed to each class that accepts them.

    Raises:
        UserError: one is not a torchmetrics metric, or does not accept its arguments.
    """
    return {name: _make(node, torchmetrics.Metric, f"metrics.{name}", offered) for name, node in tree.items()}


def loss(tree: dict) -> nn.Module:
    """The loss of a configuration; called with logits and targets.

    Raises:
        UserError: it is not a PyTorch module, or does not accept its arguments.
    """
    return _make(tree, nn.Module, "model.loss")


def try_metrics(found: dict[str, torchmetrics.Metric], task: Task, classes: list[str]) -> None:
    """Checks before training that each metric maps a task's probabilities and targets to one number.

    Raises:
        UserError: one does not.
    """
    probabilities = torch.full((2, len(classes)), 0.5)
    targets = torch.from_numpy(task.targets(classes[:2], classes))
    for name, metric in found.items():
        try:
            float(metric.clone()(probabilities, targets.long()))
        except Exception as error:  # a class may raise anything for unsupported inputs
            raise UserError(f"metrics.{name} gives no number for this task ({_why(error)})") from error


def try_loss(found: nn.Module, num_classes: int) -> None:
    """Checks before training that a loss maps logits and dense targets, N×num_classes, to one number.

    Raises:
        UserError: it does not.
    """
    try:
        value = found(torch.zeros(2, num_classes), torch.eye(2, num_classes))
        if value.numel() != 1:
            raise ValueError(f"{value.numel()} numbers")
    except Exception as error:  # as above
        raise UserError(f"model.loss gives no number for logits and targets ({_why(error)})") from error


def _why(error: Exception) -> str:
    return printable(reason(error))[:200]


def _make(node: dict, base: type, setting: str, offered: dict | None = None) -> object:
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
    arguments = {key: value for key, value in (offered or {}).items() if key in parameters} | arguments
    try:
        return component(**arguments)
    except Exception as error:  # a class may raise anything for invalid arguments
        raise UserError(f"{setting}: {target} does not take these arguments ({_why(error)})") from error
