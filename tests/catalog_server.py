"""A catalog in a temporary folder for tests: its files, its database, and the application behind HTTP."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
from PIL import Image as PillowImage

from benchmarks.common import serving
from catalog.app import application
from catalog.helper.__main__ import work
from catalog.library import Library
from catalog.store import Database, open_database, projects
from catalog.store.tables import Help, Project, Source


@dataclass
class Catalog:
    """A catalog whose helper's jobs are done by `finish_jobs`."""

    library: Library
    database: Database

    @classmethod
    def create(cls, folder: Path, database_url: str = "") -> "Catalog":
        """A catalog below a folder; its database is there, too, unless a URL is given."""
        library = Library(folder / "catalog", database_url)
        return cls(library, open_database(library.database))

    def add_project(self, images: Path, **changes: object) -> int:
        """Creates a project, and reads its images; returns its id."""
        values = {
            "name": "pets",
            "task": "single_label",
            "source": Source.FOLDER,
            "source_path": str(images),
            "classes": ("cat", "dog", "rabbit"),
            "model_help": Help.NONE,
            "test_fraction": 1e-9,
        }
        with self.database.write() as session:
            project = projects.create(session, projects.Draft(**{**values, **changes})).id
        self.finish_jobs()
        return project

    def finish_jobs(self) -> None:
        while work(self.database, self.library):
            pass

    def project(self, session, number: int = 1) -> Project:
        return session.get(Project, number)

    @contextlib.contextmanager
    def served(self, with_helper: bool = False) -> Iterator[str]:
        """The address of the running application."""
        with serving(application(self.database, self.library, with_helper)) as address:
            yield address

    def label_all(self, count: int) -> None:
        """Gives so many images of the first project its three classes in turn; the others are unknown."""
        labeled = ({"status": "labeled", "classes": [1 + number % 3]} for number in range(count))
        with self.served() as address:
            while (page := open_page(address)) is not None:
                answers = {image["id"]: next(labeled, {"status": "unknown"}) for image in page["images"]}
                submit_answers(address, page, answers).raise_for_status()


def picture(seed: int, kind: str = "PNG") -> bytes:
    """An image of random colours, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def folder_of(path: Path, count: int) -> Path:
    """A folder of different images ``000.png`` and so on."""
    path.mkdir(parents=True)
    for number in range(count):
        (path / f"{number:03}.png").write_bytes(picture(number))
    return path


def open_page(address: str, project: int = 1, **body: object) -> dict | None:
    """A page handed out over HTTP."""
    answer = requests.post(f"{address}/api/projects/{project}/pages", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()["page"]


def submit(address: str, page: dict, *classes: int) -> requests.Response:
    """Gives all images of a page the same classes."""
    answers = {image["id"]: {"status": "labeled", "classes": list(classes)} for image in page["images"]}
    return submit_answers(address, page, answers)


def submit_answers(address: str, page: dict, answers: dict[int, dict]) -> requests.Response:
    """Submits a page's answers by the images' ids."""
    return requests.post(f"{address}/api/pages/{page['token']}/submit", json={"answers": answers}, timeout=30)
