"""Image files and thumbnails of the catalog, by content."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pipeline.artifacts import atomic
from pipeline.common import paths

VARIABLE = "PETFACES_CATALOG"  # of the environment: the catalog's folder
DATABASE_VARIABLE = "PETFACES_CATALOG_DATABASE"  # the URL of a database elsewhere
FOLDER = "data/catalog"  # in the main checkout
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg"}  # by Pillow's format; others: the format's name
THUMBNAIL_SIDE = 384  # pixels of the longer side; sharp on a dense screen at half of that


def suffix_of(image_format: str) -> str:
    """The suffix of files of one of Pillow's formats."""
    return _SUFFIXES.get(image_format, f".{image_format.lower()}")


def default_folder() -> Path:
    """The folder named by PETFACES_CATALOG, or that of the checkout."""
    return paths.from_root(os.environ.get(VARIABLE) or FOLDER, paths.main_checkout())


@dataclass(frozen=True)
class Library:
    """Files below the catalog's folder.

    Attributes:
        folder: holds ``catalog.db``, ``images/``, ``thumbnails/``, ``uploads/``, ``features/``,
            ``champions/``, ``backbone/``, ``taught/``, ``compared/``, ``exported/``, ``maps/``,
            ``imports/``, ``tmp/``, and ``session.key``, which signs the cookies of people who have signed in.
        database_url: of a database elsewhere; may hold a password. Empty for ``catalog.db``.
    """

    folder: Path
    database_url: str = field(default="", repr=False)

    @property
    def database(self) -> Path | str:
        """File or URL of the database, for `catalog.store.open_database`."""
        return self.database_url or self.folder / "catalog.db"

    @property
    def session_key(self) -> Path:
        return self.folder / "session.key"

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def champions(self) -> Path:
        return self.folder / "champions"

    @property
    def temporary(self) -> Path:
        """Folder of files that no longer matter after their request; it is created."""
        folder = self.folder / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def unused(self) -> Path:
        """Folder of originals that nothing refers to; they are deleted after some weeks."""
        return self.folder / "unused"

    @property
    def backbone(self) -> Path:
        """Folder of the exported backbone, see `catalog.backbone`."""
        return self.folder / "backbone"

    def taught(self, project_id: int) -> Path:
        """File of the model that a project of the teach page has trained last."""
        return self.folder / "taught" / f"{project_id}.npz"

    def compared(self, project_id: int) -> Path:
        """File with that model's comparison to a network from scratch."""
        return self.folder / "compared" / f"{project_id}.json"

    def exported(self, project_id: int) -> Path:
        """Folder of that model's export, in a folder named by `TaughtModel.export_key`."""
        return self.folder / "exported" / str(project_id)

    def map(self, project_id: int) -> Path:
        """File of a project's map, see `catalog.maps`."""
        return self.folder / "maps" / f"{project_id}.npz"

    def uploads(self, project_id: int) -> Path:
        """Folder of files that a browser has sent and that were not read yet."""
        return self.folder / "uploads" / str(project_id)

    def imports(self, project_id: int) -> Path:
        """Folder of files of labels that wait until a person applies them, named by their batch."""
        return self.folder / "imports" / str(project_id)

    def image(self, sha256: str, suffix: str) -> Path:
        """Path of an original file."""
        return self.folder / "images" / sha256[:2] / f"{sha256}{suffix}"

    def thumbnail(self, sha256: str) -> Path:
        """Path of an image's thumbnail."""
        return self.folder / "thumbnails" / sha256[:2] / f"{sha256}.jpg"

    def holds(self, sha256: str, suffix: str, size: int) -> bool:
        """Whether an image's file is there with all of its bytes, and its thumbnail."""
        return _has_size(self.image(sha256, suffix), size) and self.thumbnail(sha256).is_file()

    def store(self, data: bytes, sha256: str, suffix: str) -> None:
        """Keeps a copy of an original, so that nothing is lost when the source is changed or deleted."""
        target = self.image(sha256, suffix)
        if not _has_size(target, len(data)):
            with atomic.replace_file(target) as part:
                part.write_bytes(data)

    def erase(self, sha256: str, suffix: str) -> None:
        """Deletes an original and its thumbnail."""
        self.image(sha256, suffix).unlink(missing_ok=True)
        self.thumbnail(sha256).unlink(missing_ok=True)

    def set_aside(self, sha256: str, suffix: str) -> None:
        """Moves an original that nothing refers to where `put_back` finds it; its thumbnail stays."""
        target = self.unused / f"{sha256}{suffix}"
        target.parent.mkdir(exist_ok=True)
        os.replace(self.image(sha256, suffix), target)
        os.utime(target)  # since when it is unused

    def put_back(self, file: Path) -> None:
        """Moves a file of `unused` back."""
        target = self.image(file.stem, file.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)

    def erase_project(self, project_id: int) -> None:
        """Deletes a project's own files: its taught model, the export, its map, and files not read yet."""
        for folder in (self.exported(project_id), self.uploads(project_id), self.imports(project_id)):
            shutil.rmtree(folder, ignore_errors=True)
        drawn = self.map(project_id)
        for file in (self.taught(project_id), self.compared(project_id), drawn, drawn.with_suffix(".anew")):
            file.unlink(missing_ok=True)

    def flush(self, sha256: str, suffix: str) -> None:
        """Waits until an image's file is on the disk, as it must be before the only other copy is deleted."""
        with open(self.image(sha256, suffix), "rb") as file:
            os.fsync(file.fileno())

    def store_thumbnail(self, image: Image.Image, sha256: str) -> None:
        """Makes an image's thumbnail by shrinking `image` in place; an existing file is kept."""
        target = self.thumbnail(sha256)
        if not target.is_file():
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            with atomic.replace_file(target) as part:
                image.save(part, "JPEG", quality=85)


def _has_size(file: Path, size: int) -> bool:
    """Whether a file has all of its bytes: a power failure can cut it off."""
    try:
        return file.stat().st_size == size
    except FileNotFoundError:
        return False
