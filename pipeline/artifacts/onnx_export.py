"""ONNX export of a trained model, and of backbones for computing features on a CPU."""

import functools
import hashlib
import json
import logging
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import portable
from pipeline.artifacts import atomic, onnx_resize, seal
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.portable import ModelCard

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from models.classifier import Classifier

_log = logging.getLogger(__name__)

CACHE = Path("data/.cache/trunks")  # in the main checkout


def trunk_key(model: "Classifier", card: ModelCard) -> str:
    """Hash of a network without its head: weights, preprocessing, flip and versions of the exporter."""
    head = model.net.pretrained_cfg["classifier"]
    parts = [
        card.net,
        model.flip,
        [card.input.size, card.input.mean, card.input.std],
        [version(name) for name in ("torch", "timm", "onnx", "onnxscript")],
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name, value in sorted(model.net.state_dict().items()):
        if not name.startswith(head):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def trunk(model: "Classifier", card: ModelCard) -> Path:
    """Exports a pretrained network without its head to ONNX: uint8 `pictures` to `features`.

    Exporting takes longer than computing features of a thousand images, so the file is cached by `trunk_key`;
    a probe's features and its export share it.

    Returns:
        The ONNX file.
    """
    from torch import nn

    folder = paths.main_checkout() / CACHE / trunk_key(model, card)[:24]
    if folder.is_dir():
        if not (wrong := portable.damaged(folder)):
            return folder / "trunk.onnx"
        _log.warning("%s: %s; exporting it again", folder, ", ".join(wrong))

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.features(images)

    with atomic.replace_folder(folder) as part:
        _save(_export(Trunk(), card.input.size, "features"), part / "trunk.onnx")
        seal.seal(part)
    return folder / "trunk.onnx"


def to_onnx(train: Path, target: Path) -> None:
    """Writes ``model.onnx``, ``model.json`` and ``SHA256SUMS``, as `OnnxClassifier` reads them.

    The model takes `picture`, uint8 height × width × 3 of any size, and returns `probabilities`, one per
    class. Resizing, normalisation and softmax or sigmoid are part of the graph.

    Args:
        train: a train folder.
        target: output folder, replaced if it exists.

    Raises:
        UserError: the train folder is damaged, or its network or interpolation can't be exported.
        DamagedError: the card or the weights are invalid.
    """
    import onnx
    from torch import nn

    from models.classifier import load

    seal.check(train)
    model, card = load(train)
    head = model.net.get_classifier() if hasattr(model.net, "get_classifier") else None
    onnx_resize.check(card.input.interpolation)
    try:
        if isinstance(head, nn.Linear):
            network = _add_head(onnx.load(trunk(model, card)), head, model.temperature)
        else:
            network = _export(model, card.input.size, "logits")
        exported = _add_preprocessing(network, card)
    except (OSError, UserError):
        raise
    except Exception as error:  # PyTorch's exporter raises many types for networks that it can't trace
        raise UserError(
            f"the network of {seal.relative_to_root(train)} can't be exported ({type(error).__name__}); "
            "choose another network"
        ) from error
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _save(exported, target / "model.onnx")
    shutil.copyfile(train / "model.json", target / "model.json")
    seal.seal(target)
    try:
        portable.OnnxClassifier(target)  # loading runs all checks
    except portable.DamagedError as error:
        raise UserError(
            f"{seal.relative_to_root(train)} can't be exported: {error}; choose another network"
        ) from error


def _add_preprocessing(network: "onnx.ModelProto", card: ModelCard) -> "onnx.ModelProto":
    """The complete graph: resizing of one image, the network (`pictures` to `logits`), then probabilities."""
    from onnx import compose, parser

    opset, ir = network.opset_import[0].version, network.ir_version
    classes = len(card.classes)
    activation = "Sigmoid (logits)" if card.several else "Softmax <axis=1> (logits)"
    output = parser.parse_model(f"""
        <ir_version: {ir}, opset_import: ["" : {opset}]>
        answer (float[pictures, {classes}] logits) => (float[{classes}] probabilities) {{
            shares = {activation}
            first = Constant <value_ints=[0]> ()
            probabilities = Squeeze (shares, first)
        }}
    """)
    prefixed = functools.partial(compose.add_prefix, rename_inputs=False, rename_outputs=False)
    network, output = prefixed(network, "network/"), prefixed(output, "answer/")
    resize = prefixed(onnx_resize.graph(card.input, opset, ir), "sizing/")
    del network.metadata_props[:]
    model = compose.merge_models(resize, network, [("pictures", "pictures")])
    model = compose.merge_models(model, output, [("logits", "logits")])
    del model.graph.value_info[:]  # has shapes with a dynamic batch size; here it is 1
    del model.opset_import[1:]  # merging repeats the opset; quantisation needs a single entry
    return model


def _export(network: "nn.Module", size: int, output: str) -> "onnx.ModelProto":
    """Exports a network to ONNX with the input `pictures`, uint8 N×size×size×3 with a dynamic N.

    Args:
        network: called with the input.
        size: side length in pixels.
        output: name of the network's output in the graph.
    """
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # else it logs each optimiser pass
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own deprecations
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("pictures", min=1)},),
            input_names=["pictures"],
            output_names=[output],
            verbose=False,
        )
    graph = program.model_proto
    # The exporter records each node's stack trace: local paths, and a third of a small file's size.
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
    return graph


def _add_head(graph: "onnx.ModelProto", head: "nn.Linear", temperature: float) -> "onnx.ModelProto":
    """Appends a linear head to a trunk's graph, in place; the temperature is folded into the weights."""
    from onnx import helper, numpy_helper

    for name, tensor in (("head.weight", head.weight), ("head.bias", head.bias)):
        values = tensor.detach().cpu().numpy() / temperature
        graph.graph.initializer.append(numpy_helper.from_array(values.astype("float32"), name))
    inputs = ["features", "head.weight", "head.bias"]
    graph.graph.node.append(helper.make_node("Gemm", inputs, ["logits"], name="head", transB=1))
    (features,) = graph.graph.output
    shape = features.type.tensor_type.shape.dim
    logits = helper.make_tensor_value_info(
        "logits", features.type.tensor_type.elem_type, [shape[0].dim_param, head.out_features]
    )
    graph.graph.output.remove(features)
    graph.graph.output.append(logits)
    return graph


def _save(graph: "onnx.ModelProto", file: Path) -> None:
    import onnx

    onnx.checker.check_model(graph)
    onnx.save_model(graph, file)
