"""Verifies all artifacts byte by byte: ``petfaces verify``; ``--repair`` restores damaged ones.

DVC verifies neither the objects in its cache nor workspace files with a known mtime and size: a flipped byte
is checked out, pushed and restored by its run cache, and `dvc repro --force` does not replace the object. So
damaged files must be removed before DVC can restore them. MLflow does not verify its artifacts either.
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
from pipeline.maintenance.dvc_cache import Cache, dvc, is_intact, md5_in_name, md5_of
from pipeline.tracking.artifacts import StoredFolder

_log = logging.getLogger(__name__)

MARKS = ("pack.json", "lineage.json", "predictions.csv", "model.onnx")  # a folder with one must be sealed


@dataclass
class Findings:
    """Result of `scan`.

    Attributes:
        cache: DVC's cache.
        objects: damaged objects in it.
        files: outs of DVC that differ from ``dvc.lock``.
        folders: damaged sealed folders, with a message per damaged file.
        stored: damaged folders in MLflow with a message per damaged file.
        unsealed: names of folders that can't be verified because they were never sealed.
        extra: names of files in sealed folders that are not sealed, nor used.
        intact: undamaged sealed folders, including copies of those in MLflow.
        intact_wrappers: copies of undamaged folders in MLflow, with the files that MLflow added.
        summary: what was checked.
    """

    cache: Cache
    objects: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    folders: dict[Path, list[str]] = field(default_factory=dict)
    stored: list[tuple[StoredFolder, list[str]]] = field(default_factory=list)
    unsealed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    intact: list[Path] = field(default_factory=list)
    intact_wrappers: list[Path] = field(default_factory=list)
    summary: str = ""

    def damage(self) -> list[str]:
        """One line per damaged item."""
        known = {md5: file for file, md5 in self.cache.files().items()}
        known |= {md5: ROOT / path for path, md5 in self.cache.outs.items()}
        shown = seal.relative_to_root
        sources = {file: known.get(md5_in_name(file)) for file in self.objects}
        return [
            *(f"{shown(folder)}: {', '.join(wrong)}" for folder, wrong in self.folders.items()),
            *(f"{shown(file)}: differs from dvc.lock" for file in self.files),
            *(
                f"{shown(file)}: damaged in DVC's cache{f' ({shown(source)})' if source else ''}"
                for file, source in sources.items()
            ),
            *(f"{stored.name} in MLflow: {', '.join(wrong)}" for stored, wrong in self.stored),
        ]


def scan(target: Path) -> Findings:
    """Checks ``data/``, ``runs/``, DVC's cache and MLflow's registered models.

    Args:
        target: a directory to download remote MLflow artifacts to.
    """
    found = Findings(Cache.open())
    objects = found.cache.objects()
    found.objects = [file for file in objects if not is_intact(file)]
    for folder in _sealed_folders():
        if not (folder / portable.SUMS).is_file():
            found.unsealed.append(str(seal.relative_to_root(folder)))
        elif wrong := portable.damaged(folder):
            found.folders[folder] = wrong
        else:
            found.intact.append(folder)
            found.extra += [str(seal.relative_to_root(folder / name)) for name in portable.extra(folder)]
    sealed = len(found.folders) + len(found.intact)
    # Other outs of DVC. `dvc data status` compares mtimes: a file that it reports was changed on purpose; one
    # that it takes for unchanged must have the bytes in dvc.lock.
    status = dvc("data", "status", "--json")
    changes = json.loads(status.stdout).get("uncommitted", {}).values() if status.returncode == 0 else ()
    changed = {ROOT / path.rstrip("/") for paths in changes for path in paths}
    skipped = changed | found.folders.keys() | set(found.intact)
    for file, md5 in found.cache.files().items() if status.returncode == 0 else ():
        if not skipped & {file, *file.parents} and file.is_file() and md5_of(file) != md5:
            found.files.append(file)
    mlflow = _scan_mlflow(found, target)
    found.summary = f"{sealed} sealed folders, {len(objects)} objects of DVC's cache, {mlflow}"
    return found


def _sealed_folders() -> list[Path]:
    """Folders under ``data/`` and ``runs/`` that are or should be sealed."""
    roots = (ROOT / "data", ROOT / "runs")
    found = {file.parent for root in roots for name in (portable.SUMS, *MARKS) for file in root.rglob(name)}
    excluded = re.compile(r"\..*|.*\.part")  # caches, and folders being written
    return sorted(
        folder for folder in found if not any(map(excluded.fullmatch, folder.relative_to(ROOT).parts))
    )


def _scan_mlflow(found: Findings, target: Path) -> str:
    """Checks MLflow's artifacts; returns a summary of what was checked."""
    number = 0
    try:
        for stored in tracking.registered_folders(target):
            number += 1
            if not stored.folder.is_dir():
                found.stored.append((stored, ["its files are missing"]))
            elif not stored.sealed:
                found.unsealed.append(f"{stored.name} in MLflow")
            elif wrong := stored.damaged():
                found.stored.append((stored, wrong))
            else:
                found.extra += [f"{name} of {stored.name} in MLflow" for name in stored.extra()]
                if stored.hashes is None:
                    found.intact.append(stored.folder)
                found.intact_wrappers.append(stored.folder)
    except UserError as error:
        return f"not MLflow ({error})"
    return f"{number} folders of registered models in MLflow"


