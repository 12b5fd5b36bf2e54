"""Seconds that an import of labels takes: ``python -m benchmarks.importing --images 500000 --rows 100000``

The catalog has generated rows without image files. A file of each format is read, previewed, imported and
taken back; meanwhile another thread asks for a page to label again and again. The processor's seconds follow
in brackets: they are what a machine without other work takes.
"""

import argparse
import itertools
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path

from sqlalchemy import select

from catalog import exchange, export, importing, label_studio, undoing
from catalog.library import Library
from catalog.store import Database, exported, images, import_preview, open_database, pages, projects
from catalog.store.images import NewImage
from catalog.store.imports import Choices
from catalog.store.tables import Help, Image, Project, Source

CLASSES = tuple(f"class {number}" for number in range(35))


def generated(library: Library, count: int) -> Database:
    """A catalog with one project of so many images."""
    database, chance = open_database(library.database), random.Random(0)
    with database.write() as session:
        draft = projects.Draft("all", "single_label", Source.UPLOAD, "", CLASSES, model_help=Help.NONE)
        project = projects.create(session, draft)
        found = (
            NewImage(
                f"{number // 1000:03}/IMG_{number:06}.jpg", f"{chance.getrandbits(256):064x}", ".jpg", 9, 9
            )
            for number in range(count)
        )
        images.add(session, project, found)
    return database


class Labeler(threading.Thread):
    """Asks for a page, gives it back, and measures how long that takes."""

    def __init__(self, database: Database):
        super().__init__(daemon=True)
        self._database, self.milliseconds, self.is_done = database, [], threading.Event()

    def run(self) -> None:
        while not self.is_done.wait(0.1):
            start = time.perf_counter()
            with self._database.write() as session:
                page = pages.hand_out(session, session.get(Project, 1), "somebody")
                pages.release(session, page)
            self.milliseconds.append(1000 * (time.perf_counter() - start))


def content_of(database: Database, name: str, rows: int) -> bytes:
    """A file of labels of so many images, in one of the formats."""
    with database.read() as session:
        query = select(Image.id, Image.path, Image.sha256).order_by(Image.sha256).limit(rows)
        chosen = tuple(
            exported.LabeledImage(
                id=number,
                path=path,
                sha256=sha256,
                suffix=".jpg",
                width=9,
                height=9,
                is_unknown=False,
                classes=(CLASSES[number % len(CLASSES)],),
                split="train",
                labeled_by="me",
            )
            for number, path, sha256 in session.execute(query)
        )
    given = exported.Labels("all", "single_label", CLASSES, chosen, 0)
    if name == "paths":
        lines = [f"/photos/{image.path},{image.classes[0]}" for image in chosen]
        return "\n".join(["path,label", *lines]).encode()
    return {"csv": export.table, "coco": export.coco, "tasks": label_studio.tasks}[name](given).encode()


def _now() -> tuple[float, float]:
    """Seconds of the clock, and of the processor for this thread."""
    return time.perf_counter(), time.thread_time()


def measure(database: Database, name: str, rows: int) -> str:
    """One line of figures for a format."""
    content, times = content_of(database, name, rows), [_now()]
    labeler = Labeler(database)
    labeler.start()
    records = exchange.read(content).records
    times.append(_now())
    with database.read() as session:
        shown = import_preview.preview(session, session.get(Project, 1), records)
    times.append(_now())
    done = importing.apply(database, 1, records, Choices(), "me")
    times.append(_now())
    undone, _ = undoing.undo(database, 1, done.batch, "me")
    times.append(_now())
    labeler.is_done.set()
    labeler.join()
    assert shown.counts["new"] == rows and done.new + done.held == rows and undone == done.new
    seconds = " ".join(
        f"{end[0] - start[0]:>6.1f} ({end[1] - start[1]:.1f})" for start, end in itertools.pairwise(times)
    )
    page = f"{statistics.median(labeler.milliseconds):>8.0f} {max(labeler.milliseconds):>8.0f}"
    return f"{name:>6} {len(content) / 1e6:>6.1f} {seconds} {page}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500_000, help="of the project")
    parser.add_argument("--rows", type=int, default=100_000, help="of the file")
    parser.add_argument("--formats", nargs="+", default=["csv", "paths", "coco", "tasks"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = generated(Library(Path(folder)), options.images)
        print(
            f"{options.rows:,} rows, {options.images:,} images; seconds, and a labeler's page in milliseconds"
        )
        print("format     MB        read     preview      import        undo   median  longest")
        for name in options.formats:
            print(measure(database, name, options.rows), flush=True)


if __name__ == "__main__":
    main()
