"""A simulated week: three labelers, new files each day, a class added on day three, a nightly retrain."""

import io
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from catalog_server import Catalog
from people import add_person, sign_in
from sqlalchemy import func, select

from catalog import champions
from catalog.helper import watching
from catalog.helper.watching import Watcher
from catalog.store import (
    agreement,
    dashboard,
    exported,
    history,
    image_counts,
    images,
    labels,
    projects,
)
from catalog.store.tables import Event, Help, Image, Model, PageKind, Role, Status
from pipeline.sources import synthetic
from pipeline.sources.breeds import BREEDS

pytestmark = pytest.mark.slow

DAYS = 7
FIRST_DAY, OTHER_DAYS = 60, 25  # new files
CLASSES = ("cat_Abyssinian", "dog_beagle", "cat_Persian")
LATE_CLASS = "dog_pug"  # its images come from day two on
LABELERS = ("lars", "mina", "noor")
ADMIN = "ada"
MISTAKE_EVERY = 11  # an image whose number is divisible by it is labeled wrong by lars
SECOND_SHARE = 0.3


@dataclass
class Folder:
    """The watched folder, and what is on the images in it.

    Attributes:
        truth: the class of each image by its path.
    """

    path: Path
    truth: dict[str, str] = field(default_factory=dict)

    def fill(self, day: int, count: int, classes: tuple[str, ...]) -> None:
        """Adds the drawings of a day, one of them twice under different names, and a file that is broken."""
        below = self.path / f"day{day}"
        below.mkdir(parents=True)
        for number in range(count):
            name = classes[number % len(classes)]
            file = io.BytesIO()
            synthetic.draw(BREEDS[name], np.random.default_rng([day, number])).save(file, "PNG")
            self._write(below / f"{number:03}.png", file.getvalue())
            self.truth[f"day{day}/{number:03}.png"] = name
        self._write(below / "copy.png", (below / "000.png").read_bytes())
        self._write(below / "broken.png", (below / "001.png").read_bytes()[:200])

    def _write(self, file: Path, data: bytes) -> None:
        file.write_bytes(data)
        then = time.time() - 3600  # a file that has just changed might not be complete
        os.utime(file, (then, then))


@dataclass(frozen=True)
class Said:
    """An answer that the catalog has confirmed; `class_name` is None for an unknown image."""

    person: str
    image: int
    kind: str
    class_name: str | None


