"""Evaluates a trained model on validation: temperature, thresholds and metrics."""

import numpy as np
import torch

from pipeline.data.dataset import ImageDataset, LooseImages, eval_transform
from pipeline.evaluation import out_of_domain, predictions
from pipeline.portable import ModelCard
from pipeline.tasks import Assessment
from pipeline.training.build import Training
from pipeline.training.features import features

PATTERNS = 300  # out-of-domain images for choosing the thresholds


def assess(training: Training) -> tuple[ModelCard, dict[str, float], Assessment]:
    """Calibrates the kept weights on validation.

    Args:
        training: its model has the kept weights; the model's temperature is set.

    Returns:
        The calibrated card, the metrics, and the assessed predictions.
    """
    model, card, pack, cfg = training.model, training.card, training.pack, training.cfg
    val_set = ImageDataset(pack, pack.rows("val"), eval_transform(card.input))
    patterns = LooseImages(out_of_domain.generated_patterns(PATTERNS, seed=0), card.input)
    targets = val_set.targets
    card, probabilities = model.task.calibrate(card, of_pictures(training, val_set), targets)
    model.temperature = card.temperature
    min_precision, max_ood_rate = cfg.unsure.answers_right, cfg.unsure.others_named
    ood = of_pictures(training, patterns)
    card = model.task.choose_thresholds(card, probabilities, targets, ood, min_precision, max_ood_rate)
    metrics = model.evaluate(torch.from_numpy(probabilities), torch.from_numpy(targets))
    return card, metrics, model.task.assess(card, probabilities, targets)


def of_pictures(training: Training, pictures: ImageDataset | LooseImages) -> np.ndarray:
    """Probabilities at the model's temperature, images × classes."""
    model, cfg = training.model, training.cfg
    if cfg.model.epochs > 0:
        return predictions.predict(model, pictures, cfg.model.batch_size, cfg.runtime.workers)
    x = features(training, pictures)  # the backbone is frozen: its features are cached
    with torch.inference_mode():
        logits = model.net.get_classifier()(torch.from_numpy(x).to(model.device))
        return model.task.probabilities(logits / model.temperature).cpu().numpy()
