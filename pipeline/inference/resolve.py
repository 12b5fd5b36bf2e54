"""Finds the folders of the model that a user names."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import config
from pipeline.artifacts.model_folder import ModelFolder, evaluation_of
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.portable import DamagedError

HELP = (
    "A data set (its champion), models:/NAME/VERSION, NAME@ALIAS, or the folder of a run or an export; "
    "default: the champion of params.yaml's data."
)


@contextmanager
def opened(model: str | None) -> Iterator[ModelFolder]:
    """Yields the folders of a model; temporary downloads and exports are deleted afterwards.

    Args:
        model: see `HELP`; None is the champion of params.yaml's data.

    Raises:
        UserError: the model does not exist or is damaged; also replaces a `DamagedError` that the caller's
            block raises.
    """
    is_default = model is None
    model = config.compose().data.name if is_default else model
    with tempfile.TemporaryDirectory() as scratch:
        try:
            yield _champion_of(model) if is_default else _find(model, Path(scratch))
        except (UserError, DamagedError) as error:
            # The message must name the model, because the temporary copy no longer exists.
            raise UserError(str(error).replace(scratch, model)) from error


def _find(model: str, scratch: Path) -> ModelFolder:
    """Finds the folders of a model.

    Args:
        model: name of a data set, for its champion; ``models:/NAME/VERSION`` or ``NAME@ALIAS`` in the
            registry; or a folder: an export, a train folder, or a data set's folder under ``runs/``.
        scratch: a directory for downloads and exports.

    Raises:
        UserError: the model does not exist or is damaged.
    """
    # Before a folder of that name, which data=labels has.
    if Path(model).name == model and (ROOT / "runs" / model / "register/champion").is_dir():
        return _champion_of(model)
    for base in (Path.cwd(), ROOT):
        if (folder := paths.from_root(model, base)).is_dir():
            return _from_folder(folder, scratch)
    if model.startswith("models:/") or "@" in model:
        return _from_registry(model, scratch)
    return _champion_of(model)


def _from_registry(model: str, scratch: Path) -> ModelFolder:
    from pipeline import tracking
    from pipeline.artifacts import onnx_export

    with tracking.reachable():
        version = tracking.find_version(f"models:/{model.removeprefix('models:/')}")
        tracking.download_version(version.name, version.number, scratch)
    # The version may be in an older format, or exported by older code.
    onnx_export.to_onnx(scratch / "train", scratch / "portable")
    return ModelFolder(scratch / "train", scratch / "evaluation", scratch / "portable")


def _from_folder(folder: Path, scratch: Path) -> ModelFolder:
    if (folder / "register/champion").is_dir():
        return _champion_in(folder / "register/champion")
    if (folder / "model.onnx").is_file():
        return ModelFolder(None, portable=folder).verified()
    if (folder / "weights.safetensors").is_file():
        from pipeline.artifacts import onnx_export

        onnx_export.to_onnx(folder, scratch / "portable")
        return ModelFolder(folder, evaluation_of(folder), scratch / "portable")
    raise UserError(
        f"{folder} holds no model; name a folder with model.onnx (an export) or weights.safetensors (a run)"
    )


def _champion_of(name: str) -> ModelFolder:
    champion = ROOT / "runs" / name / "register/champion"
    if not (champion / "portable/model.onnx").is_file():
        others = sorted(path.parts[-3] for path in (ROOT / "runs").glob("*/register/champion"))
        hint = f" (there is one of {', '.join(others)})" if others else ""
        is_trained = any((ROOT / "runs" / name / "train").glob("*/model.json"))
        todo = "register its models: dvc repro" if is_trained else "train one: make demo, or make petfaces"
        raise UserError(f"there is no champion of '{name}'{hint}; {todo}")
    return _champion_in(champion)


def _champion_in(folder: Path) -> ModelFolder:
    return ModelFolder(*(folder / part for part in ("train", "evaluation", "portable"))).verified()
