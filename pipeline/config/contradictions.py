"""Checks a configuration for values that are each valid but contradict each other."""

import dataclasses
import inspect
import math
from collections.abc import Iterator

from pipeline import tasks
from pipeline.common.text import printable
from pipeline.config import components
from pipeline.config.files import choices
from pipeline.config.settings import OPTIONAL, Model
from pipeline.config.wording import format_value, unknown, unknown_choice
from pipeline.sources.kinds import KINDS

# Keys of conf/model/ used only to train or fine-tune a network, not to fit a linear probe.
_TRAINING = [
    field.name
    for field in dataclasses.fields(Model)
    if field.default is OPTIONAL and field.name not in ("flip", "inverse_regularization")
]


def contradictions(tree: dict) -> Iterator[str]:
    """Yields a message for each contradiction between valid values."""
    model, split, source = tree["model"], tree["split"], tree["data"]["source"]
    if split["val"] + split["test"] >= 1:
        yield f"split.val={split['val']} and split.test={split['test']} must sum to less than 1"
    trainer = tree["trainer"]
    devices = trainer["devices"]
    if (trainer.get("num_nodes") or 1) > 1:
        yield f"trainer.num_nodes={trainer['num_nodes']}: only one machine is supported; remove it"
    if trainer["accelerator"] == "cpu" and (isinstance(devices, list) or devices == -1):
        yield (
            f"trainer.devices={format_value(devices)}: with trainer.accelerator=cpu it is a number of "
            "processes; write 1, or 2 with trainer.strategy=ddp"
        )
    elif isinstance(devices, list) and len(set(devices)) < len(devices):
        yield f"trainer.devices={format_value(devices)}: a device is listed twice"
    if model["net"].get("file") and model["net"].get("weights") != "file":
        yield "model.net.file has no effect without model.net.weights=file; add that, or remove it"
    if not isinstance(model["net"].get("_target_"), str):
        yield f"model.net._target_ is missing; name the network's class in conf/model/{model['name']}.yaml"
    yield from _not_plain(model["net"], "model.net")
    yield from _not_plain(tree["augment"]["transforms"], "augment.transforms")
    reserved = {
        f"metrics.{key}" for key in ("loss", *(each.key for each in tasks.of(tree["data"]["task"]).ranked))
    }
    for group, key, node in components.configured(tree):
        yield from components.problems(group, node, key)
        if key in reserved:
            yield f"{key}: every training logs this metric; choose another name"
        yield from _not_plain(node, key)
    yield from _model_problems(model)
    yield from _source_problems(source)
    if tasks.of(tree["data"]["task"]).is_multi_label and model["balance"] == "sampler":
        yield "model.balance=sampler needs one class per image; with data.task=multi_label use weights"
    known = choices("model")
    for number, name in enumerate(tree["models"]):
        if name not in known:
            yield f"models: {unknown_choice(name, known)}"
        if name in tree["models"][:number]:
            yield f"models: {printable(name)} is listed twice"


def _model_problems(model: dict) -> Iterator[str]:
    """Yields a message for each model key that is missing or has no effect with its head and epochs."""
    name, epochs = model["name"], model["epochs"]
    if model["head"] == "random" and epochs == 0:
        yield f"model.epochs=0: a head with random weights (model={name}) needs at least 1 epoch"
    if model["head"] == "probe" and "inverse_regularization" not in model:
        yield f"model={name} has no inverse_regularization, which model.head=probe needs; use model=probe"
    for key, needs in (("head", model["head"] == "probe"), ("frozen", model.get("frozen"))):
        if needs and "backbone" not in model["net"]:
            yield f"model.{key}={model[key]} needs a timm backbone; use model=finetune or model=probe"
    if "backbone" not in model["net"]:
        for key in (key for key, value in model["input"].items() if value is None):
            yield f"model.input.{key}=null: only a timm backbone has a default; set a value"
    if model.get("loss") and model["balance"] == "weights":
        yield "model.balance=weights has no effect with model.loss; use sampler or none"
    trained = [key for key in _TRAINING if key in model]
    needed = [key for key in ("shares", "patience", "lr") if key not in model]
    if needed and epochs > 0:
        yield (
            f"model.epochs={epochs}: model={name} has no {', no '.join(needed)}, since only its head is "
            "fitted; use model=finetune or model.epochs=0"
        )
    elif "loss" in model and epochs == 0:
        yield f"model={name} has no loss, since its head is fitted; use model=finetune, or remove model.loss"
    elif needed and trained:
        yield unknown(f"model.{trained[0]}", name)


def _source_problems(source: dict) -> Iterator[str]:
    """Yields a message for each key that the kind's fetch function does not take, or requires and lacks."""
    parameters = inspect.getfullargspec(KINDS[source["kind"]])
    for key in source:
        if key not in ("kind", *parameters.kwonlyargs):
            yield f"data.source.{key} has no effect with data.source.kind={source['kind']}; remove it"
    for key in parameters.kwonlyargs:
        if key not in source and key not in (parameters.kwonlydefaults or {}):
            yield f"data.source.{key} is missing; data.source.kind={source['kind']} needs it"


def _not_plain(value: object, key: str) -> Iterator[str]:
    """Yields a message for each value that is not plain: not one that YAML and JSON both have."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _not_plain(item, f"{key}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _not_plain(item, key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key}={value}: must be finite"
    elif not isinstance(value, str | int | float | None):
        yield f"{printable(key)}={format_value(value)}: must be a number, a string, true, false or null"
