"""Rebuilds a registered version from its number, and says whether the weights are the same.

It reads what the version's run kept (commit, uncommitted changes, configuration, data, environment), makes a
temporary worktree of that commit, brings the data there by DVC and trains with that commit's own code::

    petfaces reproduce petfaces 7            # or: petfaces champion
    petfaces reproduce petfaces 7 --check    # only whether it could be done

The checkout that it is called from and MLflow's store stay as they are. What the run kept is data and is
checked, but for its uncommitted changes: they are code, are shown, and are applied with ``--trust`` alone.
"""

import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click

from pipeline.common.errors import UserError
from pipeline.maintenance.comparison import differences, verdict
from pipeline.maintenance.rebuilding import Reproduction, say
from pipeline.maintenance.worktree import worktree


def reproduce(
    name: str, which: str, check: bool = False, keep: Path | None = None, trust: bool = False
) -> bool:
    """Rebuilds a version, or says whether it could be done.

    Args:
        name: of the registry.
        which: a number or an alias.
        check: train nothing.
        keep: where the rebuilt train folder goes; by default nowhere.
        trust: whether uncommitted changes that the run kept may run here.

    Returns:
        Whether the weights are identical; of a check, always True.

    Raises:
        UserError: it can't be done.
    """
    from pipeline import tracking

    if keep and keep.exists():
        raise UserError(f"--keep {keep}: it exists already; name a folder that does not")
    with tempfile.TemporaryDirectory(prefix="petfaces-") as made:
        with tracking.reachable():
            version = tracking.find_version(f"models:/{name}{'/' if which.isdigit() else '@'}{which}")
            task = Reproduction(Path(made).resolve(), version)
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
                may = f"could be rebuilt, but may differ: {'; '.join(doubts)}" if doubts else "can be rebuilt"
                print(f"reproduce: {version} {may}")
                return True
            began = time.monotonic()
            folder = task.train()
            seconds = time.monotonic() - began
            same, told = verdict(task.trained.train, folder, differ)
            if keep:
                shutil.copytree(folder, keep)
    told[0] += f", rebuilt from commit {task.commit[:8]} in {seconds:.0f} s"
    for line in told:
        print(f"reproduce: {version}: {line}")
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
    # Ended from outside, it takes the worktree away, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended from outside"))
    sys.exit(not reproduce(name, version, check, keep, trust))
