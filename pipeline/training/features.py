"""Features of a frozen backbone, computed once per image and cached by image hash."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch.utils.data import Dataset, Subset

from models.classifier import Classifier
from pipeline.artifacts import atomic, onnx_export
from pipeline.common import log, paths
from pipeline.common.errors import UserError
from pipeline.data.dataset import ImageDataset, LooseImages, loader
from pipeline.portable import ModelCard, images, resizing
from pipeline.training.build import Training

_log = logging.getLogger(__name__)

CACHE = Path("data/.cache/features")  # in the main checkout


def backbone_key(model: Classifier, card: ModelCard, cfg: DictConfig) -> str:
    """SHA-256 of everything but the image that the bits of features depend on.

    That is the backbone's weights, preprocessing and its code, and what affects the last bits: engine,
    memory layout, batch size, threads, device, versions.
    """
    key_parts = [
        onnx_export.trunk_key(model, card),
        asdict(card.input),
        cfg.runtime.features,
        model.channels_last,
        cfg.model.batch_size,
        cfg.runtime.threads,
        model.device.type,
        [version(name) for name in ("onnxruntime", "pillow", "numpy")],
    ]
    digest = hashlib.sha256(json.dumps(key_parts, sort_keys=True).encode())
    for module in (images, resizing):
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def features(training: Training, dataset: ImageDataset | LooseImages) -> np.ndarray:
    """Pooled features, images×C float32, in the order of the images.

    Cached in one file per backbone, keyed by image hash: only new images are computed, none for a second
    head, a changed label or another split.

    Args:
        training: its model's head is not used.
        dataset: images resized by `eval_transform` for the model's card.
    """
    model, card, cfg = training.model, training.card, training.cfg
    file = paths.main_checkout() / CACHE / f"{backbone_key(model, card, cfg)[:24]}.npz"
    cache: dict[str, np.ndarray] = {}
    if file.is_file():
        try:
            with np.load(file) as stored:
                cache = dict(zip(stored["pictures"].tolist(), stored["features"], strict=True))
        except Exception as error:  # numpy may raise anything for damaged bytes
            _log.warning("%s is damaged (%s); the features are computed again", file.name, error)
    keys = dataset.hashes
    new = [index for index, key in enumerate(keys) if key not in cache]
    _log.debug("%d of %d features are not in %s", len(new), len(keys), file)
    if new:
        engine, batch_size, workers = _engine(model, card, cfg), cfg.model.batch_size, cfg.runtime.workers
        computed = _compute(engine, Subset(dataset, new), batch_size, workers)
        cache.update(zip((keys[index] for index in new), computed, strict=True))
        _store(file, cache)
    return np.stack([cache[key] for key in keys])


def _engine(model: Classifier, card: ModelCard, cfg: DictConfig) -> Callable[[torch.Tensor], np.ndarray]:
    """A function from uint8 images N×H×W×3 to features N×C.

    Raises:
        UserError: the engine is onnx, and the model is on a GPU.
    """
    if cfg.runtime.features == "torch":
        model.eval()

        def by_torch(batch: torch.Tensor) -> np.ndarray:
            with torch.inference_mode():
                return model.features(batch.to(model.device)).float().cpu().numpy()

        return by_torch
    if model.device.type != "cpu":
        raise UserError("runtime.features=onnx computes on the CPU only; on a GPU use runtime.features=torch")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cfg.runtime.threads
    options.log_severity_level = 3  # errors only: users can't act on its warnings
    session = onnxruntime.InferenceSession(
        str(onnx_export.trunk(model, card)), options, providers=["CPUExecutionProvider"]
    )
    return lambda batch: session.run(None, {"pictures": batch.numpy()})[0]


def _compute(
    engine: Callable[[torch.Tensor], np.ndarray], dataset: Dataset, batch_size: int, workers: int
) -> np.ndarray:
    """Features of all images, images×C."""
    from tqdm import tqdm

    # Full batches only: another batch size may use another CPU kernel, with different last bits.
    length = len(dataset)
    indices = np.resize(np.arange(length), -(-length // batch_size) * batch_size).tolist()
    batches = tqdm(
        loader(dataset, batch_size, workers, indices), desc="features", disable=log.is_quiet() or None
    )
    return np.concatenate([engine(batch) for batch, _ in batches])[:length]


def _store(file: Path, cached: dict[str, np.ndarray]) -> None:
    """Replaces the cache file atomically, so that a killed run leaves the old one."""
    with atomic.replace_file(file) as part, open(part, "wb") as stream:
        np.savez(stream, pictures=np.array(list(cached)), features=np.stack(list(cached.values())))
