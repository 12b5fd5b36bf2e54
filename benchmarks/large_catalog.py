"""Generates a catalog with a large project: rows in bulk, image files as hard links to a few drawn ones."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from benchmarks.catalog import draw
from catalog.library import Library
from catalog.store import Database, image_counts, open_database, projects
from catalog.store.tables import (
    Event,
    Image,
    LabelClass,
    Model,
    Page,
    PageKind,
    Project,
    SeenFile,
    Source,
    Status,
    Suggestion,
)

FILES = 200  # different files; the images are links to them
CLASSES = 37
PEOPLE = ("Ada", "Bea", "Cleo", "Dirk", "Emin")
DAYS = 60  # over which people have labeled
TESTS, UNKNOWN, SKIPPED, AGAIN = 0.05, 0.01, 0.01, 0.1  # shares of the images
SINCE = 0.04  # share of the labels that the newest model has not learned from
THRESHOLD = 0.9
PAGE = 9
FEATURES = 1280
CHUNK = 10_000  # rows of a statement
NAME = "archive"


def build(folder: Path, images: int, with_features: bool = False) -> Library:
    """Generates a catalog with one project, half of whose images are labeled.

    Args:
        folder: of the catalog; it is created.
        images: their number.
        with_features: whether the images get random features around a centre of their class, in the store of
            the backbone, which is loaded for its name. They take 5 kB an image.

    Returns:
        Its files; the project has the id 1.
    """
    library = Library(folder)
    database = open_database(library.database)
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32).hex() for _ in range(images)]
    classes = rng.integers(0, CLASSES, images)
    _link_files(library, hashes)
    with database.write() as session:
        draft = projects.Draft(
            name=NAME,
            task="single_label",
            source=Source.UPLOAD,
            source_path="",
            classes=tuple(f"class {number + 1}" for number in range(CLASSES)),
            test_fraction=TESTS,
        )
        project = projects.create(session, draft)
        session.flush()
        _add_rows(session, project, hashes, classes, rng)
    database.close()
    if with_features:
        _add_features(library, hashes, classes, rng)
    return library


def _link_files(library: Library, hashes: list[str]) -> None:
    """Links an original and a thumbnail for each hash."""
    drawn = library.temporary / "drawn"
    drawn.mkdir()
    draw(drawn, FILES)
    files = sorted(drawn.iterdir())
    for folder in ("images", "thumbnails"):
        for number in range(256):
            (library.folder / folder / f"{number:02x}").mkdir(parents=True)
    for sha256, file in zip(hashes, itertools.cycle(files)):
        os.link(file, library.image(sha256, ".jpg"))
        os.link(file, library.thumbnail(sha256))
    for file in files:
        file.unlink()
    drawn.rmdir()


def _insert(session: Session, table: type, rows: Iterator[dict]) -> None:
    while chunk := list(itertools.islice(rows, CHUNK)):
        session.connection().execute(insert(table), chunk)


def _add_rows(
    session: Session, project: Project, hashes: list[str], classes: np.ndarray, rng: np.random.Generator
) -> None:
    """Adds images, pages, events, a model and its suggestions."""
    ids = session.scalars(select(LabelClass.id).where(LabelClass.project_id == project.id)).all()
    count, now = len(hashes), time.time()
    is_test = np.array([int(sha256[:8], 16) < TESTS * 2**32 for sha256 in hashes])
    seen = rng.random(count) < 0.5
    drawn = rng.random(count)
    status = np.full(count, Status.WAITING, object)
    status[seen] = Status.LABELED
    status[seen & (drawn < UNKNOWN * 2)] = Status.UNKNOWN
    status[seen & (drawn > 1 - SKIPPED * 2)] = Status.SKIPPED
    confidence = rng.beta(6, 1, count)
    right = rng.random(count) < confidence
    predicted = np.where(right, classes, rng.integers(0, CLASSES, count))
    order = rng.permutation(np.flatnonzero(seen))  # in which they were labeled
    order = order[np.argsort(is_test[order], kind="stable")]  # pages have one kind
    model = Model(
        project_id=project.id,
        created_at=now - 3600,
        last_event=0,
        labels=0,
        threshold=THRESHOLD,
        message="trained on the labels",
    )
    session.add(model)
    session.flush()
    again = rng.random(count) < AGAIN
    numbers = np.arange(count) + 1

    def shown(index: int) -> tuple[list[int] | None, float | None]:
        if is_test[index]:
            return None, None
        return [ids[predicted[index]]], float(confidence[index])

    def answer(index: int) -> dict:
        labels = [ids[classes[index]]] if status[index] == Status.LABELED else []
        return {"status": str(status[index]), "classes": labels}

    pages = [order[start : start + PAGE] for start in range(0, len(order), PAGE)]
    chance = rng.permutation(len(pages))  # test pages come between the others
    times = now - DAYS * 86400 * (1 - np.arange(len(pages)) / len(pages))

    def page_kind(page: np.ndarray, position: int) -> PageKind:
        if is_test[page[0]]:
            return PageKind.TEST
        return (PageKind.CLUSTER, PageKind.PRELABELED, PageKind.PRELABELED, PageKind.MANUAL)[position % 4]

    def page_rows() -> Iterator[dict]:
        for position, number in enumerate(chance):
            page = pages[number]
            images = [
                {
                    "id": int(numbers[index]),
                    "sha256": hashes[index],
                    "predicted": shown(index)[0],
                    "confidence": shown(index)[1],
                    "answer": None,
                }
                for index in page
            ]
            yield {
                "token": f"page-{position}",
                "project_id": project.id,
                "kind": page_kind(page, position),
                "person": PEOPLE[position % len(PEOPLE)],
                "images": images,
                "keys": list(ids[:9]),
                "model_id": model.id,
                "created_at": times[position] - 20,
                "submitted_at": times[position],
                "answers": {str(numbers[index]): answer(index) for index in page},
            }

    last = np.zeros(count, int)  # number of each image's last event

    def event_rows() -> Iterator[dict]:
        number = 0
        waiting = {"status": str(Status.WAITING), "classes": []}
        for position, page_number in enumerate(chance):
            page = pages[page_number]
            for index in page:
                after = answer(index)
                steps = [(waiting, after)]
                if again[index]:
                    other = {"status": str(Status.LABELED), "classes": [ids[(classes[index] + 1) % CLASSES]]}
                    steps = [(waiting, other), (other, after)]
                for before, following in steps:
                    number += 1
                    guess, sure = shown(index)
                    yield {
                        "id": number,
                        "project_id": project.id,
                        "image_id": int(numbers[index]),
                        "at": times[position],
                        "person": PEOPLE[position % len(PEOPLE)],
                        "page_token": f"page-{position}",
                        "page_kind": page_kind(page, position),
                        "model_id": None if guess is None else model.id,
                        "predicted": guess,
                        "confidence": sure,
                        "before": before,
                        "after": following,
                    }
                last[index] = number

    _insert(session, Image, _image_rows(project, hashes, is_test))
    _insert(session, Page, page_rows())
    _insert(session, Event, event_rows())
    _label_images(session, order, numbers, status, [[class_id] for class_id in ids], classes, last)
    labels = len(order)
    model.last_event = int(last.max() * (1 - SINCE))
    model.labels = int(labels * (1 - SINCE))
    # Images that were labeled since the model have suggestions still, and these are the most confident.
    stale = np.flatnonzero(~is_test & (last > model.last_event))
    confidence[stale] = rng.uniform(0.99, 1, len(stale))
    waits = np.array([each in (Status.WAITING, Status.SKIPPED) for each in status]) & ~is_test
    waits[stale] = True
    _insert(
        session,
        Suggestion,
        _suggestion_rows(project, model, np.flatnonzero(waits), predicted, confidence, ids),
    )
    image_counts.recount(session)


def _image_rows(project: Project, hashes: list[str], is_test: np.ndarray) -> Iterator[dict]:
    for number, sha256 in enumerate(hashes):
        yield {
            "id": number + 1,
            "project_id": project.id,
            "sha256": sha256,
            "path": f"{number // 1000:04}/photo {number:07}.jpg",
            "suffix": ".jpg",
            "width": 128,
            "height": 128,
            "is_test": bool(is_test[number]),
            "rank": int(sha256[8:15], 16),
        }


def _label_images(
    session: Session,
    order: np.ndarray,
    numbers: np.ndarray,
    status: np.ndarray,
    labels: list[list[int]],
    classes: np.ndarray,
    last: np.ndarray,
) -> None:
    """Sets the current labels of the images at these indices."""
    from sqlalchemy import bindparam

    table = Image.__table__
    statement = (
        update(table)
        .where(table.c.id == bindparam("number"))
        .values(status=bindparam("given"), classes=bindparam("named"), event_id=bindparam("event"))
    )
    for start in range(0, len(order), CHUNK):
        rows = [
            {
                "number": int(numbers[index]),
                "given": str(status[index]),
                "named": labels[classes[index]] if status[index] == Status.LABELED else [],
                "event": int(last[index]),
            }
            for index in order[start : start + CHUNK]
        ]
        session.connection().execute(statement, rows)


def _suggestion_rows(
    project: Project,
    model: Model,
    status: np.ndarray,
    waiting: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    ids: list[int],
) -> Iterator[dict]:
    """Suggestions in groups of one class, the most certain first."""
    order = waiting[np.lexsort((-confidence[waiting], predicted[waiting]))]
    groups = [order[start : start + PAGE] for start in range(0, len(order), PAGE)]
    groups.sort(key=lambda group: -confidence[group].sum())
    for number, group in enumerate(groups):
        for position, index in enumerate(group[::-1]):
            best = int(predicted[index])
            yield {
                "image_id": int(index) + 1,
                "project_id": project.id,
                "model_id": model.id,
                "is_waiting": status[index] == Status.WAITING,
                "cluster": number,
                "distance": float(position),
                "predicted": [ids[best]],
                "confidence": float(confidence[index]),
                "probable": [ids[(best + step) % CLASSES] for step in range(9)],
            }


def _add_features(library: Library, hashes: list[str], classes: np.ndarray, rng: np.random.Generator) -> None:
    """Stores features as the helper does; an image's class is most often, not always, the nearest centre."""
    from catalog.helper import features

    store, _ = features.imagenet_backbone(library.features)
    centres = rng.normal(0, 0.25, (CLASSES, FEATURES)).astype(np.float32)
    for start in range(0, len(hashes), features.CHUNK):
        rows = slice(start, start + features.CHUNK)
        noise = rng.standard_normal((len(hashes[rows]), FEATURES), dtype=np.float32)
        store.add(hashes[rows], centres[classes[rows]] + noise)


def project_of(database: Database) -> int:
    """The id of the generated project."""
    with database.read() as session:
        return projects.by_name(session, NAME).id


def add_folder(library: Library, database: Database) -> Path:
    """Gives the generated project a folder with links to all of its images, as if it had been read."""
    folder = library.folder / "source"
    with database.write() as session:
        project = projects.by_name(session, NAME)
        project.source, project.source_path = Source.FOLDER, str(folder)
        rows = session.execute(select(Image.path, Image.sha256).where(Image.project_id == project.id)).all()
        for parent in {Path(path).parent for path, _ in rows}:
            (folder / parent).mkdir(parents=True)

        def seen() -> Iterator[dict]:
            for path, sha256 in rows:
                original = library.image(sha256, ".jpg")
                os.link(original, folder / path)
                status = original.stat()
                yield {
                    "project_id": project.id,
                    "path": path,
                    "size": status.st_size,
                    "modified": status.st_mtime_ns,
                    "sha256": sha256,
                }

        _insert(session, SeenFile, seen())
    return folder
