"""Exports a model of the teach page as `petfaces export` does: the same folder, with the browser page."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from catalog import backbone
from catalog.helper.progress import Progress
from catalog.language import N_
from catalog.library import Library
from catalog.sentences import WITHOUT_PAGE
from catalog.store import Database, projects
from catalog.store.tables import Project
from catalog.teach.model import TaughtModel
from pipeline.common.errors import UserError
from pipeline.portable import ModelCard

NONE = "none of these"  # the name of the output that says so


def export(database: Database, library: Library, project: Project, progress: Progress) -> str:
    """Exports the project's newest model to `Library.exported`; earlier exports are deleted.

    Returns:
        What was written, in one line.

    Raises:
        UserError: there is no model, it is of another backbone, or the exporter refuses it.
    """
    from pipeline.artifacts import onnx_export, seal
    from pipeline.artifacts.model_folder import ModelFolder
    from pipeline.inference import export as exporter

    model = TaughtModel.load(library.taught(project.id))
    if model is None:
        raise UserError(N_("there is no model yet; press Train first"))
    with database.read() as session:
        names = {found.id: found.name for found in projects.classes(session, project.id)}
    if not names.keys() >= set(model.classes):
        raise UserError(N_("a class was deleted meanwhile; try again"))
    if model.backbone != backbone.load(library.backbone).key:
        raise UserError(N_("the backbone has changed since the training; press Train again"))
    classes = [names[class_id] for class_id in model.classes]
    out = library.exported(project.id) / model.export_key(classes)
    progress.report(0, 0, "exporting the model")
    with tempfile.TemporaryDirectory(dir=library.temporary) as scratch:
        train, portable = Path(scratch) / "train", Path(scratch) / "portable"
        train.mkdir()
        none_class = _distinct(NONE, classes) if model.head.has_none else None
        _write_train_folder(train, library, model, classes, none_class)
        seal.seal(train)
        onnx_export.to_onnx(train, portable)
        folder = ModelFolder(train, portable=portable)
        template = Path(__file__).parents[1] / "templates/taught_model.md"
        message = N_("with a page to try it in the browser")
        try:
            exporter.export(folder, out, template=template, none_class=none_class)
        except UserError as error:
            if "npm" not in str(error):
                raise
            exporter.export(folder, out, page=False, template=template, none_class=none_class)
            message = WITHOUT_PAGE.format(reason=error)
    for other in library.exported(project.id).iterdir():
        if other != out:
            shutil.rmtree(other, ignore_errors=True)
    return message


def _write_train_folder(
    folder: Path, library: Library, model: TaughtModel, classes: list[str], none_class: str | None
) -> None:
    """Writes what the pipeline's training writes: weights, card, config, metrics and lineage."""
    import torch
    from omegaconf import OmegaConf

    from models import probe
    from models.build import build
    from models.classifier import Classifier, save
    from pipeline import config, tasks
    from pipeline.artifacts.lineage import code_hash, settings_of

    head = model.head
    outputs = [*classes, *([] if none_class is None else [none_class])]
    card = _card(backbone.load(library.backbone).card, outputs, head.unsure_below)
    cfg = config.compose("model=probe", "data=labels")
    net = build(OmegaConf.to_container(cfg.model.net, resolve=True), len(outputs))
    probe.set_head(net.get_classifier(), head.weight, head.bias)
    task = tasks.of(card.task)
    classifier = Classifier(net, len(outputs), card.input.mean, card.input.std, task, flip=card.flip)
    save(classifier, card, folder)
    validation = model.validation
    metrics = {"parameters": sum(each.numel() for each in net.parameters())}
    accuracy = validation.accuracy if validation else None
    metrics[task.monitor] = float("nan") if accuracy is None else accuracy
    if accuracy is not None:
        metrics |= {f"{task.monitor}/low": validation.low, f"{task.monitor}/high": validation.high}
    lineage = {
        "data": {
            "name": card.data,
            "content": model.samples,
            "split": model.samples,
            "pictures": sum(model.images),
            "classes": len(classes),
        },
        "code": code_hash(),
        "environment": {"torch": torch.__version__},
    }
    settings = settings_of(cfg)
    settings["data"] |= {"licence": "whatever holds for the images that were shown to it"}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "lineage.json").write_text(json.dumps(lineage), encoding="utf-8")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(settings), encoding="utf-8")


def _distinct(name: str, others: list[str]) -> str:
    """The name, with a number if a class has it."""
    taken = {other.casefold() for other in others}
    names = [name, *(f"{name} {number}" for number in range(2, len(others) + 3))]
    return next(each for each in names if each.casefold() not in taken)


def _card(card: ModelCard, classes: list[str], unsure_below: float) -> ModelCard:
    return replace(
        card,
        name="taught",
        data="taught",
        classes=classes,
        species=[""] * len(classes),
        unsure_below=unsure_below,
    )
