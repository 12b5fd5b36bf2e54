"""Augmentation differs from epoch to epoch and does not depend on the number of workers."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from pipeline import config
from pipeline.common.errors import UserError
from pipeline.data import augment
from pipeline.data.dataset import EpochSampler, ImageDataset, PackedDataset, balanced_weights, loader


@pytest.fixture
def train_set(repro, project):
    pack = PackedDataset.open(project / "data/sample")
    transforms = OmegaConf.to_container(config.compose("model=scratch").augment.transforms)
    return ImageDataset(pack, pack.rows("train"), augment.build(transforms, [32] * 2), seed=3)


def _epoch(images, epoch, workers):
    sampler = EpochSampler(len(images), seed=3, batch_size=16)
    sampler.begin(epoch, 0)
    batches = list(loader(images, 16, workers, sampler))
    return torch.cat([batch for batch, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"RandomCrop": {"height": 512, "width": 512}}, "fail on a picture of 256×256 pixels"),
        ({"ToGray": {"num_output_channels": 1, "p": 1}}, "return uint8 256×256, not"),
        ({"Normalize": {}}, "return float32 256×256×3"),
        ({"FDA": {"p": 1}}, "fail on a picture"),
    ],
)
def test_transforms_that_return_no_image_are_refused_before_training(transform, message):
    with pytest.raises(UserError, match=message) as error:
        augment.build([transform], [32])
    assert "\n" not in str(error.value)


def test_an_error_in_a_loader_worker_is_one_line(repro, project):
    pack = PackedDataset.open(project / "data/sample")
    crop = augment.build([{"RandomCrop": {"height": 250, "width": 250}}], [32])
    with pytest.raises(UserError) as error:
        _epoch(ImageDataset(pack, pack.rows("train"), crop, seed=3), 0, 1)
    assert str(error.value).startswith("augment.transforms fail on a picture of")
    assert "\n" not in str(error.value)


def test_an_image_too_small_for_a_transform_is_an_error():
    draw = augment.build([{"RandomCrop": {"height": 64, "width": 64}}], [32])
    with pytest.raises(UserError, match=r"fail on a picture of 60×50 pixels: .*; change them in"):
        draw(np.zeros((50, 60, 3), np.uint8), 1, 0)


def test_images_are_the_same_with_0_2_or_3_workers(train_set):
    expected, labels = _epoch(train_set, 0, 0)
    for workers in (2, 3):
        images, same_labels = _epoch(train_set, 0, workers)
        assert torch.equal(expected, images)
        assert torch.equal(labels, same_labels)


def test_each_epoch_augments_differently(train_set):
    _, index = next(iter(EpochSampler(len(train_set), 3, 16)))
    first, second = train_set[(0, index)][0], train_set[(1, index)][0]
    assert not torch.equal(first, second)
    assert torch.equal(first, train_set[(0, index)][0])


def test_transforms_draw_independently():
    flip = {"HorizontalFlip": {"p": 0.5}}
    invert = {"InvertImg": {"p": 0.5}}
    draw = augment.build([flip, invert], [8])
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 200
    seen = {draw(image, seed, 0)[0, 0, 0] for seed in range(40)}
    assert seen == {200, 0, 55, 255}  # neither, mirrored, inverted, both


def test_processes_share_an_epoch_without_overlap():
    parts = [list(EpochSampler(103, 1, 8, rank, 2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 48
    assert not set(parts[0]) & set(parts[1])


def test_images_dropped_from_one_epoch_appear_in_another():
    seen = set()
    for epoch in range(5):
        sampler = EpochSampler(40, 1, 16)
        sampler.begin(epoch, 0)
        seen |= {index for _, index in sampler}
    assert seen == set(range(40))


def test_fewer_images_than_a_batch_still_make_an_epoch():
    assert len(list(EpochSampler(5, 1, 32))) == 5


def test_an_unknown_transform_or_argument_is_an_error():
    with pytest.raises(UserError, match="no transform 'Flipp'"):
        augment.build([{"Flipp": {}}], [32])
    with pytest.raises(UserError, match="HorizontalFlip has no argument q"):
        augment.build([{"HorizontalFlip": {"q": 1}}], [32])
    with pytest.raises(UserError, match=r"HorizontalFlip\.p=7: Input should be less than or equal to 1$"):
        augment.build([{"HorizontalFlip": {"p": 7}}], [32])


def test_images_of_any_shape_come_out_square():
    for transforms in ([], [{"RandomResizedCrop": {"scale": [0.5, 1.0]}}]):
        assert augment.build(transforms, [32])(np.zeros((80, 96, 3), np.uint8), 1, 0).shape == (32, 32, 3)


def test_the_image_size_grows_over_the_epochs():
    assert augment.sides_per_epoch(96, [1.0], 3) == [96, 96, 96]
    assert augment.sides_per_epoch(112, [0.58, 0.72, 0.86], 7) == [64, 64, 64, 80, 80, 96, 96]
    assert augment.sides_per_epoch(48, [0.5, 1.0], 1) == [24]  # fewer epochs than scales: the first ones
    draw = augment.build([{"RandomResizedCrop": {}}], [16, 24])
    assert [draw(np.zeros((80, 96, 3), np.uint8), 1, epoch).shape[0] for epoch in (0, 1)] == [16, 24]


def test_a_balanced_sampler_draws_classes_evenly_and_reproducibly():
    targets = np.array([0] * 900 + [1] * 90 + [2] * 10)
    sampler = EpochSampler(1000, 1, 10, weights=balanced_weights(targets))
    indices = [index for _, index in sampler]
    assert (np.bincount(targets[indices]) > 250).all()
    assert [index for _, index in sampler] == indices
    sampler.begin(1, 0)
    assert [index for _, index in sampler] != indices
