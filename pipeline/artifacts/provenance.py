"""The commit a model was trained from, and the uncommitted changes.

Kept outside the train folders, which DVC hashes, so that equal runs give equal bytes whatever the commit.
Records are under ``runs/.provenance/``, named by the hash of the train folder; the MLflow run has a copy as
``provenance/``. Older train folders have it in ``lineage.json`` and ``changes.diff``.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.artifacts import atomic, seal, untrusted
from pipeline.artifacts.lineage import code_deps
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT

# Paths that affect results. Runs rewrite params.yaml, dvc.lock and reports/, so those don't count as dirty.
CODE = ("pipeline", "models", "conf", "dvc.yaml", "constraints.txt", "pyproject.toml")
RECORD, CHANGES = "commit.json", "changes.diff"
MAX_COMMITS = 50  # searched for a model's code if its record is lost
ARTIFACT_DIR = "provenance"  # a record's folder in MLflow's artifacts, next to the train folder


@dataclass(frozen=True)
class Provenance:
    """State of the code that a training run used.

    Attributes:
        commit: commit id, or None if unknown.
        dirty: whether code or config differed from the commit; None if unknown.
        changes: the difference as a patch for ``git apply``; None if there was none, or it was not recorded.
        git_error: git's error message if the commit or the changes are unknown.
        inferred: whether the record is lost and `commit` is one with the same training code.
    """

    commit: str | None = None
    dirty: bool | None = None
    changes: bytes | None = None
    git_error: str = ""
    inferred: bool = False

    @classmethod
    def current(cls) -> "Provenance":
        """The current state of this checkout."""
        commit = None
        try:
            if inside := _git("rev-parse", "--show-prefix").strip():
                return cls(git_error=f"{ROOT} is the folder {inside.decode()} of another repository")
            commit = _git("rev-parse", "--verify", "HEAD").decode().strip()
            dirty = bool(_git("status", "--porcelain", "--", *CODE))
            return cls(commit, dirty, _changes() if dirty else None)
        except subprocess.CalledProcessError as error:
            return cls(commit, None, git_error=" ".join(error.stderr.decode(errors="replace").split()))
        except OSError as error:  # git is missing, or a file that it lists
            missing = isinstance(error, FileNotFoundError) and error.filename == "git"
            return cls(commit, None, git_error="git is not installed" if missing else str(error))

    @classmethod
    def of(cls, train: Path) -> "Provenance":
        """The provenance of the model in a train folder, from its record.

        If the record is lost, as after ``dvc pull`` in another clone, the commit is the newest one with the
        same training code, or unknown if there is none.
        """
        lineage = {}
        with suppress(UserError):
            lineage = untrusted.lineage(train)
            if "commit" in lineage:
                return cls(lineage["commit"], lineage.get("dirty"), _read(train / CHANGES))
        for folder in (train.parent / ARTIFACT_DIR, _record_dir(train)):
            with suppress(UserError):
                record = untrusted.json_object(folder / RECORD, "commit", "dirty")
                commit = untrusted.commit(record["commit"], folder / RECORD)
                return cls(commit, bool(record["dirty"]), _read(folder / CHANGES))
        commit = _commit_with_code(lineage.get("code"))
        return cls(commit, False, inferred=True) if commit else cls()

    def write(self, folder: Path) -> None:
        """Writes ``commit.json`` and, if there are changes, ``changes.diff`` into a folder."""
        if self.changes:
            (folder / CHANGES).write_bytes(self.changes)
        record = {"commit": self.commit, "dirty": self.dirty}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def save(self, train: Path, replace: bool = True) -> None:
        """Saves the record of a train folder under ``runs/.provenance/``.

        Args:
            train: the folder.
            replace: whether to overwrite the record of a train folder with the same content.
        """
        if self.commit is None or self.dirty is None or self.inferred:
            return
        target = _record_dir(train)
        if not replace and target.exists():
            return
        with atomic.replace_folder(target) as part:
            self.write(part)

    def warning(self) -> str | None:
        """A one-line warning for the start of training, or None if everything is known."""
        if not self.git_error:
            return None
        what = "the uncommitted changes" if self.commit else "the commit"
        return f"git can't report {what}, so this model can't be rebuilt later: {self.git_error}"

    def tags(self) -> dict[str, str]:
        """Tags for MLflow runs and model versions."""
        dirty = {True: "true", False: "false", None: "unknown"}[self.dirty]
        return {"commit": self.commit or "unknown", "dirty": dirty}


def _record_dir(train: Path) -> Path:
    return paths.main_checkout() / "runs/.provenance" / seal.digest(train)[:32]


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _git(*arguments: str, **options) -> bytes:
    """Standard output of a git command in this checkout; raises CalledProcessError if it fails."""
    # A core.quotePath in the user's git config would change the output.
    command = ["git", "-c", "core.quotePath=false", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, **options).stdout


@functools.cache
def _commit_with_code(code: str | None) -> str | None:
    """The newest of the last MAX_COMMITS commits whose training code has the given hash, or None."""
    commits = ""
    with suppress(OSError, subprocess.CalledProcessError):
        commits = _git("rev-list", f"-{MAX_COMMITS}", "HEAD", "--", "pipeline", "models", "dvc.yaml").decode()
    for commit in commits.split() if code else ():
        # Skips commits whose dvc.yaml has another structure.
        with suppress(
            OSError, subprocess.CalledProcessError, yaml.YAMLError, LookupError, TypeError, ValueError
        ):
            if _code_hash_at(commit) == code:
                return commit
    return None


def _code_hash_at(commit: str) -> str:
    """What `lineage.code_hash` returns in a checkout of the commit."""
    deps = code_deps(yaml.safe_load(_git("show", f"{commit}:dvc.yaml")))
    entries = _git("ls-tree", "-r", "-z", commit, "--", *deps).decode().split("\0")
    blobs = {Path(line.partition("\t")[2]): line.split()[2] for line in entries if line}
    files = sorted(file for file in blobs if file.suffix == ".py" or file.as_posix() in deps)
    return seal.hash_of((file, _sha256(blobs[file])) for file in files)


@functools.cache
def _sha256(blob: str) -> str:
    return hashlib.sha256(_git("cat-file", "blob", blob)).hexdigest()


def _changes() -> bytes | None:
    """Uncommitted code changes, including new files, as a patch for ``git apply``; None if there are none."""
    with tempfile.TemporaryDirectory() as directory:
        index = ROOT / _git("rev-parse", "--git-path", "index").decode().strip()
        # New files are added to a copy of the index, so the repository is not modified.
        env = {"env": os.environ | {"GIT_INDEX_FILE": shutil.copy(index, directory)}}
        new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE, **env)
        if new:
            stdin = ("--pathspec-from-file=-", "--pathspec-file-nul")
            _git("--literal-pathspecs", "add", "--intent-to-add", *stdin, input=new, **env)
        plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
        return _git("diff", "--binary", "--full-index", *plain, *prefixes, "HEAD", "--", *CODE, **env) or None
