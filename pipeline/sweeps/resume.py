"""A sweep has a folder of its own; one that was broken off goes on; one with failed jobs ends in status 1."""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from pipeline.artifacts import atomic, job_notes
from pipeline.common import text
from pipeline.common.errors import StoppedError, UserError, os_errors_as_user_errors
from pipeline.common.text import printable

# Locks of this process; the kernel releases them when it ends, however it ends.
_held = []


class SweepResume(Callback):
    """Claims a sweep's folder, notes which command it is of (``command.json``), and counts failed jobs."""

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        wanted = Path(config.hydra.sweep.dir)
        given = any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra)
        try:
            with os_errors_as_user_errors():
                folder = _claim_given(wanted) if given else _claim(wanted)
                if (folder / "command.json").is_file():
                    print(f"sweep: goes on in {folder}; delete that folder to begin anew", flush=True)
                _write(folder, ended=False)
                for former in folder.glob(".outcomes/*.json"):  # which job has which folder is still of use
                    _note(
                        former,
                        {
                            key: value
                            for key, value in job_notes.read_object(former).items()
                            if key != "error"
                        },
                    )
        except UserError as error:
            # Hydra would turn any Exception of a callback into a warning.
            sys.exit(f"error: {error}")
        if folder != wanted:
            quoted = QuotedString(str(folder), Quote.single).with_quotes()
            with read_write(config):
                config.hydra.sweep.dir = str(folder)
                # Jobs compose anew, some launchers' in other processes: to all of them it is an override.
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted}")

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        outcomes = {number: each for number, each in job_notes.read(folder).items() if "error" in each}
        failed = sorted(number for number, outcome in outcomes.items() if outcome["error"] != "")
        _write(folder, ended=not failed)
        if failed:
            sys.exit(
                f"error: {len(failed)} of {len(outcomes)} jobs failed ({', '.join(map(str, failed))}); "
                "what they said stands above, the same command tries them again"
            )


def run_job(job: Callable[[], object], hydra: DictConfig) -> object:
    """What a job of a sweep returns; NaN where it failed, so that the others go on.

    Args:
        job: the job's function.
        hydra: Hydra's own configuration of the job.
    """
    file = Path(hydra.sweep.dir) / f".outcomes/{hydra.job.num}.json"
    words = text.without_password(" ".join(hydra.overrides.task))
    note = {"folder": Path(hydra.runtime.output_dir).name, "words": words}
    file.parent.mkdir(parents=True, exist_ok=True)
    _note(file, note | {"error": None})  # so it stays where the process is ended
    value, error = float("nan"), ""
    print(f"sweep: job {hydra.job.num}: {printable(words)}", flush=True)
    try:
        value = job()
    except StoppedError:
        raise
    except UserError as mistake:
        error = str(mistake)
        print(f"error: {error}", file=sys.stderr)
    except Exception as mistake:
        error = f"{type(mistake).__name__}: {mistake}"
        traceback.print_exc()
    _note(file, note | {"error": printable(error)})
    return value


def _note(file: Path, tree: dict) -> None:
    file.write_text(json.dumps(tree), encoding="utf-8")


def _claim_given(folder: Path) -> Path:
    """Takes the folder that the command names; what lies in it stays.

    Raises:
        UserError: another sweep runs in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _lock(folder):
        raise UserError(f"another sweep runs in {folder}; wait for it, or name another hydra.sweep.dir")
    return folder


def _claim(new: Path) -> Path:
    """Takes the folder of the same command's unfinished sweep if none runs there, else makes a new one."""
    for file in sorted(new.parent.glob("*/command.json"), reverse=True):
        # Once more under the lock: the sweep may have ended meanwhile.
        if _unfinished(file) and _lock(file.parent):
            if _unfinished(file):
                return file.parent
            _held.pop().release()
    number = 1
    while True:
        folder = new if number == 1 else new.with_name(f"{new.name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            _lock(folder)
            return folder
        number += 1


def _lock(folder: Path) -> bool:
    """Takes a folder's lock until this process ends, if no other holds it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return False
    _held.append(lock)
    return True


def _unfinished(file: Path) -> bool:
    """Whether this ``command.json`` is of the same command, and the sweep did not end."""
    known = job_notes.read_object(file)
    return known.get("arguments") == sys.argv[1:] and known.get("ended") is False


def _write(folder: Path, ended: bool) -> None:
    tree = {"arguments": sys.argv[1:], "ended": ended}
    atomic.replace_text(folder / "command.json", json.dumps(tree) + "\n")
