"""Predicted probabilities of a model."""

import numpy as np
import torch

from models.classifier import Classifier
from pipeline.data.dataset import ImageDataset, LooseImages, loader


def predict(
    model: Classifier, pictures: ImageDataset | LooseImages, batch_size: int, workers: int = 0
) -> np.ndarray:
    """Probabilities, images × classes float32, of images that are resized by `eval_transform`."""
    model.eval()
    with torch.inference_mode():
        batches = (batch.to(model.device) for batch, _ in loader(pictures, batch_size, workers))
        parts = [model.task.probabilities(model(batch)).float().cpu().numpy() for batch in batches]
    return np.concatenate(parts)
