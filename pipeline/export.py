"""A trained model as ONNX: what leaves the project."""

import shutil
import warnings
from pathlib import Path

from pipeline import seal


def to_onnx(train: Path, target: Path) -> None:
    """Writes ``model.onnx``, ``model.json`` and ``SHA256SUMS``, as `pipeline.portable.Portable` reads them.

    The network takes uint8 pictures, N × size × size × 3, under the name `pictures` and gives `logits`;
    normalisation is inside, sizing is portable's.

    Args:
        train: train's folder.
        target: made anew.

    Raises:
        UserError: train's folder is damaged.
    """
    import logging

    import onnx
    import torch

    from models.classifier import load

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # a line for each pass of its optimiser
    seal.check(train)
    model, card = load(train)
    size = card["input"]["size"]
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations within its exporter
        program = torch.onnx.export(
            model.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("pictures", min=1)},),
            input_names=["pictures"],
            output_names=["logits"],
            verbose=False,
        )
    graph = program.model_proto
    # The exporter notes the source lines of each step: paths of this machine, a third of a small file.
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
    onnx.checker.check_model(graph)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    onnx.save_model(graph, target / "model.onnx")
    shutil.copyfile(train / "model.json", target / "model.json")
    seal.seal(target)
