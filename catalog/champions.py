"""Champions of the pipeline that predict labels in the catalog's projects."""

import hashlib
import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from catalog.language import _
from catalog.library import Library
from pipeline.artifacts import atomic
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.data import pack_index
from pipeline.portable import read_card


@dataclass(frozen=True)
class Champion:
    """A copy of a champion in the catalog's folder.

    Attributes:
        name: data set and the start of the model's hash, such as ``labels-1f2e3d4c5b6a``.
        folder: the exported model.
        trained_on: SHA-256 of the image files that it was trained or validated on.
    """

    name: str
    folder: Path
    trained_on: frozenset[str]

    @property
    def classes(self) -> list[str]:
        """Names of the classes that it predicts."""
        return read_card(self.folder).classes


def data_of(name: str) -> str:
    """The data set of a champion by its name; empty for an empty name."""
    return name.rpartition("-")[0]


def available() -> list[str]:
    """Data sets that have a champion."""
    return sorted(file.parts[-5] for file in (ROOT / "runs").glob("*/register/champion/portable/model.onnx"))


def adopt(library: Library, data: str, task: str, classes: Collection[str]) -> Champion:
    """Copies the champion of a data set into the catalog's folder, unless it is there already.

    Args:
        library: of the catalog.
        data: the data set.
        task: of the project in which the champion will predict.
        classes: of the project; empty if it takes the champion's.

    Raises:
        UserError: there is no champion, it is damaged, its data are gone, or its task or classes are others.
    """
    from pipeline.inference import resolve

    if data not in available():
        raise UserError(
            _("there is no champion of {data}; train and register one: dvc repro").format(data=data)
        )
    with resolve.opened(str(ROOT / "runs" / data)) as model:
        if model.card.task != task:
            message = _("the champion of {data} has the task {other}; this project has {task}")
            raise UserError(message.format(data=data, other=model.card.task, task=task))
        if classes and len(set(classes) & set(model.card.classes)) < 2:
            message = _("the champion of {data} knows fewer than two of this project's classes")
            raise UserError(message.format(data=data))
        name = f"{data}-{model.sha256[:12]}"
        if not (library.champions / name).is_dir():
            trained_on = sorted(_training_images(ROOT / "data" / data, model))
            with atomic.replace_folder(library.champions / name) as part:
                shutil.copytree(model.portable, part / "model")
                (part / "trained_on.json").write_text(json.dumps(trained_on), encoding="utf-8")
    return load(library, name)


def load(library: Library, name: str) -> Champion:
    """The copy of a champion.

    Raises:
        UserError: it is not there.
    """
    folder = library.champions / name
    try:
        trained_on = json.loads((folder / "trained_on.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is missing; choose the champion again on the settings page") from None
    return Champion(name, folder / "model", frozenset(trained_on))


def _training_images(data_dir: Path, model: ModelFolder) -> set[str]:
    """SHA-256 of the image files that a champion was trained or validated on.

    If the data were split anew since then, all of them: an image must not count as unseen by mistake.

    Raises:
        UserError: the data are not there.
    """
    from pipeline.sources import archives

    if not all((data_dir / name).exists() for name in ("archive", "pack/index.csv", "split.csv")):
        message = _(
            "{folder} lacks files, so it isn't known what the champion was trained on; run: dvc repro"
        )
        raise UserError(message.format(folder=f"data/{data_dir.name}"))
    index = pack_index.read_index(data_dir / "pack")
    table = index.assign(split=pack_index.read_split(data_dir / "split.csv")["split"])
    if pack_index.content_hash(table, "split") == model.lineage["data"].get("split"):
        table = table[table["split"].isin(["train", "val"])]
    paths = set(table["path"])
    return {
        hashlib.sha256(data).hexdigest()
        for path, data in archives.members(data_dir / "archive")
        if path in paths and isinstance(data, bytes)
    }
