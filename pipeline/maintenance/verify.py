"""Verifies all artifacts byte by byte: ``petfaces verify``; ``--repair`` repairs them.

DVC does not verify the objects in its cache, nor workspace files with a known mtime and size: a flipped byte
is checked out, pushed and restored by its run cache, and `dvc repro --force` does not replace the object. So
damaged files must be removed before DVC is asked for them. MLflow does not verify its artifacts either.
"""

import json
import logging
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import click

from pipeline import portable, tracking
from pipeline.artifacts import seal
from pipeline.common import paths, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.maintenance.dvc_cache import Cache, dvc, md5_of, whole

_log = logging.getLogger(__name__)

MARKS = ("pack.json", "lineage.json", "predictions.csv", "model.onnx")  # files that identify sealed folders


@dataclass
class Found:
    """What was checked, and what of it is damaged."""

    cache: Cache
    objects: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    folders: dict[Path, list[str]] = field(default_factory=dict)
    kept: list[tuple] = field(default_factory=list)  # damaged MLflow artifacts, with what is wrong
    unsealed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # files in sealed folders that are not sealed
    sound: list[Path] = field(default_factory=list)  # undamaged sealed folders, also in MLflow
    wrappings: list[Path] = field(default_factory=list)  # undamaged folders in MLflow
    looked: str = ""

    def lines(self) -> list[str]:
        """One line per damaged item."""
        known = {md5: file for file, md5 in self.cache.files().items()}
        known |= {md5: ROOT / path for path, md5 in self.cache.outs.items()}
        shown = seal.relative_to_root
        copies = {file: known.get(file.parent.name + file.name) for file in self.objects}
        return [
            *(f"{shown(folder)}: {', '.join(wrong)}" for folder, wrong in self.folders.items()),
            *(f"{shown(file)}: not what dvc.lock says" for file in self.files),
            *(
                f"{shown(file)}: DVC's copy{f' of {shown(of)}' if of else ''} is not as it was stored"
                for file, of in copies.items()
            ),
            *(f"{kept.name} in MLflow: {', '.join(wrong)}" for kept, wrong in self.kept),
        ]


def look(target: Path) -> Found:
    """Checks everything.

    Args:
        target: a directory to download remote MLflow artifacts to.
    """
    found = Found(Cache.open())
    objects = found.cache.objects()
    found.objects = [file for file in objects if not whole(file)]
    for folder in _sealed():
        if not (folder / portable.SUMS).is_file():
            found.unsealed.append(str(seal.relative_to_root(folder)))
        elif wrong := portable.damaged(folder):
            found.folders[folder] = wrong
        else:
            found.sound.append(folder)
            found.extra += [str(seal.relative_to_root(folder / name)) for name in portable.extra(folder)]
    sealed = len(found.folders) + len(found.sound)
    # Other outs of DVC. A file that its status reports as changed was changed on purpose; DVC compares
    # mtimes, so a file that it takes for unchanged must have the same bytes.
    status = dvc("data", "status", "--json")
    changes = json.loads(status.stdout).get("uncommitted", {}).values() if status.returncode == 0 else ()
    changed = {ROOT / path.rstrip("/") for paths in changes for path in paths}
    skipped = changed | found.folders.keys() | set(found.sound)
    for file, md5 in found.cache.files().items() if status.returncode == 0 else ():
        if not skipped & {file, *file.parents} and file.is_file() and md5_of(file) != md5:
            found.files.append(file)
    kept = _mlflow(found, target)
    found.looked = f"{sealed} sealed folders, {len(objects)} objects of DVC's cache, {kept}"
    return found


def _sealed() -> list[Path]:
    """Folders under ``data/`` and ``runs/`` that are or should be sealed."""
    roots = (ROOT / "data", ROOT / "runs")
    found = {file.parent for root in roots for name in (portable.SUMS, *MARKS) for file in root.rglob(name)}
    excluded = re.compile(r"\..*|.*\.part")  # caches, and folders being written
    return sorted(
        folder for folder in found if not any(map(excluded.fullmatch, folder.relative_to(ROOT).parts))
    )


