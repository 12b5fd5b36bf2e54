"""A person's own pictures go the whole way: two classes of five pictures, two hundred classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = ("data.side=32", "data.epochs=1", "model.batch_size=64")
REAL = Path(__file__).resolve().parents[2] / "shared/data"


def _pictures(folder: Path, classes: int, each: int, seed: int = 0) -> Path:
    """Class folders of noise around a colour of the class: no two pictures alike."""
    rng = np.random.default_rng(seed)
    for number in range(classes):
        place = folder / f"{number:03}"  # names that look like numbers
        place.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for picture in range(each):
            noise = rng.integers(0, 256, (6, 6, 3))
            pixels = np.uint8((colour + 2 * noise) // 3)
            Image.fromarray(pixels).resize((48, 40)).save(place / f"{picture}.png")
    return folder


@pytest.fixture
def whole_way(run, house):
    """Runs every stage on a folder of pictures; afterwards nothing of it is left."""

    def _go(path: Path, model: str = "scratch") -> dict:
        stages = (
            ("fetch", f"fetch.path={path}"),
            ("pack",),
            ("split",),
            ("audit", "model=probe"),
            ("train", f"model={model}", f"out=runs/folder/train/{model}", *SMALL),
            ("evaluate", f"model={model}"),
            ("register", f"models=[{model}]"),
            ("report", f"models=[{model}]"),
        )
        for stage, *overrides in stages:
            done = run("python", "-m", f"pipeline.{stage}", "data=folder", *overrides)
            assert done.returncode == 0, (stage, done.stdout)
        return json.loads((house / "runs/folder/register/decision.json").read_text())

    yield _go
    for place in ("data/folder", "runs/folder", "reports/folder"):
        shutil.rmtree(house / place, ignore_errors=True)


def test_two_classes_of_five_pictures_train_evaluate_and_register(whole_way, house, tmp_path):
    decision = whole_way(_pictures(tmp_path / "own", 2, 5))
    assert decision["promoted"]
    assert len((house / "data/folder/split.csv").read_text().splitlines()) == 11
    metrics = json.loads((house / "runs/folder/evaluate/scratch/metrics.json").read_text())
    assert metrics["test/pictures"] == 2
    assert metrics["test/top3"] == metrics["test/top5"] == 1  # of two classes, both
    assert "test/species" not in metrics
    page = (house / "reports/folder/index.html").read_text()
    assert "10 pictures in 2 classes" in page


@pytest.mark.slow
def test_two_hundred_classes_train_evaluate_and_register(whole_way, house, tmp_path):
    decision = whole_way(_pictures(tmp_path / "own", 200, 5))
    assert decision["promoted"]
    card = json.loads((house / "runs/folder/register/champion/train/model.json").read_text())
    assert card["classes"] == [f"{number:03}" for number in range(200)]
    figure = house / "runs/folder/evaluate/scratch/confusion.png"
    assert max(Image.open(figure).size) < 4000


@pytest.mark.slow
def test_two_classes_serve_a_probe_too(whole_way, tmp_path):
    assert whole_way(_pictures(tmp_path / "own", 2, 5), "probe")["challenger"] == "probe"


def test_one_command_takes_ones_own_folder(run, house, restored, tmp_path):
    """What dvc.yaml makes of `-S data=folder -S fetch.path=DIR`; changed pictures are noticed."""
    own = _pictures(tmp_path / "own", 2, 5)
    shutil.move(own / "001", tmp_path / "elsewhere")
    (own / "001").symlink_to(tmp_path / "elsewhere")  # a class folder like any other
    done = run("dvc", "exp", "run", "-S", "data=folder", "-S", f"fetch.path={own}", "split")
    assert done.returncode == 0, done.stdout
    assert "split: 6 train, 2 val, 2 test" in done.stdout
    shutil.copytree(own / "000", own / "002")
    for picture in (own / "002").iterdir():
        Image.open(picture).transpose(Image.Transpose.ROTATE_180).save(picture)
    done = run("dvc", "repro", "split")
    assert "15 pictures in 3 classes" in done.stdout
    shutil.rmtree(house / "data/folder")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not here")
def test_the_real_photos_keep_their_official_split(run, house, restored):
    done = run("python", "-m", "pipeline.fetch", "data=oxford", f"fetch.mirror={REAL}")
    assert done.returncode == 0, done.stdout
    for stage in ("pack", "split"):
        done = run("python", "-m", f"pipeline.{stage}", "data=oxford")
        assert done.returncode == 0, done.stdout
    assert "3669 test" in done.stdout
    shutil.rmtree(house / "data/oxford")
