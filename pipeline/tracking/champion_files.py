"""Whether the files follow the registry's champion, and how DVC gets to know that they do not.

The stage `register` depends on the folder ``champions/``, which is in git. A champion whom the stage did not
choose is noted there: ``dvc status`` then shows the stage as changed, and ``dvc repro`` brings the files.
"""

import json
from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.artifacts.seal import model_hash
from pipeline.common.paths import ROOT
from pipeline.tracking import promotion
from pipeline.tracking.locks import creating

FOLDER = ROOT / "champions"


def note(name: str, number: str, why: str) -> None:
    """Notes that a version became champion, for the stage `register` to follow; twice is as once.

    Where another one has become champion meanwhile, whoever made it so notes that.
    """
    kept = _copy(name)
    if kept is None:
        return  # nothing was registered here
    with creating():
        champion = promotion.champion(name)
        if champion and champion[0] != number:
            return
        tree = {"version": number, "instead_of": model_hash(kept), "why": why}
        FOLDER.mkdir(exist_ok=True)
        atomic.replace_text(FOLDER / f"{name}.json", json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def lagging(name: str) -> str | None:
    """Compares the champion's files with the registry, and notes a champion that they do not follow.

    Returns:
        What differs and what to do, or None.
    """
    kept, champion = _copy(name), promotion.champion(name)
    # A version without a hash was not registered by this project.
    if not kept or not champion or not champion[1] or model_hash(kept) == champion[1]:
        return None
    note(name, champion[0], "set in MLflow")
    return (
        f"version {champion[0]} is champion of {name}, but {kept.parent.relative_to(ROOT)}/ holds another "
        f"one; with `data: {name}` in params.yaml run: dvc repro"
    )


def _copy(name: str) -> Path | None:
    """The train folder of the champion's copy."""
    folder = ROOT / "runs" / name / "register/champion/train"
    there = all((folder / file).is_file() for file in ("weights.safetensors", "model.json"))
    return folder if there else None
