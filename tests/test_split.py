"""Splits keep near-duplicates together and have every class; they depend on images and seed only."""

import hashlib
import json

import imagehash
import numpy as np
import pandas
import pytest

from pipeline import config, split
from pipeline.artifacts import seal
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.pack import HASH_SIDE
from pipeline.sources import synthetic
from pipeline.sources.breeds import BREEDS

SHARES = {"val": 0.15, "test": 0.15}


def _hash(image) -> str:
    return str(imagehash.phash(image, hash_size=HASH_SIDE))


def test_a_smaller_and_brighter_copy_is_a_near_duplicate():
    rng = np.random.Generator(np.random.PCG64(3))
    face, other = (synthetic.draw(BREEDS["dog_pug"], rng) for _ in range(2))
    copy = face.resize((face.width * 3 // 4, face.height * 3 // 4)).point(lambda value: min(255, value + 12))
    groups = split.near_duplicates([_hash(face), _hash(other), _hash(copy)], 56)
    assert groups[0] == groups[2] != groups[1]


def test_chains_of_near_duplicates_are_one_group():
    hashes = [f"{(1 << (8 * n)) - 1:064x}" for n in range(4)]  # 8 bits between neighbours, 24 end to end
    assert len(set(split.near_duplicates(hashes, 8))) == 1
    assert len(set(split.near_duplicates(hashes, 7))) == 4


def test_no_group_crosses_a_split_and_every_class_is_in_each():
    rng = np.random.default_rng(0)
    labels = [f"class{n}" for n in rng.integers(0, 12, 600)]
    groups = np.unique(np.minimum(np.arange(600), rng.integers(0, 600, 600)), return_inverse=True)[1]
    splits = split.assign(labels, groups, SHARES, seed=1)
    table = pandas.DataFrame({"label": labels, "group": groups, "split": splits})
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert (table.groupby("label")["split"].nunique() == 3).all()


def test_a_big_group_does_not_inflate_a_split():
    groups = np.concatenate([np.zeros(20, int), np.arange(1, 21)])
    for seed in range(20):
        counts = dict(
            zip(*np.unique(split.assign(["a"] * 40, groups, SHARES, seed), return_counts=True), strict=True)
        )
        assert counts["train"] >= 14 and counts["val"] + counts["test"] >= 2


def test_splits_are_stratified_by_class():
    labels = [f"class{n % 5}" for n in range(500)]
    splits = split.assign(labels, np.arange(500), SHARES, seed=1)
    counts = pandas.crosstab(np.array(labels), splits)
    assert (counts["val"] == 15).all()
    assert (counts["test"] == 15).all()


def test_a_class_needs_three_images():
    splits = split.assign(["a"] * 3, np.arange(3), SHARES, seed=1)
    assert sorted(splits) == ["test", "train", "val"]
    with pytest.raises(UserError, match=r"1 class\(es\) have fewer .* than the 3 splits: 'b' \(2\)"):
        split.assign(["a"] * 9 + ["b"] * 2, np.arange(11), SHARES, seed=1)


def test_the_splits_depend_on_the_seed():
    labels = [f"class{n % 5}" for n in range(200)]
    one, same, other = (split.assign(labels, np.arange(200), SHARES, seed=seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_the_splits_do_not_depend_on_file_names(tmp_path):
    def assigned(name: str) -> dict[str, str]:
        rows = [(name.format(n, 39 - n), "", image) for n, image in enumerate(_far_apart(40))]
        folder = _pack(tmp_path / str(len(list(tmp_path.iterdir()))), sorted(rows))
        index = pandas.read_csv(folder / "index.csv", dtype=str)
        index["sha256"] = index["phash"]
        index["label"] = [f"class{int(image[0], 16) % 2}" for image in index["phash"]]
        index.to_csv(folder / "index.csv", index=False)
        seal.seal(folder)
        split.split(folder, folder / "split.csv", config.compose().split)
        return dict(zip(index["phash"], pandas.read_csv(folder / "split.csv")["split"], strict=True))

    assert assigned("{0:02}") == assigned("{1:02}")


def test_a_new_class_does_not_change_the_splits_of_others():
    labels = ["a"] * 40 + ["b"] * 40
    extended = ["0"] * 40 + labels + ["c"] * 40  # sorted before and after the old classes
    before = split.assign(labels, np.arange(80), SHARES, seed=1)
    after = split.assign(extended, np.arange(160), SHARES, seed=1)
    assert (after[40:120] == before).all()


def test_official_splits_are_kept_and_near_duplicates_across_them_dropped():
    official = np.array(["train", "train", "val", "test", "train", "val", "test", ""])
    groups = np.array([0, 1, 2, 3, 3, 3, 4, 5])  # a train and a val image duplicate test image 3
    kept = split.keep_official(official, groups)
    assert list(kept) == ["train", "train", "val", "test", "dropped", "dropped", "test", "train"]
    kept = split.keep_official(np.array(["train", "train", "val"]), np.array([0, 1, 1]))
    assert list(kept) == ["train", "dropped", "val"]


def _pack(folder, rows: list[tuple[str, str, str]]):
    """An index of (path, official, hash) without pixels; rows alternate between two classes."""
    folder.mkdir()
    table = pandas.DataFrame(rows, columns=["path", "official", "phash"])
    table["label"] = [f"class{number % 2}" for number in range(len(rows))]
    for column in ("species", "breed", "boxes", "sha256", "height", "width", "offset"):
        table[column] = ""
    (folder / "pack.json").write_text(json.dumps({"schema": pack_index.VERSION, "task": "single_label"}))
    table.to_csv(folder / "index.csv", index=False)
    seal.seal(folder)
    return folder


def _far_apart(count: int) -> list[str]:
    return [hashlib.sha256(bytes([number])).hexdigest() for number in range(count)]


@pytest.fixture
def official(tmp_path):
    hashes = _far_apart(24)
    hashes[1] = hashes[20]  # train's image 1 equals test's image 20
    rows = [(f"{n:02}", "test" if n >= 18 else "train", hashes[n]) for n in range(24)]
    return _pack(tmp_path / "pack", rows)


def test_val_is_taken_from_train_if_the_data_has_a_test_split_only(official, tmp_path, capsys):
    cfg = config.compose().split
    split.split(official, tmp_path / "split.csv", cfg)
    table = pandas.read_csv(tmp_path / "split.csv", dtype=str)
    assert list(table["split"][18:]) == ["test"] * 6
    assert set(table["split"][:18]) == {"train", "val", "dropped"}
    messages = capsys.readouterr().err
    assert "that are kept: test" in messages
    assert "dropped 01" in messages
    cfg.official = False
    split.split(official, tmp_path / "split.csv", cfg)
    assert set(pandas.read_csv(tmp_path / "split.csv")["split"]) == {"train", "val", "test"}
    assert list(pandas.read_csv(tmp_path / "split.csv")["split"][18:]) != ["test"] * 6


def test_a_class_that_is_only_in_the_test_split_is_an_error(tmp_path):
    hashes = _far_apart(20)
    rows = [(f"{n:02}", "test" if n % 2 else "train", hashes[n]) for n in range(20)]
    with pytest.raises(UserError, match="without a training picture: class1"):
        split.split(_pack(tmp_path / "pack", rows), tmp_path / "split.csv", config.compose().split)
