"""Decodes untrusted images in a process of its own, and keeps those that can be used."""

import hashlib
import threading

import numpy as np
from PIL import Image

from catalog.library import Library, suffix_of
from catalog.store.images import NewImage
from pipeline.common import text
from pipeline.inference.decoder import Decoder
from pipeline.portable import MAX_PIXELS

LARGE_SIDE = 1600  # pixels of the longer side
SECONDS = 20  # to decode one image

_decoder = Decoder(LARGE_SIDE, MAX_PIXELS, SECONDS)
_lock = threading.Lock()  # the decoder takes one image at a time


def read(data: bytes) -> np.ndarray:
    """Pixels of an encoded image, height × width × 3, shrunk to LARGE_SIDE.

    Raises:
        UnreadableError: it is no still image, or can't be decoded.
    """
    with _lock:
        return _decoder.read(data)


def close() -> None:
    """Ends the decoder's process."""
    _decoder.close()


def store(data: bytes, path: str, library: Library) -> NewImage:
    """Keeps an image's file and its thumbnail; the file is on the disk afterwards.

    Args:
        data: the encoded image.
        path: its name, for display.
        library: of the catalog.

    Raises:
        UnreadableError: as `read`.
    """
    with _lock:
        decoded = _decoder.decode(data)
    suffix = suffix_of(decoded.format)
    sha256 = hashlib.sha256(data).hexdigest()
    library.store(data, sha256, suffix)
    library.flush(sha256, suffix)
    library.store_thumbnail(Image.fromarray(decoded.pixels), sha256)
    return NewImage(text.shortened(text.path(path), 1000), sha256, suffix, decoded.width, decoded.height)
