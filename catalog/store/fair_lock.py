"""A lock that threads get in the order in which they asked for it."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """One holder at a time, first come, first served.

    Databases poll or choose among those who wait, so that somebody may wait long while others pass.
    """

    def __init__(self):
        self._mutex = threading.Lock()
        self._is_held = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """Holds the lock.

        Args:
            timeout: seconds to wait for it.

        Raises:
            TimeoutError: others have held it for so long.
        """
        self._acquire(timeout)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, timeout: float) -> None:
        with self._mutex:
            if not self._is_held:
                self._is_held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout):
            return
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
                raise TimeoutError
        # It was handed over just now.

    def _release(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()  # it stays held, by the next one
            else:
                self._is_held = False
