"""Model folders as an untrusted source may make them."""

import json
import os
from pathlib import Path

import torch

from models import classifier
from pipeline import portable
from pipeline.artifacts import seal

CARD = {
    "name": "tiny",
    "data": "sample",
    "drawings": True,
    "classes": ["a", "b", "c"],
    "species": ["", "", ""],
    "net": {"_target_": "models.scratch.ScratchCNN", "widths": [8, 8], "depths": [1, 1], "dropout": 0.1},
    "input": {
        "max_side": 128,
        "size": 16,
        "interpolation": "bilinear",
        "crop": "squash",
        "crop_pct": 1.0,
        "mean": [0.45, 0.45, 0.45],
        "std": [0.25, 0.25, 0.25],
    },
    "channels_last": False,
    "flip": True,
    "temperature": 1.5,
    "unsure_below": 0.2,
    "task": "single_label",
    "thresholds": [],
}
# Cards as earlier code wrote them.
_TASKS = ("task", "thresholds")
_CALIBRATION = ("temperature", "unsure_below", *_TASKS)
OLD = {
    "first": {key: CARD[key] for key in CARD if key not in ("flip", *_CALIBRATION)},
    "before calibration": {key: CARD[key] for key in CARD if key not in _CALIBRATION},
    "before tasks": {key: CARD[key] for key in CARD if key not in _TASKS},
    "backbone": {
        **{key: CARD[key] for key in CARD if key not in _CALIBRATION},
        "net": {
            "_target_": "models.pretrained.create",
            "backbone": "resnet10t",
            "weights": None,
            "file": None,
        },
        "channels_last": True,
    },
}
LINEAGE = {
    "data": {"name": "sample", "content": "b" * 64, "split": "c" * 64, "pictures": 9, "classes": 3},
    "commit": "a" * 40,
    "dirty": False,
    "code": "d" * 64,
    "environment": {"python": "3.11.1", "threads": 2},
}
SETTINGS = """
data: {name: sample, licence: none, source: {kind: drawn}}
model: {name: tiny, net: {_target_: models.scratch.ScratchCNN, widths: [8, 8], depths: [1, 1]}}
augment: {transforms: [{HorizontalFlip: {p: 0.5}}], mixup: 0.0}
trainer: {accelerator: cpu, devices: 1, threads: 1, workers: 0}
pack: {classes: folder}
split: {seed: 1}
seed: 1
"""


def written(folder: Path, card: dict, weights: bool = True) -> Path:
    """Writes a train folder as `train` does, with random weights; the card may hold any JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(card))
    if weights:
        torch.manual_seed(0)
        parsed = portable.read_card(folder)
        classifier.save(classifier.build(parsed), parsed, folder)
        (folder / "model.json").write_text(json.dumps(card))
    (folder / "lineage.json").write_text(json.dumps(LINEAGE))
    (folder / "config.yaml").write_text(SETTINGS)
    (folder / "metrics.json").write_text(
        '{"val/top1": 0.5, "epochs": 1, "pictures_seen": 9, "parameters": 9}'
    )
    seal.seal(folder)
    return folder


def copied(source: Path, target: Path, **files: str | bytes) -> Path:
    """Copies a sealed folder, replaces files and seals it again: a seal proves integrity, not origin."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        os.link(file, target / file.name)
    for name, data in files.items():
        path = target / name.replace("_", ".")
        path.unlink(missing_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    (target / "SHA256SUMS").unlink()
    seal.seal(target)
    return target
