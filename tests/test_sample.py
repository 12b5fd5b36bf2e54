"""The drawn sample is the same everywhere and has real data's flaws."""

import hashlib

import pytest

from pipeline.sources import synthetic


def test_the_same_bytes_on_every_machine(tmp_path):
    synthetic.write(tmp_path / "archive", synthetic.pictures(per_class=2, seed=1))
    found = hashlib.sha256((tmp_path / "archive").read_bytes()).hexdigest()
    # Changes with the drawing, or with a Pillow whose JPEG encoder differs: then the data is new data.
    assert found == "26b199fecff0551feeb069c345665c9f8558433f7aaef4f2d4333d928681b520"


def test_another_seed_draws_other_pictures():
    first = dict(itertools_take(synthetic.pictures(1, seed=1), 3))
    second = dict(itertools_take(synthetic.pictures(1, seed=2), 3))
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def itertools_take(pairs, count):
    return [pair for pair, _ in zip(pairs, range(count), strict=False)]


@pytest.fixture(scope="module")
def files():
    return dict(synthetic.pictures(3, seed=1))


def test_35_breeds_of_which_12_are_cats(files):
    folders = {path.split("/")[1] for path in files}
    assert len(folders) == 35
    assert sum(name.startswith("cat_") for name in folders) == 12


def test_broken_files_are_among_them(files):
    assert any(data == b"" for data in files.values())
    assert any(data.startswith(b"<html>") for data in files.values())
    assert any(data.startswith(b"GIF8") and path.endswith(".jpg") for path, data in files.items())
