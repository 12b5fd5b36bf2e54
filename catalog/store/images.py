"""A project's images, and files that can't be used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from catalog.store.tables import Image, Project, Quarantined

CHUNK = 500  # parameters of a statement


@dataclass(frozen=True)
class NewImage:
    """A usable image file: its path for display, size in pixels and hash of the encoded bytes."""

    path: str
    sha256: str
    suffix: str
    width: int
    height: int


def add(session: Session, project: Project, found: Iterable[NewImage]) -> int:
    """Adds images to a project that doesn't have them; returns how many.

    Whether an image is in the test split, and its position in the random order, follow from its hash alone:
    they are the same in every project and after every reading.
    """
    rows = [
        {
            "project_id": project.id,
            "sha256": image.sha256,
            "path": image.path,
            "suffix": image.suffix,
            "width": image.width,
            "height": image.height,
            "is_test": int(image.sha256[:8], 16) < project.test_fraction * 2**32,
            "rank": int(image.sha256[8:15], 16),
        }
        for image in found
    ]
    if rows:
        session.execute(insert(Image), rows)
    return len(rows)


def by_id(session: Session, project_id: int, ids: Iterable[int]) -> Iterator[Image]:
    """The images with these ids; those of other projects are left out.

    The ids alone are asked for: with the project as a further condition, SQLite, which doesn't know how many
    images a project has, walks through all of them.
    """
    ids = list(ids)
    for start in range(0, len(ids), CHUNK):
        query = select(Image).where(Image.id.in_(ids[start : start + CHUNK]))
        yield from (image for image in session.scalars(query).all() if image.project_id == project_id)


def suffixes(session: Session, project_id: int) -> dict[str, str]:
    """The suffix of each image of the project, by hash."""
    query = select(Image.sha256, Image.suffix).where(Image.project_id == project_id)
    return dict(session.execute(query).tuples().all())


def quarantine(session: Session, project_id: int, problems: dict[str, str], usable: set[str]) -> None:
    """Records files that can't be used, by path with the reason, and forgets those that can by now."""
    forget_quarantined(session, project_id, [*problems, *usable])
    rows = [{"project_id": project_id, "path": path, "reason": reason} for path, reason in problems.items()]
    if rows:
        session.execute(insert(Quarantined), rows)


def forget_quarantined(session: Session, project_id: int, paths: list[str]) -> None:
    """Takes paths out of the quarantine."""
    for start in range(0, len(paths), CHUNK):
        outdated = Quarantined.path.in_(paths[start : start + CHUNK])
        session.execute(delete(Quarantined).where(Quarantined.project_id == project_id, outdated))


def quarantined(
    session: Session, project_id: int, after: str = "", limit: int | None = None
) -> list[Quarantined]:
    """The unusable files behind a path, by path."""
    query = select(Quarantined).where(Quarantined.project_id == project_id, Quarantined.path > after)
    return list(session.scalars(query.order_by(Quarantined.path).limit(limit)))


def count_quarantined(session: Session, project_id: int) -> int:
    """Number of unusable files."""
    query = select(func.count()).select_from(Quarantined).where(Quarantined.project_id == project_id)
    return session.scalar(query)


def exist(session: Session) -> bool:
    """Whether any project has an image."""
    return session.scalar(select(Image.id).limit(1)) is not None


def used(session: Session, hashes: Iterable[str]) -> set[str]:
    """Those of the hashes that an image of any project has."""
    hashes, found = list(hashes), set()
    for start in range(0, len(hashes), CHUNK):
        query = select(Image.sha256).where(Image.sha256.in_(hashes[start : start + CHUNK]))
        found.update(session.scalars(query))
    return found
