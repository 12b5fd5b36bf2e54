"""The teach page's classes and samples, its training, and its answers."""

import numpy as np
import pytest
import requests
from catalog_server import Catalog
from sqlalchemy import text
from teaching import Lesson, photo, publish_backbone

from catalog import backbone, decoding, sweep
from catalog.feature_store import FeatureStore
from catalog.store import labels, samples
from catalog.store.tables import Project
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
        yield Lesson(catalog, address).start("red", "green")


def files(catalog: Catalog, folder: str) -> int:
    return sum(file.is_file() for file in (catalog.library.folder / folder).rglob("*"))


def test_images_are_on_the_disk_when_they_are_answered(lesson):
    answer = lesson.add("red", photo("red", 0), photo("red", 1), b"no image")
    assert answer == {"new": 2, "known": 0, "refused": [["2.png", "not a picture of a known format"]]}
    assert lesson.counts() == {"red": 2, "green": 0}
    assert files(lesson.catalog, "images") == files(lesson.catalog, "thumbnails") == 2


def test_an_image_is_in_the_class_that_it_was_added_to_last(lesson):
    lesson.add("red", photo("red", 0), photo("red", 1))
    assert lesson.add("green", photo("red", 0)) == {"new": 0, "known": 1, "refused": []}
    assert lesson.counts() == {"red": 1, "green": 1}


def test_the_same_image_twice_in_one_upload_is_one(lesson):
    assert lesson.add("red", photo("red", 0), photo("red", 0))["new"] == 1
    assert lesson.counts()["red"] == 1


def test_removed_images_come_back_until_they_are_erased(lesson):
    lesson.show(3)
    ids = lesson.samples("red")
    lesson.post("/samples/remove", ids=ids[:2])
    assert lesson.counts()["red"] == 1
    assert lesson.state()["removed"] == 2
    assert lesson.post("/samples/restore", ids=ids[:1]) == {"restored": 1}
    assert lesson.post("/samples/erase") == {"erased": 1}
    assert lesson.counts()["red"] == 2
    assert files(lesson.catalog, "images") == files(lesson.catalog, "thumbnails") == 5


def test_images_move_to_another_class(lesson):
    lesson.show(2)
    lesson.post("/samples/move", ids=lesson.samples("red")[:1], class_id=lesson.classes["green"])
    assert lesson.counts() == {"red": 1, "green": 3}


def test_current_labels_follow_from_the_events_whatever_happens(lesson):
    lesson.show(3)
    lesson.post("/samples/remove", ids=lesson.samples("red")[:2])
    lesson.post("/samples/move", ids=lesson.samples("green")[:1], class_id=lesson.classes["red"])
    lesson.post("/samples/restore")
    with lesson.catalog.database.read() as session:
        assert list(labels.differences(session, lesson.project)) == []


def test_what_was_shown_is_recognised(lesson):
    lesson.show(5)
    state = lesson.train()
    assert state["model"]["images"] == 10
    for colour in ("red", "green"):
        answer = lesson.answer(photo(colour, 100))
        assert lesson.name_of(answer) == colour
        assert not answer["is_none"]
        assert sum(answer["probabilities"]) + (answer["none"] or 0) == pytest.approx(1, abs=1e-4)


def test_training_with_one_class_says_what_to_do(lesson):
    lesson.add("red", photo("red", 0))
    answer = lesson.post("/train", 422)
    assert answer["detail"] == "Add images to at least two classes, then press Train."
    assert requests.post(f"{lesson.root}/answer", data=photo("red", 0), timeout=30).status_code == 422


def test_after_the_first_training_each_change_trains_again(lesson):
    first = lesson.show(4).train()["model"]["version"]
    lesson.add("green", photo("blue", 0), photo("blue", 1), photo("blue", 2))
    second = lesson.wait()["model"]
    assert second["version"] != first
    assert second["images"] == 11
    assert lesson.name_of(lesson.answer(photo("blue", 100))) == "green"
    lesson.post("/samples/remove", ids=lesson.samples("green")[:3])
    assert lesson.wait()["model"]["version"] == first


