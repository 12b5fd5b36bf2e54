"""Whether everything is whole, byte by byte: ``python -m pipeline.verify``; ``--repair`` makes it so.

DVC trusts the objects of its cache unseen, and files of the workspace whose time and size it knows: a flipped
byte is checked out, pushed and restored by its run cache, and `dvc repro --force` leaves the object as it is.
So what is damaged has to go before DVC is asked for it. MLflow trusts its artifacts as well.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import config, portable, seal, yaml_files
from pipeline.config import ROOT, UserError

MARKS = ("pack.json", "lineage.json", "predictions.csv", "model.onnx")  # of folders that are sealed


def _dvc(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _md5(file: Path) -> str:
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
        told = _dvc("cache", "dir")
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
                listed = json.loads(self.object(md5).read_text())
                found |= {ROOT / path / entry["relpath"]: entry["md5"] for entry in listed}
        return found

    def restore(self, name: str) -> bool:
        """Makes an object again from the workspace, where its bytes are there."""
        target = self.object(name)
        for path in (ROOT / path for path, md5 in self.outs.items() if md5 == name and md5.endswith(".dir")):
            files = sorted(file for file in path.rglob("*") if file.is_file())
            listed = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
            text = json.dumps(sorted(listed, key=lambda entry: entry["relpath"]), sort_keys=True)
            if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() == name.removesuffix(".dir"):
                target.write_text(text)
                target.chmod(0o444)
                return True
        for file in (file for file, md5 in self.files().items() if md5 == name and _md5(file) == name):
            shutil.copyfile(file, target)
            target.chmod(0o444)
            return True
        return False


def whole(file: Path) -> bool:
    """Whether an object of DVC's cache holds what its name says."""
    return _md5(file) == (file.parent.name + file.name).removesuffix(".dir")


@dataclass
class Found:
    """What was looked at, and what is damaged of it."""

    cache: Cache
    objects: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    folders: dict[Path, list[str]] = field(default_factory=dict)
    kept: list[tuple] = field(default_factory=list)  # MLflow's, with what is wrong
    unsealed: list[str] = field(default_factory=list)
    sound: list[Path] = field(default_factory=list)  # sealed folders anywhere that are whole
    looked: str = ""

    def lines(self) -> list[str]:
        """A line for each that is damaged."""
        known = {md5: file for file, md5 in self.cache.files().items()}
        known |= {md5: ROOT / path for path, md5 in self.cache.outs.items()}
        names = ((file, known.get(file.parent.name + file.name)) for file in self.objects)
        return [
            *(f"{seal.near(folder)}: {', '.join(wrong)}" for folder, wrong in self.folders.items()),
            *(f"{seal.near(file)}: not what dvc.lock says" for file in self.files),
            *(
                f"{seal.near(file)}: DVC's copy{f' of {seal.near(of)}' if of else ''} is not as it was stored"
                for file, of in names
            ),
            *(f"{kept.name} in MLflow: {', '.join(wrong)}" for kept, wrong in self.kept),
        ]


def look(target: Path) -> Found:
    """Reads everything.

    Args:
        target: a directory for what MLflow keeps elsewhere.
    """
    found = Found(Cache.open())
    objects = found.cache.objects()
    found.objects = [file for file in objects if not whole(file)]
    for folder in _sealed():
        if not (folder / portable.SUMS).is_file():
            found.unsealed.append(str(seal.near(folder)))
        elif wrong := portable.damaged(folder):
            found.folders[folder] = wrong
        else:
            found.sound.append(folder)
    sealed = len(found.folders) + len(found.sound)
    # What else DVC keeps. Where its status tells of a change, a person made the file anew; it goes by the
    # times, so that a file that it takes for the same must have the same bytes.
    status = _dvc("data", "status", "--json")
    changes = json.loads(status.stdout).get("uncommitted", {}).values() if status.returncode == 0 else ()
    changed = {ROOT / path.rstrip("/") for paths in changes for path in paths}
    done = changed | found.folders.keys() | set(found.sound)
    for file, md5 in found.cache.files().items() if status.returncode == 0 else ():
        if not done & {file, *file.parents} and file.is_file() and _md5(file) != md5:
            found.files.append(file)
    kept = _mlflow(found, target)
    found.looked = f"{sealed} sealed folders, {len(objects)} objects of DVC's cache, {kept}"
    return found


def _sealed() -> list[Path]:
    """Folders under ``data/`` and ``runs/`` that are sealed, or should be."""
    places = (ROOT / "data", ROOT / "runs")
    found = {
        file.parent for place in places for name in (portable.SUMS, *MARKS) for file in place.rglob(name)
    }
    hidden = re.compile(r"\..*|.*\.part")  # caches, and what is being made
    return sorted(
        folder for folder in found if not any(map(hidden.fullmatch, folder.relative_to(ROOT).parts))
    )


def _mlflow(found: Found, target: Path) -> str:
    """Looks at what MLflow keeps; says how much that was."""
    from pipeline import tracking

    number = 0
    try:
        for kept in tracking.registered(target):
            number += 1
            if not kept.folder.is_dir():
                found.kept.append((kept, ["its files are missing"]))
            elif not (kept.folder / portable.SUMS).is_file():
                found.unsealed.append(f"{kept.name} in MLflow")
            elif wrong := portable.damaged(kept.folder):
                found.kept.append((kept, wrong))
            else:
                found.sound.append(kept.folder)
    except UserError as error:
        return f"not MLflow ({error})"
    return f"{number} folders of registered models in MLflow"


