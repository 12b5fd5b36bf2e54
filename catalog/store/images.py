"""A project's images, and files that can't be used."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from catalog.store.tables import Image, Project, Quarantined


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

    Whether an image is in the test split, and its place in the random order, follow from its hash alone:
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


def hashes(session: Session, project_id: int) -> set[str]:
    """The hashes of the project's images."""
    return set(session.scalars(select(Image.sha256).where(Image.project_id == project_id)))


def files(session: Session, project_id: int) -> list[tuple[str, str]]:
    """Hash and suffix of each image, for `Library.image`."""
    query = select(Image.sha256, Image.suffix).where(Image.project_id == project_id).order_by(Image.rank)
    return [(sha256, suffix) for sha256, suffix in session.execute(query)]


def quarantine(session: Session, project_id: int, problems: dict[str, str]) -> None:
    """Records files that can't be used, by path with the reason."""
    if problems:
        session.execute(
            delete(Quarantined).where(
                Quarantined.project_id == project_id, Quarantined.path.in_(list(problems))
            )
        )
        rows = [
            {"project_id": project_id, "path": path, "reason": reason} for path, reason in problems.items()
        ]
        session.execute(insert(Quarantined), rows)


def quarantined(session: Session, project_id: int) -> list[Quarantined]:
    """The unusable files, by path."""
    query = select(Quarantined).where(Quarantined.project_id == project_id).order_by(Quarantined.path)
    return list(session.scalars(query))


def count(session: Session, project_id: int) -> int:
    """Number of the project's images."""
    return session.scalar(select(func.count()).select_from(Image).where(Image.project_id == project_id))