def test_a_class_that_is_off_is_not_learned(lesson):
    lesson.classes["blue"] = lesson.post("/classes", name="blue")["id"]
    lesson.show(4).train()
    lesson.post(f"/classes/{lesson.classes['blue']}", is_enabled=False)
    assert set(lesson.wait()["model"]["classes"]) == {lesson.classes["red"], lesson.classes["green"]}
    lesson.post(f"/classes/{lesson.classes['blue']}", is_enabled=True)
    assert len(lesson.wait()["model"]["classes"]) == 3


def test_renaming_a_class_changes_no_model(lesson):
    version = lesson.show(4).train()["model"]["version"]
    lesson.post(f"/classes/{lesson.classes['red']}", name="tomatoes")
    assert lesson.wait()["model"]["version"] == version
    assert lesson.counts() == {"tomatoes": 4, "green": 4}


@pytest.mark.parametrize("name", ["green", "", "  ", "a/b", "x" * 300])
def test_a_class_gets_no_name_that_exports_could_not_use(lesson, name):
    lesson.post(f"/classes/{lesson.classes['red']}", 422, name=name)
    assert set(lesson.counts()) == {"red", "green"}


def test_the_last_recorded_step_is_the_model_in_use(lesson):
    lesson.show(4).train()
    model = TaughtModel.load(lesson.catalog.library.taught(lesson.project))
    assert np.array_equal(model.training.weights[-1], model.head.weight)
    assert np.array_equal(model.training.biases[-1], model.head.bias)


def test_a_model_is_there_again_after_a_restart(lesson):
    lesson.show(4).train()
    before = lesson.answer(photo("red", 50))
    with lesson.catalog.served() as address:
        again = Lesson(lesson.catalog, address, lesson.project, lesson.classes)
        after = again.answer(photo("red", 50))
    assert after["probabilities"] == before["probabilities"]


def test_the_places_that_speak_for_a_class_are_those_with_its_colour(lesson):
    lesson.show(4).train()
    left_red = np.full((40, 40, 3), 128, np.uint8)
    left_red[:, :20] = (200, 40, 40)
    image = _encoded(left_red)
    path = f"{lesson.root}/evidence?class_id={lesson.classes['red']}"
    found = np.array(requests.post(path, data=image, timeout=30).json())
    assert found[:, :3].mean() > found[:, -3:].mean()


