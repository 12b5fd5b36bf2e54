"""Exports hold all labels and nothing else, byte for byte the same for the same labels."""

import csv
import dataclasses
import io
import json
import tarfile
import zipfile

import pytest
from catalog_server import Catalog, folder_of, open_page, submit

from catalog import export
from catalog.store import exported
from catalog.store.tables import Help
from pipeline import config, pack, split, tasks
from pipeline.common.errors import UserError
from pipeline.data import pack_index


@pytest.fixture
def catalog(tmp_path):
    """A project with 60 labeled images of three classes, and one that is unknown."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 61), page_size=25, test_fraction=0.3)
    catalog.label_all(60)
    return catalog


@pytest.fixture
def labels(catalog):
    with catalog.database.read() as session:
        return exported.labels(session, catalog.project(session))


def test_coco_has_each_labeled_image_with_its_class(labels, tmp_path):
    file = tmp_path / "coco.json"
    file.write_text(export.coco(labels))
    tree = json.loads(file.read_text())
    assert len(tree["images"]) == len(tree["annotations"]) == 60
    assert {each["name"] for each in tree["categories"]} == {"cat", "dog", "rabbit"}
    pycocotools = pytest.importorskip("pycocotools.coco")
    coco = pycocotools.COCO(str(file))
    assert len(coco.getImgIds()) == 60
    assert sum(len(coco.getAnnIds(catIds=[number])) for number in coco.getCatIds()) == 60


def test_the_csv_names_unknown_images_too(labels):
    rows = list(csv.DictReader(io.StringIO(export.table(labels))))
    assert len(rows) == 61
    assert sorted(row["status"] for row in rows)[-1] == "unknown"
    assert {row["labels"] for row in rows} == {"cat", "dog", "rabbit", ""}


def test_class_folders_hold_the_images(labels, catalog, tmp_path):
    export.class_folders(labels, catalog.library, tmp_path / "folders.zip")
    with zipfile.ZipFile(tmp_path / "folders.zip") as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert len(names) == 60
    assert {name.split("/")[0] for name in names} == {"cat", "dog", "rabbit"}


def test_images_with_the_same_name_have_different_ones_in_coco(labels):
    images = tuple(dataclasses.replace(image, path="a/IMG_1.jpg") for image in labels.labeled[:2])
    shown = json.loads(export.coco(dataclasses.replace(labels, images=images)))["images"]
    assert len({image["file_name"] for image in shown}) == 2
    assert all(image["file_name"] == f"a/IMG_1-{image['sha256'][:8]}.jpg" for image in shown)
    assert {image["path"] for image in shown} == {"a/IMG_1.jpg"}


def test_equal_labels_give_equal_bytes(labels, catalog, tmp_path):
    first, second = (export.snapshot(labels, catalog.library, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    for name in "ab":
        export.class_folders(labels, catalog.library, tmp_path / f"{name}.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_the_pipeline_reads_a_snapshot_and_keeps_its_test_images(labels, catalog, tmp_path):
    archive = export.snapshot(labels, catalog.library, tmp_path)
    summary = pack.pack(archive, tmp_path / "pack", max_side=64)
    assert (summary["pictures"], summary["classes"], summary["quarantined"]) == (60, 3, 0)
    split.split(tmp_path / "pack", tmp_path / "split.csv", config.compose("data=folder").split)
    table = pack_index.read_split(tmp_path / "split.csv")
    test = {path.split("/")[-1].split(".")[0] for path in table["path"][table["split"] == "test"]}
    assert test == {image.sha256 for image in labels.labeled if image.split == "test"}
    assert set(table["split"]) == {"train", "val", "test"}


def test_a_class_that_cannot_be_trained_is_left_out_of_a_snapshot(labels, catalog, tmp_path):
    images = tuple(
        dataclasses.replace(image, classes=("dog",) if image.split == "test" else ("cat",))
        for image in labels.images
    )
    labels = dataclasses.replace(labels, images=images)
    assert {image.split for image in labels.trainable} == {"train"}
    with tarfile.open(export.snapshot(labels, catalog.library, tmp_path)) as archive:
        assert {name.split("/")[0] for name in archive.getnames()} == {"cat"}
    summary = json.loads((tmp_path / "snapshot.json").read_text())
    assert summary["too_few_to_train"] == len(labels.labeled) - len(labels.trainable) > 0


def test_a_snapshot_of_several_classes_an_image_is_read_too(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 12), task="multi_label", page_size=1)
    with catalog.served() as address:
        for number in range(12):
            submit(address, open_page(address), *([], [1], [1, 3])[number % 3])
    with catalog.database.read() as session:
        labels = exported.labels(session, catalog.project(session))
    archive = export.snapshot(labels, catalog.library, tmp_path)
    pack.pack(archive, tmp_path / "pack", max_side=64, task=tasks.of("multi_label"))
    index = pack_index.read_index(tmp_path / "pack")
    assert sorted(index["label"]) == [""] * 4 + ["cat"] * 4 + ["cat|rabbit"] * 4


def test_a_changed_original_is_never_exported(labels, catalog, tmp_path):
    image = labels.labeled[0]
    catalog.library.image(image.sha256, image.suffix).unlink()
    with pytest.raises(UserError, match="is missing or has changed"):
        export.snapshot(labels, catalog.library, tmp_path / "out")
    assert not (tmp_path / "out/snapshot.tar").exists()


def test_a_project_without_labels_has_no_snapshot(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 2), model_help=Help.NONE)
    with catalog.database.read() as session:
        labels = exported.labels(session, catalog.project(session))
    with pytest.raises(UserError, match="has no labels to train on"):
        export.snapshot(labels, catalog.library, tmp_path)
