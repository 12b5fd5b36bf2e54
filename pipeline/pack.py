"""Stage pack: decodes every picture once, for good, into one file of uint8 pixels and an index."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from omegaconf import DictConfig

from pipeline import archives, atomic, config, schema, seal
from pipeline.config import ROOT, UserError

# Folders above class folders that tell an official split; val may be missing.
OFFICIAL = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HASH_SIDE = 16  # perceptual hash of 256 bits: 64 confuse faces that fill the frame alike
SPECIES = ("cat", "dog")


def decode(task: tuple[str, bytes | None, int]) -> dict:
    """One picture: its pixels, its hashes, or the reason why it can't be used."""
    import imagehash
    from PIL import Image

    from pipeline import portable

    path, data, max_side = task
    if data is None:
        return {"path": path, "reason": f"more than {archives.MAX_BYTES:,} bytes"}
    try:
        pixels = portable.shrink(portable.read_picture(data), max_side)
    except portable.UnreadableError as reason:
        return {"path": path, "reason": str(reason)}
    return {
        "path": path,
        "pixels": pixels.tobytes(),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "sha256": hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest(),
        "phash": str(imagehash.phash(Image.fromarray(pixels), hash_size=HASH_SIDE)),
    }


def labels(path: str, classes: str) -> dict:
    """What a path ``[…/][<split>/]<folder>/<breed>_<number>.<ending>`` tells of its picture.

    Args:
        path: within the archive.
        classes: `folder`, or `breed`: the file's name up to its number, after the folder's species.

    Returns:
        `label` (empty where there is no class folder), `species`, `breed` and `official` (`train`, `val`,
        `test` or empty).
    """
    parts = PurePosixPath(path)
    folder = parts.parent.name
    species = folder.split("_", 1)[0].lower()
    species = species if species in SPECIES else ""
    breed = re.sub(r"_\d+$", "", parts.stem)
    label = folder
    if classes == "breed" and folder:
        label = f"{species}_{breed}" if species else breed
    return {
        "path": path,
        "label": label,
        "species": species,
        "breed": breed,
        "official": OFFICIAL.get(parts.parent.parent.name.lower(), ""),
    }


def pack(archive: Path, folder: Path, max_side: int, classes: str = "folder") -> dict:
    """Packs an archive.

    Writes ``pixels.bin`` (uint8, the pictures end to end, each height × width × 3), ``index.csv`` (a row a
    picture, by path), ``quarantine.csv`` (what can't be used, with the reason), ``pack.json`` and
    ``SHA256SUMS``.

    Args:
        archive: tar or zip.
        folder: made anew; the old one stays until the new one is whole, and nothing of a half one does.
        max_side: pixels of the longer side that are kept.
        classes: what names a class, `folder` or `breed`.

    Returns:
        What ``pack.json`` says.

    Raises:
        UserError: the archive is damaged, or holds no usable pictures in class folders.
    """
    if classes not in ("folder", "breed"):
        raise UserError(f"pack.classes={classes} is not known: folder or breed")
    target = atomic.Target(folder, ("pack.json", "index.csv", "pixels.bin"))
    unfinished = target.begin()
    try:
        summary = _pack(archive, unfinished, max_side, classes)
        seal.seal(unfinished)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # a full disk gets its room back
        if isinstance(error, OSError) and error.filename is None:  # a write does not tell its file
            error.filename = str(folder)
        raise
    target.finish()
    return summary


def _pack(archive: Path, folder: Path, max_side: int, classes: str) -> dict:
    """Writes a pack's files into an empty folder; returns what ``pack.json`` says."""
    import pandas

    rows, quarantine, offset, seen = [], [], 0, set()
    # Threads, for decoding, sizing and hashing let go of the interpreter; a process would cost a second of
    # imports and copy every picture twice. Decoding goes on while the archive is being read.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool, open(folder / "pixels.bin", "wb") as pixels:
        tasks = ((path, data, max_side) for path, data in archives.members(archive))
        for result in _in_order(pool, tasks, workers * 32):
            known = labels(result["path"], classes)
            if "reason" not in result and not known["label"]:
                result["reason"] = "in no class folder"
            elif "reason" not in result and result["path"] in seen:
                result["reason"] = "its path comes twice in the archive; the first is used"
            if "reason" in result:
                quarantine.append({"path": result["path"], "reason": result["reason"]})
                continue
            seen.add(result["path"])
            raw = result.pop("pixels")
            rows.append({**known, **result, "offset": offset})
            pixels.write(raw)
            offset += len(raw)
    if any(row["official"] for row in rows):
        # Beside train/cat/1.jpg, test/2.jpg has no class; without such folders "train" may be a vehicle.
        for row in rows:
            row["stray"] = row["label"].lower() in OFFICIAL and not row["official"]
        quarantine += [{"path": row["path"], "reason": "in no class folder"} for row in rows if row["stray"]]
        rows = [row for row in rows if not row["stray"]]
    index = pandas.DataFrame(rows)
    if not rows or index["label"].nunique() < 2:
        raise UserError(_too_few(archive, rows, quarantine))

    index = index.sort_values("path", kind="stable")
    index.to_csv(folder / "index.csv", columns=[*schema.TEXT, *schema.NUMBERS], index=False)
    pandas.DataFrame(quarantine, columns=["path", "reason"]).sort_values("path").to_csv(
        folder / "quarantine.csv", index=False
    )
    summary = {
        "schema": schema.VERSION,
        "max_side": max_side,
        "pictures": len(rows),
        "classes": int(index["label"].nunique()),
        "quarantined": len(quarantine),
        "content": schema.content_hash(index),
    }
    (folder / "pack.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _too_few(archive: Path, rows: list[dict], quarantine: list[dict]) -> str:
    """Why there is nothing to learn from an archive, and what it should hold."""
    wanted = "it should hold folders of pictures, a folder a class"
    if rows:
        return f"{archive} has pictures of one class only, '{rows[0]['label']}'; {wanted}, two at least"
    if not quarantine:
        return f"{archive} holds no files; {wanted}"
    flat = [entry for entry in quarantine if entry["reason"] == "in no class folder"]
    if flat:
        return (
            f"{archive}: '{flat[0]['path']}' lies in no class folder; "
            "put each picture in a folder named as its class"
        )
    first = quarantine[0]
    return f"{archive} holds no usable picture ('{first['path']}': {first['reason']}); {wanted}"


def _in_order(pool: Executor, tasks: Iterator[tuple], ahead: int) -> Iterator[dict]:
    """Results in the tasks' order with at most `ahead` tasks in memory; `pool.map` would read them all."""
    waiting = []
    for task in tasks:
        waiting.append(pool.submit(decode, task))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


@config.stage
def main(cfg: DictConfig) -> None:
    place = ROOT / "data" / cfg.data.name
    summary = pack(place / "archive", place / "pack", cfg.pack.max_side, cfg.pack.classes)
    print(
        f"pack: {summary['pictures']:,} pictures in {summary['classes']} classes, "
        f"{summary['quarantined']} quarantined (see data/{cfg.data.name}/pack/quarantine.csv)"
    )


if __name__ == "__main__":
    main()
