"""Features of samples, computed in the server by the exported backbone and kept by content."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from catalog import backbone
from catalog.backbone import Exported
from catalog.feature_store import FeatureStore
from catalog.library import Library
from pipeline.inference.decoder import Decoder
from pipeline.portable import MAX_PIXELS, UnreadableError

BATCH = 16  # images per run of the backbone
CHUNK = 256  # features that are stored together
SECONDS = 20  # to decode one image

_log = logging.getLogger(__name__)


class SampleFeatures:
    """Decodes untrusted images in processes of their own, and computes their features.

    Args:
        library: of the catalog.
    """

    def __init__(self, library: Library):
        self._library = library
        self._stores: dict[str, FeatureStore] = {}
        self._storing = threading.RLock()  # held while a store is used
        # Answers must not wait for samples.
        self._of_samples, self._of_answers = _Pictures(), _Pictures()

    def close(self) -> None:
        """Ends the processes that decode."""
        self._of_samples.close()
        self._of_answers.close()

    def exported(self) -> Exported:
        """The backbone.

        Raises:
            UserError: it is being prepared.
        """
        return backbone.load(self._library.backbone)

    def picture(self, data: bytes) -> np.ndarray:
        """An encoded image as the backbone takes it, uint8 S×S×3.

        Raises:
            UnreadableError: `data` is no image.
        """
        return self._of_answers.decode(data, self.exported())

    def compute(
        self,
        files: dict[str, Path],
        report: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> set[str]:
        """Computes and stores what is missing.

        Args:
            files: images by hash.
            report: called with the number of finished and of all missing images.
            should_stop: asked before each image; what was computed until then is kept.

        Returns:
            Hashes of the images that have features: all, but those whose file is missing or damaged, and
            those that were erased meanwhile.
        """
        exported = self.exported()
        store = self._store(exported.key)
        missing = [key for key in files if key not in store]
        for start in range(0, len(missing), CHUNK):
            squares, parts = {}, []
            for number, key in enumerate(missing[start : start + CHUNK], start=1):
                if should_stop():
                    break
                try:
                    squares[key] = self._of_samples.decode(files[key].read_bytes(), exported)
                except (OSError, UnreadableError) as error:  # its card shows that the image is gone
                    _log.warning("%s can't be learned: %s", files[key], error)
                if len(squares) == BATCH * (len(parts) + 1):
                    parts.append(exported.network(np.stack(list(squares.values())[-BATCH:])))
                    report(start + number, len(missing))
            if waiting := len(squares) - BATCH * len(parts):
                parts.append(exported.network(np.stack(list(squares.values())[-waiting:])))
            if squares:
                self._add(store, dict(zip(squares, np.concatenate(parts), strict=True)), files)
            if should_stop():
                break
        return {key for key in files if key in store}

    def _add(self, store: FeatureStore, features: dict[str, np.ndarray], files: dict[str, Path]) -> None:
        """Stores features, but those of images that were erased meanwhile."""
        with self._storing:
            kept = {key: values for key, values in features.items() if files[key].is_file()}
            if kept:
                store.add(list(kept), np.stack(list(kept.values())))

    def get(self, hashes: Sequence[str]) -> np.ndarray:
        """Features of images that have some, N×C float32."""
        with self._storing:
            return self._store(self.exported().key).get(list(hashes))

    def discard(self, hashes: Sequence[str]) -> None:
        """Deletes the features of images, by whichever network."""
        with self._storing:
            for folder in self._library.features.glob("*"):
                self._store(folder.name).discard(hashes)

    def _store(self, key: str) -> FeatureStore:
        with self._storing:
            if key not in self._stores:
                self._stores[key] = FeatureStore(self._library.features / key)
            return self._stores[key]


class _Pictures:
    """A process that decodes one image at a time."""

    def __init__(self):
        self._decoder: Decoder | None = None
        self._lock = threading.Lock()

    def decode(self, data: bytes, exported: Exported) -> np.ndarray:
        """The image as the backbone takes it, uint8 S×S×3; raises UnreadableError."""
        sizing = exported.network.sizing
        with self._lock:
            if self._decoder is None or self._decoder.max_side != sizing.max_side:
                self._decoder = Decoder(sizing.max_side, MAX_PIXELS, SECONDS)
            pixels = self._decoder.read(data)
        return exported.network.square(pixels)

    def close(self) -> None:
        with self._lock:
            if self._decoder is not None:
                self._decoder.close()
