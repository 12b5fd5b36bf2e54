"""Gives each sweep its own folder, resumes an interrupted one, and exits with status 1 if jobs failed."""

import itertools
import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from pipeline.artifacts import atomic, job_outcomes
from pipeline.common import log, text
from pipeline.common.errors import StoppedError, UserError, os_errors_as_user_errors
from pipeline.common.text import printable

_log = logging.getLogger(__name__)

# Locks held until this process ends, even if it is killed.
_held = []


class SweepResume(Callback):
    """Hydra callback that locks a sweep's folder, records its command, and exits with 1 if jobs failed.

    The command is in ``command.json`` in that folder.
    """

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        configured = Path(config.hydra.sweep.dir)
        explicit = any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra)
        try:
            with os_errors_as_user_errors():
                folder = _claim_given(configured) if explicit else _claim(configured)
                if (folder / "command.json").is_file():
                    _log.info("resuming the sweep in %s; delete that folder to start over", folder)
                _write_command(folder, ended=False)
                for file in folder.glob(".outcomes/*.json"):  # the jobs keep their folders
                    outcome = job_outcomes.read_object(file)
                    outcome.pop("error", None)
                    _write_outcome(file, outcome)
        except UserError as error:
            # Hydra turns an Exception of a callback into a warning, but not SystemExit.
            log.fail(error)
        if folder != configured:
            quoted = QuotedString(str(folder), Quote.single).with_quotes()
            with read_write(config):
                config.hydra.sweep.dir = str(folder)
                # Each job composes its own configuration, maybe in another process, so pass an override.
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted}")

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        outcomes = {number: each for number, each in job_outcomes.read(folder).items() if "error" in each}
        failed = sorted(number for number, outcome in outcomes.items() if outcome["error"] != "")
        _write_command(folder, ended=not failed)
        if failed:
            log.fail(
                f"{len(failed)} of {len(outcomes)} jobs failed ({', '.join(map(str, failed))}); their "
                "messages are above, the same command runs them again"
            )


def run_job(job: Callable[[], object], hydra: DictConfig) -> object:
    """Runs a job of a sweep; returns its value, or NaN if it failed, so that the others continue.

    Args:
        job: the job's function.
        hydra: Hydra's own configuration of the job.
    """
    file = Path(hydra.sweep.dir) / f".outcomes/{hydra.job.num}.json"
    overrides = text.without_password(" ".join(hydra.overrides.task))
    outcome = {"folder": Path(hydra.runtime.output_dir).name, "words": overrides}
    file.parent.mkdir(parents=True, exist_ok=True)
    _write_outcome(file, outcome | {"error": None})  # remains if the process is killed
    value, error = float("nan"), ""
    with log.job_number(hydra.job.num):
        _log.info("%s", overrides)
        try:
            value = job()
        except StoppedError:
            raise
        except UserError as failure:
            error = str(failure)
            _log.error("%s", error)
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
            _log.exception("%s", error)
    _write_outcome(file, outcome | {"error": printable(error)})
    return value


def _write_outcome(file: Path, outcome: dict) -> None:
    file.write_text(json.dumps(outcome), encoding="utf-8")


def _claim_given(folder: Path) -> Path:
    """Locks the folder that the command names; its contents stay.

    Raises:
        UserError: another sweep is running in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _lock(folder):
        raise UserError(f"another sweep runs in {folder}; wait for it, or name another hydra.sweep.dir")
    return folder


def _claim(new: Path) -> Path:
    """Locks and returns the folder of an interrupted sweep of this command, else a new one named `new`."""
    for file in sorted(new.parent.glob("*/command.json"), reverse=True):
        # Checks again under the lock: the sweep may have ended meanwhile.
        if _is_interrupted(file) and _lock(file.parent):
            if _is_interrupted(file):
                return file.parent
            _held.pop().release()
    for number in itertools.count(1):
        folder = new if number == 1 else new.with_name(f"{new.name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            _lock(folder)
            return folder


def _lock(folder: Path) -> bool:
    """Locks a folder until this process ends; returns False if another process holds the lock."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return False
    _held.append(lock)
    return True


def _is_interrupted(file: Path) -> bool:
    """Whether this ``command.json`` records the current command and a sweep that has not ended."""
    command = job_outcomes.read_object(file)
    return command.get("arguments") == sys.argv[1:] and command.get("ended") is False


def _write_command(folder: Path, ended: bool) -> None:
    command = {"arguments": sys.argv[1:], "ended": ended}
    atomic.replace_text(folder / "command.json", json.dumps(command) + "\n")
