"""The teach page in a browser: by keyboard alone, with a webcam, on a phone, without requests to others."""

import base64
import itertools
import re
import time

import pytest
from catalog_server import Catalog
from chromium import axe_core, chromium
from teaching import Lesson, photo, publish_backbone

# A webcam for tests: a canvas in the colour that `window.scene` names. Each encoded frame is different, also
# if the machine is too busy to paint: the same frame twice would be a single image.
CAMERA = """
window.scene = "rgb(200, 40, 40)";
const encode = HTMLCanvasElement.prototype.toBlob;
HTMLCanvasElement.prototype.toBlob = function (...rest) {
  const context = this.getContext("2d");
  for (let dot = 0; dot < 9; dot++) {
    context.fillStyle = `rgba(0, 0, 0, ${Math.random()})`;
    context.fillRect(this.width * Math.random(), this.height * Math.random(), 9, 9);
  }
  encode.apply(this, rest);
};
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
FIRST, SECOND = "#cards > :nth-child(1)", "#cards > :nth-child(2)"
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
# Slows down the answers to images, and counts in `window.most` how many are awaited at once.
SLOW_ANSWERS = """
const request = window.fetch;
let awaited = 0;
window.most = 0;
window.fetch = async (path, ...rest) => {
  if (!/\\/(answer|layers)$/.test(path)) return request(path, ...rest);
  awaited += 1;
  window.most = Math.max(window.most, awaited);
  await new Promise((resolve) => setTimeout(resolve, 100));
  try {
    return await request(path, ...rest);
  } finally {
    awaited -= 1;
  }
};
"patched"; // Playwright would call a function
"""
# Pastes or drops an image.
PUT = """([kind, data, selector]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
    : new DragEvent("drop", { ...options, dataTransfer: transfer });
  document.querySelector(selector).dispatchEvent(event);
}"""


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
    """Opens tabs; a JavaScript error or a request to another host fails the test.

    The attribute `expected` has parts of messages about requests that the test lets fail.
    """
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

    open_tab.expected = []
    yield open_tab
    for context in contexts:
        context.close()
    unexpected = [text for text in problems if not any(part in text for part in open_tab.expected)]
    assert unexpected == []


def opened(new_tab, lesson, **options):
    tab = new_tab(f"/teach/{lesson.project}", **options)
    tab.wait_for_selector("html[data-ready=yes]")
    return tab


def shows(tab, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(tab.locator(selector)).to_have_text(re.compile(text), timeout=20_000)


def trained(tab) -> None:
    tab.wait_for_selector("body[data-validated=true]", timeout=20_000)


def _slowly(route) -> None:
    time.sleep(0.5)
    route.continue_()


def hold(tab, key: str, milliseconds: int) -> None:
    tab.keyboard.down(key)
    tab.wait_for_timeout(milliseconds)
    tab.keyboard.up(key)


def start_webcam(tab, card: str) -> None:
    tab.click(f"{card} .row > button")
    tab.wait_for_selector(f"{card} .hold:visible")
    tab.focus(f"{card} .hold")


def record(tab, card: str, milliseconds: int) -> int:
    """Records with the keyboard; returns how many frames the page says that it recorded."""
    start_webcam(tab, card)
    hold(tab, " ", milliseconds)
    shown, before = tab.inner_text(f"{card} .recorded"), ""
    while shown != before:  # a frame may still be encoded
        tab.wait_for_timeout(300)
        shown, before = tab.inner_text(f"{card} .recorded"), shown
    count = int(shown.split()[0])
    assert count >= 2
    return count


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
    tab.set_input_files(f"{second} input[type=file]", [_file(seed) for seed in range(3)])
    shows(tab, f"{second} .row > .hint", "^3 images")
    tab.focus(f"{second} .class-name")
    for kind, seed, count in (("paste", 10, 4), ("drop", 11, 5)):
        tab.evaluate(PUT, [kind, _encoded(photo("green", seed)), second])
        shows(tab, f"{second} .row > .hint", f"^{count} images")


def _file(seed: int, name: str = "") -> dict:
    return {"name": name or f"{seed}.png", "mimeType": "image/png", "buffer": photo("green", seed)}


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_samples_survive_a_closed_tab(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    count = record(tab, FIRST, 600)
    shows(tab, f"{FIRST} .row > .hint", f"^{count} images")
    tab.close()
    assert opened(new_tab, lesson).inner_text(f"{FIRST} .row > .hint") == f"{count} images"


def test_frames_wait_until_the_server_answers_again(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    new_tab.expected += ["ERR_FAILED", "status of 408"]
    requests = []  # their times

    def fail_twice(route):
        requests.append(time.monotonic())
        if len(requests) == 1:
            route.abort()
        elif len(requests) == 2:
            route.fulfill(status=408, json={"detail": "too slow"})
        else:
            route.continue_()

    tab.route("**/samples", fail_twice)
    count = record(tab, FIRST, 1500)
    shows(tab, f"{FIRST} .saving", "^Not saved yet: too slow$")
    shows(tab, f"{FIRST} .saving", f"^{count} images saved.$")
    assert lesson.counts()["red"] == count
    pauses = [after - before for before, after in itertools.pairwise(requests)]
    assert pauses[0] >= 0.9 and pauses[1] >= 1.9  # they grow


def test_frames_of_a_class_that_is_gone_are_dropped_with_a_message(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    new_tab.expected += ["status of 4"]
    start_webcam(tab, FIRST)
    tab.keyboard.down(" ")
    lesson.post(f"/classes/{lesson.classes['red']}/erase")
    shows(tab, "#notice", r"^([1-9]|1\d) images are lost: this class was deleted meanwhile")
    tab.keyboard.up(" ")
    assert lesson.counts() == {"green": 0}


def test_frames_that_the_server_refuses_are_reported(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    found = {"new": 2, "known": 1, "refused": [["webcam.jpg", "it is too large"]]}
    tab.route("**/samples", lambda route: route.fulfill(json=found))
    record(tab, FIRST, 400)
    shows(tab, f"{FIRST} .saving", "^3 images saved; 1 can't be used: it is too large.$")


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


def answers_at_once(tab) -> int:
    """Switches the webcam on by a double click, then off and on often; returns the most answers awaited."""
    tab.evaluate(SLOW_ANSWERS)
    tab.dblclick("#camera")
    tab.wait_for_selector("#camera[aria-pressed=true]")
    return tab.evaluate("""async () => {
      const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
      const press = () => document.getElementById("camera").click();
      for (let time = 0; time < 5; time++) {
        press();
        await pause(30);
        press();
        await pause(30);
        if (document.querySelector("#camera[aria-pressed=false]")) await pause(100); // it takes a little
      }
      await pause(400);
      window.most = 0;
      await pause(1500);
      return window.most;
    }""")


def test_the_live_test_asks_once_at_a_time(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    assert answers_at_once(tab) == 1
    tab.goto(f"{lesson.address}/teach/{lesson.project}/model")
    tab.wait_for_selector("html[data-ready=yes]")
    assert answers_at_once(tab) == 1


def test_a_failed_request_is_not_called_a_success(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    new_tab.expected += ["ERR_FAILED", "status of 422"]
    tab.route("**/samples/remove", lambda route: route.abort())
    tab.click(f"{FIRST} [role=option]")
    tab.click(f"{FIRST} .tools button")
    shows(tab, "#notice", "^The server can't be reached.$")
    assert tab.locator(f"{FIRST} [aria-selected=true]").count() == 1
    tab.fill("#name", "")
    tab.keyboard.press("Enter")
    shows(tab, "#notice", "name")
    assert tab.input_value("#name") == "Project 1"
    tab.set_input_files("#photo", _file(50))
    refused = {"new": 0, "known": 0, "refused": [["50.png", "it is too large"]]}
    tab.route("**/samples", lambda route: route.fulfill(json=refused))
    tab.click("#bars li:nth-child(2) .add")
    shows(tab, "#notice", "^50.png can't be used: it is too large.$")


def test_a_correction_of_a_class_that_is_deleted_meanwhile(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    held = []
    tab.route("**/samples", lambda route: held.append(route))
    tab.set_input_files("#photo", _file(50))
    tab.click("#bars li:nth-child(2) .add")
    lesson.post(f"/classes/{lesson.classes['green']}/erase")
    tab.wait_for_selector(SECOND, state="detached")
    held[0].fulfill(json={"new": 1, "known": 0, "refused": []})
    shows(tab, "#notice", "^Added to")  # and no error


def test_the_page_goes_on_after_a_failed_list_of_samples(new_tab, lesson):
    lesson.start("red", "green").show(2)
    new_tab.expected += ["ERR_FAILED"]
    tab = opened(new_tab, lesson)
    failed = []

    def fail_twice(route):
        failed.append(route)
        route.abort() if len(failed) <= 2 else route.continue_()

    tab.route("**/samples?*", fail_twice)
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]", timeout=5000)
    shows(tab, "#notice", "^The server can't be reached.$")
    tab.wait_for_selector(f"{SECOND} [role=option]", timeout=10_000)
    lesson.add("red", photo("red", 7))
    tab.wait_for_selector(f"{FIRST} [role=option]:nth-child(3)", timeout=10_000)


def test_pages_go_on_asking_after_an_error(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    new_tab.expected += ["ERR_FAILED", "status of 500"]
    compared = {
        "message": "",
        "images": 8,
        "held_out": 2,
        "tuning": [{"seconds": 0.1, "accuracy": 0.5}],
        "scratch": [{"seconds": 0.1, "accuracy": 0.5}],
    }
    answers = []

    def answer(route):
        if route.request.method == "POST":
            return route.fulfill(status=500, json={"detail": "the disk is full"})
        answers.append(route)
        if len(answers) == 2:
            return route.abort()
        state = "running" if len(answers) == 1 else "done"
        shown = {"state": state, "message": "12 MB", "has_page": True, "has_model": True}
        return route.fulfill(json=shown | compared)

    tab = new_tab("/teach")
    for part in ("export", "comparison"):
        tab.route(f"**/{part}", answer)
    tab.goto(f"{lesson.address}/teach/{lesson.project}/take")
    shows(tab, "#state", "^The server can't be reached.$")
    shows(tab, "#state", "^Exported")
    answers.clear()
    tab.goto(f"{lesson.address}/teach/{lesson.project}/model")
    shows(tab, "#comparing", "^The server can't be reached.$")
    shows(tab, "#comparing", "Tested on 2 of the 8 images, so one mistake counts for 50%")
    compared["message"], answers[:] = "", [None, None]
    tab.unroute("**/comparison")
    tab.route(
        "**/comparison", lambda route: answer(route) if route.request.method == "POST" else route.continue_()
    )
    tab.reload()
    tab.click("#compare")
    shows(tab, "#comparing", "^the disk is full$")
    assert tab.is_enabled("#compare")


def test_an_upload_goes_on_after_a_refused_batch(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    new_tab.expected += ["status of 413", "status of 500"]

    def accept_small(route):
        data = route.request.post_data_buffer
        if data.count(b"filename=") > 1 or b"big.png" in data:
            route.fulfill(status=413, json={"detail": "the upload is too large"})
        else:
            route.continue_()

    tab.route("**/samples", accept_small)
    files = [_file(0), _file(1, "big.png"), _file(2), _file(3)]
    tab.set_input_files(f"{FIRST} input[type=file]", files)
    shows(tab, "#notice", "^3 images added; big.png can't be used: the upload is too large.$")
    assert lesson.counts()["red"] == 3
    tab.unroute("**/samples")
    refused = []

    def refuse_first(route):
        refused.append(route)
        if len(refused) == 1:
            route.fulfill(status=500, json={"detail": "the disk is full"})
        else:
            route.continue_()

    tab.route("**/samples", refuse_first)
    tab.set_input_files(f"{SECOND} input[type=file]", [_file(10 + seed) for seed in range(22)])
    shows(tab, "#notice", "^2 images added; 10.png can't be used: the disk is full; .*; and 17 more.$")
    assert lesson.counts()["green"] == 2


def test_undo_and_errors_are_reached_in_the_view_of_all(new_tab, lesson):
    from playwright.sync_api import expect

    lesson.start("red", "green")
    lesson.add("red", *(photo("red", seed) for seed in range(20)))
    new_tab.expected += ["ERR_FAILED"]
    tab = opened(new_tab, lesson, viewport={"width": 375, "height": 740})
    tab.clock.install()
    tab.reload()
    options = tab.locator("#view-all [role=option]")
    tab.click("text=Show all 20")
    expect(options).to_have_count(20)
    tab.focus("#view-all .sample-list")
    for key in ("ArrowRight", "Delete"):
        tab.keyboard.press(key)
    expect(options).to_have_count(19)
    tab.wait_for_selector("#view-all #notice button")
    tab.clock.fast_forward(30_000)
    tab.click("#view-all #notice button:has-text('Undo')")
    expect(options).to_have_count(20)
    tab.focus("#view-all .sample-list")
    tab.keyboard.press("Delete")
    tab.click("#view-all #notice button[aria-label=Close]")
    expect(tab.locator("#notice")).to_be_hidden()
    tab.route("**/samples/move", lambda route: route.abort())
    tab.click("#view-all [role=option]")
    tab.select_option("#view-all select", "green")
    shows(tab, "#view-all #notice", "^The server can't be reached.$")
    tab.click("#view-all form button")
    expect(tab.locator("#main > #notice")).to_be_visible()


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


def test_the_page_looks_less_often_when_validation_does_not_end(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    looks = []

    def look(route):
        looks.append(route)
        state = route.fetch().json()
        state["model"]["validation"] = None
        route.fulfill(json=state)

    tab.route(lesson.root, look)
    tab.reload()
    tab.wait_for_timeout(5000)
    assert 4 <= len(looks) <= 9


def test_a_sample_is_dragged_to_another_class(new_tab, lesson):
    lesson.start("red", "green").show(3)
    tab = opened(new_tab, lesson)
    tab.drag_and_drop(f"{FIRST} [role=option]:nth-child(2)", SECOND)
    shows(tab, f"{FIRST} .row > .hint", "^2 images")
    shows(tab, f"{SECOND} .row > .hint", "^4 images")
    assert lesson.counts() == {"red": 2, "green": 4}


def test_a_file_dropped_beside_a_card_does_not_leave_the_page(new_tab, lesson, tmp_path):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    put = """(kind) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["x"], "x.png", { type: "image/png" }));
      const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
      return document.querySelector("h1").dispatchEvent(new DragEvent(kind, options));
    }"""
    assert not tab.evaluate(put, "dragover") and not tab.evaluate(put, "drop")  # the browser does nothing
    (tmp_path / "red.png").write_bytes(photo("red", 0))
    data = {"items": [], "files": [str(tmp_path / "red.png")], "dragOperationsMask": 1}
    mouse, box = tab.context.new_cdp_session(tab), tab.locator(FIRST).bounding_box()
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": box["x"] + 20, "y": box["y"] + 5}
        mouse.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
    shows(tab, f"{FIRST} .row > .hint", "^1 image$")


def test_an_image_is_pasted_after_its_class_was_deleted(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    tab.focus(f"{SECOND} .class-name")
    lesson.post(f"/classes/{lesson.classes['green']}/erase")
    tab.wait_for_selector(SECOND, state="detached")
    tab.evaluate(PUT, ["paste", _encoded(photo("red", 0)), "body"])
    shows(tab, f"{FIRST} .row > .hint", "^1 image$")
    lesson.post(f"/classes/{lesson.classes['red']}/erase")
    tab.wait_for_selector(FIRST, state="detached")
    tab.evaluate(PUT, ["paste", _encoded(photo("red", 1)), "body"])
    shows(tab, "#notice", "^Add a class first")


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
