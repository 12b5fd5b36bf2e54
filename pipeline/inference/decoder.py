"""Decodes images in a subprocess that can be killed, because untrusted input may hang or crash a decoder.

The subprocess imports only numpy and Pillow. It receives an image's bytes and returns its pixels, shrunk as
for the model, so the server never holds the full-size image; with them it returns the format and the size.
"""

import contextlib
import io
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.portable import FORMATS, UnreadableError, read_picture, shrink

MEMORY = 1_000_000_000  # RLIMIT_DATA of the subprocess in bytes; benchmarks.memory measures its use
START_TIMEOUT = 60  # seconds for the subprocess to start
# Of a reply: success, height and width, those of the image as sent, and its format; then pixels or an error
# message.
_HEADER = struct.Struct(">?HHII8s")
_FAILED = _HEADER.pack(False, 0, 0, 0, 0, b"")


@dataclass(frozen=True)
class Decoded:
    """An image of the subprocess.

    Attributes:
        pixels: uint8, height × width × 3, shrunk.
        width: of the upright image as sent, in pixels.
        height: likewise.
        format: Pillow's name of the file's format: one of `FORMATS`, or ``MPO``.
    """

    pixels: np.ndarray
    width: int
    height: int
    format: str


class Decoder:
    """A subprocess that decodes one image at a time; it is replaced if it hangs or crashes.

    Args:
        max_side: maximum of the longer side of returned images in pixels.
        max_pixels: maximum number of pixels of an image as sent.
        timeout: seconds for decoding an image.
    """

    def __init__(self, max_side: int, max_pixels: int, timeout: float):
        self.max_side, self.max_pixels, self.timeout = max_side, max_pixels, timeout
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts the subprocess without waiting for it."""
        self.connection, child_end = multiprocessing.Pipe()
        # Returns large blocks to the system at once, and stops OpenBLAS from reserving memory for threads.
        low_memory = {"MALLOC_MMAP_THRESHOLD_": "1000000", "OPENBLAS_NUM_THREADS": "1"}
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        arguments = map(str, (child_end.fileno(), self.max_side, self.max_pixels))
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, *arguments],
                pass_fds=[child_end.fileno()],
                env={**os.environ, **low_memory, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
            )
        self.is_ready = False

    def close(self) -> None:
        """Kills the subprocess."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.connection.close()
            self.process = None

    def read(self, data: bytes) -> np.ndarray:
        """As `decode`, without format and size: uint8 array, height × width × 3."""
        return self.decode(data).pixels

    def decode(self, data: bytes) -> Decoded:
        """Decodes and shrinks one still image.

        Raises:
            UnreadableError: see `read_picture`; or decoding exceeded the timeout or crashed the subprocess.
            RuntimeError: the subprocess does not start.
        """
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.start()
        try:
            if not self.is_ready:  # waited for separately, because starting must not count as decoding
                if not self.connection.poll(START_TIMEOUT):
                    raise EOFError
                self.connection.recv_bytes()
                self.is_ready = True
            self.connection.send_bytes(data)
            if not self.connection.poll(self.timeout):
                raise UnreadableError(f"it takes more than {self.timeout:g} seconds to decode")
            reply = self.connection.recv_bytes(max(10_000, _HEADER.size + self.max_side**2 * 3))
        except (EOFError, OSError) as error:
            self.close()
            if not self.is_ready:
                raise RuntimeError("the process that decodes pictures does not start") from error
            raise UnreadableError("damaged: the decoder broke on it") from error
        except UnreadableError:
            self.close()
            raise
        success, height, width, whole_height, whole_width, name = _HEADER.unpack_from(reply)
        if not success:
            raise UnreadableError(reply[_HEADER.size :].decode())
        image_format = name.rstrip(b"\0").decode()
        if image_format not in (*FORMATS, "MPO"):  # files are named after it
            raise UnreadableError("not a picture of a known format")
        pixels = np.frombuffer(reply, np.uint8, offset=_HEADER.size).reshape(height, width, 3)
        return Decoded(pixels, whole_width, whole_height, image_format)


def _reply(data: bytes, max_side: int, max_pixels: int) -> bytes:
    try:
        picture = read_picture(data, max_pixels, reject_animation=True)
    except UnreadableError as error:
        return _FAILED + str(error).encode(errors="replace")[:9000]
    width, height = picture.size
    pixels = shrink(picture, max_side)
    del picture
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        image_format = header.format.encode()
    return _HEADER.pack(True, *pixels.shape[:2], height, width, image_format) + pixels.tobytes()


def main(arguments: list[str]) -> None:
    """The subprocess: decodes images from a pipe until it closes.

    Args:
        arguments: the pipe's file descriptor, and `max_side` and `max_pixels` of `Decoder`.
    """
    import resource

    from PIL import AvifImagePlugin

    descriptor, max_side, max_pixels = map(int, arguments)
    # These are sent to the whole process group, but the server still has requests to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow refuses twice as many before it allocates memory
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is one process per core
    connection = Connection(descriptor)
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):  # the server has closed the pipe
        while True:
            connection.send_bytes(_reply(connection.recv_bytes(), max_side, max_pixels))


if __name__ == "__main__":
    main(sys.argv[1:])
