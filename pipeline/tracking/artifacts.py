"""The folders that MLflow keeps of registered models."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.tracking import places
from pipeline.tracking.store import client, is_refusal, reachable, silent, uri

WRAPPING = "wrapping_sha256"  # tag of a version: of the files around its exported model
LATER = ("registered_model_meta",)  # MLflow writes it when it copies a version


@dataclass(frozen=True)
class Kept:
    """A folder among MLflow's artifacts.

    Attributes:
        name: what people know it by.
        folder: where it lies, or a copy of it.
        put: writes the files of another folder over it.
        known: SHA-256 of its files by name, where that is kept elsewhere than in its own seal.
    """

    name: str
    folder: Path
    put: Callable[[Path], None]
    known: dict[str, str] | None = None

    @property
    def sealed(self) -> bool:
        return self.known is not None or (self.folder / portable.SUMS).is_file()

    def damaged(self) -> list[str]:
        """A phrase for each file that is not as it was registered; empty where all is whole."""
        if self.known is None:
            return portable.damaged(self.folder)
        # Python looks into code/ before anywhere else: what was added there may be what runs.
        added = [f"{name} is not sealed" for name in self.extra() if name.startswith("code/")]
        return portable.differing(self.folder, self.known) + added

    def extra(self) -> list[str]:
        """Names of what lies there beside what was registered."""
        if self.known is None:
            return portable.extra(self.folder)
        # Loading a model leaves code/__pycache__ there.
        there = (
            name for name in portable.entries(self.folder) if _wraps(name) and not portable.is_litter(name)
        )
        return [name for name in there if name not in self.known]


def wrapping(model: Path) -> dict[str, str]:
    """SHA-256 of what MLflow puts around an exported model: MLmodel, the code that loads it, requirements."""
    return {name: digest for name, digest in portable.sums(model).items() if _wraps(name)}


def _wraps(name: str) -> bool:
    return not name.startswith("data/") and name not in LATER


def registered(target: Path) -> Iterator[Kept]:
    """Of each version in the registry the exported model, what wraps it, the train folder, the evaluation.

    Args:
        target: a directory for copies.

    Raises:
        UserError: MLflow does not answer.
    """
    store = uri().removeprefix("sqlite:///")
    if store != uri() and not Path(store).is_file():
        return  # looking would make one
    target.mkdir(parents=True, exist_ok=True)
    with reachable():
        for model in client().search_registered_models():
            for version in client().search_model_versions(f"name='{model.name}'"):
                if "model_sha256" in version.tags:  # others are a person's own
                    yield from _of(version, Path(tempfile.mkdtemp(dir=target)))


def _of(version, place: Path) -> Iterator[Kept]:
    import mlflow

    address = f"models:/{version.name}/{version.version}"
    try:
        places.check_version(version)
    except (UserError, mlflow.exceptions.MlflowException) as error:
        if not isinstance(error, UserError) and not is_refusal(error):
            raise
        # The other versions are looked at all the same.
        yield Kept(f"{address} ({silent(error)})", place / "gone", lambda folder: None)
        return
    whole = _fetch(place, artifact_uri=address)
    exported = next(whole.glob("data/*/model.json"), whole / "data/gone/model.json").parent
    # In place: a version made anew would lose its number, its alias and the looks that are counted on it.
    model, inside = version.source.rpartition("/")[2], str(exported.relative_to(whole))

    def put_model(folder: Path, inside: str | None = None) -> None:
        places.check(model=model, writing=True)
        client().log_model_artifacts(model, str(folder), inside)

    def put_part(folder: Path, part: str) -> None:
        places.check(version.run_id, writing=True)
        client().log_artifacts(version.run_id, str(folder), part)

    yield Kept(address, exported, lambda folder: put_model(folder, inside))
    yield Kept(
        f"{address}, code and MLmodel",
        whole,
        put_model,
        _known(version.tags.get(WRAPPING)),
    )
    for part in ("train", "evaluation"):
        yield Kept(
            f"{address}, {part}",
            _fetch(place, run_id=version.run_id, artifact_path=part),
            lambda folder, part=part: put_part(folder, part),
        )


def _known(tag: str | None) -> dict[str, str] | None:
    """SHA-256 by name from a version's tag; None where it holds anything else: anybody may write tags."""
    try:
        found = json.loads(tag or "{}")
        sound = all(portable.is_sealable(name, digest) for name, digest in found.items())
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if found and sound else None


def _fetch(place: Path, **what: str) -> Path:
    """A copy of what MLflow keeps; where that is gone, a folder that is not there."""
    import mlflow

    place.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(**what, dst_path=str(place)))
    except (mlflow.exceptions.MlflowException, OSError):
        return place / "gone"
