"""Times the map: ``python -m benchmarks.map``

It arranges a sample of drawn groups, places further images among them, and times the page's arrays and an
action on 10,000 images of a project of all of them. Then Chromium pans and zooms the map. Images are rows of
the database without files, so it takes a minute; computing features is timed by `benchmarks.features`.
"""

import hashlib
import json
import shutil
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, serving
from catalog.app import application
from catalog.helper import mapping
from catalog.library import Library
from catalog.maps import Fit, Map
from catalog.store import Database, bulk, images, open_database, projects, suggestions
from catalog.store.images import NewImage
from catalog.store.labels import Answer
from catalog.store.tables import Help, Source, Status

CLASSES = 37
CHUNK = 10_000
SECONDS = 4  # of panning and zooming

# Moves the map in each frame. Reading a pixel waits until the frame before is drawn.
MEASURE = """async (seconds) => {
  const overlay = document.getElementById("overlay");
  const gl = document.getElementById("points").getContext("webgl2");
  const send = (type, x, y) => overlay.dispatchEvent(new PointerEvent(type,
    { pointerId: 1, button: 0, clientX: x, clientY: y, bubbles: true }));
  overlay.setPointerCapture = () => {};
  const box = overlay.getBoundingClientRect();
  const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
  send("pointerdown", x, y);
  const times = [];
  const pixel = new Uint8Array(4);
  const begin = performance.now();
  while (performance.now() - begin < 1000 * seconds) {
    times.push(await new Promise(requestAnimationFrame));
    const turn = times.length / 10;
    send("pointermove", x + 80 * Math.sin(turn), y + 80 * Math.cos(turn));
    if (times.length % 2) overlay.dispatchEvent(new WheelEvent("wheel",
      { deltaY: 60 * Math.sin(turn / 3), clientX: x, clientY: y, cancelable: true }));
    gl?.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
  }
  send("pointerup", x, y);
  return times.slice(1).map((time, position) => time - times[position]);
}"""

RENDERER = """() => {
  const gl = document.getElementById("points").getContext("webgl2");
  if (!gl) return "pixel by pixel";
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  return gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
}"""


def components(count: int) -> np.ndarray:
    """Groups like those of a project's classes, N×D."""
    rng = np.random.default_rng(0)
    centers = 2 * np.random.default_rng(1).normal(size=(CLASSES, mapping.COMPONENTS))
    return (centers[rng.integers(CLASSES, size=count)] + rng.normal(size=(count, mapping.COMPONENTS))).astype(
        np.float32
    )


def draw_map(x: np.ndarray, table: Table) -> tuple[Fit, np.ndarray]:
    """The fit and the positions of all, with the times in the table."""
    begin = time.perf_counter()
    sample = mapping.arrange(x[: mapping.SAMPLE], lambda _done, _total: None)
    table.add_row(f"arranging {len(sample):,} images", f"{time.perf_counter() - begin:.1f} s")
    begin = time.perf_counter()
    placing = mapping.Placing(x[: mapping.SAMPLE], sample)
    rest = [
        placing(x[start : start + mapping.CHUNK]) for start in range(mapping.SAMPLE, len(x), mapping.CHUNK)
    ]
    if rest:
        spent = time.perf_counter() - begin
        table.add_row(f"placing {len(x) - len(sample):,} more", f"{spent:.1f} s")
    fit = Fit(np.zeros(1), np.zeros((1, 1)), x[: mapping.SAMPLE], sample, len(x))
    return fit, fit.on_map(np.concatenate([sample, *rest]))


