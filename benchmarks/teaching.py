"""Times the teach page with many samples: ``python -m benchmarks.teaching``

Recordings of drawn frames are sent as a browser sends them, half a recording in each request; then the model
is trained, and the page's requests are timed. Frames that got lost are counted.
"""

import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, serving
from catalog.app import application
from catalog.helper.features import publish_backbone
from catalog.library import Library
from catalog.store import open_database

FRAMES = 20  # of a recording
SIDE = 320  # pixels of a frame, as the page records them
ROUNDS = 20  # of each request that is timed


def frames(number: int, classes: int) -> list[bytes]:
    """A recording: a pattern of the class, a little elsewhere in each frame."""
    pattern = np.random.default_rng(number % classes).integers(0, 255, (10, 10, 3), dtype=np.uint8)
    noise, found = np.random.default_rng(number), []
    for _ in range(FRAMES):
        shifted = np.roll(pattern, noise.integers(0, 3, 2), (0, 1))
        pixels = np.asarray(Image.fromarray(shifted).resize((SIDE, SIDE))) // 2
        pixels = pixels + noise.integers(0, 40, pixels.shape, dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
        found.append(buffer.getvalue())
    return found


class Page:
    """The requests of an open page."""

    def __init__(self, address: str, classes: int):
        answer = requests.post(f"{address}/teach", allow_redirects=False, timeout=30)
        self.page = address + answer.headers["location"]
        self.root = f"{address}/api{answer.headers['location']}"
        for number in range(3, classes + 1):
            requests.post(f"{self.root}/classes", json={"name": f"Class {number}"}, timeout=30)
        self.classes = [found["id"] for found in self.state()["classes"]]

    def state(self) -> dict:
        return requests.get(self.root, timeout=30).json()

    def record(self, number: int) -> tuple[int, list[float]]:
        """Sends a recording; returns how many frames were kept, and the milliseconds of each request."""
        kept, times = 0, []
        images = frames(number, len(self.classes))
        for part in (images[: FRAMES // 2], images[FRAMES // 2 :]):
            files = [("files", ("webcam.jpg", data)) for data in part]
            start = time.perf_counter()
            answer = requests.post(
                f"{self.root}/classes/{self.classes[number % len(self.classes)]}/samples",
                files=files,
                data={"burst": f"recording-{number}"},
                timeout=60,
            )
            times.append(1000 * (time.perf_counter() - start))
            kept += answer.json()["new"]
        return kept, times

    def wait(self, is_done) -> float:
        """Seconds until the state is as wanted."""
        start = time.perf_counter()
        while not is_done(self.state()):
            time.sleep(0.05)
        return time.perf_counter() - start


def main() -> None:
    """Prints the times."""
    parser = argument_parser("benchmarks.teaching", __doc__, overrides=False)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=10)
    arguments = parser.parse_args()
    print(describe_machine("onnxruntime", "numpy"))
    table = Table("what", "median", "slowest")

    def row(what: str, values: list[float], unit: str = "ms") -> None:
        table.add_row(what, f"{statistics.median(values):,.0f} {unit}", f"{max(values):,.0f} {unit}")

    with tempfile.TemporaryDirectory() as scratch:
        library = Library(Path(scratch))
        publish_backbone(library)
        with serving(application(open_database(library.database), library, with_helper=False)) as address:
            page = Page(address, arguments.classes)
            recordings = arguments.samples // FRAMES
            kept, saving = 0, []
            for number in range(recordings):
                new, times = page.record(number)
                kept += new
                saving += times
            stored = sum(found["count"] for found in page.state()["classes"])
            lost = recordings * FRAMES - min(kept, stored)
            row("saving half a recording", saving)
            waited = page.wait(lambda state: state["progress"]["phase"] == "idle")
            requests.post(f"{page.root}/train", timeout=30)
            trained = page.wait(lambda state: state["model"])
            model = page.state()["model"]
            validated = page.wait(lambda state: state["model"]["validation"])
            one = f"{page.root}/classes/{page.classes[0]}/samples"
            for what, path in (("the page", page.page), ("its state", page.root), ("samples of a card", one)):
                row(what, [_milliseconds(path) for _ in range(ROUNDS)])
            image = frames(0, arguments.classes)[0]
            row("an answer", [_milliseconds(f"{page.root}/answer", image) for _ in range(ROUNDS)])
    print(f"{recordings} recordings of {FRAMES} frames, {lost} frames lost")
    print(f"features of the last frames: {waited:.1f} s after them; {arguments.samples:,} samples")
    print(f"from Train to a model: {trained:.2f} s, of which training {model['seconds']:.2f} s")
    print(f"cross-validated {validated:.1f} s later")
    Console().print(table)


def _milliseconds(path: str, image: bytes | None = None) -> float:
    start = time.perf_counter()
    answer = requests.get(path, timeout=60) if image is None else requests.post(path, data=image, timeout=60)
    answer.raise_for_status()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
