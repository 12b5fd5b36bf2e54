"""The teach page in a browser: fixtures for its tests, and what people do there."""

import base64
import re

import pytest
from catalog_server import Catalog
from chromium import chromium
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


def image_file(seed: int, name: str = "") -> dict:
    return {"name": name or f"{seed}.png", "mimeType": "image/png", "buffer": photo("green", seed)}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
