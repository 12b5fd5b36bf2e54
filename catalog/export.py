"""Writes labels as COCO, CSV, class folders, and the snapshot that the pipeline reads.

Equal labels give equal bytes: rows are sorted by image hash, and archives carry no times.
"""

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from catalog.exchange import table as csv_table
from catalog.language import _
from catalog.library import Library
from catalog.store.agreement import Row
from catalog.store.exported import LabeledImage, Labels
from pipeline import tasks
from pipeline.artifacts import atomic
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.sources import archives

SNAPSHOT = "snapshot.tar"
SUMMARY = "snapshot.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip's member


def coco(labels: Labels) -> str:
    """Annotations that pycocotools loads: a box around the whole image for each of its classes.

    Images that are unknown are left out. Of files with the same name, which uploads may have, each gets the
    start of its hash added to `file_name`; `path` is the name as it was.
    """
    categories = {name: number for number, name in enumerate(labels.classes, start=1)}
    images, annotations = [], []
    names = Counter(image.path for image in labels.labeled)
    for number, image in enumerate(labels.labeled, start=1):
        images.append(
            {
                "id": number,
                "file_name": image.path if names[image.path] == 1 else _distinct(image),
                "path": image.path,
                "width": image.width,
                "height": image.height,
                "sha256": image.sha256,
                "split": image.split,
            }
        )
        annotations += [
            {
                "id": 0,
                "image_id": number,
                "category_id": categories[name],
                "bbox": [0, 0, image.width, image.height],
                "area": image.width * image.height,
                "iscrowd": 0,
            }
            for name in image.classes
        ]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    tree = {
        "info": {"description": labels.project},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"


def _distinct(image: LabeledImage) -> str:
    path = PurePosixPath(image.path)
    return str(path.with_name(f"{path.stem}-{image.sha256[:8]}{path.suffix}"))


def table(labels: Labels) -> str:
    """A CSV file with a row for each image that people have looked at, unknown ones too.

    Paths and classes that a spreadsheet would run as a formula have an apostrophe before them. All fields are
    quoted, since spreadsheets of some countries would split them at semicolons, and run what follows.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["path", "labels", "status", "split", "sha256"])
    for image in labels.images:
        status = "unknown" if image.is_unknown else "labeled"
        classes = csv_table.escaped(tasks.SEPARATOR.join(image.classes))
        writer.writerow([csv_table.escaped(image.path), classes, status, image.split, image.sha256])
    return stream.getvalue()


def agreement(rows: Iterable[Row]) -> str:
    """A CSV file with a row for each image that two people have labeled: both answers, and its label now."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    header = [
        column for name in ("first", "second", "label") for column in (f"{name}_status", f"{name}_classes")
    ]
    writer.writerow(["path", "sha256", "first_person", "second_person", "equal", *header])
    for row in rows:
        people = [csv_table.escaped(name) for name in row.people]
        values: list[str] = []
        for state in (row.first, row.second, row.label):
            values += [str(state.status), csv_table.escaped(tasks.SEPARATOR.join(state.classes))]
        equal = "yes" if row.is_equal else "no"
        writer.writerow([csv_table.escaped(row.path), row.sha256, *people, equal, *values])
    return stream.getvalue()


def class_folders(labels: Labels, library: Library, target: Path) -> None:
    """Writes a zip with a folder for each class; an image of several classes lies in each of theirs.

    Images without any class are left out.

    Raises:
        UserError: an image's file is missing or damaged.
    """
    with zipfile.ZipFile(target, "w") as archive:
        for image in labels.labeled:
            data = _original(image, library)
            for name in image.classes:
                member = zipfile.ZipInfo(f"{name}/{image.sha256[:16]}{image.suffix}", _EPOCH)
                archive.writestr(member, data)


def snapshot(labels: Labels, library: Library, folder: Path) -> Path:
    """Writes what ``data=labels`` reads: images with their labels and their split.

    Unknown images are left out, and those of classes that people have left out of training, or that have too
    few images to train on. With one class each they lie in ``train/CLASS`` and ``test/CLASS``, or in
    ``CLASS`` if the project has no test images: then the stage split draws some. With several classes an
    image there is a ``labels.csv``.

    Returns:
        The archive; ``snapshot.json`` beside it says what it holds.

    Raises:
        UserError: there are no labels, or an image's file is missing or damaged.
    """
    images = labels.trainable
    if not images:
        raise UserError(f"{labels.project} has no labels to train on yet; label some images first")
    with atomic.replace_file(folder / SNAPSHOT) as part, tarfile.open(part, "w", encoding="utf-8") as archive:
        for name, data in _members(labels.task, images, library):
            archives.add(archive, name, data)
    summary = {
        "project": labels.project,
        "task": labels.task,
        "labels": len(images),
        "test": sum(image.split == "test" for image in images),
        "switched_off": len(labels.labeled) - len(labels.chosen),
        "too_few_to_train": len(labels.chosen) - len(images),
        "unknown": len(labels.images) - len(labels.labeled),
        "last_event": labels.last_event,
    }
    atomic.replace_text(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return folder / SNAPSHOT


def _members(task: str, images: list[LabeledImage], library: Library) -> Iterator[tuple[str, bytes]]:
    several = task == "multi_label"
    if several:
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["path", "labels", "split"])
        for image in images:
            row = [f"images/{image.sha256}{image.suffix}", tasks.SEPARATOR.join(image.classes), image.split]
            writer.writerow(row)
        yield "labels.csv", stream.getvalue().encode()
    has_tests = any(image.split == "test" for image in images)
    for image in images:
        split = f"{image.split}/" if has_tests else ""
        folder = "images" if several else f"{split}{image.classes[0]}"
        yield f"{folder}/{image.sha256}{image.suffix}", _original(image, library)


def _original(image: LabeledImage, library: Library) -> bytes:
    """The bytes that were labeled.

    Raises:
        UserError: the file is missing, or has changed since then.
    """
    file = library.image(image.sha256, image.suffix)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != image.sha256:
        message = _(
            "{file} (first seen as {path}) is missing or has changed; bring the file back, then read the "
            "project's images again"
        )
        raise UserError(message.format(file=file, path=text.shortened(image.path, 100)))
    return data
