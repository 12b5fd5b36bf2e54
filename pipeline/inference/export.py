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
CARD_TEMPLATE = HERE / "export_card.md"
WEAKEST = 5  # classes with the lowest recall that the model card lists
CALIBRATION_IMAGES = 100  # for the activation ranges of int8


def export(
    model: ModelFolder,
    out: Path,
    int8: bool = False,
    page: bool = True,
    template: Path = CARD_TEMPLATE,
    none_class: str | None = None,
) -> Path:
    """Exports a model to a folder; leaves nothing behind if it fails.

    Args:
        model: the model, with its train folder.
        out: the folder to write; an earlier export is replaced.
        int8: whether to quantize ``model.onnx`` to 8 bits.
        page: whether to write the browser demo, ``try/``.
        template: of the model card, ``README.md``.
        none_class: the class that says that a picture shows none of the others, if there is one.

    Returns:
        `out`.

    Raises:
        UserError: `out` holds other files, the model is an export or lacks metrics, the images for int8
            are missing, or npm can't download what the page needs.
    """
    if model.train is None:
        raise UserError("this model is exported already: copy its folder, or name the run that it comes from")
    card = model.card
    target = atomic.Target(out, ("example.py", "model.onnx"), f"--out {out}", "name another --out")
    with target.replace() as folder:
        _write_onnx(model, card, folder)
        int8_metrics = _quantize(folder, card) if int8 else None
        _write_weights(model.train, card, folder)
        shutil.copyfile(HERE / "export_example.py", folder / "example.py")
        try:
            readme = _readme(model, card, int8_metrics, page, template, none_class)
        except (FileNotFoundError, LookupError, TypeError, ValueError, UndefinedError) as error:
            raise UserError(
                f"{model.train} or its evaluation lacks metrics; train and evaluate the model again"
            ) from error
        (folder / "README.md").write_text(readme, encoding="utf-8")
        if page:
            browser_demo.write(folder / "model.onnx", card, folder / "try", none_class)
        seal.seal(folder)
    return out


def _write_onnx(model: ModelFolder, card: ModelCard, folder: Path) -> None:
    """Writes ``model.onnx`` with metadata, ``model.json`` and ``labels.txt``."""
    import onnx

    # Loaded from bytes, so that no external data files are read.
    onnx_model = onnx.load_model_from_string(portable.read_onnx(model.portable / "model.onnx"))
    provenance = {
        "data": model.lineage["data"],
        "commit": model.provenance.commit,
        "dirty": model.provenance.dirty,
        "model_sha256": model.sha256,
    }
    metadata = {
        "labels": json.dumps(card.classes),
        "unsure_below": str(card.unsure_below),
        "thresholds": json.dumps(card.thresholds),
        "card": card.to_json(),
        "provenance": json.dumps(provenance),
    }
    onnx.helper.set_model_props(onnx_model, metadata)
    onnx.save_model(onnx_model, folder / "model.onnx")
    shutil.copyfile(model.train / "model.json", folder / "model.json")
    _write_labels(card, folder / "labels.txt")


def _write_labels(card: ModelCard, file: Path) -> None:
    """Writes one class per line; escaped, because older versions allowed any class name."""
    file.write_text("".join(f"{text.printable(name)}\n" for name in card.classes), encoding="utf-8")


