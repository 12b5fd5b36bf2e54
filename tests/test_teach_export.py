"""What leaves the teach page answers as the page does, and opens again elsewhere."""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from catalog_server import Catalog
from chromium import chromium
from conftest import PROJECT, petfaces
from saving import saved
from teaching import Lesson, photo, publish_backbone

from catalog import decoding
from catalog.store import exported, projects
from catalog.teach.model import TaughtModel
from pipeline import config, pack, split, tasks
from pipeline.common import pages
from pipeline.data import pack_index
from pipeline.portable import OnnxClassifier

ARCHIVE = Path(__file__).resolve().parents[2] / "shared/data/petfaces.tar.gz"

pytestmark = pytest.mark.integration  # each catalog decodes images in processes of its own


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    publish_backbone(catalog.library.backbone)
    return catalog


@pytest.fixture
def lesson(catalog):
    with catalog.served() as address:
        yield Lesson(catalog, address).start("red", "green").show(4)


def test_an_image_is_opened_in_the_decoders_process_only(tmp_path, monkeypatch):
    catalog = Catalog.create(tmp_path)
    data = photo("red", 1)
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened in this process"))
    image = decoding.store(data, "red.png", catalog.library)
    assert (image.suffix, image.width, image.height) == (".png", 48, 40)
    assert catalog.library.holds(image.sha256, image.suffix, len(data))


def test_the_pipeline_draws_a_test_split_from_what_was_taught(lesson, tmp_path):
    from catalog import export

    for name in lesson.classes:
        lesson.add(name, *(photo(name, seed) for seed in range(100, 112)))
    with lesson.catalog.database.read() as session:
        labels = exported.labels(session, projects.by_name(session, lesson.state()["name"]))
    snapshot = export.snapshot(labels, lesson.catalog.library, tmp_path / "labels")
    with tarfile.open(snapshot) as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {"red", "green"}
    pack.pack(snapshot, tmp_path / "pack", 64)
    split.split(tmp_path / "pack", tmp_path / "split.csv", config.compose("data=labels").split)
    table = pack_index.read_split(tmp_path / "split.csv")
    assert set(table["split"]) == {"train", "val", "test"}


def test_a_class_that_is_left_out_of_training_is_in_no_snapshot(lesson, tmp_path, capsys):
    from catalog import export

    lesson.post("/classes", name="blue")
    lesson.classes = {found["name"]: found["id"] for found in lesson.state()["classes"]}
    lesson.add("blue", *(photo("blue", seed) for seed in range(3)))
    lesson.post(f"/classes/{lesson.classes['blue']}", is_enabled=False)
    folder = str(lesson.catalog.library.folder)
    out = tmp_path / "labels"
    petfaces("catalog", "--folder", folder, "export", lesson.state()["name"], "--out", str(out))
    shown = capsys.readouterr().out
    assert "8 labels; left out: 0 unknown images, 0 of classes with too few images" in shown
    assert "3 of classes that are left out of training" in shown
    with tarfile.open(out / "snapshot.tar") as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {"red", "green"}
    summary = json.loads((out / "snapshot.json").read_text())
    assert (summary["switched_off"], summary["too_few_to_train"]) == (3, 0)
    with lesson.catalog.database.read() as session:
        labels = exported.labels(session, projects.by_name(session, lesson.state()["name"]))
    assert ',"blue",' in export.table(labels)
    assert len(json.loads(export.coco(labels))["images"]) == 11


@pytest.mark.parametrize("none_class", ["none of these", None])
def test_the_readme_counts_the_classes_only(none_class):
    from catalog.helper import taught_export

    classes = ["pen", "book"]
    readme = pages.render(
        PROJECT / "catalog/templates/taught_model.md",
        card=SimpleNamespace(
            classes=[*classes, *filter(None, [none_class])],
            net={"backbone": "lite0"},
            input=SimpleNamespace(size=224),
        ),
        metrics={"parameters": 1000, "val/top1": float("nan")},
        lineage={"data": {"pictures": 10, "content": "0" * 64}},
        sha256="0" * 64,
        licence="any",
        task=tasks.of("single_label"),
        page=True,
        none_class=none_class,
    )
    assert taught_export.NONE == "none of these"
    assert readme.startswith("# 2 classes, taught by example\n\n- pen\n- book\n\n")
    assert ("The last probability is that of “none of these”" in readme) == (none_class is not None)
    assert ("unsure_below" in readme) == (none_class is None)
    assert "\n\n\n" not in readme


def test_a_model_of_another_backbone_is_not_exported(lesson):
    lesson.train()
    file = lesson.catalog.library.taught(lesson.project)
    replace(TaughtModel.load(file), backbone="another").save(file)
    lesson.post("/export")
    lesson.catalog.finish_jobs()
    shown = requests.get(f"{lesson.root}/export", timeout=30).json()
    assert shown["state"] == "failed"
    assert shown["message"] == "the backbone has changed since the training; press Train again"


BREEDS, TAUGHT, ANSWERED = ("cat_Bengal", "cat_Siamese", "dog_pug"), 8, 200


