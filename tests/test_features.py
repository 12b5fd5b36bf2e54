"""Features are cached by image hash and equal in both engines; a backbone is exported to ONNX once."""

import json
import shutil

import numpy as np
import pytest
import torch

from models import classifier
from pipeline import config, train
from pipeline.artifacts import onnx_export
from pipeline.common.errors import UserError
from pipeline.data.dataset import ImageDataset, LooseImages, PackedDataset, eval_transform
from pipeline.evaluation import predictions
from pipeline.portable import OnnxClassifier
from pipeline.training import build, features

PROBE = ("model=probe", "model.input.size=64")


@pytest.fixture
def computed(repro, project, tmp_path, monkeypatch):
    """Computes features of rows of the sample, with overrides, in a cache of the test's own."""
    pack = PackedDataset.open(project / "data/sample")
    monkeypatch.setattr(features, "CACHE", tmp_path / "features")

    def compute(rows, *overrides) -> np.ndarray:
        training = build.build(config.compose(*PROBE, *overrides), pack)
        images = ImageDataset(pack, np.asarray(rows), eval_transform(training.card.input))
        return features.features(training, images)

    return compute


# Without the mirrored half, the same graph is exported once more, which takes seconds.
@pytest.mark.parametrize("flip", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_onnx_and_torch_compute_the_same_features(computed, flip):
    by_onnx = computed(range(20), f"model.flip={flip}")
    by_torch = computed(range(20), f"model.flip={flip}", "runtime.features=torch")
    assert by_onnx.shape == (20, 1280)
    assert np.abs(by_onnx - by_torch).max() < 1e-3 * by_torch.std()
    assert not np.array_equal(by_onnx, by_torch)  # both engines really ran


def test_an_unknown_engine_is_an_error(computed):
    with pytest.raises(UserError, match=r"runtime\.features=tpu: must be onnx or torch"):
        computed([0], "runtime.features=tpu")


def test_damaged_features_are_reported_and_recomputed(computed, tmp_path, capsys):
    before = computed(range(20))
    (file,) = (tmp_path / "features").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert np.array_equal(computed(range(20)), before)
    assert f"warning: {file.name} is damaged" in capsys.readouterr().err
    assert np.array_equal(computed(range(20)), before)
    assert capsys.readouterr().err == ""


def test_features_do_not_depend_on_the_rest_of_the_batch(computed, tmp_path):
    at_once = computed(range(20))
    shutil.rmtree(tmp_path / "features")
    in_two_parts = np.concatenate([computed(range(19)), computed([19])])
    assert np.array_equal(at_once, in_two_parts)


def test_a_new_image_costs_one_batch_and_a_new_size_or_layout_all(computed, monkeypatch):
    batches, original = [], features._engine

    def counting(*arguments):
        engine = original(*arguments)

        def count(images):
            batches.append(len(images))
            return engine(images)

        return count

    monkeypatch.setattr(features, "_engine", counting)
    computed(range(40))
    assert batches == [16, 16, 16]
    computed(range(40))
    computed(range(41))
    assert batches == [16] * 4
    computed(range(40), "runtime.features=torch")
    computed(range(40), "runtime.features=torch", "model.channels_last=false")
    computed(range(40), "runtime.features=torch", "model.input.size=32")
    assert batches == [16] * 13


def test_the_audits_features_are_cached_for_train(repro, project, monkeypatch):
    pack = PackedDataset.open(project / "data/sample")
    cfg = config.compose(*PROBE)
    training = build.build(cfg, pack)
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("features were computed again"))
    everything = ImageDataset(pack, np.arange(len(pack.table)), eval_transform(training.card.input))
    assert len(features.features(training, everything)) == len(everything)


def test_a_probes_metrics_from_features_match_those_from_images(repro, project, tmp_path):
    cfg = config.compose(*PROBE, f"out={tmp_path / 'out'}")
    metrics = train.train(cfg)
    model, card = classifier.load(tmp_path / "out")
    pack = PackedDataset.open(project / "data/sample")
    images = ImageDataset(pack, pack.rows("val"), eval_transform(card.input))
    right = predictions.predict(model, images, 16).argmax(axis=1) == images.targets
    assert metrics["val/top1"] == pytest.approx(right.mean())


@pytest.fixture
def probed(repro, project):
    """Folder of the sample's trained probe."""
    return project / "runs/sample/train/probe"


def test_a_backbone_is_exported_once_for_features_and_models(probed, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_export", lambda *_: pytest.fail("the trunk was exported again"))
    onnx_export.to_onnx(probed, tmp_path / "onnx")
    model, card = classifier.load(probed)
    images = list(np.random.default_rng(0).integers(0, 255, (5, 64, 48, 3), dtype=np.uint8))
    expected = predictions.predict(model, LooseImages(images, card.input), 5)
    predicted = [OnnxClassifier(tmp_path / "onnx").probabilities(image) for image in images]
    assert np.abs(np.stack(predicted) - expected).max() < 1e-4


def test_a_damaged_backbone_export_is_reported_and_replaced(probed, tmp_path, monkeypatch, capsys):
    model, card = classifier.load(probed)
    kept = onnx_export.trunk(model, card)
    monkeypatch.setattr(onnx_export, "CACHE", tmp_path)
    shutil.copytree(kept.parent, tmp_path / kept.parent.name)
    file = tmp_path / kept.parent.name / kept.name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert onnx_export.trunk(model, card).read_bytes() == kept.read_bytes()
    assert "trunk.onnx is damaged; exporting it again" in capsys.readouterr().err


def test_a_model_that_flips_predicts_the_same_for_a_mirrored_image(probed):
    model, card = classifier.load(probed)
    assert card.flip
    images = torch.randint(0, 255, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        both, both_mirrored = model(images), model(images.flip(2))
        model.flip = False
        single, mirrored = model(images), model(images.flip(2))
    assert torch.allclose(both, both_mirrored, atol=1e-4)
    assert torch.allclose(both, (single + mirrored) / 2, atol=1e-4)
    assert not torch.allclose(single, mirrored, atol=1e-2)


def test_a_card_without_flip_does_not_flip(probed, tmp_path):
    shutil.copytree(probed, tmp_path / "old")
    card = json.loads((probed / "model.json").read_text())
    del card["flip"]
    (tmp_path / "old/model.json").write_text(json.dumps(card))
    model, _ = classifier.load(tmp_path / "old")
    assert not model.flip