def _encoded(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_one_recording_test_each_other_never(lesson):
    for name in ("red", "green"):
        lesson.add(name, *(photo(name, seed) for seed in range(6)), burst=f"burst-{name}")
    validation = lesson.train()["model"]["validation"]
    assert validation["accuracy"] is None
    assert validation["groups"] == 2


def test_a_recording_loses_no_frame(lesson):
    sent = 0
    for number in range(5):
        frames = [photo("red", 1000 * number + seed) for seed in range(20)]
        sent += lesson.add("red", *frames, burst=f"burst-{number}")["new"]
    assert sent == lesson.counts()["red"] == 100


def test_deleting_a_project_leaves_no_file_and_no_row(lesson):
    lesson.show(3).train()
    lesson.post("/samples/remove", ids=lesson.samples("red")[:1])
    lesson.post("/erase")
    left = {file.parent.name for file in lesson.catalog.library.folder.rglob("*") if file.is_file()}
    assert left <= {"catalog", "backbone", "trunk"}
    with lesson.catalog.database.read() as session:
        for table in ("project", "label_class", "image", "event", "page", "job"):
            assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
    assert requests.get(lesson.root, timeout=30).status_code == 404


def test_clearing_everything_deletes_all_taught_projects_and_no_other(lesson, tmp_path):
    lesson.show(2).train()
    Lesson(lesson.catalog, lesson.address).start("red", "green").show(3)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/labeled.png").write_bytes(photo("blue", 7))
    lesson.catalog.add_project(tmp_path / "images")
    assert requests.post(f"{lesson.address}/api/teach/erase", timeout=30).json() == {"erased": 2}
    assert files(lesson.catalog, "images") == 1
    with lesson.catalog.database.read() as session:
        assert session.execute(text("SELECT name FROM project")).scalars().all() == ["pets"]
    assert not (lesson.catalog.library.folder / "taught/1").exists()


def test_an_image_that_another_project_has_is_not_deleted(lesson):
    lesson.show(3).train()
    other = Lesson(lesson.catalog, lesson.address).start("red", "green")
    other.add("red", photo("red", 0))
    lesson.post("/erase")
    assert files(lesson.catalog, "images") == 1
    assert other.counts() == {"red": 1, "green": 0}


def test_deleting_a_class_deletes_its_images(lesson):
    lesson.show(3).train()
    lesson.post(f"/classes/{lesson.classes['red']}/erase")
    assert lesson.counts() == {"green": 3}
    assert files(lesson.catalog, "images") == 3
    assert "two classes" in lesson.wait()["progress"]["message"]


def test_discarded_features_are_gone_and_the_others_stay(tmp_path):
    store, other = FeatureStore(tmp_path), FeatureStore(tmp_path)
    store.add(["a", "b", "c"], np.arange(6).reshape(3, 2))
    other._find()
    store.discard(["b", "unknown"])
    assert "b" not in store
    assert store.get(["c", "a"]).tolist() == [[4, 5], [0, 1]]
    assert other.get(["c", "a"]).tolist() == [[4, 5], [0, 1]]  # it had found the old file before
    store.discard(["c"])
    assert store.get(["a"]).tolist() == FeatureStore(tmp_path).get(["a"]).tolist() == [[0, 1]]
    assert b"b" not in b"".join(file.read_bytes() for file in tmp_path.glob("*.json"))


def test_a_project_of_the_label_page_is_none_of_the_teach_page(catalog, tmp_path):
    (tmp_path / "images").mkdir()
    project = catalog.add_project(tmp_path / "images")
    with catalog.served() as address:
        for path in (f"/teach/{project}", f"/api/teach/{project}"):
            assert requests.get(address + path, timeout=30).status_code == 404
        assert requests.post(f"{address}/api/teach/{project}/erase", timeout=30).status_code == 404


def test_training_waits_for_the_backbone(tmp_path):
    catalog = Catalog.create(tmp_path)
    with catalog.served() as address:
        lesson = Lesson(catalog, address).start("red", "green").show(2)
        assert lesson.state()["progress"]["phase"] == "preparing"
        lesson.post("/train")
        publish_backbone(catalog.library.backbone)
        assert lesson.wait()["model"]["images"] == 4


def test_a_class_that_takes_over_all_images_of_another_is_answered(lesson):
    lesson.show(4).train()
    lesson.classes["leaf"] = lesson.post("/classes", name="leaf")["id"]
    lesson.post("/samples/move", ids=lesson.samples("green"), class_id=lesson.classes["leaf"])
    lesson.wait()
    assert lesson.name_of(lesson.answer(photo("green", 50))) == "leaf"


def test_ids_of_deleted_rows_are_never_used_again(lesson):
    lesson.show(2)
    lesson.post(f"/classes/{lesson.classes['green']}/erase")
    assert lesson.post("/classes", name="hand")["id"] > lesson.classes["green"]
    lesson.post("/erase")
    assert Lesson(lesson.catalog, lesson.address).start("red").project > lesson.project


def test_removed_images_of_a_class_are_deleted_with_it(lesson):
    lesson.show(3)
    lesson.post("/samples/remove", ids=lesson.samples("red")[:2])
    assert lesson.post(f"/classes/{lesson.classes['red']}/erase") == {"erased": 3}
    assert lesson.state()["removed"] == 0
    assert files(lesson.catalog, "images") == 3


def test_an_image_that_is_erased_elsewhere_while_it_is_added_keeps_its_file(lesson, monkeypatch):
    stored = decoding.store
    calls = []

    def erased_at_first(data, path, library):
        image = stored(data, path, library)
        if not calls:
            library.erase(image.sha256, image.suffix)
        calls.append(image)
        return image

    monkeypatch.setattr("catalog.decoding.store", erased_at_first)
    assert lesson.add("red", photo("red", 0))["new"] == 1
    assert files(lesson.catalog, "images") == files(lesson.catalog, "thumbnails") == 1


def test_what_was_not_learned_before_a_stop_is_learned_after_it(catalog):
    with catalog.served() as address:
        lesson = Lesson(catalog, address).start("red", "green").show(4)
        first = lesson.train()["model"]
    with catalog.database.write() as session:
        project = session.get(Project, lesson.project)
        ids = [image.id for image in samples.all_images(session, project.id)][:1]
        samples.remove(session, project, ids, "me")
    with catalog.served() as address:
        again = Lesson(catalog, address, lesson.project).wait()["model"]
    assert (first["images"], again["images"]) == (8, 7)


def test_with_one_class_left_no_model_answers(lesson):
    lesson.show(3).train()
    lesson.post("/samples/remove", ids=lesson.samples("green"))
    assert lesson.wait()["model"] is None


def test_deleting_another_project_keeps_a_training(lesson):
    other = Lesson(lesson.catalog, lesson.address).start("red", "green").show(2)
    lesson.show(40)
    lesson.post("/train")
    other.post("/erase")
    assert lesson.wait()["model"]["images"] == 80


def test_what_interrupted_work_has_left_is_swept_away(lesson, monkeypatch):
    lesson.show(2).train()
    library = lesson.catalog.library
    monkeypatch.setattr(sweep, "OLD", -1)
    left = [
        library.image("ab" * 32, ".png"),
        library.folder / "tmp/half.zip",
        library.folder / "images/ab/.cut.part",
        library.taught(99),
        library.exported(99) / "key/model.onnx",
    ]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"left")
    assert sweep.sweep(lesson.catalog.database, library) == 1
    assert not any(file.exists() for file in left)
    assert files(lesson.catalog, "images") == 4
    assert library.taught(lesson.project).is_file()


