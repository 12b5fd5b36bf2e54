"""What MLflow lacks, written from the files again."""

import json

from pipeline.config import ROOT
from pipeline.tracking.folders import judged, model_hash, trained
from pipeline.tracking.registry import champion, ensure_version, promote
from pipeline.tracking.runs import ensure
from pipeline.tracking.store import shown


def sync() -> None:
    """Writes into MLflow whatever of the files under ``runs/`` it lacks; what is there stays as it is."""
    runs = versions = 0
    for folder in trained(ROOT / "runs"):
        ensure(folder, judged(folder))
        runs += 1
    for file in sorted((ROOT / "runs").glob("*/register/decision.json")):
        place, decision = file.parent, json.loads(file.read_text())
        name = place.parent.name
        for model, known in decision["candidates"].items():
            folder = place.parent / "train" / model
            # After a training that was not registered yet, the exported models are those of the former one.
            if (
                (folder / "model.json").is_file()
                and model_hash(folder) == known
                and (evaluation := judged(folder))
            ):
                ensure_version(folder, evaluation, place / "candidates" / model)
                versions += 1
        kept = place / "champion"
        number = ensure_version(kept / "train", kept / "evaluation", kept / "portable")
        if champion(name) is None:
            promote(name, number, decision["champion"]["reason"])
    print(f"tracking: MLflow at {shown()} holds all {runs} runs and {versions} candidates of the files")
