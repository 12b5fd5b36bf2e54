"""Features are computed once, by content, and alike by every engine; a trunk is exported once."""

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
def computed(repro, house, tmp_path, monkeypatch):
    """Features of some rows of the sample, in a cache of its own, by further choices."""
    pack = PackedDataset.open(house / "data/sample")
    monkeypatch.setattr(features, "CACHE", tmp_path / "features")

    def _computed(rows, *overrides) -> np.ndarray:
        training = build.build(config.compose(*PROBE, *overrides), pack)
        pictures = ImageDataset(pack, np.asarray(rows), eval_transform(training.card.input))
        return features.features(training, pictures)

    return _computed


@pytest.mark.parametrize("flip", ["true", "false"])
def test_both_engines_say_the_same(computed, flip):
    by_onnx = computed(range(20), f"model.flip={flip}")
    by_torch = computed(range(20), f"model.flip={flip}", "runtime.features=torch")
    assert by_onnx.shape == (20, 1280)
    assert np.abs(by_onnx - by_torch).max() < 1e-3 * by_torch.std()
    assert not np.array_equal(by_onnx, by_torch)  # they were two


def test_an_unknown_engine_is_told(computed):
    with pytest.raises(UserError, match=r"runtime\.features=tpu: must be onnx or torch"):
        computed([0], "runtime.features=tpu")


def test_damaged_features_are_told_and_computed_anew(computed, tmp_path, capsys):
    before = computed(range(20))
    (file,) = (tmp_path / "features").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert np.array_equal(computed(range(20)), before)
    assert f"warning: {file.name} is damaged" in capsys.readouterr().err
    assert np.array_equal(computed(range(20)), before)
    assert capsys.readouterr().err == ""


def test_features_do_not_depend_on_which_pictures_came_along(computed, tmp_path):
    at_once = computed(range(20))
    shutil.rmtree(tmp_path / "features")
    by_and_by = np.concatenate([computed(range(19)), computed([19])])
    assert np.array_equal(at_once, by_and_by)


def test_one_new_picture_costs_one_batch_and_another_size_or_layout_all(computed, monkeypatch):
    batches, whole = [], features._engine

    def counting(*given):
        engine = whole(*given)

        def count(pictures):
            batches.append(len(pictures))
            return engine(pictures)

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


def test_the_stage_after_the_audit_computes_nothing(repro, house, monkeypatch):
    pack = PackedDataset.open(house / "data/sample")
    cfg = config.compose(*PROBE)
    training = build.build(cfg, pack)
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("features were computed again"))
    everything = ImageDataset(pack, np.arange(len(pack.table)), eval_transform(training.card.input))
    assert len(features.features(training, everything)) == len(everything)


def test_a_probe_is_judged_by_its_features_as_by_its_pictures(repro, house, tmp_path):
    cfg = config.compose(*PROBE, f"out={tmp_path / 'out'}")
    metrics = train.train(cfg)
    model, card = classifier.load(tmp_path / "out")
    pack = PackedDataset.open(house / "data/sample")
    pictures = ImageDataset(pack, pack.rows("val"), eval_transform(card.input))
    right = predictions.predict(model, pictures, 16).argmax(axis=1) == pictures.targets
    assert metrics["val/top1"] == pytest.approx(right.mean())


@pytest.fixture
def probed(repro, house):
    """Folder of the sample's trained probe."""
    return house / "runs/sample/train/probe"


def test_a_trunk_is_exported_once_for_features_and_models(probed, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_export", lambda *_: pytest.fail("the trunk was exported again"))
    onnx_export.to_onnx(probed, tmp_path / "onnx")
    model, card = classifier.load(probed)
    pictures = list(np.random.default_rng(0).integers(0, 255, (5, 64, 48, 3), dtype=np.uint8))
    expected = predictions.predict(model, LooseImages(pictures, card.input), 5)
    answered = [OnnxClassifier(tmp_path / "onnx").probabilities(picture) for picture in pictures]
    assert np.abs(np.stack(answered) - expected).max() < 1e-4


def test_a_damaged_trunk_is_told_and_exported_anew(probed, tmp_path, monkeypatch, capsys):
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


def test_a_picture_and_its_mirror_image_are_the_same_to_a_model_that_flips(probed):
    model, card = classifier.load(probed)
    assert card.flip
    pictures = torch.randint(0, 255, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        here, there = model(pictures), model(pictures.flip(2))
        model.flip = False
        alone, mirrored = model(pictures), model(pictures.flip(2))
    assert torch.allclose(here, there, atol=1e-4)
    assert torch.allclose(here, (alone + mirrored) / 2, atol=1e-4)
    assert not torch.allclose(alone, mirrored, atol=1e-2)


def test_a_card_of_before_flips_answers_as_it_did(probed, tmp_path):
    shutil.copytree(probed, tmp_path / "old")
    card = json.loads((probed / "model.json").read_text())
    del card["flip"]
    (tmp_path / "old/model.json").write_text(json.dumps(card))
    model, _ = classifier.load(tmp_path / "old")
    assert not model.flip