def repair(found: Found) -> list[str]:
    """Removes what is damaged and brings back what can be had; says of the rest how to make it again."""
    from pipeline import tracking

    cache, todo, outs = found.cache, [], set()
    for file in found.objects:
        file.unlink()
    # A list of a folder's files first: it tells which file another object is of.
    gone = sorted(
        (file.parent.name + file.name for file in found.objects), key=lambda name: ".dir" not in name
    )
    gone = [name for name in gone if not cache.restore(name)]
    if (gone or found.folders or found.files) and _dvc("config", "core.remote").stdout.strip():
        _dvc("fetch")
        for file in map(cache.object, gone):
            if file.is_file() and not whole(file):
                file.unlink()
                todo.append(
                    f"DVC's remote is damaged too: delete files/md5/{file.parent.name}/{file.name} there"
                )
    for folder, wrong in found.folders.items():
        if all(item.endswith(" is new") for item in wrong):
            todo.append(f"move away what is new in {seal.near(folder)}")  # it may be a person's
            continue
        twin = _twin(folder, found.sound)
        out = next((path for path in cache.outs if {folder, *folder.parents} & {ROOT / path}), None)
        group, name = folder.relative_to(ROOT).parts[:2]
        if twin is None and out is None and (group, name) in (("runs", "single"), ("runs", "sweeps")):
            todo.append(f"{seal.near(folder)}: train it again; its choices stand in its config.yaml")
            continue
        shutil.rmtree(folder)
        if twin:
            shutil.copytree(twin, folder)
        elif out:
            outs.add(out)
        else:
            todo.append(f"python -m pipeline.config data={name} && dvc repro")
    for file in found.files:
        file.unlink()
        outs.add(next(path for path in cache.outs if {file, *file.parents} & {ROOT / path}))
    failed = [out for out in sorted(outs) if _dvc("checkout", "--force", out).returncode]
    # What failed is gone, what came back may serve.
    sound = [*found.sound, *found.folders]
    sound = [folder for folder in sound if folder.is_dir() and not portable.damaged(folder)]
    for kept, _ in found.kept:
        twin = _twin(kept.folder, sound)
        if twin:
            with tracking.reachable():
                kept.put(twin)
        else:
            todo.append(
                f"{kept.name} in MLflow: the same bytes are nowhere here; delete the version and its run "
                "there, then: python -m pipeline.tracking sync"
            )
    needed = {*cache.outs.values(), *cache.files().values()}
    if failed or any(name in needed and not cache.object(name).is_file() for name in gone):
        todo.append("dvc repro")
    return list(dict.fromkeys(todo))


def _twin(folder: Path, sound: list[Path]) -> Path | None:
    """A whole folder that this one was equal to: by its seal, or by its files where the seal is damaged."""
    if not folder.is_dir():
        return None
    lines, files = (folder / portable.SUMS).read_bytes(), portable.sums(folder)
    for other in sound:
        if (other / portable.SUMS).read_bytes() == lines or portable.sums(other) == files:
            return other
    return None


def verify(mend: bool) -> bool:
    """Prints what is damaged, and repairs it where that is wanted; whether all is whole in the end."""
    with tempfile.TemporaryDirectory() as target:
        found = look(Path(target) / "before")
        print(f"verify: {found.looked}")
        for name in found.unsealed:
            print(f"not sealed, nothing tells whether it is whole: {name}")
        damaged, todo = found.lines(), []
        for line in damaged:
            print(f"damaged: {line}", flush=True)
        if mend and damaged:
            todo = repair(found)
            left = look(Path(target) / "after").lines()
            print(f"removed or brought back: {len(set(damaged) - set(left))} of {len(damaged)}")
            for line in left:
                print(f"still damaged: {line}")
            for line in todo:
                print(f"to be made again: {line}")
            return not left and not todo
        print(f"error: {len(damaged)} damaged; run: {seal.REPAIR}" if damaged else "everything is whole")
        return not damaged


def take(folder: Path) -> None:
    """Seals a folder of an older version as it is.

    Raises:
        UserError: it is none, or sealed already.
    """
    if not folder.is_dir() or not any((folder / mark).is_file() for mark in MARKS):
        raise UserError(f"{folder} is no folder that train, pack, evaluate or register left")
    if (folder / portable.SUMS).is_file():
        raise UserError(f"{folder} is sealed; whether it is whole tells: python -m pipeline.verify")
    seal.seal(folder)
    print(f"verify: sealed {folder} as it is")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify",
        description="Reads all of data/, runs/, DVC's cache and MLflow's models, and names what is damaged.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--repair", action="store_true", help="remove what is damaged, bring back what can be had"
    )
    chosen.add_argument("--seal", metavar="FOLDER", help="take a folder of an older version as it is")
    given = parser.parse_args(arguments)
    try:
        with config.told():
            if given.seal:
                take(config.from_root(given.seal, Path.cwd()))
            elif not verify(given.repair):
                sys.exit(1)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
