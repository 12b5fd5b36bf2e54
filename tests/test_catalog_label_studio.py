"""Label Studio itself takes our tasks and shows their images, and what is labeled there comes back.

It has an environment of its own: name its program in PETFACES_LABEL_STUDIO.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from catalog_server import Catalog, folder_of

from catalog import exchange, importing, label_studio
from catalog.store import exported, projects
from catalog.store.imports import Choices

PROGRAM = os.environ.get("PETFACES_LABEL_STUDIO") or shutil.which("label-studio")
START_SECONDS = 300  # the first start creates its database
TOKEN = "0123456789abcdef0123456789abcdef01234567"
QUIET = {  # it talks to nobody
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Label Studio; see PETFACES_LABEL_STUDIO"),
]


class Studio:
    """A running Label Studio, by its API."""

    def __init__(self, address: str):
        self.address = address
        self._headers = {"Authorization": f"Token {TOKEN}"}

    def get(self, path: str, **values: object) -> requests.Response:
        answer = requests.get(f"{self.address}{path}", values, headers=self._headers, timeout=60)
        answer.raise_for_status()
        return answer

    def post(self, path: str, body: object) -> dict:
        answer = requests.post(f"{self.address}{path}", json=body, headers=self._headers, timeout=60)
        assert answer.ok, answer.text
        return answer.json()

    def annotate(self, task: int, *classes: str) -> None:
        value = {"choices": list(classes)}
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": value}
        self.post(f"/api/tasks/{task}/annotations/", {"result": [result], "lead_time": 2.5})

    def create(self, title: str, configuration: str, images: Path) -> int:
        project = self.post("/api/projects", {"title": title, "label_config": configuration})["id"]
        storage = {"project": project, "title": "catalog", "path": str(images), "use_blob_urls": True}
        self.post("/api/storages/localfiles", storage)
        return project

    def tasks(self, project: int) -> list[dict]:
        return self.get("/api/tasks", project=project, fields="all", page_size=100).json()["tasks"]

    def export(self, project: int, kind: str) -> bytes:
        return self.get(f"/api/projects/{project}/export", exportType=kind, download_all_tasks="true").content


@contextlib.contextmanager
def running(folder: Path, root: Path) -> Iterator[Studio]:
    """Label Studio with its data in `folder`, which serves files below `root`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["start", "--no-browser", "--data-dir", str(folder), "--port", str(port)]
    arguments += ["--internal-host", "127.0.0.1", "--username", "me@example.com", "--password", "secret-123"]
    arguments += ["--user-token", TOKEN, "--enable-legacy-api-token"]
    served = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root),
    }
    folder.mkdir()
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **QUIET, **served},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{address}/health", timeout=30).ok:
                    break
            time.sleep(1)
        else:
            pytest.fail((folder / "log.txt").read_text()[-3000:])
        yield Studio(address)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Two projects with ten images: one labeled but for two images, and one with several classes."""
    folder = tmp_path_factory.mktemp("studio")
    catalog = Catalog.create(folder)
    catalog.add_project(folder_of(folder / "images", 10), classes=("cat", 'dog "Rex" <b>', "rabbit & co"))
    several = {"name": "several", "task": "multi_label", "classes": ("indoors", "collar")}
    catalog.add_project(folder / "images", **several)
    catalog.label_all(8)  # two are unknown
    return catalog


@pytest.fixture(scope="module")
def studio(catalog, tmp_path_factory):
    with running(tmp_path_factory.mktemp("data") / "studio", catalog.library.folder) as studio:
        yield studio


def labels_of(catalog, project):
    """The classes of each labeled image, by hash."""
    with catalog.database.read() as session:
        found = exported.labels(session, catalog.project(session, project))
        return {image.sha256: image.classes for image in found.labeled}


def tasks_of(catalog, project):
    with catalog.database.read() as session:
        labels = exported.labels(session, catalog.project(session, project), with_waiting=True)
    return json.loads(label_studio.tasks(labels)), label_studio.configuration(labels.task, labels.classes)


def imported(catalog, content, name, **project):
    """A new project's labels after it has imported a file."""
    number = catalog.add_project(catalog.library.folder.parent / "images", name=name, **project)
    importing.apply(catalog.database, number, exchange.read(content).records, Choices(), "me")
    return number, labels_of(catalog, number)


