"""Probabilities are calibrated on validation, and a model says when it is unsure."""

import json

import numpy as np
import pytest

from models import classifier
from pipeline import calibration, things


def _answers(temperature: float, pictures: int = 4000, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are as if logits had been divided by 1 / temperature, and classes drawn fairly."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (pictures, classes))
    fair = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(classes, p=row) for row in fair])
    return calibration.soften(fair, 1 / temperature), targets


@pytest.mark.parametrize("wrong", [0.4, 1.0, 3.0])
def test_the_temperature_is_found(wrong):
    probabilities, targets = _answers(wrong)
    assert calibration.temperature(probabilities, targets) == pytest.approx(wrong, rel=0.1)


def test_a_temperature_moves_no_answer():
    probabilities, _ = _answers(1.0)
    softer = calibration.soften(probabilities.astype(np.float32), 2.5)
    assert softer.dtype == np.float32
    assert np.allclose(softer.sum(axis=1), 1, atol=1e-6)
    assert (softer.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert softer.max() < probabilities.max()


def test_certain_answers_can_be_calibrated():
    certain = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert np.isfinite(calibration.temperature(certain, np.array([0, 1, 2, 1])))


def test_from_the_bound_on_answers_are_as_right_as_promised():
    sure = np.array([0.2, 0.4, 0.6, 0.8, 0.9, 0.95])
    right = np.array([False, True, False, True, True, True])
    assert calibration.unsure_below(sure, right, np.array([0.1]), 0.95, 0.05) == 0.8
    assert 0.1 < calibration.unsure_below(sure, right, np.array([0.1]), 0.5, 0.05) <= 0.2


def test_from_the_bound_on_other_things_are_rarely_named():
    sure, right = np.array([0.5, 0.7, 0.9]), np.ones(3, dtype=bool)
    bound = calibration.unsure_below(sure, right, np.array([0.3, 0.6, 0.2, 0.1]), 0.95, 0.25)
    assert 0.3 < bound <= 0.5
    bound = calibration.unsure_below(sure, right, np.array([0.3, 0.6, 0.2, 0.1]), 0.95, 0.0)
    assert 0.6 < bound <= 0.7


def test_what_can_not_keep_the_promise_is_always_unsure():
    assert (
        calibration.unsure_below(np.array([0.9, 0.8]), np.zeros(2, dtype=bool), np.zeros(1), 0.95, 0.05) == 1
    )


def test_other_things_are_drawn_alike_and_differ():
    first, again = things.drawn(10, seed=1), things.drawn(10, seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) == 10
    for picture in (*first, *things.photographed(4, seed=0)):
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 128


def test_a_trained_model_brings_its_temperature_and_its_bound(repro, house):
    for name in ("probe", "scratch"):
        model, card = classifier.load(house / "runs/sample/train" / name)
        assert model.temperature == card["temperature"] != 1
        assert 0 <= card["unsure_below"] <= 1
        metrics = json.loads((house / f"runs/sample/evaluate/{name}/metrics.json").read_text())
        assert 0 <= metrics["test/answered"] <= 1
        assert 0 <= metrics["others/named"] <= 1
