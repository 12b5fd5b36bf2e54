"""The folders that MLflow keeps of registered models."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.store import client, reachable, uri


@dataclass(frozen=True)
class Kept:
    """A folder among MLflow's artifacts.

    Attributes:
        name: what people know it by.
        folder: where it lies, or a copy of it.
        put: writes the files of another folder over it.
    """

    name: str
    folder: Path
    put: Callable[[Path], None]


def registered(target: Path) -> Iterator[Kept]:
    """Of each version in the registry the exported model, the train folder and the evaluation.

    Args:
        target: a directory for copies.

    Raises:
        UserError: MLflow does not answer.
    """
    store = uri().removeprefix("sqlite:///")
    if store != uri() and not Path(store).is_file():
        return  # looking would make one
    with reachable():
        for model in client().search_registered_models():
            for version in client().search_model_versions(f"name='{model.name}'"):
                if "model_sha256" in version.tags:  # others are a person's own
                    yield from _of(version, Path(tempfile.mkdtemp(dir=target)))


def _of(version, place: Path) -> Iterator[Kept]:
    address = f"models:/{version.name}/{version.version}"
    whole = _fetch(place, artifact_uri=address)
    exported = next(whole.glob("data/*/model.json"), whole / "data/gone/model.json").parent
    # In place: a version made anew would lose its number, its alias and the looks that are counted on it.
    model, inside = version.source.rpartition("/")[2], str(exported.relative_to(whole))
    yield Kept(address, exported, lambda folder: client().log_model_artifacts(model, str(folder), inside))
    for part in ("train", "evaluation"):
        yield Kept(
            f"{address}, {part}",
            _fetch(place, run_id=version.run_id, artifact_path=part),
            lambda folder, part=part: client().log_artifacts(version.run_id, str(folder), part),
        )


def _fetch(place: Path, **what: str) -> Path:
    """A copy of what MLflow keeps; where that is gone, a folder that is not there."""
    import mlflow

    place.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(**what, dst_path=str(place)))
    except (mlflow.exceptions.MlflowException, OSError):
        return place / "gone"