def _mlflow(found: Found, target: Path) -> str:
    """Checks MLflow's artifacts; returns a summary of what was checked."""
    number = 0
    try:
        for kept in tracking.registered_folders(target):
            number += 1
            if not kept.folder.is_dir():
                found.kept.append((kept, ["its files are missing"]))
            elif not kept.sealed:
                found.unsealed.append(f"{kept.name} in MLflow")
            elif wrong := kept.damaged():
                found.kept.append((kept, wrong))
            else:
                found.extra += [f"{name} of {kept.name} in MLflow" for name in kept.extra()]
                if kept.hashes is None:
                    found.sound.append(kept.folder)
                found.wrappings.append(kept.folder)
    except UserError as error:
        return f"not MLflow ({error})"
    return f"{number} folders of registered models in MLflow"


def repair(found: Found) -> list[str]:
    """Removes damaged files and restores what it can; returns instructions for the rest."""
    cache, todo, outs = found.cache, [], set()
    for file in found.objects:
        file.unlink()
    # Folder lists (.dir) first: they map the other objects to files.
    gone = sorted(
        (file.parent.name + file.name for file in found.objects), key=lambda name: ".dir" not in name
    )
    gone = [name for name in gone if not cache.restore(name)]
    if (gone or found.folders or found.files) and dvc("config", "core.remote").stdout.strip():
        dvc("fetch")
        for file in map(cache.object, gone):
            if file.is_file() and not whole(file):
                file.unlink()
                todo.append(
                    f"DVC's remote is damaged too: delete files/md5/{file.parent.name}/{file.name} there"
                )
    for folder, wrong in found.folders.items():
        if all(phrase.endswith(" is not sealed") for phrase in wrong):  # it may belong to the user
            todo.append(f"{seal.relative_to_root(folder)}: move away what is not sealed")
            continue
        twin = _twin(folder, found.sound)
        out = next((path for path in cache.outs if {folder, *folder.parents} & {ROOT / path}), None)
        group, name = folder.relative_to(ROOT).parts[:2]
        if twin is None and out is None and (group, name) in (("runs", "single"), ("runs", "sweeps")):
            todo.append(
                f"{seal.relative_to_root(folder)}: train it again; its settings are in its config.yaml"
            )
            continue
        _remove(folder)
        if twin:
            for name in (*portable.sealed(twin), portable.SUMS):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(twin / name, folder / name)
        elif out:
            outs.add(out)
        else:
            todo.append(f"petfaces config data={name} && dvc repro")
    for file in found.files:
        file.unlink()
        outs.add(next(path for path in cache.outs if {file, *file.parents} & {ROOT / path}))
    failed = [out for out in sorted(outs) if not _check_out(cache, out)]
    # Damaged folders are gone by now; restored ones can serve as sources.
    sound = [*found.sound, *found.folders]
    sound = [folder for folder in sound if folder.is_dir() and not portable.damaged(folder)]
    for kept, wrong in found.kept:
        with tempfile.TemporaryDirectory() as target:
            twin = _twin(kept.folder, sound) if kept.hashes is None else _wrapped(kept, found, Path(target))
            if twin:
                try:
                    with tracking.reachable():
                        kept.upload(twin)
                except UserError as error:  # a missing model, for example; the others are still restored
                    todo.append(f"{kept.name} in MLflow: {error}")
        if any(phrase.startswith("code/") and phrase.endswith(" is not sealed") for phrase in wrong):
            todo.append(f"{kept.name} in MLflow: delete there what is not sealed")
        if not twin:
            todo.append(
                f"{kept.name} in MLflow: the same bytes are nowhere here; delete the version and its run "
                "there, then: petfaces tracking sync"
            )
    needed = {*cache.outs.values(), *cache.files().values()}
    if failed or any(name in needed and not cache.object(name).is_file() for name in gone):
        todo.append("dvc repro")
    return list(dict.fromkeys(todo))


def _remove(folder: Path) -> None:
    """Removes this program's files from a sealed folder, and keeps files that a user added."""
    try:
        own = {portable.SUMS, *portable.sealed(folder)}
    except portable.DamagedError:
        own = {portable.SUMS, *portable.READ}
    for name in portable.entries(folder):
        if name in own:
            (folder / name).unlink()


