"""The teach page in a browser: by keyboard alone, with a webcam, on a phone, without requests to others."""

import re
import time

import pytest
from catalog_server import Catalog
from chromium import axe_core, chromium
from teaching import Lesson, photo, publish_backbone

# A webcam for tests: a canvas in the colour that `window.scene` names, a little different in each frame.
CAMERA = """
window.scene = "rgb(200, 40, 40)";
navigator.mediaDevices.getUserMedia = async () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [320, 240];
  const context = canvas.getContext("2d");
  setInterval(() => {
    context.fillStyle = window.scene;
    context.fillRect(0, 0, 320, 240);
    for (let dot = 0; dot < 40; dot++) {
      context.fillStyle = `rgba(0, 0, 0, ${Math.random() / 4})`;
      context.fillRect(320 * Math.random(), 240 * Math.random(), 40, 40);
    }
  }, 30);
  return canvas.captureStream(30);
};
"""
RED, GREEN = "rgb(200, 40, 40)", "rgb(40, 180, 60)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    return axe_core(tmp_path_factory.mktemp("axe"))


@pytest.fixture
def lesson(tmp_path):
    catalog = Catalog.create(tmp_path)
    publish_backbone(catalog.library.backbone)
    with catalog.served() as address:
        yield Lesson(catalog, address)


@pytest.fixture
def new_tab(browser, lesson):
    """Opens tabs; a JavaScript error or a request to another host fails the test."""
    problems, contexts = [], []

    def open_tab(path: str, **options):
        contexts.append(browser.new_context(**options))
        contexts[-1].add_init_script(CAMERA)
        tab = contexts[-1].new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and problems.append(line.text))
        tab.on("request", lambda each: each.url.startswith(lesson.address) or problems.append(each.url))
        tab.goto(lesson.address + path)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert [problem for problem in problems if "ERR_FAILED" not in problem] == []  # a test stops requests


def opened(new_tab, lesson, **options):
    tab = new_tab(f"/teach/{lesson.project}", **options)
    tab.wait_for_selector("html[data-ready=yes]")
    return tab