def repair(found: Findings) -> list[str]:
    """Removes damaged files and restores what it can; returns what the user has to do for the rest."""
    cache, todo, outs, shown = found.cache, [], set(), seal.relative_to_root
    for file in found.objects:
        file.unlink()
    # Folder lists (.dir) first: they map the other objects to files.
    missing = sorted(map(md5_in_name, found.objects), key=lambda md5: ".dir" not in md5)
    missing = [md5 for md5 in missing if not cache.restore(md5)]
    if (missing or found.folders or found.files) and dvc("config", "core.remote").stdout.strip():
        dvc("fetch")
        for file in map(cache.object_path, missing):
            if file.is_file() and not is_intact(file):
                file.unlink()
                object_name = f"files/md5/{file.parent.name}/{file.name}"
                todo.append(f"DVC's remote is damaged too: delete {object_name} there")
    for folder, wrong in found.folders.items():
        if all(message.endswith(" is not sealed") for message in wrong):  # it may belong to the user
            todo.append(f"{shown(folder)}: move away what is not sealed")
            continue
        source = _intact_copy(folder, found.intact)
        out = next((path for path in cache.outs if {folder, *folder.parents} & {ROOT / path}), None)
        group, name = folder.relative_to(ROOT).parts[:2]
        if source is None and out is None and (group, name) in (("runs", "single"), ("runs", "sweeps")):
            todo.append(f"{shown(folder)}: train it again; its settings are in its config.yaml")
            continue
        _remove_sealed(folder)
        if source:
            for name in (*portable.sealed(source), portable.SUMS):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, folder / name)
        elif out:
            outs.add(out)
        else:
            todo.append(f"petfaces config data={name} && dvc repro")
    for file in found.files:
        file.unlink()
        outs.add(next(path for path in cache.outs if {file, *file.parents} & {ROOT / path}))
    failed = [out for out in sorted(outs) if not _check_out(cache, out)]
    # Restored folders can be sources too.
    intact = [*found.intact, *found.folders]
    intact = [folder for folder in intact if folder.is_dir() and not portable.damaged(folder)]
    for stored, wrong in found.stored:
        with tempfile.TemporaryDirectory() as target:
            if stored.hashes is None:
                source = _intact_copy(stored.folder, intact)
            else:
                source = _intact_wrapper(stored, found, Path(target))
            if source:
                try:
                    with tracking.reachable():
                        stored.upload(source)
                except UserError as error:  # a missing model, for example; the others are still restored
                    todo.append(f"{stored.name} in MLflow: {error}")
        if any(message.startswith("code/") and message.endswith(" is not sealed") for message in wrong):
            todo.append(f"{stored.name} in MLflow: delete there what is not sealed")
        if not source:
            todo.append(
                f"{stored.name} in MLflow: there is no intact copy; delete the version and its run there, "
                "then run: petfaces tracking sync"
            )
    needed = {*cache.outs.values(), *cache.files().values()}
    if failed or any(md5 in needed and not cache.object_path(md5).is_file() for md5 in missing):
        todo.append("dvc repro")
    return list(dict.fromkeys(todo))


