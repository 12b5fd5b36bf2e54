"""Progress of a job, written to the database at most twice a second."""

import time

from catalog.store import Database, jobs

INTERVAL = 0.5  # seconds


class Progress:
    """Reports the progress of one job."""

    def __init__(self, database: Database, job_id: int):
        self._database, self._job_id, self._next = database, job_id, 0.0

    def report(self, done: int, total: int, message: str) -> None:
        """Writes the progress, unless the last report was just before.

        Args:
            done: finished items.
            total: all items; 0 if their number is unknown.
            message: what is being done.
        """
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            with self._database.write() as session:
                jobs.report(session, self._job_id, done, total, message)
