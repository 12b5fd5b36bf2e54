"""Features of a frozen backbone by image hash, stored in chunks that are memory-mapped."""

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from pipeline.artifacts import atomic

OPEN = 256  # chunks that are kept open
ONE_BY_ONE = 20_000  # features; more are read chunk by chunk


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
        return self.mapped(hashes, lambda features: features)

    def mapped(self, hashes: list[str], function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A function of these images' features, in their order.

        Args:
            hashes: of the images.
            function: takes features of some images, N×C float32, and returns a row for each. More than
                ONE_BY_ONE are never in memory together.

        Raises:
            KeyError: an image has none.
        """
        try:
            return self._mapped(hashes, function)
        except FileNotFoundError:  # another process has discarded some, and stored the rest anew
            self._find()
            return self._mapped(hashes, function)

    def _mapped(self, hashes: list[str], function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        if len(hashes) <= ONE_BY_ONE:
            return function(np.stack([self._row(key) for key in hashes]))
        in_chunk: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, key in enumerate(hashes):
            name, row = self._where[key]
            in_chunk[name].append((position, row))
        result = None
        for name, pairs in in_chunk.items():
            positions, rows = np.array(pairs).T
            # Not memory-mapped: what was read would count as this process's memory until the end.
            values = function(np.load(self._folder / f"{name}.npy")[rows])
            if result is None:
                result = np.empty((len(hashes), *values.shape[1:]), values.dtype)
            result[positions] = values
        return result

    def _row(self, sha256: str) -> np.ndarray:
        name, row = self._where[sha256]
        if name not in self._chunks:
            if len(self._chunks) >= OPEN:
                self._chunks.clear()
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
