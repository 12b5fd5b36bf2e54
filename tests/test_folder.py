"""All stages on a user's own images: two classes of five images, two hundred classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = ("data.side=32", "data.epochs=1", "model.batch_size=64")
REAL = Path(__file__).resolve().parents[2] / "shared/data"


def _images(folder: Path, classes: int, each: int, seed: int = 0) -> Path:
    """Class folders of distinct images: noise around a colour of the class."""
    rng = np.random.default_rng(seed)
    for number in range(classes):
        class_folder = folder / f"{number:03}"  # names that look like numbers
        class_folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for image in range(each):
            noise = rng.integers(0, 256, (6, 6, 3))
            pixels = np.uint8((colour + 2 * noise) // 3)
            Image.fromarray(pixels).resize((48, 40)).save(class_folder / f"{image}.png")
    return folder


@pytest.fixture
def run_stages(run, project):
    """Runs every stage on a folder of images; deletes its outputs afterwards."""

    def _run_stages(path: Path, model: str = "scratch") -> dict:
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
        return json.loads((project / "runs/folder/register/decision.json").read_text())

    yield _run_stages
    for folder in ("data/folder", "runs/folder", "reports/folder"):
        shutil.rmtree(project / folder, ignore_errors=True)


def test_two_classes_of_five_images_train_evaluate_and_register(run_stages, project, tmp_path):
    decision = run_stages(_images(tmp_path / "own", 2, 5))
    assert decision["promoted"]
    assert len((project / "data/folder/split.csv").read_text().splitlines()) == 11
    metrics = json.loads((project / "runs/folder/evaluate/scratch/metrics.json").read_text())
    assert metrics["test/pictures"] == 2
    assert metrics["test/top3"] == metrics["test/top5"] == 1  # of two classes, both
    assert "test/species" not in metrics
    page = (project / "reports/folder/index.html").read_text()
    assert "10 pictures in 2 classes" in page


@pytest.mark.slow
def test_two_hundred_classes_train_evaluate_and_register(run_stages, project, tmp_path):
    decision = run_stages(_images(tmp_path / "own", 200, 5))
    assert decision["promoted"]
    card = json.loads((project / "runs/folder/register/champion/train/model.json").read_text())
    assert card["classes"] == [f"{number:03}" for number in range(200)]
    figure = project / "runs/folder/evaluate/scratch/confusion.png"
    assert max(Image.open(figure).size) < 4000


@pytest.mark.slow
def test_two_classes_work_with_a_probe_too(run_stages, tmp_path):
    assert run_stages(_images(tmp_path / "own", 2, 5), "probe")["challenger"] == "probe"


@pytest.fixture
def kept_lock(project):
    """Puts dvc.lock back, without which a later test's `dvc pull` would fetch this test's data set."""
    file = project / "dvc.lock"
    before = file.read_bytes() if file.exists() else None
    yield
    file.unlink(missing_ok=True)
    if before is not None:
        file.write_bytes(before)


def test_dvc_exp_run_takes_a_users_folder(run, project, restored, kept_lock, tmp_path):
    """With `-S data=folder -S fetch.path=DIR`; changed images rerun the stages."""
    own = _images(tmp_path / "own", 2, 5)
    shutil.move(own / "001", tmp_path / "elsewhere")
    (own / "001").symlink_to(tmp_path / "elsewhere")  # a class folder may be a symlink
    done = run("dvc", "exp", "run", "-S", "data=folder", "-S", f"fetch.path={own}", "split")
    assert done.returncode == 0, done.stdout
    assert "split: 6 train, 2 val, 2 test" in done.stdout
    shutil.copytree(own / "000", own / "002")
    for image in (own / "002").iterdir():
        Image.open(image).transpose(Image.Transpose.ROTATE_180).save(image)
    done = run("dvc", "repro", "split")
    assert "15 pictures in 3 classes" in done.stdout
    shutil.rmtree(project / "data/folder")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs real photos in ../shared/data")
def test_the_real_photos_keep_their_official_split(run, project, restored):
    done = run("python", "-m", "pipeline.fetch", "data=oxford", f"fetch.mirror={REAL}")
    assert done.returncode == 0, done.stdout
    for stage in ("pack", "split"):
        done = run("python", "-m", f"pipeline.{stage}", "data=oxford")
        assert done.returncode == 0, done.stdout
    assert "3669 test" in done.stdout
    shutil.rmtree(project / "data/oxford")
