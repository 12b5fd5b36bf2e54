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
        UserError: one is no class of Lightning's callbacks, or does not take its arguments.
    """
    return [_make(node, pl.Callback, f"callbacks.{name}") for name, node in tree.items()]


def metrics(tree: dict[str, dict], **offered: object) -> dict[str, torchmetrics.Metric]:
    """The metrics of a configuration by their names.

    Args:
        tree: name to description.
        offered: arguments that a class gets if it takes them.

    Raises:
        UserError: one is no class of torchmetrics' metrics, or does not take its arguments.
    """
    return {name: _make(node, torchmetrics.Metric, f"metrics.{name}", offered) for name, node in tree.items()}


def loss(tree: dict) -> nn.Module:
    """The loss of a configuration; called with logits and targets.

    Raises:
        UserError: it is no PyTorch module, or does not take its arguments.
    """
    return _make(tree, nn.Module, "model.loss")


def try_metrics(found: dict[str, torchmetrics.Metric], task: Task, classes: list[str]) -> None:
    """Checks before training that each metric takes a task's probabilities and targets and gives one number.

    Raises:
        UserError: one does not.
    """
    probabilities = torch.full((2, len(classes)), 0.5)
    targets = torch.from_numpy(task.targets(classes[:2], classes))
    for name, metric in found.items():
        try:
            float(metric.clone()(probabilities, targets.long()))
        except Exception as error:  # whatever a class raises that is given what it does not take
            raise UserError(f"metrics.{name} gives no number for this task ({_why(error)})") from error


def try_loss(found: nn.Module, num_classes: int) -> None:
    """Checks before training that a loss takes logits and dense targets, N×num_classes, and gives one number.

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


def _make(node: dict, kind: type, where: str, offered: dict | None = None) -> object:
    target = node["_target_"]
    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}._target_={target} can't be imported ({error})") from error
    if not (isinstance(made, type) and issubclass(made, kind)):
        raise UserError(
            f"{where}._target_={target} is not a {kind.__module__.partition('.')[0]} {kind.__name__}"
        )
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    takes = inspect.signature(made).parameters
    arguments = {key: value for key, value in (offered or {}).items() if key in takes} | arguments
    try:
        return made(**arguments)
    except Exception as error:  # whatever a class raises that is given arguments which don't fit
        raise UserError(f"{where}: {target} does not take these arguments ({_why(error)})") from error
