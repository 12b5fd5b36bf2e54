"""Git worktrees of a version's commit."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.tracking.registry import Version


def git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs git to its end, without the user's hooks: DVC's post-checkout hook would check out data."""
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    # On SIGTERM `subprocess.run` would kill git but not its child processes, which would go on writing files.
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@contextmanager
def worktree(tree: Path, commit: str | None, version: Version) -> Iterator[None]:
    """Creates a worktree of the commit that trained a version, and removes it afterwards.

    Args:
        tree: the folder to create.
        commit: the commit's hash, or None if unknown.
        version: the version, for error messages.

    Raises:
        UserError: the worktree can't be created.
    """
    if commit is None:
        raise UserError(
            f"{version} was trained outside a git checkout, or the record of its commit is lost: "
            "its code is unknown, so it can't be rebuilt"
        )
    short = commit[:8]
    if git("rev-parse", "--git-dir").returncode:
        raise UserError(f"{ROOT} is no git checkout, and {version} needs commit {short}; use a clone")
    if git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise UserError(
            f"this clone does not have commit {short}, which {version} was trained from; "
            "run: git fetch --all, or rebuild it where it was trained"
        )
    try:
        result = git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        if result.returncode:
            reason = " ".join(result.stderr.split())
            raise UserError(f"git can't create a worktree of commit {short}: {reason}")
        yield
    finally:
        # Not `prune`, which would also drop a user's worktree on a disk that is not mounted now.
        # Forced twice, because a worktree whose creation was interrupted is still locked.
        git("worktree", "remove", "--force", "--force", str(tree))
