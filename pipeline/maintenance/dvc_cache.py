"""Checks DVC's cache object by object, because DVC does not verify it."""

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
    """Runs DVC in the project and captures its output."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def md5_of(file: Path) -> str:
    """MD5 of a file; empty if it is missing or unreadable."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return ""


@dataclass
class Cache:
    """DVC's cache, and the outs that ``dvc.lock`` names."""

    folder: Path
    outs: dict[str, str]  # path to md5; a folder's ends in .dir and is that of its file list

    @classmethod
    def open(cls) -> "Cache":
        """Opens the cache of this project.

        Raises:
            UserError: ``dvc cache dir`` fails.
        """
        result = dvc("cache", "dir")
        if result.returncode:
            raise UserError(f"DVC does not tell where its cache is: {' '.join(result.stderr.split())[:200]}")
        lock = ROOT / "dvc.lock"
        stages = yaml_files.read(lock)["stages"].values() if lock.is_file() else ()
        outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}
        return cls(ROOT / result.stdout.strip() / "files/md5", outs)

    def objects(self) -> list[Path]:
        """All objects, sorted by path."""
        hash_name = re.compile(r"[0-9a-f]{30}(\.dir)?")
        return sorted(file for file in self.folder.glob("??/*") if hash_name.fullmatch(file.name))

    def object(self, md5: str) -> Path:
        return self.folder / md5[:2] / md5[2:]

    def files(self) -> dict[Path, str]:
        """MD5 of each file of the outs; skips folders whose file list is missing or damaged."""
        found = {}
        for path, md5 in self.outs.items():
            if not md5.endswith(".dir"):
                found[ROOT / path] = md5
            elif whole(self.object(md5)):
                listed = json.loads(self.object(md5).read_text(encoding="utf-8"))
                found |= {ROOT / path / entry["relpath"]: entry["md5"] for entry in listed}
        return found

    def restore(self, name: str) -> bool:
        """Restores an object from the workspace, if its bytes exist there; returns whether they did."""
        target = self.object(name)
        for path in (ROOT / path for path, md5 in self.outs.items() if md5 == name and md5.endswith(".dir")):
            files = sorted(file for file in path.rglob("*") if file.is_file())
            listed = [{"md5": md5_of(file), "relpath": file.relative_to(path).as_posix()} for file in files]
            text = json.dumps(sorted(listed, key=lambda entry: entry["relpath"]), sort_keys=True)
            if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() == name.removesuffix(".dir"):
                target.write_text(text, encoding="utf-8")
                target.chmod(0o444)
                return True
        for file in (file for file, md5 in self.files().items() if md5 == name and md5_of(file) == name):
            shutil.copyfile(file, target)
            target.chmod(0o444)
            return True
        return False


def whole(file: Path) -> bool:
    """Whether the content of a DVC cache object matches the hash in its name."""
    return md5_of(file) == (file.parent.name + file.name).removesuffix(".dir")