def add_images(database: Database, count: int) -> tuple[int, np.ndarray]:
    """A project with so many images, half labeled, half with a prediction; its id, and theirs in order."""
    draft = projects.Draft(
        name="speed",
        task="single_label",
        source=Source.UPLOAD,
        source_path="",
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        model_help=Help.SUGGESTIONS,
    )
    with database.write() as session:
        project = projects.create(session, draft)
        number = project.id
        for start in range(0, count, CHUNK):
            hashes = (hashlib.sha256(str(each).encode()).hexdigest() for each in range(start, start + CHUNK))
            found = [NewImage(f"{key}.jpg", key, ".jpg", 100, 100) for key in hashes]
            images.add(session, project, found[: count - start])
    with database.read() as session:
        everything, _ = suggestions.known(session, number)
        classes = [found.id for found in projects.classes(session, number)]
    ids = np.array([image.id for image in everything])
    for position, class_id in enumerate(classes):
        with database.write() as session:
            project = session.get(projects.Project, number)
            chosen = ids[: count // 2][position::CLASSES].tolist()
            bulk.label(session, project, chosen, Answer(Status.LABELED, (class_id,)), "Ann")
    waiting = [image.id for image in everything[count // 2 :] if not image.is_test]
    rows = [
        {
            "image_id": each,
            "cluster": 0,
            "distance": 0.0,
            "predicted": [classes[each % CLASSES]],
            "confidence": 0.5,
            "probable": [classes[each % CLASSES]],
        }
        for each in waiting
    ]
    suggestions.add_model(database, number, 0, count // 2, 0.9, "", "", rows)
    return number, ids


def timed(address: str, body: dict | None = None) -> tuple[float, bytes]:
    """Seconds of a request, and its answer."""
    data = None if body is None else json.dumps(body).encode()
    begin = time.perf_counter()
    message = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(message) as response:
        content = response.read()
    return time.perf_counter() - begin, content


def time_requests(address: str, ids: np.ndarray, version: str, table: Table) -> None:
    """Adds the times of the page's requests to the table."""
    base = f"{address}/api/projects/1"
    for what in ("points", "labels", "predictions", "people"):
        spent = statistics.median(timed(f"{base}/map/{version}/{what}")[0] for _ in range(3))
        table.add_row(f"{what} of {len(ids):,} images", f"{1000 * spent:.0f} ms")
    group = ids[-10_000:].tolist()
    spent, content = timed(f"{base}/map/label", {"ids": group, "classes": [1]})
    done = json.loads(content)
    table.add_row(f"labeling a group of {len(group):,}", f"{spent:.1f} s")
    spent, _ = timed(f"{base}/undo/{done['batch']}", {})
    table.add_row("taking it back", f"{spent:.1f} s")


def time_frames(address: str, table: Table) -> None:
    """Adds the frames per second in Chromium to the table."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        begin = time.perf_counter()
        tab.goto(f"{address}/projects/1/map")
        tab.wait_for_selector("html[data-map]", timeout=120_000)
        table.add_row("opening the page", f"{time.perf_counter() - begin:.1f} s")
        table.add_row("drawn by", tab.evaluate(RENDERER))
        frames = tab.evaluate(MEASURE, SECONDS)
        slow = np.percentile(frames, 95)
        text = f"{1000 / np.mean(frames):.0f} frames per second; 95 % within {slow:.0f} ms"
        table.add_row("while it moves", text)
        browser.close()


def main() -> None:
    """Prints the times."""
    parser = argument_parser("benchmarks.map", __doc__, overrides=False)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--skip-arranging", action="store_true", help="take random positions")
    arguments = parser.parse_args()
    print(describe_machine())
    table = Table("what", "result")
    if arguments.skip_arranging:
        positions = components(arguments.images)[:, :2] / 8
        fit = Fit(*[np.zeros((1, 1))] * 4, arguments.images)
    else:
        fit, positions = draw_map(components(arguments.images), table)
    with tempfile.TemporaryDirectory() as scratch:
        library = Library(Path(scratch))
        database = open_database(library.database)
        project, ids = add_images(database, arguments.images)
        Map(ids, positions, len(ids), int(ids.max()), fit).save(library.map(project))
        with serving(application(database, library, with_helper=False)) as address:
            version = json.loads(timed(f"{address}/api/projects/{project}/map")[1])["version"]
            time_requests(address, ids, version, table)
            time_frames(address, table)
        database.close()
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