def shows(tab, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_have_text(re.compile(text), timeout=20_000)


def trained(tab) -> None:
    tab.wait_for_selector("body[data-validated=true]", timeout=20_000)


def hold(tab, key: str, milliseconds: int) -> None:
    tab.keyboard.down(key)
    tab.wait_for_timeout(milliseconds)
    tab.keyboard.up(key)


def press_until(tab, key: str, selector: str) -> None:
    """Presses a key until an element has the focus."""
    for _ in range(60):
        if tab.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        tab.keyboard.press(key)
    raise AssertionError(f"{key} never reaches {selector}")


def test_a_model_is_taught_and_tried_with_the_keyboard_alone(new_tab):
    tab = new_tab("/teach")
    press_until(tab, "Tab", "main form button.button")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("html[data-ready=yes]")
    for number, (name, colour) in enumerate((("Tomato", RED), ("Leaf", GREEN)), start=1):
        card = f"#cards > :nth-child({number})"
        press_until(tab, "Tab", f"{card} .class-name")
        tab.keyboard.press("Control+a")
        tab.keyboard.type(name)
        tab.keyboard.press("Enter")
        tab.evaluate("colour => { window.scene = colour; }", colour)
        tab.focus(f"{card} .class-name")
        press_until(tab, "Tab", f"{card} .row > button")
        tab.keyboard.press("Enter")
        tab.wait_for_selector(f"{card} .hold:visible")
        hold(tab, " ", 900)
        shows(tab, f"{card} .row > .hint", r"^([5-9]|1\d) images")
    press_until(tab, "Tab", "#train")
    tab.keyboard.press("Enter")
    trained(tab)
    press_until(tab, "Tab", "#camera")
    tab.keyboard.press("Enter")
    shows(tab, "#answer", "^Leaf$")
    tab.evaluate("colour => { window.scene = colour; }", RED)
    shows(tab, "#answer", "^Tomato$")
    assert tab.locator("#bars li").count() == 3


def test_samples_are_deleted_restored_and_moved_with_the_keyboard(new_tab, lesson):
    lesson.start("red", "green").show(5)
    tab = opened(new_tab, lesson)
    first, second = "#cards > :nth-child(1)", "#cards > :nth-child(2)"
    tab.focus(f"{first} .sample-list")
    for key in ("ArrowRight", " ", "ArrowRight", " ", "Delete"):
        tab.keyboard.press(key)
    shows(tab, f"{first} .row > .hint", "^3 images")
    shows(tab, "#removed", "^2 deleted images")
    tab.focus("#notice button")
    tab.keyboard.press("Enter")
    shows(tab, f"{first} .row > .hint", "^5 images")
    tab.focus(f"{first} .sample-list")
    tab.keyboard.press("Control+a")
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowDown")  # of the list of classes
    tab.keyboard.press("Enter")
    shows(tab, f"{second} .row > .hint", "^10 images")


def test_a_wrong_answer_is_corrected_with_one_click_and_learned(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    blue = {"name": "blue.png", "mimeType": "image/png", "buffer": photo("blue", 1)}
    tab.set_input_files("#photo", blue)
    tab.wait_for_selector("#bars li:nth-child(2) .add")
    tab.click("#bars li:nth-child(2) .add")
    shows(tab, "#cards > :nth-child(2) .row > .hint", "^5 images")
    shows(tab, "#answer", "^green$")


def test_images_are_pasted_dropped_and_chosen(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    second = "#cards > :nth-child(2)"
    tab.set_input_files(f"{second} input[type=file]", [_file(seed) for seed in range(3)])
    shows(tab, f"{second} .row > .hint", "^3 images")
    tab.focus(f"{second} .class-name")
    put = """([kind, data, selector]) => {
      const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      const event = kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
        : new DragEvent("drop", { ...options, dataTransfer: transfer });
      document.querySelector(selector).dispatchEvent(event);
    }"""
    for kind, seed, count in (("paste", 10, 4), ("drop", 11, 5)):
        tab.evaluate(put, [kind, _encoded(photo("green", seed)), second])
        shows(tab, f"{second} .row > .hint", f"^{count} images")


def _file(seed: int) -> dict:
    return {"name": f"{seed}.png", "mimeType": "image/png", "buffer": photo("green", seed)}


def _encoded(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def test_samples_survive_a_closed_tab(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    tab.click("#cards > :nth-child(1) .row > button")
    tab.wait_for_selector("#cards > :nth-child(1) .hold:visible")
    tab.focus("#cards > :nth-child(1) .hold")
    hold(tab, " ", 600)
    shows(tab, "#cards > :nth-child(1) .row > .hint", r"^\d+ images")
    count = tab.inner_text("#cards > :nth-child(1) .row > .hint")
    tab.close()
    again = opened(new_tab, lesson)
    assert again.inner_text("#cards > :nth-child(1) .row > .hint") == count


def test_frames_wait_until_the_server_answers_again(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    failures = []

    def fail_twice(route):
        failures.append(route)
        route.abort() if len(failures) <= 2 else route.continue_()

    tab.route("**/samples", fail_twice)
    tab.click("#cards > :nth-child(1) .row > button")
    tab.wait_for_selector("#cards > :nth-child(1) .hold:visible")
    tab.focus("#cards > :nth-child(1) .hold")
    hold(tab, " ", 500)
    recorded = int(tab.inner_text("#cards > :nth-child(1) .preview .hint").split()[0].replace("Not", "0"))
    deadline = time.monotonic() + 20
    while lesson.counts()["red"] < max(3, recorded):
        assert time.monotonic() < deadline, lesson.counts()
        tab.wait_for_timeout(100)
    assert len(failures) >= 3


def test_the_project_is_saved_and_deleted_after_asking(new_tab, lesson):
    lesson.start("red", "green").show(2).train()
    tab = new_tab(f"/teach/{lesson.project}/take")
    tab.wait_for_selector("html[data-ready=yes]")
    with tab.expect_download() as download:
        tab.click("text=Save the project")
    assert download.value.suggested_filename == "Project 1.zip"
    tab.click("#erase")
    tab.click("#confirm button[value=no]")
    assert lesson.counts() == {"red": 2, "green": 2}
    tab.click("#erase")
    tab.click("#confirm button[value=yes]")
    tab.wait_for_url("**/teach")
    assert tab.locator(".cards .card").count() == 0


def test_everything_is_cleared_after_asking(new_tab, lesson):
    lesson.start("red", "green")
    tab = new_tab("/teach")
    tab.click("#erase")
    tab.click("#confirm button[value=yes]")
    tab.wait_for_selector("#erase", state="detached")
    assert tab.locator(".cards .card").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_nothing_overflows_on_a_phone(new_tab, lesson, axe, scheme):
    lesson.start("red", "green").show(3).train()
    tab = new_tab("/teach", color_scheme=scheme, viewport={"width": 375, "height": 740}, locale="nl-NL")
    for path in ("/teach", f"/teach/{lesson.project}", f"/teach/{lesson.project}/take"):
        tab.goto(lesson.address + path)
        tab.wait_for_load_state("networkidle")
        if path.endswith(str(lesson.project)):
            tab.set_input_files("#photo", _file(50))
            tab.wait_for_selector("body[data-answered]")
            tab.click("#cards > :nth-child(1) .row > button")
            tab.wait_for_selector("#cards > :nth-child(1) .hold:visible")
            tab.click("#cards > :nth-child(1) [role=option]")
        tab.evaluate(axe)
        found = tab.evaluate("axe.run()")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375, path
