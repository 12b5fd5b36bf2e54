"""Artifact folders of registered models in MLflow: reading, checking and repairing them."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.tracking import artifact_locations
from pipeline.tracking.address import local_file
from pipeline.tracking.store import client, error_message, is_refusal, reachable, versions_of

LOADER_HASHES = "wrapping_sha256"  # version tag, see `loader_hashes`
ADDED_LATER = ("registered_model_meta",)  # by MLflow when it copies a version


@dataclass(frozen=True)
class StoredFolder:
    """A folder among MLflow's artifacts.

    Attributes:
        name: for messages.
        folder: a local copy.
        upload: uploads the files of a local folder into it.
        hashes: SHA-256 by file name, if recorded in a tag instead of the folder's own seal.
    """

    name: str
    folder: Path
    upload: Callable[[Path], None]
    hashes: dict[str, str] | None = None

    @property
    def sealed(self) -> bool:
        """Whether its hashes are recorded."""
        return self.hashes is not None or (self.folder / portable.SUMS).is_file()

    def damaged(self) -> list[str]:
        """A message for each file that differs from what was registered; empty if none does."""
        if self.hashes is None:
            return portable.damaged(self.folder)
        # Python imports from code/ first, so a file added there could replace a module.
        added = [f"{name} is not sealed" for name in self.extra() if name.startswith("code/")]
        return portable.differing(self.folder, self.hashes) + added

    def extra(self) -> list[str]:
        """Names of files that were not registered."""
        if self.hashes is None:
            return portable.extra(self.folder)
        # Loading a model creates code/__pycache__, which does not count.
        names = (name for name in portable.entries(self.folder) if not portable.is_litter(name))
        return [name for name in names if _is_loader_file(name) and name not in self.hashes]


def loader_hashes(model: Path) -> dict[str, str]:
    """SHA-256 of the files that MLflow adds to an exported model: MLmodel, loader code, requirements."""
    return {name: digest for name, digest in portable.sums(model).items() if _is_loader_file(name)}


def _is_loader_file(name: str) -> bool:
    return not name.startswith("data/") and name not in ADDED_LATER


def registered_folders(target: Path) -> Iterator[StoredFolder]:
    """Yields each version's exported model, the files MLflow added to it, train folder and evaluation.

    Args:
        target: a directory for the copies.

    Raises:
        UserError: MLflow does not answer.
    """
    if (file := local_file()) and not file.is_file():
        return  # there is no store, and opening it would create one
    target.mkdir(parents=True, exist_ok=True)
    with reachable():
        for model in client().search_registered_models():
            for version in versions_of(model.name):
                if "model_sha256" in version.tags:  # others were registered by users
                    yield from _folders_of(version, Path(tempfile.mkdtemp(dir=target)))


def _folders_of(version, target: Path) -> Iterator[StoredFolder]:
    import mlflow

    address = f"models:/{version.name}/{version.version}"
    try:
        artifact_locations.check_version(version)
    except (UserError, mlflow.exceptions.MlflowException) as error:
        if not isinstance(error, UserError) and not is_refusal(error):
            raise
        # A version that can't be read must not hide the others.
        yield StoredFolder(f"{address} ({error_message(error)})", target / "gone", lambda folder: None)
        return
    model_dir = _fetch(target, artifact_uri=address)
    exported = next(model_dir.glob("data/*/model.json"), model_dir / "data/gone/model.json").parent
    # Repaired in place: a new version would lose its number, alias and count of test-set uses.
    model_id, subfolder = version.source.rpartition("/")[2], str(exported.relative_to(model_dir))

    def upload_model(folder: Path, subfolder: str | None = None) -> None:
        artifact_locations.check(model=model_id, writing=True)
        client().log_model_artifacts(model_id, str(folder), subfolder)

    def upload_part(folder: Path, part: str) -> None:
        artifact_locations.check(version.run_id, writing=True)
        client().log_artifacts(version.run_id, str(folder), part)

    yield StoredFolder(address, exported, lambda folder: upload_model(folder, subfolder))
    hashes = _hashes_from_tag(version.tags.get(LOADER_HASHES))
    yield StoredFolder(f"{address}, code and MLmodel", model_dir, upload_model, hashes)
    for part in ("train", "evaluation"):
        yield StoredFolder(
            f"{address}, {part}",
            _fetch(target, run_id=version.run_id, artifact_path=part),
            lambda folder, part=part: upload_part(folder, part),
        )


def _hashes_from_tag(tag: str | None) -> dict[str, str] | None:
    """SHA-256 by file name from a version tag; None if malformed, since any client may write tags."""
    try:
        hashes = json.loads(tag or "{}")
        valid = all(portable.is_sealable(name, digest) for name, digest in hashes.items())
    except (ValueError, AttributeError, RecursionError):
        return None
    return hashes if hashes and valid else None


def _fetch(target: Path, **source: str) -> Path:
    """Downloads artifacts; returns a nonexistent folder if MLflow no longer has them."""
    import mlflow

    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(**source, dst_path=str(target)))
    except (mlflow.exceptions.MlflowException, OSError):
        return target / "gone"
