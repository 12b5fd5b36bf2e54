"""Log messages on standard error, one line each, prefixed with the job and the level.

Modules log with ``logging.getLogger(__name__)``. Results go to standard output; a stage prints its own with
`result`.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
from tqdm import tqdm

from pipeline.common import text

VARIABLE = "PETFACES_LOG"  # environment variable, which child processes inherit
LEVELS = ("debug", "info", "warning", "error")
_LOGGERS = ("pipeline", "models", "catalog", "__main__")  # __main__: a stage run as a program
_STOPPED = logging.ERROR + 5
logging.addLevelName(_STOPPED, "STOPPED")
_COLORS = {logging.DEBUG: "bright_black", logging.WARNING: "yellow", logging.ERROR: "red", _STOPPED: "red"}

_log = logging.getLogger(__name__)


class _Handler(logging.Handler):
    """Writes to the current ``sys.stderr``, which progress bars and tests replace.

    Attributes:
        prefix: of each message, such as ``train: `` or ``train job 3: ``; may be empty.
    """

    def __init__(self):
        super().__init__()
        self.prefix = ""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        if level and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            level = click.style(level, fg=_COLORS.get(record.levelno), bold=True)
        return f"{self.prefix}{level}{text.lines(text.without_password(super().format(record)))}"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)  # keeps progress bars below the messages
        except Exception:  # a closed pipe, for example, must not end a training
            self.handleError(record)


_handler = _Handler()


def setup(job: str = "", verbose: bool = False) -> None:
    """Configures logging of this project and of users' files in ``models/``.

    Args:
        job: prefix of each message; empty for none.
        verbose: show debugging messages, even if PETFACES_LOG is set to another level.
    """
    level = "debug" if verbose else os.environ.get(VARIABLE, "info")
    if level not in LEVELS:
        sys.exit(f"error: {VARIABLE}={level} is unknown; use one of {', '.join(LEVELS)}")
    _handler.prefix = f"{job}: " if job else ""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # results and messages keep their order in a log
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        logger.propagate = False
        if _handler not in logger.handlers:
            logger.addHandler(_handler)


@contextmanager
def job_number(number: int) -> Iterator[None]:
    """Adds a sweep's job number to the prefix of each message."""
    prefix = _handler.prefix
    _handler.prefix = f"{prefix.removesuffix(': ')} job {number}: "
    try:
        yield
    finally:
        _handler.prefix = prefix


def is_quiet() -> bool:
    """Whether only warnings and errors are shown; progress bars are hidden then, too."""
    return not _log.isEnabledFor(logging.INFO)


def result(message: object) -> None:
    """Prints a stage's result on standard output."""
    print(f"{_handler.prefix}{text.printable(text.without_password(message))}", flush=True)


def fail(error: object) -> NoReturn:
    """Exits with status 1 and a one-line message, and with the traceback at level debug."""
    _log.error("%s", error, exc_info=_log.isEnabledFor(logging.DEBUG) and isinstance(error, BaseException))
    sys.exit(1)


def stop(message: object, signum: signal.Signals = signal.SIGINT) -> NoReturn:
    """Exits with a one-line message and the status of a program ended by a signal: 128 + `signum`."""
    _log.log(_STOPPED, "%s", message)
    sys.exit(128 + signum)
