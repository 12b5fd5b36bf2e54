"""Makes DVC update the champion's files if they differ from the registry's champion.

The stage `register` depends on the folder ``champions/``, which is in git. A champion that the stage did not
choose is recorded there: ``dvc status`` then shows the stage as changed, and ``dvc repro`` updates the files.
"""

import json
from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.artifacts.seal import model_hash
from pipeline.common.paths import ROOT
from pipeline.tracking import promotion
from pipeline.tracking.locks import creation_lock

FOLDER = ROOT / "champions"


def record(name: str, number: str, why: str) -> None:
    """Records for the stage `register` that a version became champion; idempotent.

    Does nothing if another version has become champion meanwhile: that promotion makes its own record.

    Args:
        name: the data set.
        number: the version.
        why: the reason for the promotion.
    """
    train = _local_champion(name)
    if train is None:
        return  # this checkout has registered nothing
    with creation_lock():
        champion = promotion.champion(name)
        if champion and champion[0] != number:
            return
        tree = {"version": number, "instead_of": model_hash(train), "why": why}
        atomic.replace_text(FOLDER / f"{name}.json", json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def difference(name: str) -> str | None:
    """Compares the champion's files with the registry, and records the registry's champion if they differ.

    Returns:
        A message with the difference and the remedy, or None.
    """
    train, champion = _local_champion(name), promotion.champion(name)
    # A version without a hash was not registered by this project.
    if not train or not champion or not champion[1] or model_hash(train) == champion[1]:
        return None
    record(name, champion[0], "set in MLflow")
    return (
        f"version {champion[0]} is champion of {name}, but {train.parent.relative_to(ROOT)}/ has another; "
        f"with `data: {name}` in params.yaml run: dvc repro"
    )


def _local_champion(name: str) -> Path | None:
    """The train folder of the champion that `register` copied here, or None."""
    folder = ROOT / "runs" / name / "register/champion/train"
    complete = all((folder / file).is_file() for file in ("weights.safetensors", "model.json"))
    return folder if complete else None
