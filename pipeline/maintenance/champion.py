"""Lists and changes champions: ``petfaces registry list | promote VERSION --why … | rollback --why …``"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from pipeline import config, tracking
from pipeline.artifacts import untrusted
from pipeline.common import log, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.tracking import champion_files

_log = logging.getLogger(__name__)

MAX_REASON = 300  # characters shown
# DVC's messages when another process has locked files or the whole checkout.
LOCK_MESSAGES = ("is busy, it is being blocked by", "Unable to acquire lock")
POLL_INTERVAL = 1  # seconds
MAX_WAIT = 24 * 3600  # seconds for another DVC process, which may be training for hours
UPDATE_LATER = "to update the champion's files later, run: dvc repro"


def show(name: str) -> None:
    """Prints the registered versions of a data set and the changes of its champion.

    Raises:
        UserError: the registry has no such name.
    """
    rows = []
    for row in tracking.versions(name):
        rolled_back = f"rolled back: {row['withdrawn']}" if row["withdrawn"] else ""
        state = text.shortened("champion" if row["champion"] else rolled_back, MAX_REASON)
        rows.append([row["version"], row["model"], row["test"] or "–", state, row["commit"][:12]])
    title = f"versions of {name} at {tracking.display_uri()}"
    columns, right = ["version", "model", "test", "", "commit"], ["version", "test"]
    text.print_table(columns, rows, title, right, width=120)
    for change in tracking.history(name):
        instead = f" instead of version {change.former}" if change.former else ""
        why = text.shortened(change.why, MAX_REASON)
        print(text.printable(f"{change.when}  version {change.version} became champion{instead}: {why}"))


def _update_files(name: str) -> None:
    """Updates the files to the registry's champion by running the stages register and report.

    Raises:
        UserError: DVC fails, or another DVC process runs for too long.
    """
    if not (ROOT / "runs" / name / "register").is_dir():
        return
    if config.compose().data.name != name:
        _log.warning(
            "runs/%s/register/champion/ still holds the previous champion; set `data: %s` in params.yaml and "
            "run: dvc repro register && dvc repro",
            name,
            name,
        )
        return
    for command in (["repro", "--force", "--single-item", "register"], ["repro", "report"]):
        while (status := _run_dvc(command)) is None:  # another DVC process was faster to take the lock
            time.sleep(POLL_INTERVAL)
        if status:
            raise UserError(
                f"the alias is set, but its files are not updated: dvc {' '.join(command)} failed; see its "
                "error, then run: dvc repro"
            )


def _run_dvc(command: list[str]) -> int | None:
    """Runs DVC once no other DVC process runs in this checkout; its exit status, or None if it was locked."""
    _wait_for_other_dvc()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    is_locked = False
    for line in process.stderr:
        is_locked = is_locked or any(message in line for message in LOCK_MESSAGES)
        if not is_locked:
            print(text.without_password(line), end="", file=sys.stderr, flush=True)
    status = process.wait()
    return None if status and is_locked else status


def _wait_for_other_dvc() -> None:
    """Waits for the processes in DVC's rwlock, even while one is between two stages and holds no lock.

    Raises:
        UserError: they run for longer than `MAX_WAIT`.
    """
    pids, deadline, is_announced = _lock_holders(), time.monotonic() + MAX_WAIT, False
    while pids := {pid for pid in pids | _lock_holders() if _is_running(pid)}:
        if time.monotonic() > deadline:
            raise UserError(
                f"the alias is set, but another dvc is still running (process {min(pids)}); {UPDATE_LATER}"
            )
        if not is_announced:
            _log.info("waiting for another dvc to finish, to update the champion's files")
            is_announced = True
        time.sleep(POLL_INTERVAL)


def _lock_holders() -> set[int]:
    """Process ids in DVC's rwlock."""
    try:
        locks = json.loads((ROOT / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
        readers = (holder for holders in locks["read"].values() for holder in holders)
        return {int(holder["pid"]) for holder in (*locks["write"].values(), *readers)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # missing or being written; DVC itself reports a damaged one


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@click.group()
@click.option("--data", help="Registered name; by default params.yaml's data.")
@click.pass_context
def main(context: click.Context, data: str | None) -> None:
    """List versions and changes of the champion; promote a version, or roll back."""
    context.obj = data


def _name(data: str | None) -> str:
    return config.compose().data.name if data is None else untrusted.name(data, "--data")


_why = click.option("--why", required=True, help="Reason, recorded with the change.")


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show_list(data: str | None, as_json: bool) -> None:
    """List the versions and the changes of the champion."""
    name = _name(data)
    with tracking.reachable():
        if as_json:
            history = [asdict(change) for change in tracking.history(name)]
            print(json.dumps({"versions": tracking.versions(name), "history": history}))
            return
        show(name)
        if warning := champion_files.difference(name):
            _log.warning("%s", warning)


@main.command()
@click.argument("version", type=int)
@_why
@click.pass_obj
def promote(data: str | None, version: int, why: str) -> None:
    """Make a version the champion."""
    name = _name(data)
    with _updating_files(name), tracking.reachable():
        tracking.promote(name, str(version), why, by_person=True)
        champion_files.record(name, str(version), why)
        print(f"version {version} is champion of {name}", flush=True)


@main.command()
@_why
@click.pass_obj
def rollback(data: str | None, why: str) -> None:
    """Make the previous champion the champion again."""
    name = _name(data)
    with _updating_files(name), tracking.reachable():
        withdrawn, champion = tracking.withdraw(name, why)
        champion_files.record(name, champion, why)
        print(f"version {champion} is champion of {name} again, instead of {withdrawn}", flush=True)


@contextmanager
def _updating_files(name: str) -> Iterator[None]:
    """Updates the champion's files after the block, which sets the alias."""
    try:
        yield
        _update_files(name)
    except KeyboardInterrupt:
        log.stop(f"Ctrl-C; the alias may be set; {UPDATE_LATER}")
