"""Decodes pictures in a process that can be ended, since what a stranger sends may hang or break a decoder.

It imports numpy and Pillow only, takes a picture's bytes and gives back its pixels, shrunk as the model would
shrink them: the server holds neither the picture in full nor a copy of it.
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

MEMORY = 1_000_000_000  # bytes of data that a process may have; benchmarks.memory measures how many it takes
START = 60  # seconds in which a process must have begun
_HEAD = struct.Struct(">?HH")  # whether there are pixels, their height and width


class Decoder:
    """One process, which decodes a picture at a time; one that hangs or breaks is ended and replaced.

    Args:
        max_side: pixels of the longer side that come back.
        most: pixels that a picture may have.
        seconds: in which it must have been decoded.
    """

    def __init__(self, max_side: int, most: int, seconds: float):
        self.max_side, self.most, self.seconds = max_side, most, seconds
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Begins the process, without waiting for it."""
        self.connection, theirs = multiprocessing.Pipe()
        # Large blocks go back to the system at once, and no library reserves memory for threads.
        few = {"MALLOC_MMAP_THRESHOLD_": "1000000", "OPENBLAS_NUM_THREADS": "1"}
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(self.max_side), str(self.most)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **few, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
            )
        self.begun = False

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.connection.close()
            self.process = None

    def read(self, data: bytes) -> np.ndarray:
        """Decodes and shrinks one still picture.

        Returns:
            uint8 array, height × width × 3.

        Raises:
            UnreadableError: as `read_picture`; or it took too long, or broke the decoder.
            RuntimeError: the process doesn't start.
        """
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.start()
        try:
            if not self.begun:  # which takes no time of the picture's
                if not self.connection.poll(START):
                    raise EOFError
                self.connection.recv_bytes()
                self.begun = True
            self.connection.send_bytes(data)
            if not self.connection.poll(self.seconds):
                raise UnreadableError(f"it takes more than {self.seconds:g} seconds to decode")
            reply = self.connection.recv_bytes(max(10_000, _HEAD.size + self.max_side**2 * 3))
        except (EOFError, OSError) as error:
            begun = self.begun
            self.close()
            if not begun:
                raise RuntimeError("the process that decodes pictures does not start") from error
            raise UnreadableError("damaged: the decoder broke on it") from error
        except UnreadableError:
            self.close()
            raise
        sound, height, width = _HEAD.unpack_from(reply)
        if not sound:
            raise UnreadableError(reply[_HEAD.size :].decode())
        return np.frombuffer(reply, np.uint8, offset=_HEAD.size).reshape(height, width, 3)


def _reply(data: bytes, max_side: int, most: int) -> bytes:
    try:
        pixels = shrink(read_picture(data, most, still=True), max_side)
    except UnreadableError as reason:
        return _HEAD.pack(False, 0, 0) + str(reason).encode(errors="replace")[:9000]
    return _HEAD.pack(True, *pixels.shape[:2]) + pixels.tobytes()


def main(arguments: list[str]) -> None:
    """Decodes what comes through a pipe until it closes."""
    import resource

    from PIL import AvifImagePlugin, Image

    descriptor, max_side, most = map(int, arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all; the server answers first what was begun
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    Image.MAX_IMAGE_PIXELS = most  # twice as many Pillow refuses before it reserves room for them
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process for each core
    connection = Connection(descriptor)
    connection.send_bytes(b"begun")
    with contextlib.suppress(EOFError, OSError):  # the server is gone
        while True:
            connection.send_bytes(_reply(connection.recv_bytes(), max_side, most))


if __name__ == "__main__":
    main(sys.argv[1:])
