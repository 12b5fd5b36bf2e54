"""The audit finds wrong labels from out-of-fold predictions, whatever the number and size of classes."""

import csv
import io
import tarfile

import numpy as np
import pytest
from omegaconf import OmegaConf

from pipeline import audit, config, pack, split
from pipeline.common.errors import UserError
from pipeline.sources import synthetic
from pipeline.sources.breeds import BREEDS


def _features(classes: int, each: int, separation: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Features N×24 of well-separated classes, and class indices N."""
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(classes), each)
    centres = rng.normal(size=(classes, 24))
    return centres[targets] * separation + rng.normal(size=(len(targets), 24)), targets


def _found(features, targets, groups=None):
    groups = np.arange(len(targets)) if groups is None else groups
    probabilities, scored = audit.out_of_fold(features, targets, groups)
    rows = np.flatnonzero(scored)
    return rows[audit.suspicious(probabilities[rows], targets[rows])].tolist()


def test_only_swapped_labels_are_found():
    features, targets = _features(6, 20)
    targets[3], targets[50] = 2, 0
    assert sorted(_found(features, targets)) == [3, 50]


def test_suspicious_labels_are_sorted_worst_first():
    own = np.full(40, 0.9)
    own[[4, 11, 30]] = 0.02, 0.001, 0.01
    probabilities = np.stack([own, 1 - own], axis=1)
    probabilities[20:] = probabilities[20:, ::-1]
    assert audit.suspicious(probabilities, np.repeat([0, 1], 20)).tolist() == [11, 30, 4]


def test_a_near_duplicate_does_not_confirm_a_wrong_label():
    features, targets = _features(4, 12)
    copies = np.concatenate([features, features[[3]] + 0.01])  # the same photo twice, both wrongly labelled
    labels = np.concatenate([targets, [2]])
    labels[3] = 2
    groups = np.concatenate([np.arange(48), [3]])
    assert sorted(_found(copies, labels, groups)) == [3, 48]


@pytest.mark.parametrize(("classes", "each"), [(2, 5), (200, 6), (3, 3), (2, 2)])
def test_every_image_is_scored_with_few_or_many_classes(classes, each):
    features, targets = _features(classes, each)
    probabilities, scored = audit.out_of_fold(features, targets, np.arange(len(targets)))
    assert scored.all()
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert len(audit.suspicious(probabilities, targets)) < len(targets) / 4


def test_a_class_with_one_distinct_photo_is_not_scored():
    features, targets = _features(4, 10)
    groups = np.arange(40)
    groups[targets == 1] = 10  # one photo, ten times
    probabilities, scored = audit.out_of_fold(features, targets, groups)
    assert (scored == (targets != 1)).all()
    assert _found(features, targets, groups) == []
    assert not probabilities[:, 1].any()


def test_a_single_class_is_not_an_error():
    features, targets = _features(1, 10)
    assert _found(features, targets) == []


def _packed(folder, swap: tuple[str, str] | None = None):
    """Packs and splits drawings of three breeds; `swap` moves one drawing to another path."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "archive", "w") as archive:
        for name in ("cat_Bombay", "dog_beagle", "dog_samoyed"):
            for number in range(12):
                rng = np.random.Generator(np.random.PCG64([7, number, len(name)]))
                buffer = io.BytesIO()
                synthetic.draw(BREEDS[name], rng).save(buffer, "JPEG")
                path = f"tiny/{name}/{name}_{number}.jpg"
                member = tarfile.TarInfo(swap[1] if swap and path == swap[0] else path)
                member.size = buffer.tell()
                archive.addfile(member, io.BytesIO(buffer.getvalue()))
    pack.pack(folder / "archive", folder / "pack", 128)
    split.split(
        folder / "pack",
        folder / "split.csv",
        OmegaConf.create(dict(seed=1, val=0.2, test=0.2, distance=20, official=True)),
    )


@pytest.mark.integration
def test_an_image_in_the_wrong_folder_is_listed_first_with_the_right_label(tmp_path):
    wrong = "tiny/cat_Bombay/stray_99.jpg"
    _packed(tmp_path, ("tiny/dog_beagle/dog_beagle_4.jpg", wrong))
    cfg = config.compose("model=probe", "model.input.size=128")
    rows = audit.audit(cfg, tmp_path)
    assert (rows[0]["path"], rows[0]["label"], rows[0]["suggested"]) == (
        wrong,
        "cat_Bombay",
        "dog_beagle",
    )
    assert float(rows[0]["own_probability"]) < float(rows[0]["suggested_probability"])
    with open(tmp_path / "audit.csv", newline="") as file:
        assert list(csv.DictReader(file)) == rows
    before = (tmp_path / "audit.csv").read_bytes()
    audit.audit(cfg, tmp_path)
    assert (tmp_path / "audit.csv").read_bytes() == before
    assert f"{wrong},cat_Bombay," in (tmp_path / "split.csv").read_text()  # no label was changed


@pytest.mark.integration
def test_the_probe_reuses_the_audits_features(repro, tmp_path, monkeypatch):
    from pipeline.data.dataset import ImageDataset, PackedDataset, eval_transform
    from pipeline.training import build, features

    _packed(tmp_path)
    cfg = config.compose("model=probe")
    audit.audit(cfg, tmp_path)
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("features were computed again"))
    packed = PackedDataset.open(tmp_path)
    training = build.build(cfg, packed)
    images = ImageDataset(packed, packed.rows("train"), eval_transform(training.card.input))
    assert features.features(training, images).shape == (len(images), 1280)


def test_a_model_without_a_frozen_backbone_is_an_error(tmp_path):
    with pytest.raises(UserError, match="model=probe"):
        audit.audit(config.compose("model=scratch"), tmp_path)
