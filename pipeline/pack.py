"""Stage pack: decodes every image once into one file of uint8 pixels and an index."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from omegaconf import DictConfig

from pipeline import tasks
from pipeline.artifacts import atomic, seal
from pipeline.common import log, tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.data import pack_index
from pipeline.sources import archives, photos
from pipeline.sources.annotations import Annotations
from pipeline.sources.layout import NO_CLASS, Layout, label_by_annotations, label_by_folder, splits_among
from pipeline.sources.pack_messages import describe, short_name, too_few_folders, too_few_labels
from pipeline.stage import stage
from pipeline.tasks import SEPARATOR, Task

_log = logging.getLogger(__name__)

HASH_SIDE = 16  # 256-bit perceptual hash; at 64 bits, different faces that fill the frame collide
MAX_PATH = 4096  # characters, as on Linux; a CSV cell can't be much longer than 100,000


def decode(job: tuple[str, bytes | str | None, int]) -> dict:
    """Decodes one image, for a worker thread.

    Args:
        job: path, what `archives.members` yields for it, and `max_side`.

    Returns:
        `path`, `pixels`, `height`, `width`, `sha256` and `phash`; or `path` and `reason` if it can't be used.
    """
    import imagehash
    from PIL import Image

    from pipeline import portable

    path, data, max_side = job
    if isinstance(data, str):
        return {"path": path, "reason": data}
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


def pack(
    archive: Path,
    folder: Path,
    max_side: int,
    classes: str = "folder",
    hidden: list[str] | None = None,
    task: Task | None = None,
) -> dict:
    """Packs an archive.

    Writes ``pixels.bin`` (uint8, concatenated images, each height × width × 3), ``index.csv`` (one row per
    image, sorted by path), ``quarantine.csv`` (unusable files with the reason), ``pack.json`` and
    ``SHA256SUMS``.

    Args:
        archive: tar or zip.
        folder: replaced once the new one is complete.
        max_side: images are shrunk to at most this many pixels on the longer side.
        classes: source of an image's class, `folder` or `breed`; see `layout.labels`.
        hidden: collects the paths of skipped hidden files.
        task: by default one class per image, its folder. With several classes per image, labels come from
            a file in the archive: see `annotations`.

    Returns:
        The content of ``pack.json``.

    Raises:
        UserError: the archive is damaged, or has usable images of fewer than two classes.
    """
    task = task or tasks.of("single_label")
    target = atomic.Target(folder, ("pack.json", "index.csv", "pixels.bin"))
    try:
        with target.replace() as part:
            summary = _pack(archive, part, max_side, classes, hidden, task)
            seal.seal(part)
    except OSError as error:
        error.filename = error.filename or str(folder)  # errors of write() lack the file name
        raise
    return summary


def _pack(
    archive: Path, folder: Path, max_side: int, classes: str, hidden: list[str] | None, task: Task
) -> dict:
    """Writes a pack's files into an empty folder; returns the content of ``pack.json``."""
    rows, quarantine, offset, used, unreadable = [], [], 0, set(), []
    by_folder = not task.is_multi_label
    annotations = None if by_folder else Annotations()
    # Threads: decoding, resizing and hashing release the GIL; a process would cost a second of imports and
    # copy every image twice. Decoding runs while the archive is being read.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool, open(folder / "pixels.bin", "wb") as pixels:
        files = (
            (path, data, max_side)
            for path, data in archives.members(archive, hidden)
            if by_folder or not annotations.add(path, data)
        )
        for result in _in_order(pool, files, workers * 32):
            if len(result["path"]) > MAX_PATH:
                result = {
                    "path": f"{result['path'][:100]}…",
                    "reason": f"a path of more than {MAX_PATH:,} characters",
                }
            elif by_folder and "reason" not in result and "/" not in result["path"]:
                result["reason"] = NO_CLASS
            elif "reason" not in result and result["path"] in used:
                result["reason"] = "its path comes twice in the archive; the first is used"
            if "reason" in result:
                if "/" in result["path"] and photos.is_named_as_picture(result["path"]):
                    unreadable.append(result["path"])
                quarantine.append({"path": result["path"], "reason": text.printable(result["reason"])})
                continue
            used.add(result["path"])
            raw = result.pop("pixels")
            rows.append({**result, "offset": offset})
            pixels.write(raw)
            offset += len(raw)
    paths = [*(row["path"] for row in rows), *unreadable]
    if by_folder:
        label_by_folder(
            rows, classes, Layout.of({PurePosixPath(path).parent.parts for path in (*used, *unreadable)})
        )
    else:
        label_by_annotations(rows, annotations)
        quarantine += [
            {"path": path[:MAX_PATH], "reason": "in a file of labels, but not in the archive"}
            for path in annotations.unmatched
        ]
    quarantine += [{key: row[key] for key in ("path", "reason")} for row in rows if row["reason"]]
    rows = [row for row in rows if not row["reason"]]
    class_names = task.classes([row["label"] for row in rows])
    if by_folder:
        counts = Counter(row["label"] for row in rows)
        if len(class_names) < 2 or (classes == "folder" and splits_among(counts).keys() == counts.keys()):
            raise UserError(too_few_folders(archive, counts, paths, quarantine))
    elif len(class_names) < 2:
        raise UserError(too_few_labels(archive, annotations, len(class_names), quarantine))
    elif shared := set.intersection(*(set(row["label"].split(SEPARATOR)) for row in rows)) - {""}:
        raise UserError(
            f"{archive}: all its pictures are labelled {short_name(min(shared))}; remove that class"
        )

    for row in (*rows, *quarantine):
        for key in {"path", "breed"} & row.keys():
            row[key] = text.path(row[key])
    rows.sort(key=lambda row: row["path"])
    quarantine.sort(key=lambda row: row["path"])
    tables.write(folder / "index.csv", rows, [*pack_index.TEXT_COLUMNS, *pack_index.NUMBER_COLUMNS])
    tables.write(folder / "quarantine.csv", quarantine, ["path", "reason"])
    summary = {
        "schema": pack_index.VERSION,
        "task": task.name,
        "max_side": max_side,
        "pictures": len(rows),
        "classes": len(class_names),
        "quarantined": len(quarantine),
        "content": pack_index.content_hash({key: [row[key] for row in rows] for key in pack_index.IDENTITY}),
    }
    (folder / "pack.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _in_order(pool: Executor, jobs: Iterator[tuple], ahead: int) -> Iterator[dict]:
    """Yields the results of `decode` in order; at most `ahead` are pending; `pool.map` reads all jobs."""
    pending = []
    for job in jobs:
        pending.append(pool.submit(decode, job))
        if len(pending) >= ahead:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


@stage
def main(cfg: DictConfig) -> None:
    data = ROOT / "data" / cfg.data.name
    hidden: list[str] = []
    try:
        task = tasks.of(cfg.data.task)
        summary = pack(data / "archive", data / "pack", cfg.pack.max_side, cfg.pack.classes, hidden, task)
    finally:  # also on failure: hidden files may be the reason
        if hidden_pictures := list(filter(photos.is_named_as_picture, hidden)):
            _log.warning("%s", photos.hidden_message(hidden_pictures))
    log.result(
        f"{summary['pictures']:,} pictures in {summary['classes']} classes, "
        f"{summary['quarantined']} quarantined (see data/{cfg.data.name}/pack/quarantine.csv)"
    )
    for line in describe(data / "pack"):
        log.result(line)


if __name__ == "__main__":
    main()
