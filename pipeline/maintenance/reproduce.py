"""Rebuilds a registered version, and reports whether the weights are identical.

It reads what the version's run recorded (commit, uncommitted changes, configuration, data, environment),
creates a temporary worktree of that commit, restores the data with DVC, and trains with that commit's code::

    petfaces reproduce petfaces 7            # or: petfaces champion
    petfaces reproduce petfaces 7 --check    # only check whether it is possible

The current checkout and MLflow's store are not changed. What the run recorded is validated as data, except
uncommitted changes: they are code, are shown, and are applied only with ``--trust``.
"""

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click

from pipeline import tracking
from pipeline.common import log
from pipeline.common.errors import UserError
from pipeline.maintenance.comparison import differences, verdict
from pipeline.maintenance.worktree import Reproduction, say, worktree


def reproduce(
    name: str, which: str, check: bool = False, keep: Path | None = None, trust: bool = False
) -> bool:
    """Rebuilds a version, or checks whether that is possible.

    Args:
        name: name in the registry.
        which: a version number or an alias.
        check: only check, without training.
        keep: where to copy the rebuilt train folder; by default it is deleted.
        trust: whether recorded uncommitted changes may be applied and run.

    Returns:
        Whether the weights are identical; always True for a check.

    Raises:
        UserError: the version can't be rebuilt.
    """
    if keep and keep.exists():
        raise UserError(f"--keep {keep}: it exists already; name a folder that does not")
    with tempfile.TemporaryDirectory(prefix="petfaces-") as scratch:
        with tracking.reachable():
            version = tracking.find_version(f"models:/{name}{'/' if which.isdigit() else '@'}{which}")
            task = Reproduction(Path(scratch).resolve(), version)
        say("version", f"{version}, {tracking.name_of(task.trained)}, run {version.run_id}")
        with worktree(task.tree, task.commit, version):
            task.bring_code(trust, show=check)
            task.check_settings()
            task.bring_start()
            task.bring_data(check)
            if not task.now:
                task.ask()
            differ = differences(task.then, task.now)
            if differ and differ[0].startswith("code"):
                raise UserError(f"{version} can't be rebuilt: {differ[0]}; did files count that git ignores?")
            differ = [line for line in differ if not line.startswith("data's")]
            say(
                "environment",
                "; ".join(differ) or f"as it was, {task.now['threads']} threads, {task.now['device']}",
            )
            if check:
                doubts = [*filter(None, [task.doubt]), *differ]
                msg = f"could be rebuilt, but may differ: {'; '.join(doubts)}" if doubts else "can be rebuilt"
                say("result", f"{version} {msg}")
                return True
            began = time.monotonic()
            folder = task.train()
            seconds = time.monotonic() - began
            same, messages = verdict(task.trained.train, folder, differ)
            if keep:
                shutil.copytree(folder, keep)
    messages[0] += f", rebuilt from commit {task.commit[:8]} in {seconds:.0f} s"
    for line in messages:
        say("result", f"{version}: {line}")
    return same


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--check", is_flag=True, help="Only say whether it could be done.")
@click.option("--trust", is_flag=True, help="Run the uncommitted changes that the version's run kept, too.")
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="DIR", help="Where the rebuilt train folder goes."
)
def main(name: str, version: str, check: bool, trust: bool, keep: Path | None) -> None:
    """Rebuild a registered version, and say whether the weights are the same.

    NAME is the registry's, a data set's; VERSION is a number or an alias, such as champion.
    """
    # On SIGTERM, exits through an exception so that the worktree is removed.
    signal.signal(signal.SIGTERM, lambda *_: log.stop("SIGTERM", signal.SIGTERM))
    sys.exit(not reproduce(name, version, check, keep, trust))
