"""A git worktree of another commit."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT


def git(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    # Disables the user's hooks; DVC's post-checkout hook would check out data.
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace")


@contextmanager
def worktree(tree: Path, commit: str | None, version) -> Iterator[None]:
    """Creates a worktree of the commit that trained a version, and removes it afterwards.

    Raises:
        UserError: the worktree can't be created.
    """
    if commit is None:
        raise UserError(
            f"{version} was trained outside a git checkout, or the record of its commit is lost: "
            "nothing tells which code it was"
        )
    short = commit[:8]
    if git("rev-parse", "--git-dir").returncode:
        raise UserError(f"{ROOT} is no git checkout, and {version} needs commit {short}; use a clone")
    if git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise UserError(
            f"this clone does not have commit {short}, which {version} was trained from; "
            "run: git fetch --all, or do it where it was trained"
        )
    try:
        result = git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        if result.returncode:
            raise UserError(f"git makes no worktree of commit {short}: {' '.join(result.stderr.split())}")
        yield
    finally:
        # Not `prune`, which would also drop a user's worktree on a disk that is not mounted now.
        # Forced twice, because a worktree whose creation was interrupted is still locked.
        git("worktree", "remove", "--force", "--force", str(tree))
