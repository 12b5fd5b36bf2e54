"""Converts an exported model to TensorFlow Lite: python tools/to_tflite.py FOLDER OUT.tflite

The input, `image`, is uint8, 1 × size × size × 3, RGB: the bytes of a camera or of a decoded photo, so that
nobody has to repeat the normalisation. The output, `probabilities`, is float32, 1 × classes, in the order of
``labels.txt``. The photo is resized before; the program's last line says how.

Runs in an environment with the packages of ``tflite-requirements.txt`` alone and imports nothing of the
project. The heavy packages are imported after the folder has been checked.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("tflite-requirements.txt")
FILES = ("config.json", "model.json", "model.safetensors")
TIMM = "models.pretrained.create"  # `_target_` of the networks that are timm's
OURS = ("_target_", "backbone", "weights", "file")  # of `net`; the others are arguments of timm
OPTIONS = ("img_size", "dynamic_img_size", "drop_rate", "drop_path_rate", "global_pool")
MAX_SIZE = 1024  # pixels
MAX_DIFFERENCE = 1e-4  # of a probability; sums in another order give 1e-6
IMAGES = 12  # to compare


class InputError(Exception):
    """Wrong input; the message says what, in one line."""


@dataclass(frozen=True)
class Model:
    """What rebuilds an exported model.

    Attributes:
        architecture: name of a timm model.
        options: arguments of ``timm.create_model``.
        classes: number of classes.
        size: side length of the input in pixels.
        mean: per channel, for values in 0–1.
        std: per channel, for values in 0–1.
        temperature: divisor of the logits.
        flip: whether logits are averaged over the image and its mirror image.
        multi_label: whether each class has a probability of its own.
        resizing: how a photo becomes the input, in words.
    """

    architecture: str
    options: dict
    classes: int
    size: int
    mean: list[float]
    std: list[float]
    temperature: float
    flip: bool
    multi_label: bool
    resizing: str


def read(folder: Path) -> Model:
    """Reads an exported folder.

    Raises:
        InputError: the folder is missing, is no exported model, or its network isn't timm's.
    """
    if not folder.is_dir():
        hint = "; unpack it first" if folder.suffix == ".zip" else ""
        raise InputError(f"{folder} is not a folder{hint}")
    for name in FILES:
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not an exported model: it has no {name}")
    try:
        config, card = (json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES[:2])
        net, preprocessing = config["net"], config["pretrained_cfg"]
        if net["_target_"] != TIMM:
            raise InputError(f"{folder}: only timm's networks can be converted, not {net['_target_']!r}")
        # timm takes weights from anywhere for names such as hf-hub:… and local-dir:….
        if not re.fullmatch(r"\w[\w.-]{0,99}", net["backbone"], re.ASCII):
            raise InputError(f"{folder}: {net['backbone'][:100]!r} is not the name of a timm network")
        options = {name: value for name, value in net.items() if name not in OURS}
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise InputError(f"{folder}: the network has the unknown argument {unknown[0][:100]!r}")
        size, mean, std = (preprocessing[name] for name in ("input_size", "mean", "std"))
        size, mean, std = int(size[-1]), [float(value) for value in mean], [float(value) for value in std]
        if not 1 <= size <= MAX_SIZE or len(mean) != 3 or len(std) != 3:
            raise ValueError("input_size, mean or std")
        filter_ = str(preprocessing["interpolation"])
        if preprocessing["crop_mode"] == "squash":
            resizing = f"resize it to {size} × {size} ({filter_}), whatever its proportions"
        else:
            shorter = round(size / float(preprocessing["crop_pct"]))
            resizing = f"resize its shorter side to {shorter} ({filter_}), and cut the middle {size} × {size}"
        return Model(
            architecture=net["backbone"],
            options=options,
            classes=int(config["num_classes"]),
            size=size,
            mean=mean,
            std=std,
            temperature=float(config["temperature"]),
            flip=bool(card["flip"]),
            multi_label=card["task"] == "multi_label",
            resizing=resizing,
        )
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{folder} is not an exported model, or damaged ({why})") from error


def build(model: Model, weights: Path):
    """The network with normalisation and probabilities, as a torch module of one uint8 image, 1×H×W×3.

    Raises:
        InputError: timm doesn't know the network, or the weights don't fit it.
    """
    import timm
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    class Wrapped(torch.nn.Module):
        def __init__(self, net: torch.nn.Module):
            super().__init__()
            self.net = net
            mean, std = torch.tensor(model.mean), torch.tensor(model.std)
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", -mean / std)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            # Normalised before the permutation, which the converter then removes.
            x = torch.addcmul(self.shift, image.float(), self.scale).permute(0, 3, 1, 2)
            if model.flip:
                logits = self.net(torch.cat([x, x.flip(3)])).mean(dim=0, keepdim=True)
            else:
                logits = self.net(x)
            logits = logits / model.temperature
            return {"probabilities": logits.sigmoid() if model.multi_label else logits.softmax(dim=1)}

    try:
        net = timm.create_model(
            model.architecture, pretrained=False, num_classes=model.classes, **model.options
        )
    except Exception as error:  # timm raises many types
        raise InputError(f"timm can't make {model.architecture}: {str(error).splitlines()[0]}") from error
    try:
        net.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise InputError(f"{weights} doesn't fit {model.architecture}, or is damaged") from error
    return Wrapped(net).eval()


def convert(net, size: int, out: Path) -> None:
    """Writes a network of `build` as TensorFlow Lite, for one image at a time.

    Raises:
        InputError: litert-torch can't convert it.
    """
    import litert_torch
    import torch

    litert_torch.config.show_progress = False
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    try:
        litert_torch.convert(net, sample_kwargs={"image": image}).export(str(out))
    except Exception as error:  # it raises many types
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"litert-torch can't convert this network ({why})") from error


def compare(net, size: int, file: Path) -> float:
    """The largest difference of a probability between PyTorch and a .tflite file, on random images."""
    import numpy as np
    import torch
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(file)).get_signature_runner()
    random, largest = np.random.default_rng(0), 0.0
    for number in range(IMAGES):
        square = max(1, (1, size // 16, size // 4, size)[number % 4])  # from noise to a single colour
        cells = random.integers(0, 256, (1, size // square + 1, size // square + 1, 3), dtype=np.uint8)
        image = cells.repeat(square, axis=1).repeat(square, axis=2)[:, :size, :size]
        with torch.no_grad():
            expected = net(torch.tensor(image))["probabilities"].numpy()
        difference = np.abs(run(image=image)["probabilities"] - expected).max()
        largest = max(largest, float(difference) if np.isfinite(difference) else np.inf)
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert an exported model to TensorFlow Lite.")
    parser.add_argument("folder", type=Path, help="what petfaces export or the teach page wrote, unpacked")
    parser.add_argument("out", type=Path, help="the .tflite file to write or replace")
    arguments = parser.parse_args()
    try:
        _run(arguments.folder, arguments.out)
    except InputError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed here; see {REQUIREMENTS}")
    except OSError as error:
        sys.exit(f"error: {error}")


def _run(folder: Path, out: Path) -> None:
    model = read(folder)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"{out} can't be written: it is a folder, or is in none")
    net = build(model, folder / "model.safetensors")
    print(f"converting {model.architecture}, which takes a minute or more", flush=True)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".tflite-") as part:
        file = Path(part) / "model.tflite"
        convert(net, model.size, file)
        difference = compare(net, model.size, file)
        if difference > MAX_DIFFERENCE:
            raise InputError(f"{out} not written: probabilities differ from PyTorch's by {difference:.2g}")
        os.replace(file, out)
    print(f"{out}, {out.stat().st_size / 1e6:.1f} MB")
    print(f"largest difference of a probability from PyTorch's, on {IMAGES} random images: {difference:.1g}")
    print(f"input: one photo, uint8, RGB; {model.resizing}")


if __name__ == "__main__":
    main()
