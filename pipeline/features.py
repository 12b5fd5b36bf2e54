"""What a frozen backbone says of each picture, computed once and kept by content."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from models.classifier import Classifier
from models.pretrained import pooled_features
from pipeline import config
from pipeline.data import Pack, Pictures, loader, still

CACHE = Path("data/.cache/features")  # in the main checkout


def backbone_key(model: Classifier, card: dict) -> str:
    """Hash of all that a feature depends on but the picture: weights without the head, sizing, layout."""
    head = model.net.pretrained_cfg["classifier"]
    digest = hashlib.sha256(
        json.dumps([card["net"]["backbone"], card["input"], model.channels_last], sort_keys=True).encode()
    )
    for name, value in sorted(model.net.state_dict().items()):
        if not name.startswith(head):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def features(
    model: Classifier, card: dict, pack: Pack, rows: np.ndarray, batch_size: int, workers: int
) -> np.ndarray:
    """Pooled features, rows×C float32, in the order of `rows`.

    Kept in one file a backbone under the pictures' hashes: a second head, a relabelled picture or another
    split computes nothing, a new picture only itself.
    """
    file = config.main_checkout() / CACHE / f"{backbone_key(model, card)[:24]}.npz"
    known: dict[str, np.ndarray] = {}
    if file.is_file():
        with np.load(file) as stored:
            known = dict(zip(stored["pictures"].tolist(), stored["features"], strict=True))
    hashes = pack.table["sha256"].to_numpy()
    new = np.array([row for row in rows if hashes[row] not in known], dtype=np.int64)
    if len(new):
        computed = _compute(model, Pictures(pack, new, still(card["input"]), seed=0), batch_size, workers)
        known.update(zip(hashes[new], computed, strict=True))
        _store(file, known)
    return np.stack([known[hashes[row]] for row in rows])


def _compute(model: Classifier, pictures: Pictures, batch_size: int, workers: int) -> np.ndarray:
    from tqdm import tqdm

    model.eval()
    parts = []
    with torch.inference_mode():
        for batch, _ in tqdm(loader(pictures, batch_size, workers), desc="features", disable=None):
            parts.append(
                pooled_features(model.net, model.normalise(batch.to(model.device))).float().cpu().numpy()
            )
    return np.concatenate(parts)


def _store(file: Path, known: dict[str, np.ndarray]) -> None:
    """Replaces the file in one step, so that a killed run leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        np.savez(part, pictures=np.array(list(known)), features=np.stack(list(known.values())))
    os.replace(part.name, file)
