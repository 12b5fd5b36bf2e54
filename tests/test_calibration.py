"""Probabilities are calibrated on validation, and a model says when it is unsure."""

import json

import numpy as np
import pytest
import torch

from models import classifier
from pipeline.evaluation import out_of_domain
from pipeline.portable import Preprocessing
from pipeline.tasks import calibration

SIZING = Preprocessing(64, 32, "bilinear", "squash", 1.0, mean=[0.5] * 3, std=[0.5] * 3)


def _answers(temperature: float, pictures: int = 4000, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are as if logits had been divided by 1 / temperature, and classes drawn fairly."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (pictures, classes))
    fair = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(classes, p=row) for row in fair])
    return calibration.apply_temperature(fair, 1 / temperature), targets


@pytest.mark.parametrize("wrong", [0.4, 1.0, 3.0])
def test_the_temperature_is_found(wrong):
    probabilities, targets = _answers(wrong)
    assert calibration.temperature(probabilities, targets) == pytest.approx(wrong, rel=0.1)


def test_a_temperature_moves_no_answer():
    probabilities, _ = _answers(1.0)
    softer = calibration.apply_temperature(probabilities.astype(np.float32), 2.5)
    assert softer.dtype == np.float32
    assert np.allclose(softer.sum(axis=1), 1, atol=1e-6)
    assert (softer.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert softer.max() < probabilities.max()


def test_certain_answers_can_be_calibrated():
    certain = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert np.isfinite(calibration.temperature(certain, np.array([0, 1, 2, 1])))


def _judged(seed: int, pictures: int) -> tuple[np.ndarray, np.ndarray]:
    """Highest probabilities of a model of some 75 % accuracy, and whether each class was the true one."""
    rng = np.random.default_rng(seed)
    sure = rng.beta(1.6, 0.55, pictures)
    return sure.astype(np.float32), rng.random(pictures) < sure


def test_the_promise_holds_on_unseen_pictures_and_the_bound_is_steady():
    unseen, unseen_right = _judged(0, 100_000)
    answered, precision = [], []
    for seed in range(1, 41):
        bound = calibration.abstain_below(*_judged(seed, 400), np.zeros(300), 0.95, 0.05)
        answered.append((unseen >= bound).mean())
        precision.append(unseen_right[unseen >= bound].mean())
    assert np.mean(precision) >= 0.95
    assert min(precision) > 0.925
    assert np.std(answered) < 0.055  # of ten seeds nearly all are then within ± 10 points
    assert np.mean(answered) > 0.4


def test_one_mistake_more_moves_the_bound_little():
    sure, right = _judged(1, 400)
    bounds = []
    for place in np.argsort(-sure)[:160:8]:
        changed = right.copy()
        changed[place] = ~changed[place]
        bounds.append(calibration.abstain_below(sure, changed, np.zeros(300), 0.95, 0.05))
    assert np.ptp([(sure >= bound).mean() for bound in bounds]) < 0.1


def test_from_the_bound_on_other_things_are_rarely_named():
    sure, right = np.linspace(0.5, 1, 100), np.ones(100, dtype=bool)
    unseen = np.random.default_rng(0).beta(2, 2, 100_000)
    named = []
    for seed in range(1, 41):
        others = np.random.default_rng(seed).beta(2, 2, 300)
        named.append((unseen >= calibration.abstain_below(sure, right, others, 0.5, 0.05)).mean())
    assert np.mean(np.array(named) <= 0.05) > 0.9
    assert np.mean(named) > 0.02
    bound = calibration.abstain_below(sure, right, np.array([0.3, 0.6, 0.2, 0.1]), 0.5, 0.05)
    assert 0.6 < bound <= 0.7  # of four images none is named


def test_little_data_that_is_all_right_is_enough():
    right = np.ones(12, dtype=bool)
    assert calibration.abstain_below(np.full(12, 0.99), right, np.array([0.3]), 0.95, 0.05) < 0.99
    assert calibration.abstain_below(np.full(3, 0.99), right[:3], np.array([0.3]), 0.95, 0.05) == 1


def test_pictures_of_equal_probability_are_answered_together():
    sure, right = np.full(400, 0.9), np.arange(400) < 340
    assert calibration.abstain_below(sure, right, np.zeros(300), 0.95, 0.05) == 1
    assert calibration.abstain_below(sure, right, np.zeros(300), 0.7, 0.05) <= 0.9


def test_what_can_not_keep_the_promise_is_always_unsure():
    assert (
        calibration.abstain_below(np.array([0.9, 0.8]), np.zeros(2, dtype=bool), np.zeros(1), 0.95, 0.05) == 1
    )


def test_no_threshold_is_above_one_however_sure_a_model_is_of_a_pattern():
    sure, right = _judged(0, 400)
    assert calibration.abstain_below(sure, right, np.ones(300, np.float32), 0.95, 0.05) == 1.0


def test_other_things_are_drawn_alike_and_differ():
    first, again = out_of_domain.drawn(10, seed=1), out_of_domain.drawn(10, seed=1)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) == 10
    for picture in (*first, *out_of_domain.photographed(4, seed=0)):
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 128


def test_the_patterns_that_a_network_learns_from_follow_the_step_and_choose_no_bound():
    outliers = out_of_domain.Outliers(5, SIZING)
    pictures = torch.zeros(2, 24, 24, 3, dtype=torch.uint8)
    torch.manual_seed(1)
    first, second = outliers.add(pictures), outliers.add(pictures)
    torch.manual_seed(1)
    assert torch.equal(out_of_domain.Outliers(5, SIZING).add(pictures), first)  # as after a restart
    assert first.shape == (7, 24, 24, 3) and first.dtype == torch.uint8
    assert torch.equal(first[:2], pictures)
    assert not torch.equal(first[2:], second[2:])
    assert outliers.add(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (7, 32, 32, 3)
    choosing = {picture.tobytes() for picture in out_of_domain.drawn(300, seed=0)}
    assert not choosing & {
        picture.tobytes() for picture in out_of_domain.drawn(out_of_domain.POOL, out_of_domain.POOL_SEED)
    }


def test_a_trained_model_brings_its_temperature_and_its_bound(repro, house):
    for name in ("probe", "scratch"):
        model, card = classifier.load(house / "runs/sample/train" / name)
        assert model.temperature == card.temperature != 1
        assert 0 <= card.unsure_below <= 1
        metrics = json.loads((house / f"runs/sample/evaluate/{name}/metrics.json").read_text())
        assert 0 <= metrics["test/answered"] <= 1
        assert 0 <= metrics["others/named"] <= 1
