"""The thread of the server that changes many labels after a change of classes."""

import logging
import threading

from catalog.store import Database, UnavailableError, relabeling

WAIT = 3.0  # seconds between tries while the database can't be reached
RETRY = 60.0  # seconds after another error
STOP_SECONDS = 10  # to wait for the transaction that is under way

_log = logging.getLogger(__name__)


class Relabeler:
    """Does the changes that wait, one after the other, and those that were cut off when the server ended.

    Args:
        database: the catalog's.
    """

    def __init__(self, database: Database):
        self._database = database
        self._wanted, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Starts the thread, with what the last server has left."""
        self._wanted.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the transaction that it is in; the rest is done by the next server."""
        self._stopped.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def wake(self) -> None:
        """Tells that there is a new change."""
        self._wanted.set()

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._wanted.wait()
            self._wanted.clear()
            try:
                with self._database.read() as session:
                    numbers = [row.id for row in relabeling.unfinished(session)]
                for number in numbers:
                    relabeling.finish(self._database, number, self._stopped.is_set)
            except UnavailableError:
                self._again(WAIT)
            except Exception:  # its project stays paused, and the page shows that it isn't done
                _log.exception("labels could not be changed; trying again in a minute")
                self._again(RETRY)

    def _again(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self._wanted.set()
