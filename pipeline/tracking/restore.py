"""Restores in MLflow, from the files, whatever it lacks."""

import logging
from pathlib import Path

from pipeline.artifacts.model_folder import evaluation_of, train_folders
from pipeline.artifacts.seal import model_hash
from pipeline.artifacts.untrusted import json_object
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.tracking import artifact_roots, champion_files, duplicates
from pipeline.tracking.promotion import champion, promote
from pipeline.tracking.registry import ensure_version
from pipeline.tracking.runs import ensure
from pipeline.tracking.store import DeletedError, display_uri, reachable

_log = logging.getLogger(__name__)


def sync() -> None:
    """Writes to MLflow whatever it lacks of the files under ``runs/``; existing entries stay unchanged.

    Damaged files, or those of an older version of this project, are reported and skipped.

    Raises:
        DeletedError: an experiment was deleted in MLflow; raised after the others are written.
        UserError: MLflow does not answer, or its store can't be used.
    """
    artifact_roots.rewrite()
    with reachable():
        if merged := duplicates.merge():
            _log.info("merged duplicates in MLflow: %s", merged)
        runs = versions = 0
        deleted: dict[str, DeletedError] = {}  # by message, to report each experiment once
        for folder in train_folders(ROOT / "runs"):
            try:
                ensure(folder, evaluation_of(folder))
                runs += 1
            except DeletedError as error:
                deleted[str(error)] = error
            except (UserError, OSError, LookupError, TypeError, ValueError) as error:
                _skip(error)
        for file in sorted((ROOT / "runs").glob("*/register/decision.json")):
            try:
                versions += _restore_versions(file)
            except DeletedError as error:
                deleted[str(error)] = error
            except (UserError, OSError) as error:
                _skip(error)
        if deleted:
            raise DeletedError("; ".join(deleted))
        print(f"MLflow at {display_uri()} has the {runs} runs and {versions} candidates of runs/")


def _restore_versions(file: Path) -> int:
    """Restores the versions and the champion of a data set from its ``decision.json``.

    Returns:
        The number of candidates.

    Raises:
        UserError: a file is missing, damaged or in an older format.
    """
    decision = json_object(file, "candidates", "champion")
    if not isinstance(decision["candidates"], dict) or "reason" not in decision["champion"]:
        raise UserError(f"{file.relative_to(ROOT)} was written by an older version")
    stage_dir, name, versions = file.parent, file.parent.parent.name, 0
    for model, expected in decision["candidates"].items():
        folder = stage_dir.parent / "train" / model
        # If a later training is not registered yet, the exported model is still the previous one.
        if (
            (folder / "model.json").is_file()
            and model_hash(folder) == expected
            and (evaluation := evaluation_of(folder))
        ):
            ensure_version(folder, evaluation, stage_dir / "candidates" / model)
            versions += 1
    champion_dir = stage_dir / "champion"
    number = ensure_version(champion_dir / "train", champion_dir / "evaluation", champion_dir / "portable")
    if champion(name) is None:
        promote(name, number, decision["champion"]["reason"])
    if warning := champion_files.difference(name):
        _log.warning("%s", warning)
    return versions


def _skip(error: Exception) -> None:
    _log.warning("skipped: %s; make it again, or delete it", error)
