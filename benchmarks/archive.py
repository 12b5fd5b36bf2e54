"""Times the catalog at the size of an archive: ``python -m benchmarks.archive``

It generates a project of 500,000 images, starts the server as people do, and times its pages while the helper
rests and while it computes suggestions. Memory is that of the server's process and, apart, of the helper's.
"""

import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.catalog import draw
from benchmarks.common import argument_parser, describe_machine
from benchmarks.large_catalog import NAME, add_folder, build, project_of
from catalog.helper import watching
from catalog.helper.reading import read
from catalog.library import Library
from catalog.store import Database, jobs, open_database, projects
from catalog.store.tables import JobState, Source

HELPER = "catalog.helper"


def request(address: str, path: str, body: dict | None = None, form: bool = False) -> tuple[float, bytes]:
    """Milliseconds of a request, and its answer."""
    data = None if body is None else json.dumps(body).encode()
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    message = urllib.request.Request(address + path, b"" if form else data, {"Content-Type": kind})
    begin = time.perf_counter()
    with urllib.request.urlopen(message) as response:
        content = response.read()
    return 1000 * (time.perf_counter() - begin), content


class Times:
    """Milliseconds of requests, by what they ask for."""

    def __init__(self):
        self.of: dict[str, list[float]] = {}

    def add(self, name: str, milliseconds: float) -> None:
        self.of.setdefault(name, []).append(milliseconds)

    def rows(self, when: str) -> Iterator[tuple[str, ...]]:
        """Name, number, median, p99 and slowest for a table."""
        for name, values in self.of.items():
            figures = (statistics.median(values), np.percentile(values, 99), max(values))
            yield name, when, str(len(values)), *(f"{value:.0f} ms" for value in figures)


def label(address: str, project: int, times: Times) -> None:
    """What one page of labels takes, from opening the label page to submitting."""
    times.add("label page", request(address, f"/projects/{project}/label")[0])
    spent, content = request(address, f"/api/projects/{project}/pages", {})
    times.add("handing out a page", spent)
    page = json.loads(content)["page"]
    spent, _ = request(address, f"/images/{page['images'][0]['id']}/thumbnail")
    times.add("thumbnail", spent)
    answers = {each["id"]: {"status": "labeled", "classes": [1]} for each in page["images"]}
    spent, _ = request(address, f"/api/pages/{page['token']}/submit", {"answers": answers})
    times.add("submitting a page", spent)


def look(address: str, project: int, times: Times) -> None:
    """The other pages."""
    pages = {
        "dashboard": f"/projects/{project}",
        "its refresh": f"/projects/{project}/status",
        "first page": "/",
        "settings": f"/projects/{project}/settings",
        "unusable files": f"/projects/{project}/quarantine",
    }
    for name, path in pages.items():
        times.add(name, request(address, path)[0])


class Peak:
    """The largest resident memory of a process, sampled in a thread."""

    def __init__(self, process: psutil.Process):
        self.bytes, self._process, self._ended = 0, process, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.1):
                self.bytes = max(self.bytes, self._process.memory_info().rss)


@contextlib.contextmanager
def serving(library: Library) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a server in a process of its own, and this process."""
    command = [sys.executable, "-m", "pipeline", "catalog", "--folder", str(library.folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+?(?=;)", server.stdout.readline())[0]
            while True:  # it listens a moment after it has named its address
                with contextlib.suppress(urllib.error.URLError):
                    request(address, "/")
                    break
                time.sleep(0.1)
            yield address, psutil.Process(server.pid)
        finally:
            server.terminate()


def helper_of(server: psutil.Process) -> psutil.Process:
    """The server's helper, as soon as it runs."""
    while True:
        for child in server.children():
            if HELPER in child.cmdline():
                return child
        time.sleep(0.1)


def wait(database: Database, project: int, kind: jobs.Kind, during=lambda: time.sleep(0.1)) -> str:
    """Calls `during` until a job is done; returns its message."""
    while True:
        during()
        with database.read() as session:
            job = jobs.latest(session, project).get(str(kind))
            if job is not None and job.state in (JobState.DONE, JobState.FAILED):
                return f"{job.state}: {job.message}"