def test_tasks_show_their_images_and_labels_there_and_come_back(catalog, studio):
    tasks, configuration = tasks_of(catalog, 1)
    number = studio.create("pets", configuration, catalog.library.folder / "images")
    answer = studio.post(f"/api/projects/{number}/import", tasks)
    assert (answer["task_count"], answer["annotation_count"]) == (10, 8)
    there = studio.tasks(number)
    for task in there:
        image = studio.get(task["data"]["image"]).content
        assert image == (catalog.library.folder / task["data"]["image"].partition("?d=")[2]).read_bytes()
    labeled = {task["data"]["sha256"]: task for task in there if task["annotations"]}
    before = labels_of(catalog, 1)
    assert {
        sha256: tuple(task["annotations"][0]["result"][0]["value"]["choices"])
        for sha256, task in labeled.items()
    } == before
    assert all(task["meta"]["labeled_by"] for task in labeled.values())

    waiting = [task for task in there if not task["annotations"]]
    studio.annotate(waiting[0]["id"], "cat")
    studio.annotate(waiting[1]["id"], 'dog "Rex" <b>')
    expected = before | {
        waiting[0]["data"]["sha256"]: ("cat",),
        waiting[1]["data"]["sha256"]: ('dog "Rex" <b>',),
    }
    classes = {"classes": ("cat", 'dog "Rex" <b>', "rabbit & co")}
    for kind in ("JSON", "JSON_MIN"):
        content = studio.export(number, kind)
        assert exchange.read(content).format == f"Label Studio {kind.replace('_', '-')}"
        assert imported(catalog, content, kind, **classes)[1] == expected


def test_several_classes_go_there_and_back(catalog, studio):
    tasks, configuration = tasks_of(catalog, 2)
    number = studio.create("several", configuration, catalog.library.folder / "images")
    studio.post(f"/api/projects/{number}/import", tasks)
    there = studio.tasks(number)
    studio.annotate(there[0]["id"], "indoors", "collar")
    studio.annotate(there[1]["id"], "collar")
    studio.post(f"/api/tasks/{there[2]['id']}/annotations/", {"result": []})  # none of the classes
    expected = {
        there[0]["data"]["sha256"]: ("collar", "indoors"),
        there[1]["data"]["sha256"]: ("collar",),
        there[2]["data"]["sha256"]: (),
    }
    project = {"task": "multi_label", "classes": ("indoors", "collar")}
    again, labels = imported(catalog, studio.export(number, "JSON"), "several-JSON", **project)
    assert labels == expected
    labels = imported(catalog, studio.export(number, "JSON_MIN"), "several-MIN", **project)[1]
    assert labels.items() >= {key: value for key, value in expected.items() if value}.items()
    # An image without any class is a task with an empty annotation there.
    tasks, configuration = tasks_of(catalog, again)
    number = studio.create("again", configuration, catalog.library.folder / "images")
    assert studio.post(f"/api/projects/{number}/import", tasks)["annotation_count"] == 3


def test_a_task_that_was_skipped_or_is_disputed_there_gives_no_label(catalog, studio):
    tasks, configuration = tasks_of(catalog, 2)
    with catalog.database.read() as session:
        assert len(projects.classes(session, 2)) == 2
    number = studio.create("skipped", configuration, catalog.library.folder / "images")
    studio.post(f"/api/projects/{number}/import", tasks)
    there = studio.tasks(number)
    studio.post(f"/api/tasks/{there[0]['id']}/annotations/", {"result": [], "was_cancelled": True})
    for name in ("collar", "indoors"):
        studio.annotate(there[1]["id"], name)
    studio.annotate(there[2]["id"], "collar")
    records = exchange.read(studio.export(number, "JSON")).records
    problems = {record.sha256: record.problem and record.problem.name for record in records}
    assert problems[there[0]["data"]["sha256"]] == "SKIPPED"
    assert problems[there[1]["data"]["sha256"]] == "DISAGREE"
    assert problems[there[2]["data"]["sha256"]] is None
