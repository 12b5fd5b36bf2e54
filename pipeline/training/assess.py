"""Evaluates a trained model on validation: temperature, thresholds and metrics."""

import numpy as np
import torch

from models.classifier import Classifier
from pipeline.evaluation import out_of_domain, predictions
from pipeline.portable import ModelCard
from pipeline.tasks import Assessment
from pipeline.training.build import Training
from pipeline.training.features import features, features_loose

PATTERNS = 300  # out-of-domain images for choosing the thresholds


def assess(training: Training) -> tuple[ModelCard, dict[str, float], Assessment]:
    """Calibrates the kept weights on validation.

    Args:
        training: its model has the kept weights; the model's temperature is set.

    Returns:
        The calibrated card, the metrics, and the assessed predictions.
    """
    model, card, pack, cfg = training.model, training.card, training.pack, training.cfg
    rows = pack.rows("val")
    targets = pack.targets[rows]
    card, probabilities = model.task.calibrate(card, _split_probabilities(training, rows), targets)
    model.temperature = card.temperature
    min_precision, max_ood_rate = cfg.unsure.answers_right, cfg.unsure.others_named
    ood = _pattern_probabilities(training)
    card = model.task.choose_thresholds(card, probabilities, targets, ood, min_precision, max_ood_rate)
    metrics = model.evaluate(torch.from_numpy(probabilities), torch.from_numpy(targets))
    return card, metrics, model.task.assess(card, probabilities, targets)


def _split_probabilities(training: Training, rows: np.ndarray) -> np.ndarray:
    """Probabilities of packed images, rows × classes."""
    cfg = training.cfg
    if cfg.model.epochs == 0:  # a frozen backbone: its features are cached
        return of_features(training.model, features(training, rows))
    batch_size, workers = cfg.model.batch_size, cfg.runtime.workers
    return predictions.predict(training.model, training.card, training.pack, rows, batch_size, workers)


def _pattern_probabilities(training: Training) -> np.ndarray:
    """Probabilities of generated out-of-domain patterns, PATTERNS × classes."""
    patterns = out_of_domain.drawn(PATTERNS, seed=0)
    if training.cfg.model.epochs == 0:  # much faster, and cached for the next head
        return of_features(training.model, features_loose(training, patterns))
    return predictions.predict_loose(training.model, training.card, patterns, training.cfg.model.batch_size)


def of_features(model: Classifier, x: np.ndarray) -> np.ndarray:
    """Probabilities from the head, images × classes, for features, images × C."""
    with torch.inference_mode():
        logits = model.net.get_classifier()(torch.from_numpy(x).to(model.device))
        return model.task.probabilities(logits / model.temperature).cpu().numpy()
