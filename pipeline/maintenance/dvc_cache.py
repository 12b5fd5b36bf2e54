"""DVC's cache, object by object: DVC trusts it unseen."""

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
    """Calls DVC in the project; what it says is kept."""
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )


def md5_of(file: Path) -> str:
    """Of a file's bytes; empty where there is none, or none to be read."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return ""


@dataclass
class Cache:
    """DVC's cache, and the outs that ``dvc.lock`` names."""

    folder: Path
    outs: dict[str, str]  # md5 by path; of a folder, with the ending .dir, of the list of its files

    @classmethod
    def open(cls) -> "Cache":
        """Asks DVC.

        Raises:
            UserError: DVC does not tell where its cache is.
        """
        told = dvc("cache", "dir")
        if told.returncode:
            raise UserError(f"DVC does not tell where its cache is: {' '.join(told.stderr.split())[:200]}")
        lock = ROOT / "dvc.lock"
        stages = yaml_files.read(lock)["stages"].values() if lock.is_file() else ()
        outs = {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}
        return cls(ROOT / told.stdout.strip() / "files/md5", outs)

    def objects(self) -> list[Path]:
        """All objects, by name."""
        known = re.compile(r"[0-9a-f]{30}(\.dir)?")
        return sorted(file for file in self.folder.glob("??/*") if known.fullmatch(file.name))

    def object(self, md5: str) -> Path:
        return self.folder / md5[:2] / md5[2:]

    def files(self) -> dict[Path, str]:
        """md5 of each file of the outs, as far as the cache tells the files of a folder."""
        found = {}
        for path, md5 in self.outs.items():
            if not md5.endswith(".dir"):
                found[ROOT / path] = md5
            elif whole(self.object(md5)):
                listed = json.loads(self.object(md5).read_text(encoding="utf-8"))
                found |= {ROOT / path / entry["relpath"]: entry["md5"] for entry in listed}
        return found

    def restore(self, name: str) -> bool:
        """Makes an object again from the workspace, where its bytes are there."""
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
    """Whether an object of DVC's cache holds what its name says."""
    return md5_of(file) == (file.parent.name + file.name).removesuffix(".dir")
