"""The page "What is a model?" shows the numbers of the very model that answers."""

import base64
import re

import numpy as np
import pytest
import requests
from catalog_server import Catalog
from chromium import check_page, chromium
from teaching import COLOURS, Lesson, photo, publish_backbone

from catalog import backbone
from catalog.teach import explanation
from catalog.teach.model import TaughtModel

PHOTO = photo("blue", 99)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """A trained project."""
    catalog = Catalog.create(tmp_path_factory.mktemp("explained"))
    publish_backbone(catalog.library.backbone)
    with catalog.served() as address:
        lesson = Lesson(catalog, address).start(*COLOURS).show(5)
        lesson.train()
        yield lesson


@pytest.fixture(scope="module")
def model(lesson):
    return TaughtModel.load(lesson.catalog.library.taught(lesson.project))


def steps(lesson):
    return requests.get(f"{lesson.root}/steps", timeout=30).json()


def layers(lesson, image=PHOTO):
    return requests.post(f"{lesson.root}/layers", data=image, timeout=30).json()


def page(lesson, **headers):
    answer = requests.get(f"{lesson.address}/teach/{lesson.project}/model", headers=headers, timeout=30)
    assert answer.status_code == 200
    return answer.text


def test_the_last_step_is_the_head_that_answers(lesson, model):
    found = steps(lesson)
    shape = len(model.training.loss), len(model.classes), found["features"]
    weights = explanation.dequantised(found["weights"], shape, found["limit"])
    rounding = found["limit"] / explanation.HALF / 2 * 1.001
    assert found["classes"] == model.classes
    assert np.abs(weights - model.training.weights[:, : len(model.classes)]).max() <= rounding
    assert np.abs(weights[-1] - model.head.weight[: len(model.classes)]).max() <= rounding
    assert found["loss"] == pytest.approx(model.training.loss.tolist())
    assert found["right"] == model.training.right.tolist()


def test_the_way_of_an_image_ends_at_the_answer_to_it(lesson, model):
    found, answer = layers(lesson), lesson.answer(PHOTO)
    assert found["classes"] == answer["classes"] == model.classes
    assert found["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
    assert found["is_none"] == answer["is_none"]
    *classes, none = found["scores"]
    assert [score["class_id"] for score in classes] == model.classes
    assert none["class_id"] is None and none["probability"] == pytest.approx(answer["none"], abs=1e-6)


def test_scores_are_the_sums_of_their_products(lesson):
    found = layers(lesson)
    for score in found["scores"]:
        size = len(base64.b64decode(score["products"]))
        products = explanation.dequantised(score["products"], (size,), found["product_limit"])
        rounding = size * found["product_limit"] / explanation.HALF / 2
        assert products.sum() == pytest.approx(score["total"], abs=rounding)
        assert score["score"] == pytest.approx(score["total"] + score["bias"], abs=1e-4)
        share = np.exp(score["score"]) / found["exponentials"]
        assert share == pytest.approx(score["probability"], rel=1e-3)


def test_each_layer_is_shown_by_its_channels_with_the_most_contrast(lesson):
    exported = backbone.load(lesson.catalog.library.backbone)
    for layer, shown in zip(exported.layers, layers(lesson)["layers"], strict=True):
        assert (shown["side"], shown["channels"]) == (layer.side, layer.channels)
        side = shown["picture_side"]
        pictures = np.frombuffer(base64.b64decode(shown["pictures"]), np.uint8)
        pictures = pictures.reshape(explanation.CHANNELS, side, side)
        assert len(set(shown["shown"])) == explanation.CHANNELS
        assert (pictures.max(axis=(1, 2)) == 255).all()


def test_large_channels_are_shrunk(lesson):
    layer = backbone.Layer("any", 9, 112)
    found = explanation._pictures(layer, np.random.default_rng(0).random((9, 112, 112), np.float32))
    assert found.picture_side == 56
    assert len(base64.b64decode(found.pictures)) == explanation.CHANNELS * 56 * 56


def test_the_page_has_the_sizes_of_the_model(lesson, model):
    exported = backbone.load(lesson.catalog.library.backbone)
    found, html = explanation.parts(model, exported), page(lesson)
    assert found.frozen == 12 * 3 * 9 + 24 * 12 * 9
    assert (found.trained, found.computed) == (len(COLOURS) * 25, 25)
    weights = model.training.weights[:, : len(COLOURS)]
    idle = (weights == weights[:1]).all(axis=0).sum()
    assert found.changed == found.trained - idle
    for number in (found.frozen, found.new, found.changed):
        assert f"{number:,}" in html
    assert html.count(model.backbone) == 2
    assert "Basisnetwerk, bevroren" in page(lesson, **{"Accept-Language": "nl"})


def test_without_a_model_there_is_a_clear_message(lesson):
    other = Lesson(lesson.catalog, lesson.address).start("red", "green")
    assert "so train one first" in page(other)
    for answer in (
        requests.get(f"{other.root}/steps", timeout=30),
        requests.post(f"{other.root}/layers", data=PHOTO, timeout=30),
    ):
        assert answer.status_code == 422
        assert answer.json()["detail"] == "There is no model yet. Train one on the teach page first."


def test_unknown_projects_and_images_are_refused(lesson):
    unknown = Lesson(lesson.catalog, lesson.address, project=99)
    for path in (f"{unknown.root}/steps", f"{unknown.address}/teach/99/model"):
        assert requests.get(path, timeout=30).status_code == 404
    assert requests.post(f"{unknown.root}/layers", data=PHOTO, timeout=30).status_code == 404
    answer = requests.post(f"{lesson.root}/layers", data=b"no image", timeout=30)
    assert (answer.status_code, answer.json()["detail"]) == (422, "not a picture of a known format")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def new_tab(browser, lesson):
    """Opens the page; a JavaScript error fails the test."""
    problems, contexts = [], []

    def open_tab(**options):
        contexts.append(browser.new_context(**options))
        tab = contexts[-1].new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and problems.append(line.text))
        tab.goto(f"{lesson.address}/teach/{lesson.project}/model")
        tab.wait_for_selector("html[data-ready=yes]")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert problems == []


