"""The teach page when requests fail, and when classes, projects or the server go away meanwhile."""

import itertools
import time

from teach_page import FIRST, PUT, SECOND, encoded, image_file, opened, record, shows, start_webcam
from teaching import photo

pytest_plugins = ["teach_page"]

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
    tab.set_input_files("#photo", image_file(50))
    refused = {"new": 0, "known": 0, "refused": [["50.png", "it is too large"]]}
    tab.route("**/samples", lambda route: route.fulfill(json=refused))
    tab.click("#bars li:nth-child(2) .add")
    shows(tab, "#notice", "^50.png can't be used: it is too large.$")


def test_a_correction_of_a_class_that_is_deleted_meanwhile(new_tab, lesson):
    lesson.start("red", "green").show(4).train()
    tab = opened(new_tab, lesson)
    held = []
    tab.route("**/samples", lambda route: held.append(route))
    tab.set_input_files("#photo", image_file(50))
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
    files = [image_file(0), image_file(1, "big.png"), image_file(2), image_file(3)]
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
    tab.set_input_files(f"{SECOND} input[type=file]", [image_file(10 + seed) for seed in range(22)])
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


def test_an_image_is_pasted_after_its_class_was_deleted(new_tab, lesson):
    lesson.start("red", "green")
    tab = opened(new_tab, lesson)
    tab.focus(f"{SECOND} .class-name")
    lesson.post(f"/classes/{lesson.classes['green']}/erase")
    tab.wait_for_selector(SECOND, state="detached")
    tab.evaluate(PUT, ["paste", encoded(photo("red", 0)), "body"])
    shows(tab, f"{FIRST} .row > .hint", "^1 image$")
    lesson.post(f"/classes/{lesson.classes['red']}/erase")
    tab.wait_for_selector(FIRST, state="detached")
    tab.evaluate(PUT, ["paste", encoded(photo("red", 1)), "body"])
    shows(tab, "#notice", "^Add a class first")


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
