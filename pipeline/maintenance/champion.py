"""Manages the champion: ``petfaces registry list | promote VERSION --why … | rollback --why …``"""

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

REASON = 300  # characters shown of a reason
# DVC's messages when another process holds the lock on the files or the checkout.
LOCKED = ("is busy, it is being blocked by", "Unable to acquire lock")
POLL = 1  # seconds
PATIENCE = 24 * 3600  # seconds; trainings may take hours
FOLLOW = "afterwards the files follow with: dvc repro"


def show(name: str) -> None:
    """Prints the versions of a data set and the history of its champion.

    Raises:
        UserError: the registry has no such name.
    """
    rows = []
    for row in tracking.versions(name):
        state = (
            "champion" if row["champion"] else f"taken back: {row['withdrawn']}" if row["withdrawn"] else ""
        )
        state, commit = text.shortened(state, REASON), row["commit"][:12]
        rows.append([row["version"], row["model"], row["test"] or "–", state, commit])
    title = f"versions of {name} at {tracking.display_uri()}"
    columns, right = ["version", "model", "test", "", "commit"], ["version", "test"]
    text.print_table(columns, rows, title, right, width=120)
    for change in tracking.history(name):
        instead = f" instead of version {change.former}" if change.former else ""
        why = text.shortened(change.why, REASON)
        print(text.printable(f"{change.when}  version {change.version} became champion{instead}: {why}"))


def _refresh(name: str) -> None:
    """Updates the files to the registry's champion by running the stages register and report.

    Raises:
        UserError: DVC fails, or another DVC process does not end.
    """
    if not (ROOT / "runs" / name / "register").is_dir():
        return
    if config.compose().data.name != name:
        _log.warning(
            "runs/%s/register/champion/ still holds the former champion; after `data: %s` in params.yaml "
            "run: dvc repro register && dvc repro",
            name,
            name,
        )
        return
    for command in (["repro", "--force", "--single-item", "register"], ["repro", "report"]):
        while (code := _dvc(command)) is None:  # another DVC process took the lock first
            time.sleep(POLL)
        if code:
            raise UserError(f"the alias is set, but the files do not follow: dvc {' '.join(command)} failed")


def _dvc(command: list[str]) -> int | None:
    """Runs DVC once no other one is running in this checkout; its exit status, or None if it was locked."""
    _wait_for_other_dvc()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    locked = False
    for line in process.stderr:
        locked = locked or any(message in line for message in LOCKED)
        if not locked:
            print(text.without_password(line), end="", file=sys.stderr, flush=True)
    code = process.wait()
    return None if code and locked else code


def _wait_for_other_dvc() -> None:
    """Waits for the processes in DVC's rwlock, and keeps waiting while a process is between two stages.

    Raises:
        UserError: they do not end.
    """
    pids, deadline, announced = _listed(), time.monotonic() + PATIENCE, False
    while pids := {pid for pid in pids | _listed() if _alive(pid)}:
        if time.monotonic() > deadline:
            raise UserError(f"the alias is set, but another dvc does not end (process {min(pids)}); {FOLLOW}")
        if not announced:
            _log.info("waiting for the dvc that is running; then the files follow")
            announced = True
        time.sleep(POLL)


def _listed() -> set[int]:
    try:
        locks = json.loads((ROOT / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))
        holders = [*locks["write"].values(), *(each for some in locks["read"].values() for each in some)]
        return {int(each["pid"]) for each in holders}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # missing or being written; DVC itself reports a damaged one


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@click.group()
@click.option("--data", help="Name in the registry; by default params.yaml's data.")
@click.pass_context
def main(context: click.Context, data: str | None) -> None:
    """Say who is champion, since when and why; promote another version, or go back."""
    context.obj = data


def _name(data: str | None) -> str:
    return config.compose().data.name if data is None else untrusted.name(data, "--data")


_why = click.option("--why", required=True, help="Kept with the change.")


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def show_list(data: str | None, as_json: bool) -> None:
    """List the versions, and the changes of the champion."""
    name = _name(data)
    with tracking.reachable():
        if as_json:
            history = [asdict(change) for change in tracking.history(name)]
            print(json.dumps({"versions": tracking.versions(name), "history": history}))
            return
        show(name)
        if lags := champion_files.difference(name):
            _log.warning("%s", lags)


@main.command()
@click.argument("version", type=int)
@_why
@click.pass_obj
def promote(data: str | None, version: int, why: str) -> None:
    """Make a version the champion."""
    name = _name(data)
    with _files_follow(name), tracking.reachable():
        tracking.promote(name, str(version), why, by_person=True)
        champion_files.record(name, str(version), why)
        print(f"version {version} is champion of {name}", flush=True)


@main.command()
@_why
@click.pass_obj
def rollback(data: str | None, why: str) -> None:
    """Go back to the champion before this one."""
    name = _name(data)
    with _files_follow(name), tracking.reachable():
        gone, back = tracking.withdraw(name, why)
        champion_files.record(name, back, why)
        print(f"version {back} is champion of {name} again, instead of {gone}", flush=True)


@contextmanager
def _files_follow(name: str) -> Iterator[None]:
    """Updates the champion's files after the alias was set."""
    try:
        yield
        _refresh(name)
    except KeyboardInterrupt:
        log.stop(f"Ctrl-C; if the alias was set, {FOLLOW}")
