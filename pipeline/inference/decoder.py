"""Decodes images in a subprocess that can be killed, because untrusted input may hang or crash a decoder.

It imports only numpy and Pillow, receives an image's bytes and returns its pixels, shrunk as for the model:
the server never holds the full-size image.
"""

import contextlib
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from pipeline.portable import UnreadableError, read_picture, shrink

MEMORY = 1_000_000_000  # RLIMIT_DATA of a process in bytes; benchmarks.memory measures its use
START = 60  # seconds for a process to start
_HEAD = struct.Struct(">?HH")  # success, height and width


class Decoder:
    """One subprocess that decodes one image at a time; it is replaced if it hangs or crashes.

    Args:
        max_side: longer side of the returned image in pixels.
        most: maximum number of pixels of an image.
        seconds: time limit for decoding.
    """

    def __init__(self, max_side: int, most: int, seconds: float):
        self.max_side, self.most, self.seconds = max_side, most, seconds
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts the process without waiting for it."""
        self.connection, child_end = multiprocessing.Pipe()
        # Returns large blocks to the system at once, and stops OpenBLAS from reserving memory for threads.
        low_memory = {"MALLOC_MMAP_THRESHOLD_": "1000000", "OPENBLAS_NUM_THREADS": "1"}
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(child_end.fileno()), str(self.max_side), str(self.most)],
                pass_fds=[child_end.fileno()],
                env={**os.environ, **low_memory, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
            )
        self.begun = False

    def close(self) -> None:
        """Kills the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.connection.close()
            self.process = None

    def read(self, data: bytes) -> np.ndarray:
        """Decodes and shrinks one still image.

        Returns:
            uint8 array, height × width × 3.

        Raises:
            UnreadableError: see `read_picture`; or it took too long, or crashed the decoder.
            RuntimeError: the process does not start.
        """
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.start()
        try:
            if not self.begun:  # the start does not count towards the time limit
                if not self.connection.poll(START):
                    raise EOFError
                self.connection.recv_bytes()
                self.begun = True
            self.connection.send_bytes(data)
            if not self.connection.poll(self.seconds):
                raise UnreadableError(f"it takes more than {self.seconds:g} seconds to decode")
            reply = self.connection.recv_bytes(max(10_000, _HEAD.size + self.max_side**2 * 3))
        except (EOFError, OSError) as error:
            has_begun = self.begun
            self.close()
            if not has_begun:
                raise RuntimeError("the process that decodes pictures does not start") from error
            raise UnreadableError("damaged: the decoder broke on it") from error
        except UnreadableError:
            self.close()
            raise
        success, height, width = _HEAD.unpack_from(reply)
        if not success:
            raise UnreadableError(reply[_HEAD.size :].decode())
        return np.frombuffer(reply, np.uint8, offset=_HEAD.size).reshape(height, width, 3)


def _reply(data: bytes, max_side: int, most: int) -> bytes:
    try:
        pixels = shrink(read_picture(data, most, reject_animation=True), max_side)
    except UnreadableError as reason:
        return _HEAD.pack(False, 0, 0) + str(reason).encode(errors="replace")[:9000]
    return _HEAD.pack(True, *pixels.shape[:2]) + pixels.tobytes()


def main(arguments: list[str]) -> None:
    """Decodes images from a pipe until it closes."""
    import resource

    from PIL import AvifImagePlugin, Image

    descriptor, max_side, most = map(int, arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # sent group-wide; the server finishes requests first
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    Image.MAX_IMAGE_PIXELS = most  # Pillow refuses twice as many before it allocates memory
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is one process per core
    connection = Connection(descriptor)
    connection.send_bytes(b"begun")
    with contextlib.suppress(EOFError, OSError):  # the server is gone
        while True:
            connection.send_bytes(_reply(connection.recv_bytes(), max_side, most))


if __name__ == "__main__":
    main(sys.argv[1:])
