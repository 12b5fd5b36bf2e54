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
from pipeline.maintenance.reproduction import Reproduction, print_field
from pipeline.maintenance.worktree import worktree


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
        raise UserError(f"--keep {keep} exists already; name a new folder")
    with tempfile.TemporaryDirectory(prefix="petfaces-") as scratch:
        with tracking.reachable():
            version = tracking.find_version(f"models:/{name}{'/' if which.isdigit() else '@'}{which}")
            reproduction = Reproduction(Path(scratch).resolve(), version)
        original, commit = reproduction.original, reproduction.commit
        print_field("version", f"{version}, {tracking.name_of(original)}, run {version.run_id}")
        with worktree(reproduction.tree, commit, version):
            reproduction.apply_changes(trust, show=check)
            reproduction.check_settings()
            reproduction.fetch_start_model()
            reproduction.restore_data(check)
            if not reproduction.current_facts:
                reproduction.read_facts()
            current = reproduction.current_facts
            differ = differences(reproduction.recorded_facts, current)
            if differ and differ[0].startswith("code"):
                raise UserError(f"{version} can't be rebuilt: {differ[0]}; were git-ignored files used?")
            differ = [line for line in differ if not line.startswith("data's")]  # checked by restore_data
            same = f"as it was, {current['threads']} threads, {current['device']}"
            print_field("environment", "; ".join(differ) or same)
            if check:
                warnings = "; ".join([*filter(None, [reproduction.warning]), *differ])
                result = f"could be rebuilt, but may differ: {warnings}" if warnings else "can be rebuilt"
                print_field("result", f"{version} {result}")
                return True
            start = time.monotonic()
            rebuilt = reproduction.train()
            seconds = time.monotonic() - start
            is_identical, messages = verdict(original.train, rebuilt, differ)
            if keep:
                shutil.copytree(rebuilt, keep)
    messages[0] += f", rebuilt from commit {commit[:8]} in {seconds:.0f} s"
    for line in messages:
        print_field("result", f"{version}: {line}")
    return is_identical


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--check", is_flag=True, help="Only check whether it is possible.")
@click.option("--trust", is_flag=True, help="Run the version's uncommitted changes too.")
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="DIR", help="Copy the rebuilt train folder there."
)
def main(name: str, version: str, check: bool, trust: bool, keep: Path | None) -> None:
    """Rebuild a registered version, and compare its weights with the original's.

    NAME is the registered name, which is a data set's; VERSION is a number or an alias, such as champion.
    """
    # On SIGTERM, exits through an exception so that the worktree is removed.
    signal.signal(signal.SIGTERM, lambda *_: log.stop("SIGTERM", signal.SIGTERM))
    sys.exit(not reproduce(name, version, check, keep, trust))
