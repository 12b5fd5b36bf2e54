"""Times the catalog's pages: ``python -m benchmarks.catalog``

It reads a folder of drawn images while a browser waits for the first page, then times handing out, rendering
and submitting pages of a project with all of them.
"""

import json
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, serving
from catalog.app import application
from catalog.library import Library
from catalog.store import jobs, open_database, projects
from catalog.store.tables import Help, Source

PAGES = 50
SIDE = 128  # pixels of the drawn images


def draw(folder: Path, count: int) -> None:
    """Writes different JPEG images."""
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE)).save(folder / f"{number:06}.jpg", quality=80)


def request(address: str, path: str, body: dict | None = None) -> tuple[float, bytes]:
    """Milliseconds of a request, and its answer."""
    data = None if body is None else json.dumps(body).encode()
    begin = time.perf_counter()
    message = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(message) as response:
        content = response.read()
    return 1000 * (time.perf_counter() - begin), content


def main() -> None:
    """Prints the times."""
    parser = argument_parser("benchmarks.catalog", __doc__, overrides=False)
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    print(describe_machine())
    table = Table("what", "median", "slowest")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        draw(folder, arguments.images)
        library = Library(Path(scratch) / "catalog")
        database = open_database(library.database)
        with serving(application(database, library)) as address:
            begin = time.perf_counter()
            draft = projects.Draft(
                name="speed",
                task="single_label",
                source=Source.FOLDER,
                source_path=str(folder),
                classes=tuple(f"class {number}" for number in range(35)),
                model_help=Help.NONE,
            )
            with database.write() as session:
                project = projects.create(session, draft).id
            while json.loads(request(address, f"/api/projects/{project}/pages", {})[1])["page"] is None:
                time.sleep(0.05)
            first = time.perf_counter() - begin
            table.add_row(f"first page of {arguments.images:,} images", f"{first:.1f} s", "")
            while True:
                with database.read() as session:
                    if not jobs.is_open(session, project, jobs.Kind.READ):
                        break
                time.sleep(0.2)
            table.add_row("all images read", f"{time.perf_counter() - begin:.1f} s", "")
            times: dict[str, list[float]] = {}
            for _ in range(PAGES):
                times.setdefault("label page", []).append(request(address, f"/projects/{project}/label")[0])
                spent, content = request(address, f"/api/projects/{project}/pages", {})
                times.setdefault("handing out nine images", []).append(spent)
                page = json.loads(content)["page"]
                image = page["images"][0]["id"]
                times.setdefault("thumbnail", []).append(request(address, f"/images/{image}/thumbnail")[0])
                answers = {each["id"]: {"status": "labeled", "classes": [1]} for each in page["images"]}
                path = f"/api/pages/{page['token']}/submit"
                times.setdefault("submitting nine labels", []).append(
                    request(address, path, {"answers": answers})[0]
                )
                times.setdefault("dashboard", []).append(request(address, f"/projects/{project}")[0])
            for name, values in times.items():
                table.add_row(name, f"{statistics.median(values):.0f} ms", f"{max(values):.0f} ms")
        database.close()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