def _remove_sealed(folder: Path) -> None:
    """Removes this program's files from a sealed folder, and keeps files that a user added."""
    try:
        sealed = {portable.SUMS, *portable.sealed(folder)}
    except portable.DamagedError:
        sealed = {portable.SUMS, *portable.READ}
    for name in sealed & set(portable.entries(folder)):
        (folder / name).unlink()


def _check_out(cache: Cache, out: str) -> bool:
    """Runs ``dvc checkout`` for an out, and keeps files that a user added; returns whether it succeeded."""
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


def _intact_copy(folder: Path, intact: list[Path]) -> Path | None:
    """The undamaged folder with the same seal, or with the same files if the seal is damaged."""
    if not folder.is_dir():
        return None
    sums = (folder / portable.SUMS).read_bytes()
    for other in intact:
        is_same = (other / portable.SUMS).read_bytes() == sums
        if is_same or not portable.differing(folder, portable.sealed(other)):
            return other
    return None


def _intact_wrapper(stored: StoredFolder, found: Findings, target: Path) -> Path | None:
    """Collects intact copies of the damaged files that MLflow added to a model.

    Code comes from this checkout if it is identical; other files from other versions.

    Returns:
        `target`, or None if a file has no intact copy.
    """
    candidates = list(Path(portable.__file__).parent.glob("*.py"))
    candidates += [file for folder in found.intact_wrappers for file in folder.rglob("*") if file.is_file()]
    for name, digest in stored.hashes.items():
        if not portable.differing(stored.folder, {name: digest}):
            continue
        same = [file for file in candidates if file.name == Path(name).name]
        file = next((file for file in same if not portable.differing(file.parent, {file.name: digest})), None)
        if file is None:
            return None
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)
    return target


def verify(with_repair: bool) -> bool:
    """Prints what is damaged, and repairs it if asked to; returns whether everything is intact in the end."""
    with tempfile.TemporaryDirectory() as target:
        found = scan(Path(target) / "before")
        print(found.summary)
        for name in found.unsealed:
            print(f"not sealed, so it can't be verified: {text.printable(name)}")
        for name in found.extra:
            print(f"not sealed, and not used: {text.printable(name)}")
        damage = found.damage()
        for line in damage:
            print(f"damaged: {text.printable(line)}", flush=True)
        if with_repair and damage:
            todo = repair(found)
            remaining = scan(Path(target) / "after").damage()
            print(f"removed or restored: {len(set(damage) - set(remaining))} of {len(damage)}")
            for line in remaining:
                print(f"still damaged: {text.printable(line)}")
            for line in todo:
                print(f"to do: {text.printable(line)}")
            return not remaining and not todo
        if damage:
            _log.error("%d damaged; run: %s", len(damage), seal.REPAIR)
        else:
            print("nothing is damaged")
        return not damage


def seal_as_is(folder: Path) -> None:
    """Seals a folder that an older version wrote, without checking its content.

    Raises:
        UserError: it is not such a folder, or is already sealed.
    """
    if not folder.is_dir() or not any((folder / mark).is_file() for mark in MARKS):
        raise UserError(f"{folder} was not written by train, pack, evaluate or register; name such a folder")
    if (folder / portable.SUMS).is_file():
        raise UserError(f"{folder} is sealed already; to check it, run: petfaces verify")
    seal.seal(folder)
    print(f"sealed {folder} as it is")


@click.command()
@click.option("--repair", "with_repair", is_flag=True, help="Remove what is damaged; restore it if possible.")
@click.option("--seal", "unsealed", metavar="FOLDER", help="Seal a folder of an older version as it is.")
def main(with_repair: bool, unsealed: str | None) -> None:
    """Check data/, runs/, DVC's cache and MLflow's models for damaged files."""
    if with_repair and unsealed is not None:
        raise click.UsageError("--repair and --seal exclude each other")
    if unsealed is not None:
        seal_as_is(paths.from_root(unsealed, Path.cwd()))
    elif not verify(with_repair):
        sys.exit(1)
