"""A trained model on validation: temperature, thresholds and figures."""

import numpy as np
import torch

from models.classifier import Classifier
from pipeline.evaluation import out_of_domain, predictions
from pipeline.portable import ModelCard
from pipeline.tasks import Assessment
from pipeline.training.build import Training
from pipeline.training.features import features, features_loose

PATTERNS = 300  # images that show no class, by which the thresholds are chosen


def assess(training: Training) -> tuple[ModelCard, dict[str, float], Assessment]:
    """Calibrates the kept weights on validation.

    Args:
        training: its model has the kept weights, and gets the temperature.

    Returns:
        The calibrated card, the figures, and the answers.
    """
    model, card, pack, cfg = training.model, training.card, training.pack, training.cfg
    rows = pack.rows("val")
    targets = pack.targets[rows]
    card, probabilities = model.task.calibrate(card, _probabilities(training, rows), targets)
    model.temperature = card.temperature
    precision, named = cfg.unsure.answers_right, cfg.unsure.others_named
    others = _of_patterns(training)
    card = model.task.choose_thresholds(card, probabilities, targets, others, precision, named)
    figures = model.evaluate(torch.from_numpy(probabilities), torch.from_numpy(targets))
    return card, figures, model.task.assess(card, probabilities, targets)


def _probabilities(training: Training, rows: np.ndarray) -> np.ndarray:
    """Of packed images, rows × classes."""
    cfg = training.cfg
    if cfg.model.epochs == 0:  # the backbone is as it was: its features of these images are known
        return of_features(training.model, features(training, rows))
    batch_size, workers = cfg.model.batch_size, cfg.runtime.workers
    return predictions.predict(training.model, training.card, training.pack, rows, batch_size, workers)


def _of_patterns(training: Training) -> np.ndarray:
    """Of drawn patterns that show no class, PATTERNS × classes."""
    patterns = out_of_domain.drawn(PATTERNS, seed=0)
    if training.cfg.model.epochs == 0:  # many times as fast, and kept for the next head
        return of_features(training.model, features_loose(training, patterns))
    return predictions.predict_loose(training.model, training.card, patterns, training.cfg.model.batch_size)


def of_features(model: Classifier, x: np.ndarray) -> np.ndarray:
    """Probabilities, images × classes, that the head gives for features, images × C."""
    with torch.inference_mode():
        logits = model.net.get_classifier()(torch.from_numpy(x).to(model.device))
        return model.task.probabilities(logits / model.temperature).cpu().numpy()
