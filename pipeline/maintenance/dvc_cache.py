"""Checks and restores objects of DVC's cache, because DVC does not verify them."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.common import yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    """Runs DVC in the project and captures its output; check the exit status."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace")


def md5_of(file: Path) -> str:
    """MD5 of a file; empty if it is missing or unreadable."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return ""


@dataclass
class Cache:
    """DVC's cache, and the outs in ``dvc.lock``.

    Attributes:
        folder: the cache's folder ``files/md5``.
        outs: MD5 by path; for a folder the MD5 of its file list, with the suffix ``.dir``.
    """

    folder: Path
    outs: dict[str, str]

    @classmethod
    def open(cls) -> "Cache":
        """Opens the cache of this project.

        Raises:
            UserError: ``dvc cache dir`` fails.
        """
        result = dvc("cache", "dir")
        if result.returncode:
            raise UserError(f"dvc cache dir failed: {' '.join(result.stderr.split())[:200]}")
        lock = ROOT / "dvc.lock"
        stages = yaml_files.read(lock)["stages"].values() if lock.is_file() else ()
        outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}
        return cls(ROOT / result.stdout.strip() / "files/md5", outs)

    def objects(self) -> list[Path]:
        """Paths of all objects, sorted."""
        pattern = re.compile(r"[0-9a-f]{30}(\.dir)?")
        return sorted(file for file in self.folder.glob("??/*") if pattern.fullmatch(file.name))

    def object_path(self, md5: str) -> Path:
        return self.folder / md5[:2] / md5[2:]

    def files(self) -> dict[Path, str]:
        """MD5 of each file of the outs by path; skips folders whose file list is missing or damaged."""
        found = {}
        for path, md5 in self.outs.items():
            listing = self.object_path(md5)
            if not md5.endswith(".dir"):
                found[ROOT / path] = md5
            elif is_intact(listing):
                entries = json.loads(listing.read_text(encoding="utf-8"))
                found |= {ROOT / path / entry["relpath"]: entry["md5"] for entry in entries}
        return found

    def restore(self, md5: str) -> bool:
        """Restores an object from the workspace; returns False if its content is not there."""
        target = self.object_path(md5)
        for folder in (ROOT / path for path, out in self.outs.items() if out == md5 and md5.endswith(".dir")):
            files = (file for file in folder.rglob("*") if file.is_file())
            names = sorted(file.relative_to(folder).as_posix() for file in files)
            entries = [{"md5": md5_of(folder / name), "relpath": name} for name in names]
            listing = json.dumps(entries, sort_keys=True)
            if hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() == md5.removesuffix(".dir"):
                target.write_text(listing, encoding="utf-8")
                target.chmod(0o444)
                return True
        for file in (file for file, known in self.files().items() if known == md5 and md5_of(file) == md5):
            shutil.copyfile(file, target)
            target.chmod(0o444)
            return True
        return False


def md5_in_name(file: Path) -> str:
    """The MD5 under which DVC's cache stores an object; ends in ``.dir`` for a folder's file list."""
    return file.parent.name + file.name


def is_intact(file: Path) -> bool:
    """Whether the content of an object of DVC's cache matches the MD5 in its name."""
    return md5_of(file) == md5_in_name(file).removesuffix(".dir")
