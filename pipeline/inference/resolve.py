"""The trained model that a person names, as folders."""

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
    "a data set (its champion), models:/NAME/VERSION, NAME@ALIAS, a run's folder or an exported one; "
    "default: the champion of params.yaml's data"
)


@contextmanager
def opened(model: str | None) -> Iterator[ModelFolder]:
    """The folders of a model while they are used; what is fetched or exported for it goes afterwards.

    Args:
        model: as `HELP` says; None is the champion of params.yaml's data.

    Raises:
        UserError: there is no such model, or it is damaged; within, too, and in place of `DamagedError`.
    """
    model = config.compose().data.name if model is None else model
    with tempfile.TemporaryDirectory() as scratch:
        try:
            yield _find(model, Path(scratch))
        except (UserError, DamagedError) as error:
            # A person knows nothing of the copy, which is gone by then.
            raise UserError(str(error).replace(scratch, model)) from error


def _find(model: str, scratch: Path) -> ModelFolder:
    """The folders of a model.

    Args:
        model: name of a data set, whose champion is meant; ``models:/NAME/VERSION`` or ``NAME@ALIAS`` of the
            registry; or a folder: an exported one, a trained one, or a data set's under ``runs/``.
        scratch: a directory for what has to be fetched or exported first.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    for base in (Path.cwd(), ROOT):
        if (folder := paths.from_root(model, base)).is_dir():
            return _in(folder, scratch)
    if model.startswith("models:/") or "@" in model:
        return _registered(model, scratch)
    return _champion(model)


def _registered(model: str, scratch: Path) -> ModelFolder:
    from pipeline import tracking
    from pipeline.artifacts import onnx_export

    with tracking.reachable():
        version = tracking.find_version(f"models:/{model.removeprefix('models:/')}")
        tracking.download_version(version.name, version.number, scratch)
    # A version may be of an older form, or exported by an older version of this project.
    onnx_export.to_onnx(scratch / "train", scratch / "portable")
    return ModelFolder(scratch / "train", scratch / "evaluation", scratch / "portable")


def _in(folder: Path, scratch: Path) -> ModelFolder:

    if (folder / "register/champion").is_dir():
        return _of_champion(folder / "register/champion")
    if (folder / "model.onnx").is_file():
        return ModelFolder(None, portable=folder).checked()
    if (folder / "weights.safetensors").is_file():
        from pipeline.artifacts import onnx_export

        onnx_export.to_onnx(folder, scratch / "portable")
        return ModelFolder(folder, evaluation_of(folder), scratch / "portable")
    raise UserError(
        f"{folder} holds no model; name a folder with model.onnx (exported) or weights.safetensors (a run's)"
    )


def _champion(name: str) -> ModelFolder:
    champion = ROOT / "runs" / name / "register/champion"
    if not (champion / "portable/model.onnx").is_file():
        known = sorted(path.parts[-3] for path in (ROOT / "runs").glob("*/register/champion"))
        hint = f"; there is one of {', '.join(known)}" if known else ""
        is_trained = any((ROOT / "runs" / name / "train").glob("*/model.json"))
        first = "train one first: make demo, or make petfaces"
        way = "its models are trained: dvc repro" if is_trained else first
        raise UserError(f"no champion of '{name}' is here{hint}; {way}")
    return _of_champion(champion)


def _of_champion(folder: Path) -> ModelFolder:
    return ModelFolder(*(folder / part for part in ("train", "evaluation", "portable"))).checked()
