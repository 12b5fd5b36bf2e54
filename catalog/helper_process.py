"""Starts the helper process, and starts it again when it ends."""

import logging
import os
import subprocess
import sys
import threading

from catalog.library import DATABASE_VARIABLE, Library
from pipeline.common.paths import ROOT

PAUSE = 1.0  # seconds before a helper that ended is started again

_log = logging.getLogger(__name__)


class HelperProcess:
    """The helper of one catalog folder; it ends when this process ends, however that happens."""

    def __init__(self, library: Library):
        self._library = library
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Starts the helper without waiting for it."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the helper; an unfinished job is done again at the next start."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        command = [sys.executable, "-m", "catalog.helper", str(self._library.folder)]
        # Other users of this machine can see a program's arguments, but not its environment.
        environment = {**os.environ, DATABASE_VARIABLE: self._library.database_url}
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return
                # The pipe stays open as long as this process lives: the helper ends when it is closed.
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment)
            with self._process:
                status = self._process.wait()
            if not self._stopping.wait(PAUSE):
                _log.warning("the helper ended with status %d; starting it again", status)
                command = [*command[:4], "--crashed"]
