"""The network that a configuration describes, its card, and where it computes."""

import os

from omegaconf import DictConfig, OmegaConf

from pipeline import config
from pipeline.config import UserError


def card(cfg: DictConfig, pack) -> dict:
    """What rebuilds the trained model and prepares its pictures; goes with the weights everywhere."""
    net = OmegaConf.to_container(cfg.model.net, resolve=True)
    sizing = OmegaConf.to_container(cfg.model.input, resolve=True)
    return {
        "name": cfg.model.name,
        "data": cfg.data.name,
        "drawings": cfg.data.drawings,
        "classes": pack.classes,
        "species": pack.species(),
        "net": net,
        "input": {"max_side": pack.summary["max_side"], **sizing},
        "channels_last": cfg.model.channels_last,
    }


def build(cfg: DictConfig, card: dict):
    """The untrained classifier; fills the card's `input` from the backbone where the config leaves it open.

    Raises:
        UserError: the backbone is unknown or its weights can't be had.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from models.classifier import Classifier
    from models.pretrained import WeightsError, preprocessing

    classes = len(card["classes"])
    net_config = dict(card["net"])
    if net_config.get("file"):
        net_config["file"] = str(config.from_root(net_config["file"]))
    try:
        net = instantiate(net_config, num_classes=classes)
    except InstantiationException as error:  # Hydra's cover around what the network's code raised
        if isinstance(error.__cause__, WeightsError):
            raise UserError(str(error.__cause__)) from error
        raise
    if None in card["input"].values():
        own = preprocessing(net)
        card["input"] = {key: own[key] if value is None else value for key, value in card["input"].items()}
    if "weights" in card["net"]:
        # The saved model brings its weights: restoring it needs no package, hub or file.
        card["net"] |= {"weights": None, "file": None}
    knobs = (
        "lr",
        "weight_decay",
        "warmup",
        "label_smoothing",
        "layer_decay",
        "freeze_batchnorm",
        "channels_last",
    )
    chosen = {key: cfg.model[key] for key in knobs if key in cfg.model}
    return Classifier(
        net,
        classes,
        card["input"]["mean"],
        card["input"]["std"],
        mixup=cfg.augment.mixup,
        seed=cfg.seed,
        **chosen,
    )


def device(cfg: DictConfig):
    """Where this process computes outside Lightning's loop: the trainer's own device."""
    import torch

    wanted = cfg.trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if wanted else torch.device("cpu")
