"""Calibrates a trained model on validation and evaluates it there."""

import numpy as np
import torch

from pipeline.data.dataset import ImageDataset, LooseImages, eval_transform
from pipeline.evaluation import out_of_domain, predictions
from pipeline.portable import ModelCard
from pipeline.tasks import Assessment
from pipeline.training.build import Training
from pipeline.training.features import features

OOD_IMAGES = 300  # generated for choosing the thresholds


def assess(training: Training) -> tuple[ModelCard, dict[str, float], Assessment]:
    """Fits temperature and thresholds on validation, and evaluates the calibrated model there.

    Args:
        training: its model is trained; this sets the model's temperature.

    Returns:
        The card with temperature and thresholds, the validation metrics, and the assessed predictions.
    """
    model, card, pack, cfg = training.model, training.card, training.pack, training.cfg
    val_set = ImageDataset(pack, pack.rows("val"), eval_transform(card.input))
    patterns = LooseImages(out_of_domain.generated_patterns(OOD_IMAGES, seed=0), card.input)
    targets = val_set.targets
    card, probabilities = model.task.calibrate(card, predict(training, val_set), targets)
    model.temperature = card.temperature
    ood = predict(training, patterns)
    card = model.task.choose_thresholds(
        card, probabilities, targets, ood, cfg.unsure.min_precision, cfg.unsure.max_ood_rate
    )
    metrics = model.evaluate(torch.from_numpy(probabilities), torch.from_numpy(targets))
    return card, metrics, model.task.assess(card, probabilities, targets)


def predict(training: Training, images: ImageDataset | LooseImages) -> np.ndarray:
    """Probabilities at the model's temperature, images × classes."""
    model, cfg = training.model, training.cfg
    if cfg.model.epochs > 0:
        return predictions.predict(model, images, cfg.model.batch_size, cfg.runtime.workers)
    x = features(training, images)  # the backbone is frozen: its features are cached
    with torch.inference_mode():
        logits = model.net.get_classifier()(torch.from_numpy(x).to(model.device))
        return model.task.probabilities(logits / model.temperature).cpu().numpy()