def pixels(tab):
    """The picture of the first class's weights in the player."""
    return tab.eval_on_selector("#weights canvas", "canvas => canvas.toDataURL()")


def test_the_training_is_played_by_keyboard(new_tab):
    from playwright.sync_api import expect

    tab = new_tab()
    first = pixels(tab)
    tab.focus("#step")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#step-shown") == "Step 2 of 30"
    assert "loss" in tab.get_attribute("#step", "aria-valuetext")
    tab.focus("#forward")
    tab.keyboard.press("Enter")
    tab.keyboard.press("ArrowLeft")
    assert tab.inner_text("#step-shown") == "Step 2 of 30"
    tab.keyboard.press("End")
    assert tab.inner_text("#step-shown") == "Step 30 of 30"
    assert tab.is_disabled("#forward")
    after = tab.eval_on_selector("#pairs .pair canvas:nth-of-type(2)", "canvas => canvas.toDataURL()")
    assert pixels(tab) == after != first
    tab.focus("#play")
    tab.keyboard.press("Enter")  # from the start again
    expect(tab.locator("#step-shown")).to_have_text(re.compile("^Step [2-9] of"))
    assert tab.inner_text("#play") == "Pause"
    tab.keyboard.press("Enter")
    assert tab.inner_text("#play") == "Play"


def test_a_sample_is_followed_through_the_layers(new_tab, lesson):
    tab = new_tab(locale="nl-NL")
    tab.focus("#samples button")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("body[data-explained]")
    assert tab.get_attribute("#samples button", "aria-pressed") == "true"
    assert tab.locator(".channels canvas").count() == 2 * explanation.CHANNELS
    assert tab.inner_text("#bars .best .name") == "red"
    assert tab.locator("#bars li").count() == len(COLOURS) + 1


COMPARED = {
    "state": "done",
    "message": "",
    "images": 15,
    "held_out": 3,
    "tuning": [{"seconds": 0.1 * step, "accuracy": 0.5 + 0.1 * step} for step in range(4)],
    "scratch": [{"seconds": 2 * step, "accuracy": 0.3 + 0.05 * step} for step in range(4)],
}


def test_axe_finds_no_violation_and_nothing_overflows_on_a_phone(new_tab, axe):
    tab = new_tab(viewport={"width": 375, "height": 740})
    tab.route("**/comparison", lambda route: route.fulfill(json=COMPARED))
    tab.reload()
    tab.wait_for_selector("#comparison svg")
    tab.set_input_files("#photo", {"name": "blue.png", "mimeType": "image/png", "buffer": PHOTO})
    tab.wait_for_selector("body[data-explained]")
    check_page(tab, axe)
