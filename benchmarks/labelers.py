"""Many people label at once: ``python -m benchmarks.labelers [--database postgresql://USER@HOST/NAME]``

A real `petfaces catalog` serves real HTTP, with its helper at work. Each labeler takes a page, submits it and
takes the next one without a pause, as no person can: 20 of them ask as much as some hundred people do.
Another one looks at the project's page all the time. At the end each answer is compared with the database.
"""

import contextlib
import http.client
import io
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine
from catalog.library import DATABASE_VARIABLE, Library
from catalog.store import Database, exported, jobs, labels, open_database, projects
from catalog.store.tables import Help, Source
from pipeline.common.paths import ROOT

CLASSES = ("cat", "dog", "rabbit")
TIMEOUT = 60  # seconds for an answer
LOOK_SECONDS = 2.0  # between looks at the project's page


@dataclass
class Result:
    """What the labelers saw, and what the database holds afterwards.

    Attributes:
        handing_out, submitting, dashboard: seconds of each request that was answered with 200.
        errors: other answers, by status and message.
        given: class ids by image id of what was answered with 200; an image given twice counts as doubled.
        seconds: from the first page to the last answer.
        lost: answers that aren't the image's label.
        doubled: images that were labeled twice.
        differences: labels that differ from the events.
    """

    handing_out: list[float] = field(default_factory=list)
    submitting: list[float] = field(default_factory=list)
    dashboard: list[float] = field(default_factory=list)
    errors: Counter = field(default_factory=Counter)
    given: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    differences: int = 0

    @property
    def pages_per_second(self) -> float:
        return len(self.submitting) / self.seconds


def run(
    labelers: int, count: int, folder: Path, url: str = "", model_help: Help = Help.SUGGESTIONS
) -> Result:
    """Labels so many images.

    Args:
        labelers: people at once.
        count: images, each labeled once.
        folder: empty; for images and the catalog.
        url: of an empty database; empty for SQLite.
        model_help: what the helper computes meanwhile.
    """
    _draw(folder / "images", count)
    library = Library(folder / "catalog", url)
    database = open_database(library.database)
    with database.write() as session:
        draft = projects.Draft(
            name="labelers",
            task="single_label",
            source=Source.FOLDER,
            source_path=str(folder / "images"),
            classes=CLASSES,
            model_help=model_help,
            page_size=9,
        )
        project = projects.create(session, draft).id
    result = Result()
    with served(library) as address:
        _wait_for_images(database, project, count)
        _label(result, address, project, labelers)
    _compare(result, database, project)
    database.close()
    return result


