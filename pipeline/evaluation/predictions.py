"""Predicted probabilities of a model."""

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image

from models.classifier import Classifier
from pipeline import portable
from pipeline.data.dataset import ImageDataset, PackedDataset, loader, still
from pipeline.portable import ModelCard


def predict(
    model: Classifier, card: ModelCard, pack: PackedDataset, rows: np.ndarray, batch_size: int, workers: int
) -> np.ndarray:
    """Probabilities, rows × classes float32, for rows of a pack; used for validation and test."""
    batches = loader(ImageDataset(pack, rows, still(card.input), seed=0), batch_size, workers)
    return _answers(model, (batch for batch, _ in batches))


def predict_loose(
    model: Classifier, card: ModelCard, pictures: list[np.ndarray], batch_size: int
) -> np.ndarray:
    """As `predict`, for images outside any data set, each uint8 H×W×3 of any size."""
    transform = still(card.input)
    sized = [transform(portable.shrink(Image.fromarray(each), card.input.max_side)) for each in pictures]
    starts = range(0, len(sized), batch_size)
    return _answers(model, (torch.from_numpy(np.stack(sized[at : at + batch_size])) for at in starts))


def _answers(model: Classifier, batches: Iterable[torch.Tensor]) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        logits = (model(batch.to(model.device)) for batch in batches)
        parts = [model.task.probabilities(each).float().cpu().numpy() for each in logits]
    return np.concatenate(parts)
