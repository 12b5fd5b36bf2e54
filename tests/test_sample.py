"""The synthetic sample is the same on every machine and has the flaws of real data."""

import hashlib

import pytest

from pipeline.sources import synthetic


def test_the_sample_is_the_same_bytes_on_every_machine(tmp_path):
    synthetic.write(tmp_path / "archive", synthetic.pictures(per_class=2, seed=1))
    found = hashlib.sha256((tmp_path / "archive").read_bytes()).hexdigest()
    # Changes with the drawing code or Pillow's JPEG encoder; the data is then another data set.
    assert found == "26b199fecff0551feeb069c345665c9f8558433f7aaef4f2d4333d928681b520"


def test_another_seed_draws_other_images():
    first = dict(_first(synthetic.pictures(1, seed=1), 3))
    second = dict(_first(synthetic.pictures(1, seed=2), 3))
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def _first(pairs, count):
    return [pair for pair, _ in zip(pairs, range(count), strict=False)]


@pytest.fixture(scope="module")
def files():
    return dict(synthetic.pictures(3, seed=1))


def test_12_of_35_breeds_are_cats(files):
    folders = {path.split("/")[1] for path in files}
    assert len(folders) == 35
    assert sum(name.startswith("cat_") for name in folders) == 12


def test_the_sample_has_broken_files(files):
    assert any(data == b"" for data in files.values())
    assert any(data.startswith(b"<html>") for data in files.values())
    assert any(data.startswith(b"GIF8") and path.endswith(".jpg") for path, data in files.items())
