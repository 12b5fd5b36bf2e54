"""What a frozen backbone says of each picture, computed once and kept by content."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import Dataset

from models.classifier import Classifier
from pipeline import portable
from pipeline.artifacts import atomic, onnx_export
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.data.dataset import ImageDataset, loader, still
from pipeline.portable import ModelCard, images, resizing
from pipeline.training.build import Training

CACHE = Path("data/.cache/features")  # in the main checkout
ENGINES = ("onnx", "torch")


def backbone_key(model: Classifier, card: ModelCard, cfg: DictConfig) -> str:
    """Hash of all that a feature's bits depend on but the picture.

    That is the weights without the head, sizing and its code, and what moves the last bits: engine, layout,
    batch, threads, device, versions.
    """
    around = [
        onnx_export.trunk_key(model, card),
        asdict(card.input),
        cfg.runtime.features,
        model.channels_last,
        cfg.model.batch_size,
        cfg.runtime.threads,
        model.device.type,
        [version(name) for name in ("onnxruntime", "pillow", "numpy")],
    ]
    digest = hashlib.sha256(json.dumps(around, sort_keys=True).encode())
    for module in (images, resizing):
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def features(training: Training, rows: np.ndarray) -> np.ndarray:
    """Pooled features, rows×C float32, in the order of `rows`.

    Kept in one file a backbone under the pictures' hashes: a second head, a relabelled picture or another
    split computes nothing, a new picture only itself.

    Args:
        training: its model's head does not matter.
        rows: of the pack.
    """
    pack, card = training.pack, training.card
    hashes = pack.table["sha256"].to_numpy()[rows]

    def sized(new: np.ndarray) -> ImageDataset:
        return ImageDataset(pack, rows[new], still(card.input), seed=0)

    return _kept(training, hashes.tolist(), sized)


def features_loose(training: Training, pictures: list[np.ndarray]) -> np.ndarray:
    """The same of pictures of no data set, uint8 H×W×3 of any size each."""
    card = training.card
    size = still(card.input)
    hashes = [hashlib.sha256(f"{each.shape}".encode() + each.tobytes()).hexdigest() for each in pictures]

    def sized(new: np.ndarray) -> list[tuple[torch.Tensor, int]]:
        small = (portable.shrink(Image.fromarray(pictures[place]), card.input.max_side) for place in new)
        return [(torch.from_numpy(np.array(size(each))), 0) for each in small]

    return _kept(training, hashes, sized)


def _kept(training: Training, hashes: list[str], sized: Callable[[np.ndarray], Dataset | list]) -> np.ndarray:
    """Features of pictures by their hashes: from the cache, or computed and added to it.

    Args:
        training: its model's head does not matter.
        hashes: of the pictures.
        sized: makes a data set of those at the given places.
    """
    model, card, cfg = training.model, training.card, training.cfg
    file = paths.main_checkout() / CACHE / f"{backbone_key(model, card, cfg)[:24]}.npz"
    known: dict[str, np.ndarray] = {}
    if file.is_file():
        try:
            with np.load(file) as stored:
                known = dict(zip(stored["pictures"].tolist(), stored["features"], strict=True))
        except Exception as error:  # numpy's readers raise whatever they meet in damaged bytes
            print(
                f"warning: {file.name} is damaged ({error}); the features are computed anew", file=sys.stderr
            )
    new = np.array([place for place, each in enumerate(hashes) if each not in known], dtype=np.int64)
    if len(new):
        computed = _compute(_engine(model, card, cfg), sized(new), cfg.model.batch_size, cfg.runtime.workers)
        known.update(zip((hashes[place] for place in new), computed, strict=True))
        _store(file, known)
    return np.stack([known[each] for each in hashes])


def _engine(model: Classifier, card: ModelCard, cfg: DictConfig) -> Callable[[torch.Tensor], np.ndarray]:
    """A function from uint8 pictures N×H×W×3 to features N×C.

    Raises:
        UserError: no such engine, or one for processors on a GPU.
    """
    if cfg.runtime.features == "torch":
        model.eval()

        def by_torch(pictures: torch.Tensor) -> np.ndarray:
            with torch.inference_mode():
                return model.features(pictures.to(model.device)).float().cpu().numpy()

        return by_torch
    if cfg.runtime.features != "onnx":
        raise UserError(f"runtime.features={cfg.runtime.features} is not known: {', '.join(ENGINES)}")
    if model.device.type != "cpu":
        raise UserError(
            "runtime.features=onnx computes on the processor; on a GPU use runtime.features=torch"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cfg.runtime.threads
    options.log_severity_level = 3  # errors; what it warns of is nothing that a person can mend
    session = onnxruntime.InferenceSession(
        str(onnx_export.trunk(model, card)), options, providers=["CPUExecutionProvider"]
    )
    return lambda pictures: session.run(None, {"pictures": pictures.numpy()})[0]


def _compute(
    engine: Callable[[torch.Tensor], np.ndarray], pictures: Dataset | list, batch_size: int, workers: int
) -> np.ndarray:
    from tqdm import tqdm

    # Whole batches only: a batch of one takes another path through the processor, with other last bits.
    length = len(pictures)
    places = np.resize(np.arange(length), -(-length // batch_size) * batch_size).tolist()
    batches = tqdm(loader(pictures, batch_size, workers, places), desc="features", disable=None)
    return np.concatenate([engine(batch) for batch, _ in batches])[:length]


def _store(file: Path, known: dict[str, np.ndarray]) -> None:
    """Replaces the file in one step, so that a killed run leaves the old one."""
    with atomic.replaced(file) as part, open(part, "wb") as stream:
        np.savez(stream, pictures=np.array(list(known)), features=np.stack(list(known.values())))