class Week:
    """The catalog with its people, one day after the other.

    Attributes:
        said: all answers in the order in which they were confirmed.
    """

    def __init__(self, catalog: Catalog, address: str, folder: Folder):
        self.catalog, self.folder, self.said = catalog, folder, []
        self._address, self._watcher, self._now = address, Watcher(catalog.database), 0.0
        self.admin = sign_in(address, ADMIN)
        self._browsers = {name: sign_in(address, name) for name in LABELERS}
        self._browsers[ADMIN] = self.admin

    def look(self) -> None:
        """The helper's minutes: it looks twice at the folder, reads what is new, and computes suggestions."""
        for _ in range(2):
            self._now += 10 * watching.INTERVAL
            self._watcher.look(self._now)
            self.catalog.finish_jobs()

    def label(self) -> None:
        """All labelers work at once until nothing is left for them."""
        with ThreadPoolExecutor(len(LABELERS)) as threads:
            list(threads.map(self._label_all, LABELERS))

    def _post(self, path: str, **body: object) -> dict:
        """A request of the admin."""
        answer = self.admin.post(f"{self._address}{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _label_all(self, person: str, path: str = "/api/projects/1/pages") -> None:
        browser = self._browsers[person]
        known = browser.get(f"{self._address}/api/projects/1", timeout=60).json()["classes"]
        ids = {found["name"]: found["id"] for found in known}
        while True:
            opened = browser.post(f"{self._address}{path}", json={}, timeout=60)
            assert opened.status_code == 200, opened.text
            if (page := opened.json()["page"]) is None:
                return
            names = {image["id"]: self._answer(person, image["id"], ids) for image in page["images"]}
            answers = {
                number: {"status": "labeled", "classes": [ids[name]]} if name else {"status": "unknown"}
                for number, name in names.items()
            }
            sent = browser.post(
                f"{self._address}/api/pages/{page['token']}/submit", json={"answers": answers}, timeout=60
            )
            assert sent.status_code == 200, sent.text
            self.said += [Said(person, number, page["kind"], name) for number, name in names.items()]

    def _answer(self, person: str, image: int, classes: dict[str, int]) -> str | None:
        with self.catalog.database.read() as session:
            name = self.folder.truth[session.get(Image, image).path]
        if person == "lars" and image % MISTAKE_EVERY == 0:
            name = CLASSES[(image + 1) % len(CLASSES)]
        return name if name in classes else None

    def add_class(self, name: str) -> None:
        """The admin pauses the project, adds a class, keeps the labels, and resumes."""
        for path, form in (
            ("pause", {"is_paused": "true"}),
            ("", {"names": name, "policy": "continue"}),
            ("pause", {"is_paused": "false"}),
        ):
            address = f"{self._address}/projects/1/classes/{path}".rstrip("/")
            answer = self.admin.post(address, data=form, timeout=60)
            assert answer.status_code == 200, answer.text

    def send_unknown_images_back(self, reason: str) -> int:
        """The admin rejects on the data page what nobody could name; returns how many images that are."""
        found = self.admin.get(f"{self._address}/api/projects/1/images/ids?status=unknown", timeout=60).json()
        return self._post("/api/projects/1/reject", ids=found["ids"], reason=reason)["changed"]

    def review(self) -> None:
        """The admin decides about all disputed images."""
        self._label_all(ADMIN, "/api/projects/1/review")

    def counts(self) -> Counter[Status]:
        with self.catalog.database.read() as session:
            return +Counter(projects.counts(session, 1))

    def labels(self) -> dict[int, str | None]:
        """The class of each image in the database; None for an unknown image."""
        with self.catalog.database.read() as session:
            names = history.names(session, 1)
            found = session.execute(select(Image.id, Image.classes)).tuples()
            return {number: names[classes[0]] if classes else None for number, classes in found}

    def expected(self) -> tuple[dict[int, str | None], dict[int, bool]]:
        """The labels that follow from what was said, and whether two people agreed on an image."""
        labels, agreed = {}, {}
        for said in self.said:
            if said.kind == PageKind.SECOND:
                agreed[said.image] = labels[said.image] == said.class_name
            else:
                labels[said.image] = said.class_name
        return labels, agreed


@pytest.fixture
def small(change, restored):
    """One candidate, which trains in seconds."""
    change("params.yaml", ("models: [scratch, probe]", "models: [probe]"))


@pytest.fixture
def week(tmp_path):
    folder = Folder(tmp_path / "inbox")
    folder.fill(1, FIRST_DAY, CLASSES)
    catalog = Catalog.create(tmp_path)
    values = {"model_help": Help.SUGGESTIONS, "test_fraction": 0.15, "second_share": SECOND_SHARE}
    catalog.add_project(folder.path, classes=CLASSES, is_watched=True, **values)
    add_person(catalog, ADMIN, Role.ADMIN)
    for name in LABELERS:
        add_person(catalog, name)
    with catalog.served() as address:
        yield Week(catalog, address, folder)


def test_a_week_of_three_labelers_ends_with_the_counts_it_should(run, small, week):
    catalog, rejected = week.catalog, 0

    def retrain() -> None:
        command = ("catalog", "--folder", str(catalog.library.folder), "retrain", "pets")
        done = run("python", "-m", "pipeline", *command)
        assert done.returncode == 0, done.stdout
        catalog.finish_jobs()

    for day in range(1, DAYS + 1):
        if day > 1:
            week.folder.fill(day, OTHER_DAYS, (*CLASSES, LATE_CLASS))
        week.look()
        if day == 3:
            week.add_class(LATE_CLASS)
            rejected = week.send_unknown_images_back("there is a class for it now")
            assert rejected > 0
        week.label()
        assert week.counts()[Status.WAITING] == 0
        retrain()
    disputed = week.counts()[Status.DISPUTED]
    week.review()
    expected, agreed = week.expected()
    files = FIRST_DAY + (DAYS - 1) * OTHER_DAYS
    assert len(expected) == files
    assert week.counts() == Counter({Status.LABELED: files})
    assert week.labels() == expected
    assert disputed == sum(not each for each in agreed.values()) > 0
    with catalog.database.read() as session:
        project = catalog.project(session)
        assert len(images.quarantined(session, 1)) == DAYS
        assert session.scalar(select(func.count(Event.id))) == len(week.said) + rejected
        assert len(agreement.pairs(session, project)) == len(agreed)
        by_class = Counter(
            name for image in exported.labels(session, project).labeled for name in image.classes
        )
        assert by_class == Counter(expected.values())
        assert list(labels.differences(session, 1)) == [] and image_counts.wrong(session) == 0
        people = {work.name: work.total for work in dashboard.of(session, project).people}
        champion = champions.load(catalog.library, project.champion)
        is_predicted = Event.model_id == Model.id, Model.champion.startswith("labels-")
        by_champions = session.scalar(select(func.count(Event.id)).where(*is_predicted))
    assert people == Counter(said.person for said in week.said)
    assert by_champions > 0
    assert sorted(champion.classes) == sorted((*CLASSES, LATE_CLASS))
