"""The exported page classifies photos and webcam frames in the browser, without requests to others."""

import json
import threading
import time

import numpy as np
import pytest
from chromium import chromium

from pipeline.common.errors import UserError
from pipeline.inference import browser_demo
from pipeline.portable import OnnxClassifier, read_card
from pipeline.sources import synthetic


@pytest.fixture(scope="module")
def page_dir(repro, project, tmp_path_factory):
    """The champion's page; skipped if npm can't provide ONNX Runtime Web."""
    champion = project / "runs/sample/register/champion/portable"
    target = tmp_path_factory.mktemp("page") / "try"
    try:
        browser_demo.write(champion / "model.onnx", read_card(champion), target)
    except UserError as error:
        pytest.skip(str(error))
    return target


@pytest.fixture(scope="module")
def address(page_dir):
    ready: list[str] = []
    listening = threading.Event()

    def on_ready(url: str) -> None:
        ready.append(url)
        listening.set()

    threading.Thread(target=browser_demo.serve, args=(page_dir, 0, on_ready), daemon=True).start()
    assert listening.wait(20)
    return ready[0]


@pytest.fixture(scope="module")
def browser():
    with chromium("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream") as opened:
        yield opened


@pytest.fixture
def tab(browser, address):
    """The opened page; a JavaScript error or a request to another host fails the test."""
    context = browser.new_context(permissions=["camera"], locale="en-GB")
    tab = context.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and problems.append(message.text))
    tab.on("request", lambda each: each.url.startswith((address, "blob:")) or problems.append(each.url))
    tab.goto(address)
    tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
    yield tab
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    (_, data), *_ = synthetic.pictures(1, seed=9)
    file = tmp_path_factory.mktemp("face") / "face.jpg"
    file.write_bytes(data)
    return file


def _wait_for_answers(tab, number: int) -> None:
    """Waits for so many answers; polls from here, as the page's policy forbids `eval`."""
    deadline = time.monotonic() + 60
    while int(tab.get_attribute("body", "data-answered") or 0) < number:
        assert time.monotonic() < deadline, "no answer"
        tab.wait_for_timeout(50)


def _bars(tab) -> list[tuple[str, float]]:
    script = "bars => bars.map(bar => [bar.getAttribute('aria-label'), bar.value])"
    return tab.eval_on_selector_all("#bars progress", script)


def test_the_bars_show_the_models_probabilities(tab, face, project):
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    expected = OnnxClassifier(project / "runs/sample/register/champion/portable").answer(face.read_bytes())
    bars = _bars(tab)
    assert len(bars) == 5
    assert bars[0][0] == expected["labels"][0].partition("_")[2].replace("_", " ")
    assert np.abs(np.array([value for _, value in bars]) - expected["probabilities"]).max() < 0.05


def test_an_answer_below_the_threshold_is_shown_as_unsure(browser, address, page_dir, face):
    context = browser.new_context(locale="nl-NL")
    tab = context.new_page()
    card = json.loads((page_dir / "card.json").read_text()) | {"unsure_below": 1.1}
    tab.route("**/card.json", lambda route: route.fulfill(json=card))
    tab.goto(address)
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    assert tab.inner_text("#status").startswith("Niet zeker.")
    context.close()


def test_none_of_these_is_no_class_and_shown_as_unsure(browser, address, page_dir, face, project):
    model = OnnxClassifier(project / "runs/sample/register/champion/portable")
    best = model.classes.index(model.answer(face.read_bytes())["labels"][0])
    card = json.loads((page_dir / "card.json").read_text())
    assert card["none"] is None
    context = browser.new_context(locale="nl-NL")
    tab = context.new_page()
    tab.route("**/card.json", lambda route: route.fulfill(json=card | {"none": best}))
    tab.goto(address)
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    assert tab.inner_text("#status").startswith("Geen van deze, ")
    assert "unsure" in tab.get_attribute("#status", "class")
    assert _bars(tab)[0][0] == "Geen van deze"
    assert f"{len(model.classes) - 1} rassen" in tab.inner_text("#about")
    context.close()


def test_the_webcam_is_classified_live_until_it_is_stopped(tab):
    tab.click("#camera")
    _wait_for_answers(tab, 3)
    tab.click("#camera")
    assert tab.get_attribute("#camera", "aria-pressed") == "false"
    assert len(_bars(tab)) == 5


def test_the_occlusion_map_is_drawn(tab, face):
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    tab.click("#look")
    tab.wait_for_selector("body[data-mapped]", timeout=60_000)
    drawn = tab.evaluate(
        "() => { const c = document.getElementById('heat');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0); }"
    )
    assert drawn
    assert tab.inner_text("#time").startswith("Red: covering")


def test_the_keyboard_alone_is_enough(tab, face):
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    full = _bars(tab)
    tab.focus("#photo")
    tab.keyboard.press("-")
    _wait_for_answers(tab, 2)
    assert tab.is_visible("#frame") and _bars(tab) != full
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # back to the full image
    _wait_for_answers(tab, 3)
    assert not tab.is_visible("#frame")
    assert [name for name, _ in _bars(tab)] == [name for name, _ in full]
    assert [value for _, value in _bars(tab)] == pytest.approx([value for _, value in full], abs=1e-4)


def test_an_answer_is_never_shown_with_another_image(tab, face):
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    hold = "() => { window.held = Worker.prototype.postMessage; Worker.prototype.postMessage = () => {}; }"
    tab.evaluate(hold)
    tab.click("#whole")
    assert _bars(tab) == [] and tab.is_disabled("#look")
    tab.evaluate("() => { Worker.prototype.postMessage = window.held; }")
    tab.click("#whole")
    _wait_for_answers(tab, 3)
    assert len(_bars(tab)) == 5 and tab.is_enabled("#look")


def test_a_file_that_is_no_image_is_reported_and_the_page_still_works(tab, face, tmp_path):
    (tmp_path / "letter.txt").write_text("no picture")
    tab.set_input_files("#file", tmp_path / "letter.txt")
    tab.get_by_text("letter.txt can't be read as a picture.").wait_for()
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)


def test_the_page_is_translated_to_dutch_and_fits_a_phone(browser, address, face):
    context = browser.new_context(locale="nl-NL", viewport={"width": 360, "height": 700})
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("body[data-ready=yes]", timeout=60_000)
    tab.set_input_files("#file", face)
    _wait_for_answers(tab, 1)
    assert tab.inner_text("h1") == "Welk ras is het?"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_each_text_is_in_both_languages():
    import re

    text = (browser_demo.PAGE / "words.js").read_text()
    tables = re.split(r"export const (?:CLASS|MULTI_LABEL)_WORDS", text)
    for texts, minimum in zip(tables, (20, 5, 5), strict=True):
        english, dutch = (
            set(re.findall(r"^    (\w+):", table, re.MULTILINE)) for table in texts.split("  nl: {")
        )
        assert english == dutch and len(english) > minimum


def test_without_npm_the_error_names_the_alternative(monkeypatch, tmp_path):
    monkeypatch.setattr(browser_demo, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"npm is not installed; install Node\.js, or export without the page: --no-try"
    ):
        browser_demo.write(tmp_path / "model.onnx", {}, tmp_path / "try")


def test_an_npm_package_with_another_hash_is_refused(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho other > {browser_demo.RUNTIME}-{browser_demo.VERSION}.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setattr(browser_demo, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="has an unexpected sha256"):
        browser_demo.write(tmp_path / "model.onnx", {}, tmp_path / "try")
