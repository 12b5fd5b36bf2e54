"""Starts the helper process, and starts it again when it ends."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

from pipeline.common.paths import ROOT

PAUSE = 1.0  # seconds before a helper that ended is started again

_log = logging.getLogger(__name__)


class HelperProcess:
    """The helper of one catalog folder; it ends when this process ends, however that happens."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._stopping = threading.Event()
        self._process: subprocess.Popen | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Starts the helper without waiting for it."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the helper; an unfinished job is done again at the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            if self._process is not None:
                self._process.kill()
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            # The pipe stays open as long as this process lives: the helper ends when it is closed.
            with subprocess.Popen(
                [sys.executable, "-m", "catalog.helper", str(self._folder)], stdin=subprocess.PIPE, cwd=ROOT
            ) as self._process:
                status = self._process.wait()
            if not self._stopping.wait(PAUSE):
                _log.warning("the helper ended with status %d; starting it again", status)
