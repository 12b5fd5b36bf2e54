"""Training a small network from scratch on a project's images, beside tuning the head."""

import pytest
import requests
from catalog_server import Catalog
from teaching import Lesson, photo, publish_backbone

from catalog.helper import comparison
from catalog.teach import validation

pytestmark = pytest.mark.integration


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "EPOCHS", (2, 2))
    monkeypatch.setattr(validation, "ALIKE", 2.0)  # the tiny backbone sees colours only, which are alike
    catalog = Catalog.create(tmp_path)
    publish_backbone(catalog.library.backbone)
    with catalog.served() as address:
        yield Lesson(catalog, address).start("red", "green")


def compared(lesson: Lesson) -> dict:
    lesson.post("/comparison")
    lesson.catalog.finish_jobs()
    return requests.get(f"{lesson.root}/comparison", timeout=30).json()


def test_both_curves_are_of_the_same_held_out_images(lesson):
    lesson.show(8).train()
    found = compared(lesson)
    assert (found["state"], found["images"], found["held_out"]) == ("done", 16, 4)
    assert len(found["scratch"]) == 2
    assert len(found["tuning"]) == lesson.state()["model"]["steps"]
    assert found["tuning"][-1]["accuracy"] == 1
    seconds = [point["seconds"] for point in found["scratch"]]
    assert seconds == sorted(seconds)


def test_curves_of_other_images_are_not_shown(lesson):
    lesson.show(8).train()
    compared(lesson)
    lesson.add("red", photo("red", 99))
    lesson.wait()
    assert requests.get(f"{lesson.root}/comparison", timeout=30).json()["state"] == "none"


def test_one_recording_a_class_is_too_few_and_says_so(lesson):
    for name in lesson.classes:
        lesson.add(name, *(photo(name, seed) for seed in range(4)), burst=f"burst-{name}")
    lesson.train()
    found = compared(lesson)
    assert found["state"] == "failed"
    assert found["message"].startswith("each class needs images of two recordings")
