"""Predicted probabilities of a model."""

import numpy as np
import torch

from models.classifier import Classifier
from pipeline.data.dataset import ImageDataset, LooseImages, loader


def predict(
    model: Classifier, images: ImageDataset | LooseImages, batch_size: int, workers: int = 0
) -> np.ndarray:
    """Sets the model to eval mode and predicts class probabilities.

    Args:
        model: the classifier; its device is used.
        images: resized by `eval_transform`.
        batch_size: images per forward pass.
        workers: number of DataLoader workers.

    Returns:
        float32 array, images × classes.
    """
    model.eval()
    with torch.inference_mode():
        batches = (batch.to(model.device) for batch, _ in loader(images, batch_size, workers))
        parts = [model.task.probabilities(model(batch)).float().cpu().numpy() for batch in batches]
    return np.concatenate(parts)
