"""Probabilities are calibrated on validation, and a model abstains when it is unsure."""

import json

import numpy as np
import pytest
import torch

from models import classifier
from pipeline.evaluation import out_of_domain
from pipeline.portable import Preprocessing
from pipeline.tasks import calibration

INPUT = Preprocessing(64, 32, "bilinear", "squash", 1.0, mean=[0.5] * 3, std=[0.5] * 3)


def _miscalibrated(temperature: float, count: int = 4000, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities miscalibrated by a temperature, and targets drawn from the calibrated probabilities."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (count, classes))
    calibrated = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(classes, p=row) for row in calibrated])
    return calibration.apply_temperature(calibrated, 1 / temperature), targets


@pytest.mark.parametrize("expected", [0.4, 1.0, 3.0])
def test_the_temperature_is_found(expected):
    probabilities, targets = _miscalibrated(expected)
    assert calibration.temperature(probabilities, targets) == pytest.approx(expected, rel=0.1)


def test_a_temperature_changes_no_predicted_class():
    probabilities, _ = _miscalibrated(1.0)
    softer = calibration.apply_temperature(probabilities.astype(np.float32), 2.5)
    assert softer.dtype == np.float32
    assert np.allclose(softer.sum(axis=1), 1, atol=1e-6)
    assert (softer.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert softer.max() < probabilities.max()


def test_probabilities_of_0_and_1_can_be_calibrated():
    certain = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert np.isfinite(calibration.temperature(certain, np.array([0, 1, 2, 1])))


def _predictions(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Top probabilities of a calibrated model of some 75 % accuracy, and whether each prediction is right."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(1.6, 0.55, count)
    return confidence.astype(np.float32), rng.random(count) < confidence


def test_the_precision_holds_on_unseen_images_and_the_threshold_is_stable():
    unseen, unseen_right = _predictions(0, 100_000)
    answered, precision = [], []
    for seed in range(1, 41):
        threshold = calibration.abstain_below(*_predictions(seed, 400), np.zeros(300), 0.95, 0.05)
        answered.append((unseen >= threshold).mean())
        precision.append(unseen_right[unseen >= threshold].mean())
    assert np.mean(precision) >= 0.95
    assert min(precision) > 0.925
    assert np.std(answered) < 0.055  # so nearly all seeds are within ± 10 points
    assert np.mean(answered) > 0.4


def test_one_more_mistake_moves_the_threshold_little():
    confidence, right = _predictions(1, 400)
    thresholds = []
    for index in np.argsort(-confidence)[:160:8]:
        changed = right.copy()
        changed[index] = ~changed[index]
        thresholds.append(calibration.abstain_below(confidence, changed, np.zeros(300), 0.95, 0.05))
    assert np.ptp([(confidence >= threshold).mean() for threshold in thresholds]) < 0.1


def test_out_of_domain_images_are_rarely_named():
    confidence, right = np.linspace(0.5, 1, 100), np.ones(100, dtype=bool)
    unseen = np.random.default_rng(0).beta(2, 2, 100_000)
    named = []
    for seed in range(1, 41):
        ood = np.random.default_rng(seed).beta(2, 2, 300)
        named.append((unseen >= calibration.abstain_below(confidence, right, ood, 0.5, 0.05)).mean())
    assert np.mean(np.array(named) <= 0.05) > 0.9
    assert np.mean(named) > 0.02
    threshold = calibration.abstain_below(confidence, right, np.array([0.3, 0.6, 0.2, 0.1]), 0.5, 0.05)
    assert 0.6 < threshold <= 0.7  # none of the four images is named


def test_a_dozen_correct_predictions_are_enough():
    right = np.ones(12, dtype=bool)
    assert calibration.abstain_below(np.full(12, 0.99), right, np.array([0.3]), 0.95, 0.05) < 0.99
    assert calibration.abstain_below(np.full(3, 0.99), right[:3], np.array([0.3]), 0.95, 0.05) == 1


def test_images_of_equal_probability_are_treated_alike():
    confidence, right = np.full(400, 0.9), np.arange(400) < 340
    assert calibration.abstain_below(confidence, right, np.zeros(300), 0.95, 0.05) == 1
    assert calibration.abstain_below(confidence, right, np.zeros(300), 0.7, 0.05) <= 0.9


def test_the_threshold_is_1_if_the_precision_can_not_be_reached():
    assert (
        calibration.abstain_below(np.array([0.9, 0.8]), np.zeros(2, dtype=bool), np.zeros(1), 0.95, 0.05) == 1
    )


def test_no_threshold_is_above_1():
    confidence, right = _predictions(0, 400)
    assert calibration.abstain_below(confidence, right, np.ones(300, np.float32), 0.95, 0.05) == 1.0


def test_out_of_domain_images_are_reproducible_and_distinct():
    images, again = out_of_domain.generated_patterns(10, seed=1), out_of_domain.generated_patterns(10, seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(images, again, strict=True))
    assert len({image.tobytes() for image in images}) == 10
    for image in (*images, *out_of_domain.photo_crops(4, seed=0)):
        assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 128


def test_training_outliers_depend_on_the_step(monkeypatch):
    monkeypatch.setattr(out_of_domain, "POOL", 60)
    outliers = out_of_domain.Outliers(5, INPUT)
    images = torch.zeros(2, 24, 24, 3, dtype=torch.uint8)
    torch.manual_seed(1)
    first, second = outliers.add(images), outliers.add(images)
    torch.manual_seed(1)
    assert torch.equal(out_of_domain.Outliers(5, INPUT).add(images), first)  # as after a resume
    assert first.shape == (7, 24, 24, 3) and first.dtype == torch.uint8
    assert torch.equal(first[:2], images)
    assert not torch.equal(first[2:], second[2:])
    assert outliers.add(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (7, 32, 32, 3)


def test_training_outliers_choose_no_threshold():
    for_threshold = {image.tobytes() for image in out_of_domain.generated_patterns(300, seed=0)}
    assert not for_threshold & {
        image.tobytes()
        for image in out_of_domain.generated_patterns(out_of_domain.POOL, out_of_domain.POOL_SEED)
    }


def test_a_trained_model_has_a_temperature_and_a_threshold(repro, project):
    for name in ("probe", "scratch"):
        model, card = classifier.load(project / "runs/sample/train" / name)
        assert model.temperature == card.temperature != 1
        assert 0 <= card.unsure_below <= 1
        metrics = json.loads((project / f"runs/sample/evaluate/{name}/metrics.json").read_text())
        assert 0 <= metrics["test/answered"] <= 1
        assert 0 <= metrics["others/named"] <= 1
