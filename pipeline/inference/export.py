"""Exports a model to a folder: ``petfaces export --model petfaces@champion --out DIR``"""

import json
import os
import shutil
from pathlib import Path

import click
from jinja2 import UndefinedError

from pipeline import portable, tasks
from pipeline.artifacts import atomic, seal
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common import pages, tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.inference import browser_demo, resolve
from pipeline.portable import ModelCard
from pipeline.reporting import leaderboard

HERE = Path(__file__).parent
WEAK = 5  # weakest classes listed in the model card
CALIBRATING = 100  # images for calibrating the activation ranges of int8


def export(found: ModelFolder, out: Path, int8: bool = False, page: bool = True) -> Path:
    """Exports a model to a folder; leaves nothing behind if it fails.

    Args:
        found: the model, with its train folder.
        out: the folder to write; an earlier export is replaced.
        int8: whether to quantize ``model.onnx`` to 8 bits.
        page: whether to write the browser demo, ``try/``.

    Returns:
        `out`.

    Raises:
        UserError: `out` holds something else, the model is already an export, or int8 lacks its images.
    """
    if found.train is None:
        raise UserError("this model is exported already: copy its folder, or name the run that it comes from")
    card = found.card
    target = atomic.Target(out, ("example.py", "model.onnx"), f"--out {out}", "name another --out")
    with target.replace() as part:
        _model(found, card, part)
        figures = _to_int8(part, card) if int8 else None
        _weights(found.train, card, part)
        shutil.copyfile(HERE / "export_example.py", part / "example.py")
        try:
            card_text = _card(found, card, figures, page)
        except (FileNotFoundError, LookupError, TypeError, ValueError, UndefinedError) as error:
            raise UserError(f"{found.train} or its evaluation lacks figures; make it again") from error
        (part / "README.md").write_text(card_text, encoding="utf-8")
        if page:
            browser_demo.write(part / "model.onnx", card, part / "try")
        seal.seal(part)
    return out


def _model(found: ModelFolder, card: ModelCard, folder: Path) -> None:
    """Writes ``model.onnx`` with metadata, ``model.json`` and ``labels.txt``."""
    import onnx

    # Loaded from bytes, so that no external data files are read.
    model = onnx.load_model_from_string(portable.read_onnx(found.portable / "model.onnx"))
    source = found.provenance
    provenance = {
        "data": found.lineage["data"],
        "commit": source.commit,
        "dirty": source.dirty,
        "model_sha256": found.sha256,
    }
    metadata = {
        "labels": json.dumps(card.classes),
        "unsure_below": str(card.unsure_below),
        "thresholds": json.dumps(card.thresholds),
        "card": card.to_json(),
        "provenance": json.dumps(provenance),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, folder / "model.onnx")
    shutil.copyfile(found.train / "model.json", folder / "model.json")
    _labels(card, folder / "labels.txt")


def _labels(card: ModelCard, file: Path) -> None:
    """Writes one class per line; escaped, because classes of older models may have any name."""
    file.write_text("".join(f"{text.printable(name)}\n" for name in card.classes), encoding="utf-8")


