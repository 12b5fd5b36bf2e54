"""Saves projects of the teach page over HTTP, opens them again, and changes what was saved."""

import io
import json
import time
import zipfile
from pathlib import Path

import requests
from catalog_server import Catalog
from teaching import Lesson

from catalog.store import projects
from catalog.teach import saved_project


def saved(lesson: Lesson) -> bytes:
    answer = requests.get(f"{lesson.address}/teach/{lesson.project}/project.zip", timeout=30)
    assert answer.status_code == 200
    return answer.content


def opened(lesson: Lesson, data: bytes) -> Lesson:
    answer = requests.post(
        f"{lesson.address}/teach/open",
        files={"file": ("saved.zip", data)},
        allow_redirects=False,
        timeout=60,
    )
    assert answer.status_code == 303, answer.text
    copy = Lesson(lesson.catalog, lesson.address, int(answer.headers["location"].rpartition("/")[2]))
    copy.classes = {found["name"]: found["id"] for found in copy.state()["classes"]}
    return copy


def open_file(lesson: Lesson, source: Path) -> saved_project.Opened:
    return saved_project.open_saved(source, lesson.catalog.database, lesson.catalog.library, "me")


def changed(data: bytes, change) -> bytes:
    """A saved project after `change(details, files)`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    details = json.loads(files.pop("project.json"))
    change(details, files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"project.json": json.dumps(details), **files}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def refusal(lesson: Lesson, data: bytes) -> str:
    """The page's one line about a file that can't be opened, of which nothing is left."""
    before = files_of(lesson.catalog)
    answer = requests.post(
        f"{lesson.address}/teach/open",
        files={"file": ("saved.zip", data)},
        headers={"Accept": "text/html"},
        timeout=60,
    )
    assert answer.status_code == 422
    (line,) = [line for line in answer.text.splitlines() if 'role="alert"' in line]
    assert "/tmp" not in line and str(lesson.catalog.library.folder) not in line
    with lesson.catalog.database.read() as session:
        assert len(projects.all_projects(session)) == 1
    assert files_of(lesson.catalog) == before
    return line


def files_of(catalog: Catalog) -> set[Path]:
    """The files of images; waits until no temporary one is left."""
    folder = catalog.library.folder
    deadline = time.monotonic() + 10
    while left := list(catalog.library.temporary.iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    return {path for name in ("images", "thumbnails") for path in (folder / name).rglob("*.*")}
