"""Writes a project's labels as tasks for Label Studio, with the matching labeling configuration.

Checked with Label Studio 1.23 by tests/test_catalog_label_studio.py. `catalog.exchange` reads its exports.
"""

import heapq
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from catalog.exchange.label_studio import CONTROL, OBJECT
from catalog.store.exported import LabeledImage, Labels

LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves files of its machine


def configuration(task: str, classes: Iterable[str]) -> str:
    """The labeling configuration for `tasks`, from a project's task and the names of its classes."""
    several = "multiple" if task == "multi_label" else "single"
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    return (
        "<View>\n"
        f'  <Image name="{OBJECT}" value="${OBJECT}"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="{several}" showInLine="true">\n'
        f"{choices}"
        "  </Choices>\n"
        "</View>\n"
    )


def tasks(labels: Labels, prefix: str = LOCAL_FILES, own_paths: bool = False) -> str:
    """A task for each image, with its label as an annotation; unknown and waiting images have none.

    Label Studio refuses annotations of people whom it doesn't know, so who has labeled an image, and when,
    is in the task's ``meta``.

    Args:
        labels: of a project.
        prefix: of the images' addresses.
        own_paths: whether addresses have the images' own paths, or those of the catalog's copies.
    """
    images = heapq.merge(labels.images, labels.waiting, key=lambda image: image.sha256)
    waiting = {image.id for image in labels.waiting}
    rows = [_task(image, prefix, own_paths, image.id not in waiting) for image in images]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def _task(image: LabeledImage, prefix: str, own_paths: bool, is_labeled: bool) -> dict[str, object]:
    place = image.path if own_paths else f"images/{image.sha256[:2]}/{image.sha256}{image.suffix}"
    task: dict[str, object] = {
        "data": {
            OBJECT: prefix + quote(place),
            "path": image.path,
            "sha256": image.sha256,
            "split": image.split,
        }
    }
    if image.labeled_by:
        at = datetime.fromtimestamp(image.labeled_at, UTC).isoformat(timespec="milliseconds")
        task["meta"] = {"labeled_by": image.labeled_by, "labeled_at": at}
    if is_labeled and not image.is_unknown:
        value = {"choices": list(image.classes)}
        result = {"from_name": CONTROL, "to_name": OBJECT, "type": "choices", "value": value}
        task["annotations"] = [{"result": [result] if image.classes else []}]
    return task
