"""A project's map: a position in two dimensions for each image, and what places images that join later."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts import atomic

VERSION = 1  # of the file; maps of other versions are computed anew


@dataclass(frozen=True)
class Fit:
    """What a map was fitted on.

    Attributes:
        mean, axes: of the principal components, C and D×C; features have unit length before.
        components: of the images that were arranged, S×D.
        positions: of these images in t-SNE's own units, S×2.
        images: number of all images at that time.
    """

    mean: np.ndarray
    axes: np.ndarray
    components: np.ndarray
    positions: np.ndarray
    images: int

    def on_map(self, positions: np.ndarray) -> np.ndarray:
        """Positions in t-SNE's units as those of the map; those outside of the sample move to its rim."""
        low, high = self.positions.min(axis=0), self.positions.max(axis=0)
        return scaled(np.clip(positions, low, high), low, high)


def scaled(positions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Positions, N×2, with the middle of two corners at 0 and the farther side at 1; float32."""
    return ((positions - (low + high) / 2) / max((high - low).max() / 2, 1e-9)).astype(np.float32)


@dataclass(frozen=True)
class Map:
    """Positions of images.

    Attributes:
        ids: of the images, N int64. The fitted ones are in random order, those that joined later follow.
        positions: N×2 float32, from about -1 to 1.
        images: number of the project's images when it was made; those without a file have no position.
        newest: the largest id of an image at that time.
        fit: None while only the first two principal components are shown.
        version: of its content, for addresses.
    """

    ids: np.ndarray
    positions: np.ndarray
    images: int
    newest: int
    fit: Fit | None
    version: str = ""

    @property
    def placed(self) -> int:
        """How many images have joined since it was fitted."""
        return 0 if self.fit is None else max(0, self.images - self.fit.images)

    def save(self, file: Path) -> None:
        """Writes the map; replaces an earlier one at once."""
        content = {
            "format": np.array(VERSION),
            "ids": self.ids.astype(np.int64),
            "positions": self.positions.astype(np.float32),
            "counts": np.array([self.images, self.newest], np.int64),
        }
        if self.fit is not None:
            content |= {f"fit_{name}": np.asarray(value) for name, value in vars(self.fit).items()}
        digest = hashlib.sha256(content["ids"].tobytes() + content["positions"].tobytes())
        content["version"] = np.array(f"{digest.hexdigest()[:20]}")
        with atomic.replace_file(file) as part, open(part, "wb") as stream:
            np.savez(stream, **content)


def ask_anew(file: Path) -> None:
    """Asks for all images to be arranged again; the map in the file is shown until then."""
    wish = _wish(file)
    wish.parent.mkdir(parents=True, exist_ok=True)
    wish.touch()


def asked_anew(file: Path) -> int | None:
    """When `ask_anew` was called for this map, in nanoseconds; None if all that was asked is done."""
    try:
        return _wish(file).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def done_anew(file: Path, asked: int | None) -> None:
    """Notes that all images were arranged again, as was asked at this time and not again since then."""
    if asked is not None and asked_anew(file) == asked:
        _wish(file).unlink(missing_ok=True)


def _wish(file: Path) -> Path:
    """An empty file next to the map."""
    return file.with_suffix(".anew")


def load(file: Path, with_fit: bool = False) -> Map | None:
    """The map in a file; None if there is none, or one of another version of this program.

    Args:
        file: the file.
        with_fit: whether to read what the map was fitted on; else `Map.fit` has its number of images only.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            if stored["format"] != VERSION:
                return None
            images, newest = stored["counts"].tolist()
            fit = None
            if "fit_images" in stored:
                names = ("mean", "axes", "components", "positions")
                empty = np.zeros((0, 2), np.float32)
                arrays = {name: stored[f"fit_{name}"] if with_fit else empty for name in names}
                fit = Fit(**arrays, images=int(stored["fit_images"]))
            return Map(stored["ids"], stored["positions"], images, newest, fit, str(stored["version"]))
    except FileNotFoundError:
        return None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile):  # cut off by a power failure, perhaps
        return None
