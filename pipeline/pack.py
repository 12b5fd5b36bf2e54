"""Stage pack: decodes every picture once, for good, into one file of uint8 pixels and an index."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath

from omegaconf import DictConfig

from pipeline import config
from pipeline.config import ROOT, UserError

SCHEMA = 1  # raised when pixels or index change their meaning
HASH_SIDE = 16  # perceptual hash of 256 bits: 64 confuse faces that fill the frame alike
SPECIES = ("cat", "dog")


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Streams (path, bytes) of an archive's files, in the archive's order.

    Raises:
        UserError: the archive is damaged, or a member is not a plain file inside it.
    """
    try:
        with tarfile.open(archive, "r|*") as stream:
            for member in stream:
                path = PurePosixPath(member.name)
                if member.isdir():
                    continue
                if path.is_absolute() or ".." in path.parts or not member.isfile():
                    raise UserError(
                        f"{archive}: member '{member.name}' is no plain file inside the archive; refused"
                    )
                yield str(path), stream.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive} is damaged ({error}); fetch it anew: dvc repro -f fetch") from error


def _decode(task: tuple[str, bytes, int]) -> dict:
    """One picture: its pixels, its hashes, or the reason why it can't be used."""
    import imagehash
    from PIL import Image

    from pipeline import portable

    path, data, max_side = task
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


def _labels(path: str) -> dict:
    """Class, species and breed of a path ``…/<class>/<breed>_<number>.<ending>``."""
    parts = PurePosixPath(path)
    label = parts.parent.name
    species = label.split("_", 1)[0]
    return {
        "path": path,
        "label": label,
        "species": species if species in SPECIES else "",
        "breed": re.sub(r"_\d+$", "", parts.stem),
    }


def content_hash(index) -> str:
    """Hash of a set of pictures with their labels: neither paths, nor order, nor times count.

    Args:
        index: table with the columns `sha256` and `label`.
    """
    lines = sorted(f"{sha} {label}\n" for sha, label in zip(index["sha256"], index["label"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pack(archive: Path, folder: Path, max_side: int) -> dict:
    """Packs an archive.

    Writes ``pixels.bin`` (uint8, the pictures end to end, each height × width × 3), ``index.csv`` (a row a
    picture, by path), ``quarantine.csv`` (what can't be used, with the reason) and ``pack.json``.

    Returns:
        What ``pack.json`` says.

    Raises:
        UserError: the archive is damaged, or holds no usable picture in a class folder.
    """
    import pandas

    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    rows, quarantine, offset = [], [], 0
    # Spawned, not forked: the parent may have threads. Decoding goes on while the archive is being read.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=spawn) as pool,
        open(unfinished / "pixels.bin", "wb") as pixels,
    ):
        for result in _in_order(
            pool, ((path, data, max_side) for path, data in _members(archive)), workers * 32
        ):
            if "reason" in result:
                quarantine.append(result)
                continue
            raw = result.pop("pixels")
            rows.append({**_labels(result.pop("path")), **result, "offset": offset})
            pixels.write(raw)
            offset += len(raw)
    if not rows:
        raise UserError(
            f"{archive} holds no usable picture; it should hold folders of pictures, a folder a class"
        )
    nameless = [row["path"] for row in rows if not row["label"]]
    if nameless:
        raise UserError(
            f"{archive}: '{nameless[0]}' lies in no class folder; "
            "put each picture in a folder named as its class"
        )

    index = pandas.DataFrame(rows).sort_values("path", kind="stable")
    columns = ["path", "label", "species", "breed", "sha256", "phash", "height", "width", "offset"]
    index.to_csv(unfinished / "index.csv", columns=columns, index=False)
    pandas.DataFrame(quarantine, columns=["path", "reason"]).sort_values("path").to_csv(
        unfinished / "quarantine.csv", index=False
    )
    summary = {
        "schema": SCHEMA,
        "max_side": max_side,
        "pictures": len(rows),
        "classes": int(index["label"].nunique()),
        "quarantined": len(quarantine),
        "content": content_hash(index),
    }
    (unfinished / "pack.json").write_text(json.dumps(summary, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
    return summary


def _in_order(pool: ProcessPoolExecutor, tasks: Iterator[tuple], ahead: int) -> Iterator[dict]:
    """Results in the tasks' order with at most `ahead` tasks in memory; `pool.map` would read them all."""
    waiting = []
    for task in tasks:
        waiting.append(pool.submit(_decode, task))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


@config.stage
def main(cfg: DictConfig) -> None:
    place = ROOT / "data" / cfg.data.name
    summary = pack(place / "archive", place / "pack", cfg.pack.max_side)
    print(
        f"pack: {summary['pictures']:,} pictures in {summary['classes']} classes, "
        f"{summary['quarantined']} quarantined (see data/{cfg.data.name}/pack/quarantine.csv)"
    )


if __name__ == "__main__":
    main()