@pytest.fixture
def faces():
    """Different images of three breeds, by breed."""
    if not ARCHIVE.is_file():
        pytest.skip("needs real faces in ../shared/data")
    found: dict[str, list[bytes]] = {breed: [] for breed in BREEDS}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            breed = Path(member.name).parent.name
            if member.isfile() and breed in found:
                found[breed].append(archive.extractfile(member).read())
    return found


@pytest.mark.slow
def test_the_pipeline_trains_and_registers_a_champion_on_what_was_taught(lesson, run, project, restored):
    for name in lesson.classes:
        lesson.add(name, *(photo(name, seed) for seed in range(100, 140)))
    folder = str(lesson.catalog.library.folder)
    done = run("python", "-m", "pipeline", "catalog", "--folder", folder, "retrain", "Project 1")
    assert done.returncode == 0, done.stdout
    assert "The champion of labels has learned these images" in done.stdout
    champion = OnnxClassifier(project / "runs/labels/register/champion/portable")
    assert set(champion.classes) == set(lesson.classes)


@pytest.mark.slow
def test_folder_browser_page_server_and_teach_page_answer_alike(faces, tmp_path, run, project):
    from catalog.helper.features import publish_backbone as publish

    catalog = Catalog.create(tmp_path)
    publish(catalog.library)
    with catalog.served() as address:
        lesson = Lesson(catalog, address).start(*faces)
        for name, images in faces.items():
            lesson.add(name, *images[:TAUGHT])
        lesson.train()
        lesson.post("/export")
        catalog.finish_jobs()
        state = requests.get(f"{lesson.root}/export", timeout=30).json()
        assert state["state"] == "done", state
        images = list(dict.fromkeys(data for found in faces.values() for data in found[TAUGHT:]))[:ANSWERED]
        assert len(images) == ANSWERED
        page = [[*(answer := lesson.answer(data))["probabilities"], answer["none"]] for data in images]
        (folder,) = (catalog.library.folder / "exported" / str(lesson.project)).iterdir()
        assert (folder / "README.md").read_text().startswith("# 3 classes, taught by example\n")
        assert json.loads((folder / "try/card.json").read_text())["none"] == len(BREEDS)
        model = OnnxClassifier(folder)
        portable = [model.probabilities(data) for data in images]
        served = _served(folder, images, run)
        browser = _in_browser(f"{address}/teach/{lesson.project}/try/index.html", images, tmp_path)
    differences = {
        name: float(np.abs(np.array(page) - np.array(other)).max())
        for name, other in (("folder", portable), ("server", served), ("browser", browser))
    }
    print(f"largest differences of probabilities to the teach page, {len(images)} images:", differences)
    assert max(differences["folder"], differences["server"]) < 0.01
    assert differences["browser"] < 0.05


def _served(folder: Path, images: list[bytes], run) -> list[list[float]]:
    """Probabilities by `petfaces serve`, in the order of the model's classes."""
    command = [sys.executable, "-m", "pipeline", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = next(line for line in process.stdout if "http://" in line)
            address = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
            classes = OnnxClassifier(folder).classes
            found = []
            for data in images:
                answer = requests.post(
                    f"{address}/predict?top={len(classes)}", files={"photo": data}, timeout=30
                ).json()
                by_name = dict(zip(answer["labels"], answer["probabilities"], strict=True))
                found.append([by_name[name] for name in classes])
            return found
        finally:
            process.terminate()


def _in_browser(address: str, images: list[bytes], scratch: Path) -> list[list[float]]:
    """Probabilities by the export's page in Chromium."""
    with chromium() as browser:
        tab = browser.new_page()
        tab.goto(address)
        tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
        card = requests.get(address.replace("index.html", "card.json"), timeout=30).json()
        shown = [name.replace("cat_", "").replace("dog_", "").replace("_", " ") for name in card["labels"]]
        shown[card["none"]] = "None of these"
        assert "Knows 3 classes" in tab.inner_text("#about")
        found = []
        for number, data in enumerate(images, start=1):
            file = scratch / f"{hashlib.sha256(data).hexdigest()[:12]}.jpg"
            file.write_bytes(data)
            tab.set_input_files("#file", file)
            tab.wait_for_selector(f'body[data-answered="{number}"]', timeout=60_000)
            bars = tab.eval_on_selector_all(
                "#bars progress", "bars => bars.map(bar => [bar.getAttribute('aria-label'), bar.value])"
            )
            by_name = dict(bars)
            found.append([by_name[name] for name in shown])
        return found


def test_the_command_opens_a_saved_project(lesson, tmp_path, capsys):
    (tmp_path / "saved.zip").write_bytes(saved(lesson))
    folder = str(lesson.catalog.library.folder)
    petfaces("catalog", "--folder", folder, "open", str(tmp_path / "saved.zip"))
    assert "8 images. Start the catalog and open /teach/2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        petfaces("catalog", "--folder", folder, "open", str(tmp_path / "none.zip"))
    assert "none.zip is not there; name the zip" in capsys.readouterr().err
