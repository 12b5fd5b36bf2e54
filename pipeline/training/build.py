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
    onnx_resize.check(card.input.interpolation)  # fails here, not after hours of training
    keys = ["lr", "weight_decay", "warmup", "label_smoothing", "channels_last"]
    keys += ["layer_decay", "frozen", "freeze_batchnorm"]
    arguments = {key: cfg.model[key] for key in keys if key in cfg.model}
    if cfg.model.balance == "weights":
        targets = pack.targets[pack.rows("train")]
        arguments["class_weights"] = pack.task.class_weights(targets, num_classes)
    if cfg.model.get("loss"):
        arguments["loss"] = components.loss(OmegaConf.to_container(cfg.model.loss, resolve=True))
        components.check_loss(arguments["loss"], num_classes)
    tree = OmegaConf.to_container(cfg.metrics, resolve=True)
    metrics = components.metrics(tree, num_classes=num_classes, num_labels=num_classes)
    components.check_metrics(metrics, pack.task, pack.classes)
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


def load_start(net: nn.Module, net_config: dict, classes: list[str], start: Path, name: str) -> None:
    """Loads the weights of a trained model of the same architecture; matches the head by class name.

    A class that the start model lacks keeps its randomly initialized row of the head.

    Args:
        net: the network, changed in place.
        net_config: the config that it was built from.
        classes: names, in the order of the outputs.
        start: train folder of the start model.
        name: the value of ``model.start``, for messages.

    Raises:
        UserError: the start model is damaged, or has another architecture.
        DamagedError: its weights are not finite or of an unsupported type.
    """
    start_card = untrusted.card(start)
    try:
        state = read_weights(start / "weights.safetensors")
    except DamagedError as error:
        raise UserError(f"model.start={name}: {error}") from error
    if _architecture(start_card.net) != _architecture(net_config):
        raise UserError(
            f"model.start={name} has another architecture ({_architecture(start_card.net)}) "
            f"than this model ({_architecture(net_config)}); choose the same model and backbone"
        )
    head = getattr(net, "pretrained_cfg", {}).get("classifier", "head")
    initial = net.state_dict()
    rows = {label: row for row, label in enumerate(start_card.classes)}
    shared = [(row, rows[label]) for row, label in enumerate(classes) if label in rows]
    head_keys = (f"{head}.weight", f"{head}.bias")
    shapes = {key: value.shape for key, value in initial.items()}
    shapes |= {key: (len(start_card.classes), *shapes[key][1:]) for key in head_keys if key in shapes}
    if {key: value.shape for key, value in state.items()} != shapes:
        raise UserError(f"model.start={name}: its weights do not match the network in its card")
    check_weights(state, initial, f"model.start={name}")
    for key in head_keys:
        trained, state[key] = state[key], initial[key].clone()
        for row, trained_row in shared:
            state[key][row] = trained[trained_row]
    net.load_state_dict(state)
    _log.info("starting from %s; %d of %d classes are in its head", name, len(shared), len(classes))


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
