"""Which commit a model was trained from, and what of the code was not committed.

It is kept beside the train folders, which DVC hashes: equal runs are equal bytes, whatever commit they ran
from. A record lies under ``runs/.provenance/``, named by the content of its train folder; MLflow's run has
the same as ``provenance/``. Train folders of older versions say it in ``lineage.json`` and ``changes.diff``.
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
from pipeline.artifacts.lineage import code_needs, hash_of
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT

# What can change a result. Runs rewrite params.yaml, dvc.lock and reports, so they don't mark the tree dirty.
CODE = ("pipeline", "models", "conf", "dvc.yaml", "constraints.txt", "pyproject.toml")
RECORD, CHANGES = "commit.json", "changes.diff"
SEARCHED = 50  # commits that touched code, for one with the code of a model whose record is lost
BESIDE = "provenance"  # a record beside a train folder, as MLflow keeps them


@dataclass(frozen=True)
class Provenance:
    """The state of the code that a training ran with.

    Attributes:
        commit: its id; None where nothing tells.
        dirty: whether code or configuration differed from the commit; None where nothing tells.
        changes: how, as ``git apply`` takes it; None where nothing differed, or nobody kept it.
        trouble: why the commit or the changes are not known, in git's own words.
        inferred: whether the record is lost, and the commit only known to hold the same training code.
    """

    commit: str | None = None
    dirty: bool | None = None
    changes: bytes | None = None
    trouble: str = ""
    inferred: bool = False

    @classmethod
    def here(cls) -> "Provenance":
        """Of this checkout, now."""
        commit = None
        try:
            if inside := _git("rev-parse", "--show-prefix").strip():
                return cls(trouble=f"{ROOT} is the folder {inside.decode()} of another repository")
            commit = _git("rev-parse", "--verify", "HEAD").decode().strip()
            dirty = bool(_git("status", "--porcelain", "--", *CODE))
            return cls(commit, dirty, _changes() if dirty else None)
        except subprocess.CalledProcessError as error:
            return cls(commit, None, trouble=" ".join(error.stderr.decode(errors="replace").split()))
        except OSError as error:  # also of files that git names and that are not there
            missing = isinstance(error, FileNotFoundError) and error.filename == "git"
            return cls(commit, None, trouble="git is not installed" if missing else str(error))

    @classmethod
    def of(cls, train: Path) -> "Provenance":
        """Of the model in a train folder.

        Where the record is lost, as after ``dvc pull`` in another clone, a commit with the same training code
        stands for it. Empty where there is none.
        """
        lineage = {}
        with suppress(UserError):
            lineage = untrusted.lineage(train)
            if "commit" in lineage:
                return cls(lineage["commit"], lineage.get("dirty"), _read(train / CHANGES))
        for folder in (train.parent / BESIDE, _kept(train)):
            with suppress(UserError):
                record = untrusted.json_object(folder / RECORD, "commit", "dirty")
                commit = untrusted.commit(record["commit"], folder / RECORD)
                return cls(commit, bool(record["dirty"]), _read(folder / CHANGES))
        commit = _with_code(lineage.get("code"))
        return cls(commit, False, inferred=True) if commit else cls()

    def write(self, folder: Path) -> None:
        """Writes ``commit.json``, and ``changes.diff`` where something differed, into a folder."""
        if self.changes:
            (folder / CHANGES).write_bytes(self.changes)
        record = {"commit": self.commit, "dirty": self.dirty}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def keep(self, train: Path, replace: bool = True) -> None:
        """Keeps the record of a train folder.

        Args:
            train: the folder.
            replace: whether the record of an equal one, trained here before, gives way.
        """
        if self.commit is None or self.dirty is None or self.inferred:
            return
        target = _kept(train)
        if not replace and target.exists():
            return
        with atomic.replaced_folder(target) as part:
            self.write(part)

    def warning(self) -> str | None:
        """What a training should be told at its start, in one line; None where all is known."""
        if not self.trouble:
            return None
        what = "what differs from the commit" if self.commit else "the commit"
        return f"git does not tell {what}, so this model can't be rebuilt later: {self.trouble}"

    def tags(self) -> dict[str, str]:
        """For MLflow's runs and versions."""
        dirty = {True: "true", False: "false", None: "unknown"}[self.dirty]
        return {"commit": self.commit or "unknown", "dirty": dirty}


def _kept(train: Path) -> Path:
    return paths.main_checkout() / "runs/.provenance" / seal.digest(train)[:32]


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _git(*arguments: str, **options) -> bytes:
    # core.quotePath and diff.… of a person's own configuration would change what is kept.
    command = ["git", "-c", "core.quotePath=false", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, **options).stdout


@functools.cache
def _with_code(code: str | None) -> str | None:
    """The newest of this clone's last commits whose training code has a hash, or None."""
    commits = ""
    with suppress(OSError, subprocess.CalledProcessError):
        listed = _git("rev-list", f"--max-count={SEARCHED}", "HEAD", "--", "pipeline", "models", "dvc.yaml")
        commits = listed.decode()
    for commit in commits.split() if code else ():
        # An odd commit, or one whose pipeline is written otherwise, tells nothing; others may.
        with suppress(
            OSError, subprocess.CalledProcessError, yaml.YAMLError, LookupError, TypeError, ValueError
        ):
            if _code_of(commit) == code:
                return commit
    return None


def _code_of(commit: str) -> str:
    """What `lineage.code_hash` gives in a checkout of a commit."""
    needs = code_needs(yaml.safe_load(_git("show", f"{commit}:dvc.yaml")))
    listed = _git("ls-tree", "-r", "-z", commit, "--", *needs).decode().split("\0")
    blobs = {Path(line.partition("\t")[2]): line.split()[2] for line in listed if line}
    files = sorted(file for file in blobs if file.suffix == ".py" or file.as_posix() in needs)
    return hash_of((file, _sha256(blobs[file])) for file in files)


@functools.cache
def _sha256(blob: str) -> str:
    return hashlib.sha256(_git("cat-file", "blob", blob)).hexdigest()


def _changes() -> bytes | None:
    """What of the code differs from the commit, new files too; ``git apply`` brings it back there."""
    with tempfile.TemporaryDirectory() as place:
        index = ROOT / _git("rev-parse", "--git-path", "index").decode().strip()
        # A copy of the index takes the new files' names: neither the index nor git's objects are touched.
        own = {"env": os.environ | {"GIT_INDEX_FILE": shutil.copy(index, place)}}
        new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE, **own)
        if new:
            stdin = ("--pathspec-from-file=-", "--pathspec-file-nul")
            _git("--literal-pathspecs", "add", "--intent-to-add", *stdin, input=new, **own)
        plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative")
        prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
        return _git("diff", "--binary", "--full-index", *plain, *prefixes, "HEAD", "--", *CODE, **own) or None
