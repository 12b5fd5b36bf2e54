"""The teach page in a browser: by keyboard alone, with a webcam, on a phone, without requests to others."""

import re
import time

from chromium import check_page
from teach_page import (
    FIRST,
    GREEN,
    PUT,
    RED,
    SECOND,
    encoded,
    hold,
    image_file,
    opened,
    press_until,
    record,
    shows,
    start_webcam,
    trained,
)
from teaching import photo

pytest_plugins = ["teach_page"]

# Collects in `window.spoken` what a screen reader says.
SPOKEN = """
window.spoken = [];
new MutationObserver((changes) => {
  for (const { target } of changes) {
    const element = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;
    const region = element?.closest("[aria-live], [role=status], output");
    if (region && region.getAttribute("aria-live") !== "off") window.spoken.push(region.textContent);
  }
}).observe(document.body, { childList: true, characterData: true, subtree: true });
"""


def _slowly(route) -> None:
    time.sleep(0.5)
    route.continue_()


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
    tab.route("**/samples?*", _slowly)  # what is counted can be selected, also while the server is busy
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
    tab.set_input_files(f"{second} input[type=file]", [image_file(seed) for seed in range(3)])
    shows(tab, f"{second} .row > .hint", "^3 images")
    tab.focus(f"{second} .class-name")
    for kind, seed, count in (("paste", 10, 4), ("drop", 11, 5)):
        tab.evaluate(PUT, [kind, encoded(photo("green", seed)), second])
        shows(tab, f"{second} .row > .hint", f"^{count} images")


def test_samples_survive_a_closed_tab(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    count = record(tab, FIRST, 600)
    shows(tab, f"{FIRST} .row > .hint", f"^{count} images")
    tab.close()
    assert opened(new_tab, lesson).inner_text(f"{FIRST} .row > .hint") == f"{count} images"


def test_a_quick_release_and_press_goes_on_with_one_recording(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    start_webcam(tab, FIRST)
    tab.evaluate("""async () => {
      const encode = HTMLCanvasElement.prototype.toBlob;
      window.frames_taken = 0;
      HTMLCanvasElement.prototype.toBlob = function (...rest) {
        window.frames_taken += 1;
        encode.apply(this, rest);
      };
      const press = (kind) => document.activeElement.dispatchEvent(new KeyboardEvent(kind, { key: " " }));
      for (let time = 0; time < 5; time++) {
        press("keydown");
        press("keyup");
      }
      press("keydown");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      press("keyup");
    }""")
    shows(tab, f"{FIRST} .saving", "images saved")
    assert 3 <= tab.evaluate("window.frames_taken") <= 12  # 10 a second


def test_keys_are_described_and_the_focus_is_never_lost(new_tab, lesson):
    from playwright.sync_api import expect

    lesson.start("red", "green").show(1)
    tab = opened(new_tab, lesson)
    press_until(tab, "Tab", f"{FIRST} .sample-list")
    described = tab.get_attribute(f"{FIRST} .sample-list", "aria-describedby")
    assert tab.is_visible(f"#{described}")
    assert all(key in tab.inner_text(f"#{described}") for key in ("Arrow keys", "Space", "Ctrl+A", "Delete"))
    mark = "getComputedStyle(document.querySelector('#cards .sample-list [role=option]')).boxShadow"
    assert tab.evaluate(mark) != "none"
    tab.keyboard.press("Tab")
    assert tab.evaluate(mark) == "none"
    assert tab.is_hidden(f"#{described}")
    tab.focus(f"{FIRST} .sample-list")
    tab.keyboard.press("Delete")
    expect(tab.get_by_label("Webcam for red")).to_be_focused()
    tab.focus("#removed button")
    tab.wait_for_timeout(5000)  # the page looks at the state
    assert tab.evaluate("document.activeElement.textContent") == "Restore"
    tab.keyboard.press("Enter")
    shows(tab, f"{FIRST} .row > .hint", "^1 image$")
    assert tab.evaluate("document.activeElement.id") == "add-class"


def test_only_what_matters_is_spoken(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    tab.evaluate(SPOKEN)
    record(tab, FIRST, 1200)
    shows(tab, f"{FIRST} .saving", "images saved")
    spoken = [text for text in tab.evaluate("window.spoken") if re.search("saved|per second", text)]
    assert len(spoken) == 1
    done = iter(range(1, 1000))

    def look(route):
        state = route.fetch().json()
        state["progress"] = {"phase": "features", "done": next(done), "total": 1000, "message": ""}
        route.fulfill(json=state)

    tab.route(lesson.root, look)
    tab.evaluate("window.spoken = []")
    lesson.add("red", photo("red", 50))
    shows(tab, "#done", "^([5-9]|1\\d) of 1,000$")
    assert [text for text in tab.evaluate("window.spoken") if "Looking" in text] == ["Looking at the images…"]
    tab.unroute(lesson.root)
    tab.goto(f"{lesson.address}/teach/{lesson.project}/model")
    tab.wait_for_selector("html[data-ready=yes]")
    tab.evaluate(SPOKEN)
    tab.click("#play")
    shows(tab, "#step-shown", "^Step [5-9] of")
    assert tab.evaluate("window.spoken") == []
    tab.click("#play")
    tab.click("#forward")
    assert 1 <= len(tab.evaluate("window.spoken")) <= 2  # where it was paused, and the next step


def test_a_sample_is_dragged_to_another_class(new_tab, lesson):
    lesson.start("red", "green").show(3)
    tab = opened(new_tab, lesson)
    tab.drag_and_drop(f"{FIRST} [role=option]:nth-child(2)", SECOND)
    shows(tab, f"{FIRST} .row > .hint", "^2 images")
    shows(tab, f"{SECOND} .row > .hint", "^4 images")
    assert lesson.counts() == {"red": 2, "green": 4}


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


def test_axe_finds_no_violation_and_nothing_overflows_on_a_phone(new_tab, lesson, axe):
    lesson.start("red", "green").show(3).train()
    tab = new_tab("/teach", viewport={"width": 375, "height": 740}, locale="nl-NL")
    for path in ("/teach", f"/teach/{lesson.project}", f"/teach/{lesson.project}/take"):
        tab.goto(lesson.address + path)
        tab.wait_for_load_state("networkidle")
        if path.endswith(str(lesson.project)):
            tab.set_input_files("#photo", image_file(50))
            tab.wait_for_selector("body[data-answered]")
            tab.click("#cards > :nth-child(1) .row > button")
            tab.wait_for_selector("#cards > :nth-child(1) .hold:visible")
            tab.click("#cards > :nth-child(1) [role=option]")
        check_page(tab, axe, path)
