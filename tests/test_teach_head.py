"""A head is taught with few images, says when an image is of no class, and is validated by groups."""

import numpy as np
import pytest

from catalog.teach import descent, folds, head, typical, validation, whitening
from catalog.teach.head import train
from catalog.teach.validation import Kind, cross_validate, groups_of

C = 64  # features


def _images(seed: int, per_class: list[int], spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes that lie apart from each other and from 0, all above 0; and their labels."""
    rng, means = np.random.default_rng(seed), np.random.default_rng(99).gamma(0.5, 1.0, (len(per_class), C))
    y = np.repeat(np.arange(len(per_class)), per_class)
    return np.maximum(means[y] + rng.normal(0, spread, (len(y), C)), 0).astype(np.float32), y


@pytest.mark.parametrize("per_class", [[1, 1, 1], [6, 3, 4]])
def test_the_first_step_is_nearest_class_mean(per_class):
    x, y = _images(0, per_class)
    training, others = train(x, y, 3), _images(1, [40, 40, 40])[0]
    means = np.stack([x[y == number].mean(axis=0) for number in range(3)])
    if sum(per_class) > 3:  # with one image a class, distances are those of raw features
        scaled = descent.descend(x, y, 3, 0.5).scaled
        means, nearer = scaled(means), scaled(others)
    else:
        nearer = others
    nearest = np.square(nearer[:, None] - means).sum(axis=2).argmin(axis=1)
    logits = others @ training.weights[0].T + training.biases[0]
    assert (logits[:, :3].argmax(axis=1) == nearest).all()


def test_what_differs_within_a_class_counts_less_and_what_differs_between_classes_does_not():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (3000, 8)).astype(np.float32) * np.array([30, 1, 1, 1, 1, 1, 1, 1], np.float32)
    shrink = whitening.of_differences(x, 2, variance=float(x.var()))
    unit = np.eye(8, dtype=np.float32)
    assert np.linalg.norm(shrink(unit)[0]) < 0.3
    assert np.linalg.norm(shrink(unit)[1:], axis=1) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(shrink(unit), shrink(unit).T, atol=1e-6)  # so that it folds into weights
    same = whitening.of_differences(np.zeros((4, 8), np.float32), 4, variance=1.0)
    np.testing.assert_array_equal(same(x), x)


def test_the_last_recorded_step_is_the_head_in_use():
    x, y = _images(0, [6, 3, 4])
    training = train(x, y, 3)
    assert training.weights[-1].tobytes() == training.head.weight.tobytes()
    assert training.biases[-1].tobytes() == training.head.bias.tobytes()
    assert training.weights.dtype == training.biases.dtype == np.float32
    assert training.weights.shape == (descent.STEPS + 1, 4, C)
    assert training.loss.shape == training.right.shape == (descent.STEPS + 1,)


def test_the_loss_falls_to_less_than_half():
    training = train(*_images(0, [8] * 12, spread=1.5), 12)
    assert training.loss[-1] < training.loss[0] / 2
    assert (np.diff(training.loss) < 0).all()
    assert training.right[-1] >= training.right[0]


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_never_rises(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 40, random.integers(2, 8)).tolist()
    x, y = _images(seed, counts, spread=float(random.choice([0.2, 1.0, 3.0])))
    if seed % 3 == 0:
        random.shuffle(y)
    if seed % 3 == 1:
        x = np.repeat(x, 20, axis=0) + random.normal(0, 0.01, (20 * len(x), x.shape[1])).astype(np.float32)
        y = np.repeat(y, 20)
    loss = train(x, y, len(counts)).loss
    assert (np.diff(loss) <= 0).all()


def test_the_recorded_loss_is_the_one_of_the_recorded_weights():
    x, y = _images(0, [5, 5, 5])
    steps = descent.descend(x, y, 3, descent.share_of(y, 3))
    for step in (0, 7, descent.STEPS):
        logits = steps.scaled(x) @ steps.weights[step].T + steps.biases[step]
        expected = -np.log(descent.softmax(logits)[np.arange(len(y)), y]).mean()
        assert steps.loss[step] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert train(x, y, 3).loss == pytest.approx(steps.loss)


@pytest.mark.parametrize("per_class", [[1, 1], [1, 1, 1], [1, 20, 3], [1], [5]])
def test_one_image_a_class_works_and_so_does_one_class(per_class):
    x, y = _images(0, per_class)
    taught = train(x, y, len(per_class)).head
    others, truth = _images(1, [30] * len(per_class))
    probabilities = taught.probabilities(others)
    assert np.isfinite(taught.weight).all() and np.isfinite(taught.bias).all()
    assert (probabilities[:, :-1].argmax(axis=1) == truth).mean() > 0.95
    assert taught.is_none(probabilities).mean() < 0.2


def test_a_class_without_images_is_refused():
    with pytest.raises(ValueError, match="no image"):
        train(*_images(0, [2, 2]), 3)


def test_the_same_image_in_two_classes_does_no_harm():
    x = np.ones((2, C), np.float32)
    taught = train(x, np.array([0, 1]), 2).head
    assert taught.probabilities(x)[:, 0] == pytest.approx(taught.probabilities(x)[:, 1])


def test_equal_input_gives_equal_bytes():
    x, y = _images(0, [9, 2, 5])
    first, second = train(x, y, 3), train(x.copy(), y.copy(), 3)
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.biases.tobytes() == second.biases.tobytes()
    assert first.loss.tobytes() == second.loss.tobytes()


def test_folding_is_exact():
    x, y = _images(0, [6, 6, 6])
    taught, others = train(x, y, 3).head, _images(1, [20, 20, 20])[0]
    steps = descent.descend(x, y, 3, descent.share_of(y, 3))
    expected = steps.scores(others.astype(np.float64))
    logits = (others @ taught.weight.T + taught.bias)[:, :3]
    ratio = np.ptp(expected, axis=1) / np.ptp(logits, axis=1)  # the temperature
    assert ratio == pytest.approx(ratio[0], rel=1e-3)
    np.testing.assert_allclose(
        (logits - logits.mean(axis=1, keepdims=True)) * ratio[0],
        expected - expected.mean(axis=1, keepdims=True),
        atol=1e-3,
    )


def test_unseen_images_are_answered_and_others_are_none_of_the_classes():
    known, y = _images(0, [10, 10, 10])
    taught = train(known, y, 3).head
    unseen = taught.probabilities(_images(1, [100] * 3)[0])
    others = np.random.default_rng(5).gamma(0.5, 1.0, (300, C)).astype(np.float32)
    assert taught.has_none and taught.weight.shape == (4, C)
    assert taught.is_none(unseen).mean() < 0.1
    assert taught.is_none(taught.probabilities(others)).mean() > 0.8


def test_few_recordings_make_the_head_more_lenient_than_many():
    x, y = _images(0, [20, 20])
    single, apart = (train(x, y, 2, groups).head for groups in (y, np.arange(len(y))))
    others = np.random.default_rng(5).gamma(0.5, 1.0, (300, C)).astype(np.float32)
    answered = [(~taught.is_none(taught.probabilities(others))).sum() for taught in (single, apart)]
    assert answered[0] > answered[1]


def test_a_head_without_that_output_is_unsure_below_its_threshold():
    plain = head.Head(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), unsure_below=0.7, has_none=False)
    assert plain.is_none(np.array([[0.6, 0.4], [0.2, 0.8]])).tolist() == [True, False]


def test_typical_features_are_the_mean_of_the_activation():
    values = np.random.default_rng(0).normal(size=(200_000, 1))
    shift, scale = np.array([-1.0, 0.5, 5.0]), np.array([0.8, 2.0, 3.0])
    expected = np.clip(values * scale + shift, 0, 6).mean(axis=0)
    assert typical.of_network(shift, scale) == pytest.approx(expected, abs=0.02)


def test_near_duplicates_and_images_of_one_recording_are_held_out_together():
    x, y = _images(0, [8, 8])
    x = np.concatenate([x, x[:1] * 1.01])  # a little lighter
    groups = groups_of(x, [None] * 4 + ["a", "b", "a"] + [None] * 10)
    assert groups[16] == groups[0]
    assert groups[4] == groups[6] != groups[5]
    assert len(np.unique(groups)) == 15
    for test in folds.deal(np.append(y, 0), groups, 5):
        assert test[16] == test[0] and test[4] == test[6]


def test_no_fold_has_all_groups_of_a_class():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), [2, 2, 3, 50, 9, 2])
    groups = np.arange(len(y)) % 31 * 10 + y  # each group has images of one class
    for test in folds.deal(y, groups, 10):
        assert test.any() and len(np.unique(y[~test])) == 6
    assert sum(folds.deal(y, rng.permutation(groups), 10)).tolist() == [1] * len(y)


def test_the_accuracy_is_that_of_unseen_images():
    x, y = _images(0, [30] * 5, spread=2.5)
    found = cross_validate(x, y, 5, np.arange(len(y)), lambda: False)
    unseen, truth = _images(1, [400] * 5, spread=2.5)
    expected = (train(x, y, 5).head.probabilities(unseen)[:, :5].argmax(axis=1) == truth).mean()
    assert found.low <= expected <= found.high
    assert found.accuracy == pytest.approx(expected, abs=0.06)
    assert found.images == found.groups == 150


def test_the_interval_counts_recordings_and_not_images():
    x, y = _images(0, [30, 30])
    many = cross_validate(x, y, 2, np.arange(60), lambda: False)
    few = cross_validate(x, y, 2, np.arange(60) // 10, lambda: False)
    assert few.groups == 6
    assert few.high - few.low > 3 * (many.high - many.low)


def test_a_class_of_one_recording_is_too_few_to_say():
    x, y = _images(0, [6, 6, 6])
    found = cross_validate(x, y, 3, np.where(y == 1, 100, np.arange(18)), lambda: False)
    assert found.accuracy is None and (found.low, found.high) == (0, 1)
    assert found.recall[1] is None and found.recall[0] == 1
    assert cross_validate(x[:1], y[:1], 1, np.zeros(1, int), lambda: False).accuracy is None


def test_hints_name_the_class_and_what_would_help():
    x, y = _images(0, [12, 12, 12])
    apart = np.arange(36)
    assert cross_validate(x, y, 3, apart, lambda: False).hint is None
    one_light = cross_validate(x, y, 3, np.where(y == 1, 100, apart), lambda: False).hint
    assert (one_light.kind, one_light.class_index) == (Kind.OTHER_LIGHT, 1)
    few = np.flatnonzero((y != 2) | (apart < 26))
    more = cross_validate(x[few], y[few], 3, apart[few], lambda: False).hint
    assert (more.kind, more.class_index) == (Kind.MORE_IMAGES, 2)
    mixed = x.copy()
    mixed[y == 2] = _images(3, [12])[0]  # looks as class 0 does
    confused = cross_validate(mixed, y, 3, apart, lambda: False)
    assert confused.hint.kind == Kind.CONFUSED
    assert {confused.hint.class_index, confused.hint.other} == {0, 2}
    assert confused.confused_with[confused.hint.class_index] == confused.hint.other


def test_validation_stops_when_asked():
    assert cross_validate(*_images(0, [9, 9]), 2, np.arange(18), lambda: True) is None


def test_no_images_have_no_groups():
    assert validation.groups_of(np.zeros((0, C)), []).shape == (0,)
