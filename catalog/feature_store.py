"""Features of a frozen backbone by image hash, stored in chunks that are memory-mapped."""

import json
import uuid
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pipeline.artifacts import atomic


class FeatureStore:
    """Features computed by one backbone; several processes may use a folder.

    Args:
        folder: of this backbone; files ``NAME.npy`` (float32, N×C) with the images' hashes in ``NAME.json``.
            A file never changes: other processes know its rows by their numbers.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._find()

    def _find(self) -> None:
        self._where: dict[str, tuple[str, int]] = {}
        self._chunks: dict[str, np.ndarray] = {}
        for file in sorted(self._folder.glob("*.json")):  # written after its features
            for row, key in enumerate(json.loads(file.read_text(encoding="utf-8"))):
                self._where[key] = file.stem, row

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._where

    def add(self, hashes: list[str], features: np.ndarray) -> None:
        """Stores features, N×C, in a file of their own."""
        name = uuid.uuid4().hex
        with atomic.replace_file(self._folder / f"{name}.npy") as part, open(part, "wb") as stream:
            np.save(stream, features.astype(np.float32))
        atomic.replace_text(self._folder / f"{name}.json", json.dumps(hashes))
        self._where.update((key, (name, row)) for row, key in enumerate(hashes))

    def get(self, hashes: list[str]) -> np.ndarray:
        """Features of these images, N×C float32, in their order.

        Raises:
            KeyError: an image has none.
        """
        try:
            return np.stack([self._row(key) for key in hashes])
        except FileNotFoundError:  # another process has discarded some, and stored the rest anew
            self._find()
            return np.stack([self._row(key) for key in hashes])

    def _row(self, sha256: str) -> np.ndarray:
        name, row = self._where[sha256]
        if name not in self._chunks:
            self._chunks[name] = np.load(self._folder / f"{name}.npy", mmap_mode="r")
        return self._chunks[name][row]

    def discard(self, hashes: Collection[str]) -> None:
        """Deletes the features of these images."""
        touched = defaultdict(list)
        for key in hashes:
            if key in self._where:
                touched[self._where[key][0]].append(key)
        for name, keys in touched.items():
            kept = [key for key, (other, _) in self._where.items() if other == name and key not in set(keys)]
            if kept:
                self.add(kept, self.get(kept))
            for key in keys:
                del self._where[key]
            self._chunks.pop(name, None)
            for suffix in (".json", ".npy"):
                (self._folder / f"{name}{suffix}").unlink(missing_ok=True)