def _weights(train: Path, card: ModelCard, folder: Path) -> None:
    """Writes the weights and a config from which timm or this project can rebuild the network."""
    shutil.copyfile(train / "weights.safetensors", folder / "model.safetensors")
    inputs = card.input
    config = {
        "architecture": card.net.get("backbone", card.net["_target_"]),
        "num_classes": len(card.classes),
        "label_names": card.classes,
        "net": card.net,
        "pretrained_cfg": {
            "input_size": [3, inputs.size, inputs.size],
            "interpolation": inputs.interpolation,
            "crop_pct": inputs.crop_pct,
            "crop_mode": inputs.crop,
            "mean": inputs.mean,
            "std": inputs.std,
            "num_classes": len(card.classes),
        },
        "temperature": card.temperature,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _card(found: ModelFolder, card: ModelCard, int8: dict | None, page: bool) -> str:
    """The model card in Markdown."""
    test, weak, headings, cells = None, "", [], []
    if found.evaluation:
        test = found.test_metrics
        rows = sorted(tables.read(found.evaluation / "classes.csv"), key=lambda row: float(row["recall"]))
        weakest = [row for row in rows if int(row["pictures"])][:WEAK]
        weak = ", ".join(
            f"{text.markdown(row['label'])} {float(row['recall']):.0%} of {text.markdown(row['pictures'])}"
            for row in weakest
        )
        if not card.several and "test/answered" not in test:
            raise UserError("this model was judged by an older version; run: dvc repro evaluate")
        columns = [figure for figure in tasks.of(card.task).test_specs if figure.key in test]
        # Drops the first column, the model's name.
        headings = leaderboard.headings(columns)[1:]
        cells = leaderboard.cells({"model": card.name, **test}, columns)[1:]
        cells = [cell.replace("%", " %") for cell in cells]
    data = found.settings["data"]
    return pages.render(
        HERE / "export_card.md",
        card=card,
        metrics=found.metrics,
        lineage=found.lineage,
        provenance=found.provenance,
        sha256=found.sha256,
        licence=data.get("licence", "unknown"),
        task=tasks.of(card.task),
        test=test,
        headings=headings,
        cells=cells,
        weak=weak,
        several=card.several,
        thresholds=list(zip(card.classes, card.thresholds, strict=False)),
        int8=int8,
        page=page,
        percent=lambda share: f"{share:.1%}".replace("%", " %"),
    )


def _to_int8(folder: Path, card: ModelCard) -> dict:
    """Quantizes ``model.onnx`` to 8 bits.

    Activation ranges are calibrated on training images; the loss in quality is measured on validation,
    so that the test split is not used again.

    Returns:
        `pictures` (count), the monitored metric for `float32` and `int8`, the share that `agree`.

    Raises:
        UserError: the images are not available.
    """
    import logging

    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from pipeline.data.dataset import ImageDataset, PackedDataset
    from pipeline.portable import OnnxClassifier

    pack = PackedDataset.open(ROOT / "data" / card.data)
    if pack.classes != card.classes:
        raise UserError(f"--int8 measures on data/{card.data}, which has other classes than this model now")
    rng = np.random.default_rng(0)
    train_set = ImageDataset(
        pack, rng.permutation(pack.rows("train"))[:CALIBRATING], lambda picture, *_: picture, seed=0
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.indices = iter(range(len(train_set)))

        def get_next(self):
            index = next(self.indices, None)
            return None if index is None else {"picture": np.array(train_set.picture(index))}

    rows = pack.rows("val")
    val_set = ImageDataset(pack, rows, lambda picture, *_: picture, seed=0)

    def predict() -> np.ndarray:
        seal.seal(folder)
        model = OnnxClassifier(folder)
        return np.stack([model.probabilities(val_set.picture(index)) for index in range(len(rows))])

    original = predict()
    logging.getLogger().setLevel(logging.ERROR)  # it advises preprocessing the model with another tool
    quantize_static(
        folder / "model.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        # Both unsigned: with signed weights, CPUs without VNNI overflow in 16-bit sums, which cost 5 of 100
        # predictions on Pet Faces.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
    )
    os.replace(folder / "int8.onnx", folder / "model.onnx")
    quantized, targets, task = predict(), pack.targets[rows], pack.task
    agree = (task.predicted(card, original) == task.predicted(card, quantized)).all(axis=1)
    return {
        "pictures": len(rows),
        "float32": task.score(original, targets),
        "int8": task.score(quantized, targets),
        "agree": float(agree.mean()),
    }


@click.command()
@click.option("--model", help=resolve.HELP)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; made anew.")
@click.option("--int8", is_flag=True, help="Smaller and coarser; its accuracy is told.")
@click.option("--no-try", is_flag=True, help="Without the page, which needs npm once.")
@click.option("--serve", is_flag=True, help="Open the page, on this machine only.")
@click.option("--port", type=int, help="Of the page; by default a free one.")
def main(model: str | None, out: Path, int8: bool, no_try: bool, serve: bool, port: int | None) -> None:
    """Write a model's folder: ONNX, weights, model card, example and a page to try it."""
    if serve and no_try:
        raise click.UsageError("--serve opens the page that --no-try leaves out")
    if port is not None and not serve:
        raise click.UsageError("--port is of the page that --serve opens")
    with resolve.opened(model) as found:
        folder = export(found, out.absolute(), int8, not no_try)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}, {size / 1e6:.1f} MB; begin with README.md and example.py", flush=True)
    if serve:
        browser_demo.serve(folder / "try", port or 0, _opened)


def _opened(address: str) -> None:
    import webbrowser

    print(f"The page is at {address}; Ctrl-C ends it", flush=True)
    webbrowser.open(address)
