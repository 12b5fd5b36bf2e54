"""What a frozen backbone says of each picture, computed once and kept by content."""

import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from models.classifier import Classifier
from models.pretrained import pooled_features
from pipeline import config, portable
from pipeline.data import Pack, Pictures, loader, still

CACHE = Path("data/.cache/features")  # in the main checkout


def backbone_key(model: Classifier, card: dict, batch_size: int) -> str:
    """Hash of all that a feature's bits depend on but the picture.

    That is the weights without the head, sizing and its code, and what moves the last bits: layout, batch,
    threads, device, versions.
    """
    head = model.net.pretrained_cfg["classifier"]
    around = [
        card["net"]["backbone"],
        card["input"],
        model.channels_last,
        batch_size,
        torch.get_num_threads(),
        model.device.type,
        [version(name) for name in ("torch", "timm", "pillow", "numpy")],
    ]
    digest = hashlib.sha256(json.dumps(around, sort_keys=True).encode())
    digest.update(Path(portable.__file__).read_bytes())
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
    file = config.main_checkout() / CACHE / f"{backbone_key(model, card, batch_size)[:24]}.npz"
    known: dict[str, np.ndarray] = {}
    if file.is_file():
        try:
            with np.load(file) as stored:
                known = dict(zip(stored["pictures"].tolist(), stored["features"], strict=True))
        except Exception as error:  # numpy's readers raise whatever they meet in damaged bytes
            print(
                f"warning: {file.name} is damaged ({error}); the features are computed anew", file=sys.stderr
            )
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
    # Whole batches only: a batch of one takes another path through the processor, with other last bits.
    length = len(pictures)
    places = np.resize(np.arange(length), -(-length // batch_size) * batch_size).tolist()
    with torch.inference_mode():
        for batch, _ in tqdm(loader(pictures, batch_size, workers, places), desc="features", disable=None):
            parts.append(
                pooled_features(model.net, model.normalise(batch.to(model.device))).float().cpu().numpy()
            )
    return np.concatenate(parts)[:length]


def _store(file: Path, known: dict[str, np.ndarray]) -> None:
    """Replaces the file in one step, so that a killed run leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        np.savez(part, pictures=np.array(list(known)), features=np.stack(list(known.values())))
    os.replace(part.name, file)