def test_numbers_that_no_id_can_have_are_not_found(lesson):
    assert requests.get(f"{lesson.address}/api/teach/{10**30}", timeout=30).status_code == 404
    assert (
        requests.post(f"{lesson.root}/samples/remove", json={"ids": [10**30]}, timeout=30).status_code == 404
    )


def test_an_unknown_project_answers_nothing(lesson):
    for path in ("answer", "evidence?class_id=1"):
        answer = requests.post(f"{lesson.address}/api/teach/99/{path}", data=photo("red", 0), timeout=30)
        assert answer.status_code == 404


def test_the_label_pages_leave_a_taught_project_alone(lesson):
    for path in ("", "/label", "/settings", "/status"):
        answer = requests.get(f"{lesson.address}/projects/{lesson.project}{path}", timeout=30)
        assert answer.status_code == 404, path
    answer = requests.post(f"{lesson.address}/api/projects/{lesson.project}/pages", json={}, timeout=30)
    assert answer.status_code == 404


def test_a_backbone_that_cannot_be_exported_is_explained(tmp_path):
    catalog = Catalog.create(tmp_path)
    backbone.report_failure(catalog.library.backbone, "no weights")
    with catalog.served() as address:
        progress = Lesson(catalog, address).start("red", "green").state()["progress"]
        assert (progress["phase"], progress["message"]) == (
            "preparing",
            "the model could not be prepared: no weights",
        )
    publish_backbone(catalog.library.backbone)
    assert backbone.load(catalog.library.backbone).layers


@pytest.mark.parametrize("path", ["erase", "1/erase", "1/train", "1/answer", "1/classes", "1/samples/erase"])
def test_other_sites_can_change_nothing(lesson, path):
    headers = {"Origin": "http://elsewhere.example"}
    answer = requests.post(f"{lesson.address}/api/teach/{path}", json={}, headers=headers, timeout=30)
    assert answer.status_code == 403