def _write_weights(train: Path, card: ModelCard, folder: Path) -> None:
    """Writes the weights, and ``config.json`` from which timm or this project can rebuild the network."""
    shutil.copyfile(train / "weights.safetensors", folder / "model.safetensors")
    preprocessing = card.input
    config = {
        "architecture": card.net.get("backbone", card.net["_target_"]),
        "num_classes": len(card.classes),
        "label_names": card.classes,
        "net": card.net,
        "pretrained_cfg": {
            "input_size": [3, preprocessing.size, preprocessing.size],
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": preprocessing.crop,
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "num_classes": len(card.classes),
        },
        "temperature": card.temperature,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _readme(
    model: ModelFolder,
    card: ModelCard,
    int8: dict | None,
    page: bool,
    template: Path = CARD_TEMPLATE,
    none_class: str | None = None,
) -> str:
    """The model card in Markdown.

    Args:
        model: the model that is exported.
        card: its ``model.json``.
        int8: the result of `_quantize`; None if not quantized.
        page: whether the folder has the browser demo.
        template: of the card.
        none_class: see `export`.
    """
    test, weakest, headings, cells = None, "", [], []
    if model.evaluation:
        test = model.test_metrics
        rows = sorted(tables.read(model.evaluation / "classes.csv"), key=lambda row: float(row["recall"]))
        weakest = ", ".join(
            f"{text.markdown(row['label'])} {float(row['recall']):.0%} of {text.markdown(row['pictures'])}"
            for row in [row for row in rows if int(row["pictures"])][:WEAKEST]
        )
        if not card.several and "test/answered" not in test:
            raise UserError("this model was evaluated by an older version; run: dvc repro evaluate")
        columns = [spec for spec in tasks.of(card.task).test_specs if spec.key in test]
        # The first column is the model's name.
        headings = leaderboard.headings(columns)[1:]
        cells = leaderboard.cells({"model": card.name, **test}, columns)[1:]
        cells = [cell.replace("%", " %") for cell in cells]
    return pages.render(
        template,
        card=card,
        metrics=model.metrics,
        lineage=model.lineage,
        provenance=model.provenance,
        sha256=model.sha256,
        licence=model.settings["data"].get("licence", "unknown"),
        task=tasks.of(card.task),
        test=test,
        headings=headings,
        cells=cells,
        weak=weakest,
        several=card.several,
        thresholds=list(zip(card.classes, card.thresholds, strict=False)),
        int8=int8,
        page=page,
        none_class=none_class,
        percent=lambda share: f"{share:.1%}".replace("%", " %"),
    )


def _quantize(folder: Path, card: ModelCard) -> dict:
    """Quantizes ``model.onnx`` of a folder to 8 bits.

    Activation ranges are calibrated on training images; the loss in quality is measured on validation,
    so that the test split is not used again.

    Returns:
        The number of validation images (`pictures`), the monitored metric for `float32` and `int8`, and the
        fraction of images with the same prediction (`agree`).

    Raises:
        UserError: the data set is missing or has other classes than the model.
    """
    import logging

    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from pipeline.data.dataset import ImageDataset, PackedDataset
    from pipeline.portable import OnnxClassifier

    pack = PackedDataset.open(ROOT / "data" / card.data)
    if pack.classes != card.classes:
        raise UserError(
            f"--int8 needs data/{card.data} as the model was trained on it, but it has other classes now; "
            "export without --int8"
        )
    rows = np.random.default_rng(0).permutation(pack.rows("train"))[:CALIBRATION_IMAGES]
    train_set = ImageDataset(pack, rows, lambda image, *_: image)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.indices = iter(range(len(train_set)))

        def get_next(self):
            index = next(self.indices, None)
            return None if index is None else {"picture": np.array(train_set.image(index))}

    val_set = ImageDataset(pack, pack.rows("val"), lambda image, *_: image)

    def predict() -> np.ndarray:
        seal.seal(folder)  # OnnxClassifier checks it
        model = OnnxClassifier(folder)
        return np.stack([model.probabilities(val_set.image(index)) for index in range(len(val_set))])

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
    quantized, targets, task = predict(), val_set.targets, pack.task
    agree = (task.predicted(card, original) == task.predicted(card, quantized)).all(axis=1)
    return {
        "pictures": len(val_set),
        "float32": task.score(original, targets),
        "int8": task.score(quantized, targets),
        "agree": float(agree.mean()),
    }


@click.command()
@click.option("--model", help=resolve.HELP)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write or replace.")
@click.option("--int8", is_flag=True, help="Quantize to 8 bits; the model card compares metrics.")
@click.option("--no-try", is_flag=True, help="Leave out the browser demo, which needs npm once.")
@click.option("--serve", is_flag=True, help="Open the browser demo, on this machine only.")
@click.option("--port", type=int, help="For --serve; by default a free one.")
def main(model: str | None, out: Path, int8: bool, no_try: bool, serve: bool, port: int | None) -> None:
    """Export a model to a folder: ONNX, weights, model card, example, and a browser demo."""
    if serve and no_try:
        raise click.UsageError("--serve opens the browser demo, which --no-try leaves out")
    if port is not None and not serve:
        raise click.UsageError("--port has no effect without --serve")
    with resolve.opened(model) as found:
        folder = export(found, out.absolute(), int8, not no_try)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}, {size / 1e6:.1f} MB; start with README.md and example.py", flush=True)
    if serve:
        browser_demo.serve(folder / "try", port or 0, _open_browser)


def _open_browser(address: str) -> None:
    import webbrowser

    print(f"The page is at {address}; press Ctrl-C to stop", flush=True)
    webbrowser.open(address)
