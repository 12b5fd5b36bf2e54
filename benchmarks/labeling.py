"""Counts the actions that labeling takes: ``python -m benchmarks.labeling data=petfaces``

A simulated person knows the true labels, and drives the catalog's HTTP interface until all images are
labeled. Each key, click and submit counts as one action; wrong suggestions are corrected, so that at the
end the labels equal the truth. Labeling with all of the help is compared with groups of similar images alone,
and with no help.

The person is slower than the helper: each page is opened when the helper has nothing to do. The model starts
from the ImageNet backbone and sees labels given on the pages only.
"""

import json
import os
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from benchmarks.common import argument_parser, serving
from catalog.app import application
from catalog.library import Library
from catalog.store import Database, jobs, open_database, projects, suggestions
from catalog.store.tables import Help, Image, PageKind, Source
from pipeline import config
from pipeline.common import text
from pipeline.common.paths import ROOT
from pipeline.sources import archives, photos

SHOWN = 200  # prelabels after which their precision counts
PAGE = 9


@dataclass
class Count:
    """Actions and labels by kind of page."""

    actions: Counter = field(default_factory=Counter)
    labels: Counter = field(default_factory=Counter)
    prelabels: int = 0
    right: int = 0
    worst: float = 1.0  # share of prelabels that were right, after SHOWN of them

    @property
    def per_label(self) -> float:
        return self.actions.total() / self.labels.total()


class Person:
    """Labels pages as a practised person does, with as few actions as the page needs."""

    def __init__(self, address: str, project: int, truth: dict[int, str]):
        self._address, self._project, self._truth = address, project, truth
        self.count = Count()
        described = self._request(f"/api/projects/{project}")
        self._ids = {each["name"]: each["id"] for each in described["classes"]}
        names = list(self._ids)
        self._letters = {self._ids[name]: letters(name, names) for name in names}

    def _request(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def label_page(self) -> bool:
        """Labels one page; returns False if none is left."""
        page = self._request(f"/api/projects/{self._project}/pages", {"token": None})["page"]
        if page is None:
            return False
        true = [self._ids[self._truth[image["id"]]] for image in page["images"]]
        kind, count = page["kind"], self.count
        if kind == "prelabeled":
            suggested = [image["suggested"][0] for image in page["images"]]
            actions = self._correct(suggested, true, page["keys"])
            count.prelabels += len(true)
            count.right += sum(a == b for a, b in zip(suggested, true, strict=True))
            if count.prelabels >= SHOWN:
                count.worst = min(count.worst, count.right / count.prelabels)
        else:
            actions = self._from_scratch(true, page["keys"], all_selected=kind == "cluster")
        answers = {
            str(image["id"]): {"status": "labeled", "classes": [label]}
            for image, label in zip(page["images"], true, strict=True)
        }
        self._request(f"/api/pages/{page['token']}/submit", {"answers": answers})
        count.actions[kind] += actions + 1  # and Enter
        count.labels[kind] += len(true)
        return True

    def _cost(self, label: int, keys: list[int]) -> int:
        """Keys to give a class: one of 1-9, or its letters."""
        return 1 if label in keys else self._letters[label]

    def _correct(self, given: list[int], true: list[int], keys: list[int]) -> int:
        """Actions to correct labels; the frame begins at the first image and moves on with each label."""
        actions = frame = 0
        for position, (have, want) in enumerate(zip(given, true, strict=True)):
            if have != want:
                actions += self._cost(want, keys) + (
                    position != frame
                )  # a click where the frame is elsewhere
                frame = position + 1
        return actions

    def _from_scratch(self, true: list[int], keys: list[int], all_selected: bool) -> int:
        """Actions to label images one after the other, or all alike and then the exceptions."""
        [(most, _)] = Counter(true).most_common(1)
        alike = self._cost(most, keys) + (not all_selected)
        alike += self._correct([most] * len(true), true, keys)
        return min(alike, all_selected + sum(self._cost(label, keys) for label in true))


def letters(name: str, names: list[str]) -> int:
    """Letters to type until the label page has found a class: a word of its name alone begins with them."""
    words = {each: each.lower().replace("_", " ").split() for each in names}
    best = len(name) + 1
    for word in words[name]:
        for length in range(1, len(word) + 1):
            if not any(
                other.startswith(word[:length]) for each in names if each != name for other in words[each]
            ):
                best = min(best, length)
                break
    return best


def run(archive: Path, label_of: dict[str, str], model_help: Help, test_fraction: float) -> Count:
    """Labels all images of an archive once, and checks the result."""
    classes = tuple(sorted(set(label_of.values())))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        library = Library(Path(folder))
        database = open_database(library.database)
        with database.write() as session:
            draft = projects.Draft(
                name="benchmark",
                task="single_label",
                source=Source.FOLDER,
                source_path=str(archive),
                classes=classes,
                model_help=model_help,
                probable_keys=True,
                page_size=PAGE,
                min_precision=0.9,
                test_fraction=test_fraction,
            )
            project = projects.create(session, draft).id
        with serving(application(database, library)) as address:
            _wait(database, project)
            with database.read() as session:
                truth = {image.id: label_of[image.path] for image in session.scalars(select(Image))}
            person = Person(address, project, truth)
            while person.label_page():
                if model_help != Help.NONE:
                    _wait(database, project)
            _check(database, project, truth)
        database.close()
        return person.count


def _wait(database: Database, project: int) -> None:
    """Waits until the helper has nothing to do: a person looks at a page for longer than it works."""
    while True:
        with database.read() as session:
            is_due = suggestions.is_due(session, project)
            if not is_due and not any(jobs.is_open(session, project, kind) for kind in jobs.Kind):
                return
        time.sleep(0.05)


def _check(database: Database, project: int, truth: dict[int, str]) -> None:
    """Compares all labels with the truth."""
    with database.read() as session:
        names = {found.id: found.name for found in projects.classes(session, project)}
        for image in session.scalars(select(Image)):
            assert [names[number] for number in image.classes] == [truth[image.id]], image.path


def main() -> None:
    """Prints the actions of each way of labeling."""
    parser = argument_parser("benchmarks.labeling", __doc__)
    parser.add_argument("--only", choices=list(Help), help="one way of labeling instead of all three")
    parser.add_argument("--test-fraction", type=float, default=projects.Draft.test_fraction)
    arguments = parser.parse_args()
    data = config.compose(*arguments.overrides).data.name
    archive = ROOT / "data" / data / "archive"
    label_of = {
        text.path(path): PurePosixPath(path).parent.name
        for path, _ in archives.members(archive)
        if photos.is_named_as_picture(path)
    }
    table = Table("help", "actions a label", "labels", *PageKind, "prelabels right", "least after 200")
    for model_help in [Help(arguments.only)] if arguments.only else reversed(Help):
        count = run(archive, label_of, model_help, arguments.test_fraction)
        by_kind = [
            f"{count.labels[kind]:,} × {count.actions[kind] / count.labels[kind]:.2f}"
            if count.labels[kind]
            else "–"
            for kind in PageKind
        ]
        table.add_row(
            model_help,
            f"{count.per_label:.3f}",
            f"{count.labels.total():,}",
            *by_kind,
            f"{count.right / count.prelabels:.1%} of {count.prelabels:,}" if count.prelabels else "–",
            f"{count.worst:.1%}" if count.prelabels >= SHOWN else "–",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
