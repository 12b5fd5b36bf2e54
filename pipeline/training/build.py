"""Builds the untrained classifier that a configuration describes, and the card to rebuild it from."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from models.build import NetworkError, WeightsError
from models.build import build as build_network
from models.classifier import Classifier, check_weights, read_weights
from models.pretrained import preprocessing
from pipeline.artifacts import onnx_resize, untrusted
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.data.dataset import PackedDataset
from pipeline.portable import DamagedError, ModelCard, Preprocessing
from pipeline.training import components

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """The inputs of a training.

    Attributes:
        cfg: the configuration.
        pack: the images; their classes are the outputs.
        model: untrained; with pretrained weights or those of a start model if the config says so.
        card: the card of the trained model, before calibration.
    """

    cfg: DictConfig
    pack: PackedDataset
    model: Classifier
    card: ModelCard


def build(cfg: DictConfig, pack: PackedDataset, start: Path | None = None) -> Training:
    """Builds a training; input settings that the config leaves null come from the backbone.

    Args:
        cfg: the configuration.
        pack: the images.
        start: train folder of the model to start from, as `start_model` yields it.

    Raises:
        UserError: the backbone is unknown, its weights can't be loaded, or the start is another network.
    """
    if pack.task.name != cfg.data.task:
        raise UserError(
            f"data.task={cfg.data.task}, but data/{cfg.data.name} was packed as {pack.task.name}; "
            "run: dvc repro pack"
        )
    net_config, num_classes = OmegaConf.to_container(cfg.model.net, resolve=True), len(pack.classes)
    if start and "weights" in net_config:
        net_config |= {"weights": None, "file": None}  # the start model provides them
    if net_config.get("file"):
        net_config["file"] = str(paths.from_root(net_config["file"]))
    try:
        net = build_network(net_config, num_classes)
    except NetworkError as error:
        raise UserError(f"model.{error}") from error
    except WeightsError as error:
        raise UserError(str(error)) from error
    if "weights" in net_config:
        # The saved model includes its weights: loading it needs no package, hub or file.
        net_config |= {"weights": None, "file": None}
    if start:
        load_start(net, net_config, pack.classes, start, cfg.model.start)
    inputs = {"max_side": pack.summary["max_side"], **OmegaConf.to_container(cfg.model.input, resolve=True)}
    if None in inputs.values():
        defaults = preprocessing(net)
        inputs = {key: defaults[key] if value is None else value for key, value in inputs.items()}
    card = ModelCard(  # temperature and thresholds are chosen after training
        name=cfg.model.name,
        data=cfg.data.name,
        drawings=cfg.data.drawings,
        classes=pack.classes,
        species=pack.species(),
        net=net_config,
        input=Preprocessing(**inputs),
        channels_last=cfg.model.channels_last,
        flip=cfg.model.get("flip", False),
        temperature=1.0,
        unsure_below=0.0,
        task=pack.task.name,
        thresholds=[],
    )
    onnx_resize.check(card.input.interpolation)  # fails before hours of training, not after
    passed_on = ["lr", "weight_decay", "warmup", "label_smoothing", "channels_last"]
    passed_on += ["layer_decay", "frozen", "freeze_batchnorm"]
    arguments = {key: cfg.model[key] for key in passed_on if key in cfg.model}
    if cfg.model.balance == "weights":
        targets = pack.targets[pack.rows("train")]
        arguments["class_weights"] = pack.task.class_weights(targets, num_classes)
    if cfg.model.get("loss"):
        arguments["loss"] = components.loss(OmegaConf.to_container(cfg.model.loss, resolve=True))
        components.try_loss(arguments["loss"], num_classes)
    described = OmegaConf.to_container(cfg.metrics, resolve=True)
    metrics = components.metrics(described, num_classes=num_classes, num_labels=num_classes)
    components.try_metrics(metrics, pack.task, pack.classes)
    model = Classifier(
        net,
        num_classes,
        card.input.mean,
        card.input.std,
        pack.task,
        mixup=cfg.augment.mixup,
        cutmix=cfg.augment.cutmix,
        flip=card.flip,
        metrics=metrics,
        **arguments,
    )
    return Training(cfg, pack, model, card)


def load_start(net: nn.Module, net_config: dict, classes: list[str], start: Path, named: str) -> None:
    """Loads the weights of a trained model of the same architecture; matches the head by class name.

    A class that the start model lacks keeps its randomly initialized row of the head.

    Args:
        net: the network, changed in place.
        net_config: the config that it was built from.
        classes: names, in the order of the outputs.
        start: train folder of the start model.
        named: the start model as the user named it, for messages.

    Raises:
        UserError: the start model is damaged, or has another architecture.
        DamagedError: its weights are not finite or of an unsupported type.
    """
    start_card = untrusted.card(start)
    try:
        state = read_weights(start / "weights.safetensors")
    except DamagedError as error:
        raise UserError(f"model.start={named}: {error}") from error
    if _architecture(start_card.net) != _architecture(net_config):
        raise UserError(
            f"model.start={named} is of another network ({_architecture(start_card.net)}) "
            f"than this one ({_architecture(net_config)}); choose the same model and backbone"
        )
    head = getattr(net, "pretrained_cfg", {}).get("classifier", "head")
    initial = net.state_dict()
    rows = {name: row for row, name in enumerate(start_card.classes)}
    shared = [(row, rows[name]) for row, name in enumerate(classes) if name in rows]
    heads = (f"{head}.weight", f"{head}.bias")
    shapes = {name: value.shape for name, value in initial.items()}
    shapes |= {name: (len(start_card.classes), *shapes[name][1:]) for name in heads if name in shapes}
    if {name: value.shape for name, value in state.items()} != shapes:
        raise UserError(f"model.start={named}: its weights are not of the network in its card")
    check_weights(state, initial, f"model.start={named}")
    for name in heads:
        trained, state[name] = state[name], initial[name].clone()
        for row, old in shared:
            state[name][row] = trained[old]
    net.load_state_dict(state)
    _log.info("starts from %s; its head knows %d of %d classes", named, len(shared), len(classes))


def _architecture(net: dict) -> dict:
    """The arguments of a network that determine its architecture."""
    return {key: value for key, value in net.items() if key not in ("weights", "file")}


def device(cfg: DictConfig) -> torch.device:
    """The device for computation outside Lightning's loop: the same that the trainer uses.

    Raises:
        UserError: a GPU is requested and there is none.
    """
    on_gpu = cfg.trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    if cfg.trainer.accelerator in ("gpu", "cuda") and not on_gpu:
        raise UserError(
            f"trainer.accelerator={cfg.trainer.accelerator}, but PyTorch sees no GPU here; use trainer=cpu"
        )
    rank, devices = int(os.environ.get("LOCAL_RANK", 0)), cfg.trainer.devices
    index = devices[rank] if isinstance(devices, ListConfig) else rank
    return torch.device("cuda", index) if on_gpu else torch.device("cpu")
