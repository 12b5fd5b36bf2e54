"""Files of a project's folder that were read, so that unchanged ones needn't be read again."""

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from catalog.store.images import CHUNK
from catalog.store.tables import SeenFile


class Seen(NamedTuple):
    """A file as it was when it was read; see `SeenFile`."""

    path: str
    size: int
    modified: int
    sha256: str


def of(session: Session, project_id: int) -> dict[str, Seen]:
    """The files that were read, by path."""
    query = select(SeenFile.path, SeenFile.size, SeenFile.modified, SeenFile.sha256)
    rows = session.execute(query.where(SeenFile.project_id == project_id))
    return {row[0]: Seen(*row) for row in rows}


def since(session: Session, project_id: int, last: int) -> tuple[list[tuple[str, int, int]], int]:
    """The files that were recorded after a row.

    Returns:
        Path, size and time of change of each, and the id of the last row.
    """
    query = select(SeenFile.id, SeenFile.path, SeenFile.size, SeenFile.modified)
    found, newest = [], last
    for row_id, *state in session.execute(
        query.where(SeenFile.id > last, SeenFile.project_id == project_id).execution_options(yield_per=10_000)
    ):
        found.append(tuple(state))
        newest = max(newest, row_id)
    return found, newest


def record(session: Session, project_id: int, files: Iterable[Seen]) -> None:
    """Records files that were read, in place of earlier states of them."""
    rows = list({file.path: file for file in files}.values())
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        outdated = SeenFile.path.in_([file.path for file in chunk])
        session.execute(delete(SeenFile).where(SeenFile.project_id == project_id, outdated))
        session.execute(insert(SeenFile), [{"project_id": project_id, **file._asdict()} for file in chunk])
