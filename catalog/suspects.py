"""Takes over the labels that the pipeline's stage audit doubts, after a training on a project's labels."""

import json
from pathlib import Path, PurePosixPath

from catalog import export
from catalog.store import Database, projects, suspects
from catalog.store.suspects import Doubt
from pipeline import tasks
from pipeline.common import tables
from pipeline.common.errors import UserError


def take_over(database: Database, name: str, data: str, root: Path) -> int:
    """Stores the suspicious labels of the last training; returns how many still are a label.

    Args:
        database: the catalog's.
        name: of the project.
        data: of the data set that its labels were trained as.
        root: of the checkout, with ``labels/snapshot.json`` and ``data/NAME/audit.csv``.

    Raises:
        UserError: there is no audit, or the last snapshot is of another project.
    """
    file, summary = root / "data" / data / "audit.csv", root / "labels" / export.SUMMARY
    if not file.is_file() or not summary.is_file():
        raise UserError(f"{file} or {summary} is missing; run: petfaces catalog retrain {name!r}")
    snapshot = json.loads(summary.read_text(encoding="utf-8"))
    if snapshot["project"] != name:
        raise UserError(
            f"{summary} is of the project {snapshot['project']}; run: petfaces catalog retrain {name!r}"
        )
    found = [_doubt(row) for row in tables.read(file)]
    with database.write() as session:
        return suspects.replace(session, projects.by_name(session, name), found, snapshot["last_event"])


def _doubt(row: dict[str, str]) -> Doubt:
    """A row of the audit; an image of a snapshot is named by its hash."""
    return Doubt(
        sha256=PurePosixPath(row["path"]).stem,
        label=_names(row["label"]),
        proposed=_names(row["suggested"]),
        own_probability=float(row["own_probability"]),
        probability=float(row["suggested_probability"]),
    )


def _names(label: str) -> tuple[str, ...]:
    return tuple(label.split(tasks.SEPARATOR)) if label else ()