def _check_out(cache: Cache, out: str) -> bool:
    """Runs ``dvc checkout`` for an out, but keeps files that a user added; returns whether it succeeded."""
    folder, tracked = ROOT / out, cache.files()
    added = (
        [name for name in portable.entries(folder) if folder / name not in tracked] if folder.is_dir() else []
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    for name in added:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(aside / name)
    try:
        return dvc("checkout", "--force", out).returncode == 0
    finally:
        for name in added:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(folder / name):
                (aside / name).rename(folder / name)
        if not portable.entries(aside):
            shutil.rmtree(aside)


def _twin(folder: Path, sound: list[Path]) -> Path | None:
    """An undamaged copy of a folder, found by its seal, or by its files if the seal is damaged."""
    if not folder.is_dir():
        return None
    lines = (folder / portable.SUMS).read_bytes()
    for other in sound:
        same = (other / portable.SUMS).read_bytes() == lines
        if same or not portable.differing(folder, portable.sealed(other)):
            return other
    return None


def _wrapped(kept, found: Found, target: Path) -> Path | None:
    """Collects intact copies of a model's damaged MLflow wrapper files in `target`; None if one is missing.

    Code comes from this checkout if it is identical; other files from other versions.
    """
    candidates = list(Path(portable.__file__).parent.glob("*.py"))
    candidates += [file for folder in found.wrappings for file in folder.rglob("*") if file.is_file()]
    for name, digest in kept.hashes.items():
        if not portable.differing(kept.folder, {name: digest}):
            continue
        same = [file for file in candidates if file.name == Path(name).name]
        file = next((file for file in same if not portable.differing(file.parent, {file.name: digest})), None)
        if file is None:
            return None
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
    return target


def verify(mend: bool) -> bool:
    """Prints what is damaged, repairs it if asked to; returns whether everything is intact in the end."""
    with tempfile.TemporaryDirectory() as target:
        found = look(Path(target) / "before")
        print(found.looked)
        for name in found.unsealed:
            print(f"not sealed, nothing tells whether it is whole: {text.printable(name)}")
        for name in found.extra:
            print(f"not sealed, and not used: {text.printable(name)}")
        damaged, todo = found.lines(), []
        for line in damaged:
            print(f"damaged: {text.printable(line)}", flush=True)
        if mend and damaged:
            todo = repair(found)
            left = look(Path(target) / "after").lines()
            print(f"removed or brought back: {len(set(damaged) - set(left))} of {len(damaged)}")
            for line in left:
                print(f"still damaged: {text.printable(line)}")
            for line in todo:
                print(f"to be made again: {text.printable(line)}")
            return not left and not todo
        if damaged:
            _log.error("%d damaged; run: %s", len(damaged), seal.REPAIR)
        else:
            print("everything is whole")
        return not damaged


def take(folder: Path) -> None:
    """Seals a folder written by an older version as it is.

    Raises:
        UserError: it is not such a folder, or is already sealed.
    """
    if not folder.is_dir() or not any((folder / mark).is_file() for mark in MARKS):
        raise UserError(f"{folder} is no folder that train, pack, evaluate or register left")
    if (folder / portable.SUMS).is_file():
        raise UserError(f"{folder} is sealed; whether it is whole tells: petfaces verify")
    seal.seal(folder)
    print(f"sealed {folder} as it is")


@click.command()
@click.option("--repair", is_flag=True, help="Remove what is damaged, and bring back what can be had.")
@click.option("--seal", "sealed", metavar="FOLDER", help="Take a folder of an older version as it is.")
def main(repair: bool, sealed: str | None) -> None:
    """Read all of data/, runs/, DVC's cache and MLflow's models, and name what is damaged."""
    if repair and sealed is not None:
        raise click.UsageError("--repair and --seal exclude each other")
    if sealed is not None:
        take(paths.from_root(sealed, Path.cwd()))
    elif not verify(repair):
        sys.exit(1)