def _draw(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    colors = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    for number, pixels in enumerate(colors):
        buffer = io.BytesIO()
        PillowImage.fromarray(pixels).resize((64, 64)).save(buffer, "JPEG")
        (folder / f"{number:06}.jpg").write_bytes(buffer.getvalue())


@contextlib.contextmanager
def served(library: Library) -> Iterator[str]:
    """The address of a `petfaces catalog` of its own process, which is ended at the end."""
    command = [sys.executable, "-m", "pipeline", "catalog", "--folder", str(library.folder), "--port", "0"]
    environment = {
        **os.environ,
        DATABASE_VARIABLE: library.database_url,
        "MLFLOW_TRACKING_URI": f"sqlite:///{library.folder}/mlflow.db",
    }
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    try:
        found = re.search(r"http://\S+?(?=;)", server.stdout.readline())
        if found is None:
            raise RuntimeError("the catalog didn't start; see its message above")
        yield found[0]
    finally:
        server.terminate()
        server.wait()


def _wait_for_images(database: Database, project: int, count: int) -> None:
    while True:
        with database.read() as session:
            is_read = not jobs.is_open(session, project, jobs.Kind.READ)
            if is_read and sum(projects.counts(session, project).values()) == count:
                return
        time.sleep(0.2)


class _Person:
    """One connection to the server, and what it measures."""

    def __init__(self, address: str, result: Result):
        self._host, self._result, self._connection = address.removeprefix("http://"), result, None

    def request(self, path: str, seconds: list[float], body: dict | None = None) -> dict | None:
        """An answer as JSON; None if it isn't 200, which is recorded."""
        self._connection = self._connection or http.client.HTTPConnection(self._host, timeout=TIMEOUT)
        start = time.perf_counter()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            if body is None:
                self._connection.request("GET", path, headers=headers)
            else:
                self._connection.request("POST", path, json.dumps(body), headers)
            response = self._connection.getresponse()
            content = response.read()
        except OSError as error:
            self._result.errors[type(error).__name__] += 1
            self._connection = None
            return None
        if response.status != 200:
            self._result.errors[f"{response.status} {content[:100].decode(errors='replace')}"] += 1
            return None
        seconds.append(time.perf_counter() - start)
        is_json = response.headers.get_content_type() == "application/json"
        return json.loads(content) if is_json else {}

    def label_all(self, project: int, numbers: Iterator[int]) -> None:
        """Labels pages until no image is left."""
        result = self._result
        while True:
            opened = self.request(f"/api/projects/{project}/pages", result.handing_out, {"token": None})
            if opened is None:
                continue
            page = opened["page"]
            if page is None:
                if opened["done"] == opened["total"]:
                    return
                time.sleep(0.2)  # the last images are on other people's pages
                continue
            given = {image["id"]: 1 + next(numbers) % len(CLASSES) for image in page["images"]}
            answers = {str(key): {"status": "labeled", "classes": [value]} for key, value in given.items()}
            path = f"/api/pages/{page['token']}/submit"
            while self.request(path, result.submitting, {"answers": answers}) is None:
                time.sleep(0.2)
            for key, value in given.items():
                result.doubled += key in result.given
                result.given[key] = value

    def look(self, project: int, stop: threading.Event) -> None:
        """Looks at the project's page again and again."""
        while not stop.wait(LOOK_SECONDS):
            self.request(f"/projects/{project}/status", self._result.dashboard)


def _label(result: Result, address: str, project: int, labelers: int) -> None:
    numbers, stop = itertools.count(), threading.Event()
    people = [
        threading.Thread(target=_Person(address, result).label_all, args=(project, numbers))
        for _ in range(labelers)
    ]
    looking = threading.Thread(target=_Person(address, result).look, args=(project, stop))
    start = time.perf_counter()
    for thread in (looking, *people):
        thread.start()
    for person in people:
        person.join()
    result.seconds = time.perf_counter() - start
    stop.set()
    looking.join()


def _compare(result: Result, database: Database, project: int) -> None:
    """Compares what was answered with what the database holds."""
    with database.read() as session:
        names = {found.name: found.id for found in projects.classes(session, project)}
        kept = exported.labels(session, projects.by_name(session, "labelers")).labeled
        stored = {image.id: [names[name] for name in image.classes] for image in kept}
        result.lost = sum(stored.get(key) != [value] for key, value in result.given.items())
        result.differences = sum(1 for _ in labels.differences(session, project))


def _times(seconds: list[float]) -> str:
    """Median, 99th percentile and maximum in milliseconds."""
    if not seconds:
        return "–"
    ordered = sorted(seconds)
    values = (statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1])
    return " / ".join(f"{1000 * value:,.0f}" for value in values)


def main() -> None:
    """Prints what the labelers saw on each database."""
    parser = argument_parser("benchmarks.labelers", __doc__, overrides=False)
    parser.add_argument("--database", action="append", default=[], help="an empty one; SQLite without it")
    parser.add_argument("--labelers", type=int, default=20)
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--model-help", choices=list(Help), default=Help.SUGGESTIONS)
    arguments = parser.parse_args()
    titles = ("database", "labelers", "labels", "pages a second", "handing out ms", "submitting ms")
    table = Table(*titles, "dashboard ms", "errors", "lost", "doubled")
    for url in arguments.database or [""]:
        with tempfile.TemporaryDirectory() as folder:
            help_ = Help(arguments.model_help)
            result = run(arguments.labelers, arguments.labels, Path(folder), url, help_)
        table.add_row(
            "PostgreSQL" if url else "SQLite",
            str(arguments.labelers),
            f"{len(result.given):,}",
            f"{result.pages_per_second:.1f}",
            *map(_times, (result.handing_out, result.submitting, result.dashboard)),
            str(dict(result.errors) or 0),
            str(result.lost + result.differences),
            str(result.doubled),
        )
    console = Console(width=150)
    console.print(describe_machine("sqlalchemy", "uvicorn"), "; median / 99 % / most")
    console.print(table)


if __name__ == "__main__":
    main()