def main() -> None:
    """Prints the times and the memory."""
    parser = argument_parser("benchmarks.archive", __doc__, overrides=False)
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--pages", type=int, default=200, help="pages of labels while the helper rests")
    parser.add_argument("--folder", type=Path, help="of a generated catalog; it is generated if missing")
    parser.add_argument(
        "--files", type=int, default=5_000, help="of a folder that is read for the first time"
    )
    parser.add_argument("--no-helper", action="store_true", help="leave the helper's jobs out")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "catalog"
        begin = time.perf_counter()
        library = Library(folder)
        if not library.database.is_file():
            build(folder, arguments.images, with_features=not arguments.no_helper)
            print(f"generated in {time.perf_counter() - begin:.0f} s")
        measure(library, arguments.pages, not arguments.no_helper)
        if not arguments.no_helper:
            measure_reading(Path(scratch), library, arguments.files)


def measure(library: Library, pages: int, with_helper: bool) -> None:
    """Runs the server on a generated catalog, and prints the tables."""
    database = open_database(library.database)
    project = project_of(database)
    table = Table("what", "while the helper", "requests", "median", "p99", "slowest")
    memory = Table("process", "job", "seconds", "resident, at most", "result")
    with serving(library) as (address, server), Peak(server) as of_server:
        helper = helper_of(server)
        times = Times()
        for number in range(pages):
            label(address, project, times)
            if number % 4 == 0:
                look(address, project, times)
        for row in times.rows("rests"):
            table.add_row(*row)
        for kind in (jobs.Kind.SUGGEST,) if with_helper else ():
            times = Times()
            with Peak(helper) as of_helper:
                begin = time.perf_counter()
                request(address, f"/projects/{project}/jobs/{kind}", form=True)
                result = wait(database, project, kind, lambda times=times: _during(address, project, times))
                seconds = time.perf_counter() - begin
            for row in times.rows(f"does {kind}"):
                table.add_row(*row)
            memory.add_row("helper", str(kind), f"{seconds:.0f}", f"{of_helper.bytes / 1e6:,.0f} MB", result)
        memory.add_row("server", "", "", f"{of_server.bytes / 1e6:,.0f} MB", "")
    database.close()
    console = Console(width=110)
    console.print(table)
    console.print(memory)


class Silent:
    """Progress that nobody sees."""

    def report(self, *_: object) -> None:
        pass


def measure_reading(scratch: Path, library: Library, files: int) -> None:
    """Prints how long first readings, refreshes and looks take, in this process."""
    table = Table("what", "files", "seconds", "files a second")

    def row(what: str, count: int, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - begin
        table.add_row(what, f"{count:,}", f"{seconds:.1f}", f"{count / seconds:,.0f}")
        print(what, result)

    folder = scratch / "new files"
    folder.mkdir()
    draw(folder, files)
    small = Library(scratch / "small")
    database = open_database(small.database)
    draft = projects.Draft("new", "single_label", Source.FOLDER, str(folder), ("a", "b"))
    with database.write() as session:
        project = projects.create(session, draft)
        session.flush()
        session.expunge(project)
    time.sleep(watching.SETTLE)  # the files count as complete
    row("first reading", files, lambda: read(database, small, project, Silent()))
    database.close()
    database = open_database(library.database)
    begin = time.perf_counter()
    add_folder(library, database)
    print(f"the folder was linked in {time.perf_counter() - begin:.0f} s")
    with database.write() as session:
        project = projects.by_name(session, NAME)
        project.is_watched, project.paused = True, False
        session.flush()
        session.expunge(project)
        count = sum(projects.counts(session, project.id).values())
    watcher = watching.Watcher(database)
    row("first look at a watched folder", count, lambda: watcher.look(0))
    row("a later look", count, lambda: watcher.look(1e9))
    row("refresh of known files", count, lambda: read(database, library, project, Silent()))
    database.close()
    Console(width=110).print(table)


def _during(address: str, project: int, times: Times) -> None:
    label(address, project, times)
    times.add("dashboard", request(address, f"/projects/{project}")[0])
    time.sleep(0.2)  # a person who labels


if __name__ == "__main__":
    main()
