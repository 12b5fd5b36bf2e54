"""A saved project opens again elsewhere; of one that can't be opened nothing is left."""

import io
import shutil
import zipfile
from pathlib import Path

import pytest
import requests
from catalog_server import Catalog
from saving import changed, files_of, open_file, opened, saved
from teaching import Lesson, photo, publish_backbone

from catalog.store import erasing, projects, samples
from catalog.store.tables import Project, Status
from catalog.teach import saved_project
from catalog.teach.model import TaughtModel

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


def test_a_saved_project_opens_again_and_gives_the_same_model(lesson):
    lesson.add("red", *(photo("red", seed) for seed in range(50, 56)), burst="a-recording")
    lesson.post("/samples/remove", ids=lesson.samples("green")[:1])
    lesson.post("/classes", name="empty")
    lesson.train()
    copy = opened(lesson, saved(lesson))
    assert copy.wait()["model"]["version"] == lesson.state()["model"]["version"]
    assert copy.counts() == lesson.counts() == {"red": 10, "green": 3, "empty": 0}
    assert copy.post("/samples/restore") == {"restored": 1}
    assert copy.counts()["green"] == 4
    probabilities = [each.answer(photo("red", 99))["probabilities"] for each in (lesson, copy)]
    assert probabilities[0] != probabilities[1]  # the copy has learned the restored image, too


def test_a_project_opens_on_another_machine(lesson, tmp_path):
    data = saved(lesson)
    other = Catalog.create(tmp_path / "other")
    publish_backbone(other.library.backbone)
    with other.served() as address:
        copy = opened(Lesson(other, address), data)
        assert copy.counts() == {"red": 4, "green": 4}
        assert saved(copy) == data


def test_an_unpacked_or_repacked_project_opens_too(lesson, tmp_path):
    with zipfile.ZipFile(io.BytesIO(saved(lesson))) as archive:
        archive.extractall(tmp_path / "folder/Project 1")
    repacked = shutil.make_archive(str(tmp_path / "repacked"), "zip", tmp_path / "folder")
    for source in (tmp_path / "folder", tmp_path / "folder/Project 1", Path(repacked)):
        found = open_file(lesson, source)
        assert (found.images, found.left_out) == (8, 0)


def test_damaged_and_missing_images_are_left_out_and_counted(lesson, tmp_path):
    def damage(_, files):
        first, second, third, *_rest = files
        files[first] = files[first][:-20]
        del files[second]
        files[third] = b"no image"

    file = tmp_path / "damaged.zip"
    file.write_bytes(changed(saved(lesson), damage))
    found = open_file(lesson, file)
    assert (found.images, found.left_out) == (5, 3)


def test_nothing_is_left_of_an_export_that_cannot_be_downloaded(lesson):
    lesson.train()
    library = lesson.catalog.library
    model = TaughtModel.load(library.taught(lesson.project))
    folder = library.exported(lesson.project) / model.export_key(list(lesson.classes))
    folder.mkdir(parents=True)
    (folder / "model.onnx").symlink_to("nowhere")
    assert requests.get(f"{lesson.address}/teach/{lesson.project}/model.zip", timeout=30).status_code == 500
    assert list(library.folder.rglob("*.zip")) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_project_opens_with_any_number_of_classes(lesson, count):
    for name in list(lesson.classes)[count:]:
        lesson.post(f"/classes/{lesson.classes.pop(name)}/erase")
    assert opened(lesson, saved(lesson)).counts() == lesson.counts()
    assert len(lesson.counts()) == count


def test_images_in_no_class_are_neither_saved_nor_opened(lesson, tmp_path):
    """Older versions kept the removed images of a class that was deleted, and saved them."""
    with_all = saved(lesson)
    red = lesson.classes["red"]
    lesson.post("/samples/remove", ids=lesson.samples("red")[:1])
    with lesson.catalog.database.write() as session:
        found = samples.class_of(session, lesson.project, red)
        erasing.images(session, session.get(Project, lesson.project), samples.ids_of_class(session, found))
        erasing.label_class(session, found)
    with zipfile.ZipFile(io.BytesIO(saved(lesson))) as archive:
        assert len(archive.namelist()) == 1 + 4

    def lose_class(details, _):
        details["images"][0].update(class_index=None, is_removed=True)
        details["images"][1].update(class_index=None)

    file = tmp_path / "older.zip"
    file.write_bytes(changed(with_all, lose_class))
    found = open_file(lesson, file)
    assert (found.images, found.left_out) == (6, 2)
    with lesson.catalog.database.read() as session:
        statuses = {image.status for image in samples.all_images(session, found.project_id)}
    assert statuses == {Status.LABELED}


def test_nothing_is_left_of_a_project_if_opening_it_fails(lesson, tmp_path, monkeypatch):
    lesson.add("red", photo("red", 200))
    data = saved(lesson)
    other = Catalog.create(tmp_path / "other")
    with other.served() as address:
        both = Lesson(other, address).start("red")
        both.add("red", photo("red", 200))  # one of its images is also of another project
    before = files_of(other)
    (tmp_path / "saved.zip").write_bytes(data)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    for target in ("catalog.store.samples.remove", "catalog.library.Library.store_thumbnail"):
        with monkeypatch.context() as patch:
            patch.setattr(target, full_disk)
            with pytest.raises(OSError, match="No space"):
                saved_project.open_saved(tmp_path / "saved.zip", other.database, other.library, "me")
        assert files_of(other) == before
    with other.database.read() as session:
        assert len(projects.all_projects(session)) == 1


def test_nothing_is_left_of_a_zip_that_cannot_be_written(lesson, monkeypatch):
    images = [path for path in files_of(lesson.catalog) if path.parent.parent.name == "images"]
    images[0].unlink()
    before = files_of(lesson.catalog)
    answer = requests.get(f"{lesson.address}/teach/{lesson.project}/project.zip", timeout=30)
    assert (answer.status_code, "is missing" in answer.text) == (422, True)
    assert files_of(lesson.catalog) == before
