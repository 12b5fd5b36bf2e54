"""Stage pack: decodes every picture once, for good, into one file of uint8 pixels and an index."""

import hashlib
import json
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

from omegaconf import DictConfig

from pipeline import archives, atomic, config, photos, schema, seal, tables, tasks, text
from pipeline.annotations import WANTED, Annotations
from pipeline.config import ROOT, UserError
from pipeline.tasks import SEPARATOR, Task

# Folders above class folders that tell an official split; val may be missing.
OFFICIAL = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "pred", "predict"), "test"),
}
# Words that may stand beside these in a folder's name, or at their end, and tell nothing else.
NEUTRAL = (
    "set",
    "data",
    "dataset",
    "images",
    "image",
    "imgs",
    "img",
    "pictures",
    "photos",
    "folder",
    "split",
)
HASH_SIDE = 16  # perceptual hash of 256 bits: 64 confuse faces that fill the frame alike
SPECIES = ("cat", "dog")
MAX_PATH = 4096  # characters, as of Linux; a cell of a table can't be much longer than 100,000
STRAY = "in no class folder"
NAMED, TREE = 8, 20  # classes that are printed, and folders of an error


def decode(task: tuple[str, bytes | str | None, int]) -> dict:
    """One picture: its pixels, its hashes, or the reason why it can't be used."""
    import imagehash
    from PIL import Image

    from pipeline import portable

    path, data, max_side = task
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


def _split_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a folder's name may tell, and its other words: `seg_train2` gives `train` and `seg`."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    if official := OFFICIAL.get("".join(words)):  # train_val, too
        return official, ()
    told = [(word, OFFICIAL.get(re.sub(f"({'|'.join(NEUTRAL)})$", "", word))) for word in words]
    official = [split for _, split in told if split]
    rest = tuple(word for word, split in told if not split and word not in NEUTRAL)
    return (official[0], rest) if len(official) == 1 else None


def _splits_among(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Those names that tell splits by standing beside each other, with their other words.

    They differ in the split and nothing else, as `seg_train` and `seg_test` do; `steam_train` beside
    `crash_test` may be a class.
    """
    found = {name: split for name in names if (split := _split_name(name))}
    kinds = defaultdict(set)
    for official, rest in found.values():
        kinds[rest].add(official)
    return {name: rest for name, (_, rest) in found.items() if len(kinds[rest]) > 1}


@dataclass(frozen=True)
class Layout:
    """Where the class folders of a data set lie.

    Attributes:
        shared: number of leading folders that all pictures share.
        splits: of the folders after them, those that tell an official split: which, and how many folders lie
            above the class, itself among them.
    """

    shared: int
    splits: dict[str, tuple[str, int]]

    @classmethod
    def of(cls, folders: Collection[tuple[str, ...]]) -> "Layout":
        """Finds it.

        Args:
            folders: those in which pictures lie, by their parts; where none lies in a folder, empty.
        """
        # What the least and the greatest share, all between them share.
        ends = zip(min(folders, default=()), max(folders, default=()), strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
        if all(len(folder) == shared for folder in folders):
            shared = max(0, shared - 1)  # all in one folder: that is the class
        below = defaultdict(list)
        for folder in folders:
            if len(folder) > shared:
                below[folder[shared]].append(folder[shared + 1 :])
        # One folder called train among others may be a vehicle class; train and test beside each other, or
        # nothing but such folders, are splits if there are folders in them.
        deep = [name for name, inner in below.items() if any(inner)]
        rests = set(_splits_among(deep).values())
        if len(rests) > 1:  # cats_train beside dogs_test may be anything, but train beside test is plain
            rests &= {()}
        if deep and all(name.lower() in OFFICIAL for name in below):
            rests = {()}
        splits = {}
        for name in below:
            official, rest = _split_name(name) or ("", None)
            if rest in rests:
                splits[name] = official, 1 + _repeated(official, rest, below[name])
        if not any(len(inner) >= splits[name][1] for name in splits for inner in below[name]):
            # No class folder would be left: train/train is no repetition, then.
            splits = {name: (official, 1) for name, (official, _) in splits.items()}
        return cls(shared, splits)


def _repeated(official: str, rest: tuple[str, ...], inner: list[tuple[str, ...]]) -> int:
    """How many folders in a split's folder tell the same split again and hold all others of it."""
    depth = 0
    while len(names := {folder[depth] for folder in inner if len(folder) > depth}) == 1:
        if _split_name(*names) not in ((official, rest), (official, ())):
            break
        depth += 1
    return depth


def labels(path: str, classes: str, layout: Layout | None = None) -> dict:
    """What a path ``[…/][<split>/]<class>/[…/]<breed>_<number>.<ending>`` tells of its picture.

    Args:
        path: within the archive.
        classes: `folder`, or `breed`: the file's name up to its number, after the folder's species.
        layout: of the data set; by default what this path alone would make it.

    Returns:
        `path`, `label` (empty where there is no class folder), `species`, `breed` and `official` (`train`,
        `val`, `test` or empty).
    """
    parts = PurePosixPath(path)
    layout = layout or Layout.of([parts.parent.parts])
    folders = parts.parent.parts[layout.shared :]
    official, above = layout.splits.get(folders[0], ("", 0)) if folders else ("", 0)
    folders = folders[above:]
    label = folders[0] if folders else ""
    species = (label or parts.parent.name).split("_", 1)[0].lower()
    species = species if species in SPECIES else ""
    breed = re.sub(r"_\d+$", "", parts.stem)
    if classes == "breed" and parts.parent.parts:
        label = f"{species}_{breed}" if species else breed
    return {"path": path, "label": label, "species": species, "breed": breed, "official": official}


def pack(
    archive: Path,
    folder: Path,
    max_side: int,
    classes: str = "folder",
    hidden: list[str] | None = None,
    task: Task | None = None,
) -> dict:
    """Packs an archive.

    Writes ``pixels.bin`` (uint8, the pictures end to end, each height × width × 3), ``index.csv`` (a row a
    picture, by path), ``quarantine.csv`` (what can't be used, with the reason), ``pack.json`` and
    ``SHA256SUMS``.

    Args:
        archive: tar or zip.
        folder: made anew; the old one stays until the new one is whole, and nothing of a half one does.
        max_side: pixels of the longer side that are kept.
        classes: what names a class, `folder` or `breed`.
        hidden: is given the paths of the hidden files that are passed over.
        task: what the labels are; by default one class per image, its folder. Of several classes per image
            they stand in a file of the archive: see `annotations`.

    Returns:
        What ``pack.json`` says.

    Raises:
        UserError: the archive is damaged, or holds no usable pictures with labels.
    """
    task = task or tasks.of("single_label")
    if classes not in ("folder", "breed"):
        raise UserError(f"pack.classes={classes} is not known: folder or breed")
    target = atomic.Target(folder, ("pack.json", "index.csv", "pixels.bin"))
    unfinished = target.begin()
    try:
        summary = _pack(archive, unfinished, max_side, classes, hidden, task)
        seal.seal(unfinished)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)  # a full disk gets its room back
        if isinstance(error, OSError) and error.filename is None:  # a write does not tell its file
            error.filename = str(folder)
        raise
    target.finish()
    return summary


def _pack(
    archive: Path, folder: Path, max_side: int, classes: str, hidden: list[str] | None, task: Task
) -> dict:
    """Writes a pack's files into an empty folder; returns what ``pack.json`` says."""
    rows, quarantine, offset, seen, unread = [], [], 0, set(), []
    by_folder = not task.several
    annotations = None if by_folder else Annotations()
    # Threads, for decoding, sizing and hashing let go of the interpreter; a process would cost a second of
    # imports and copy every picture twice. Decoding goes on while the archive is being read.
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
                result["reason"] = STRAY
            elif "reason" not in result and result["path"] in seen:
                result["reason"] = "its path comes twice in the archive; the first is used"
            if "reason" in result:
                if "/" in result["path"] and photos.is_named_as_picture(result["path"]):
                    unread.append(result["path"])
                quarantine.append({"path": result["path"], "reason": text.printable(result["reason"])})
                continue
            seen.add(result["path"])
            raw = result.pop("pixels")
            rows.append({**result, "offset": offset})
            pixels.write(raw)
            offset += len(raw)
    paths = [*(row["path"] for row in rows), *unread]
    if by_folder:
        _label_by_folder(
            rows, classes, Layout.of({PurePosixPath(path).parent.parts for path in (*seen, *unread)})
        )
    else:
        _label_by_annotations(rows, annotations)
        quarantine += [
            {"path": path[:MAX_PATH], "reason": "in a file of labels, but not in the archive"}
            for path in annotations.left
        ]
    quarantine += [{key: row[key] for key in ("path", "reason")} for row in rows if row["reason"]]
    rows = [row for row in rows if not row["reason"]]
    named = task.classes([row["label"] for row in rows])
    if by_folder:
        counts = Counter(row["label"] for row in rows)
        if len(named) < 2 or (classes == "folder" and _splits_among(counts).keys() == counts.keys()):
            raise UserError(_too_few(archive, counts, paths, quarantine))
    elif len(named) < 2:
        raise UserError(_too_few_named(archive, annotations, named, quarantine))
    elif shared := set.intersection(*(set(row["label"].split(SEPARATOR)) for row in rows)) - {""}:
        raise UserError(
            f"{archive}: all its pictures are labelled {_shown(min(shared))}; leave that class out"
        )

    for row in (*rows, *quarantine):
        for key in {"path", "breed"} & row.keys():
            row[key] = text.path(row[key])
    rows.sort(key=lambda row: row["path"])
    quarantine.sort(key=lambda row: row["path"])
    tables.write(folder / "index.csv", rows, [*schema.TEXT, *schema.NUMBERS])
    tables.write(folder / "quarantine.csv", quarantine, ["path", "reason"])
    summary = {
        "schema": schema.VERSION,
        "task": task.name,
        "max_side": max_side,
        "pictures": len(rows),
        "classes": len(named),
        "quarantined": len(quarantine),
        "content": schema.content_hash({key: [row[key] for row in rows] for key in schema.PICTURE}),
    }
    (folder / "pack.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _label_by_folder(rows: list[dict], classes: str, layout: Layout) -> None:
    """Adds to each row what its path tells, and `reason`, why it can't be used, or None.

    Which folders all pictures share is known only at the end; those that can't be used count too, or a class
    of which none can would leave the others' folders to be taken for classes.
    """
    for row in rows:
        row |= labels(row["path"], classes, layout)
        problem = text.class_name_problem(row["label"]) if row["label"] else None
        row["reason"] = f"its class's name {problem}" if problem else None if row["label"] else STRAY


def _label_by_annotations(rows: list[dict], annotations: Annotations) -> None:
    """Likewise of what a file of the archive tells."""
    found = annotations.assign([row["path"] for row in rows])
    folders = {row["path"]: _official_folder(row["path"]) for row in rows}
    splits = folders if len(set(folders.values()) - {""}) > 1 else {}  # train alone says nothing
    for row in rows:
        entry = found.get(row["path"])
        row |= {"label": "", "species": "", "breed": "", "official": "", "reason": None}
        if entry is None:
            row["reason"] = "no entry of its own in a file of labels"
            continue
        official = entry.official or splits.get(row["path"], "")
        row |= {"label": SEPARATOR.join(sorted(entry.labels)), "official": official}
        problems = (text.class_name_problem(name) for name in entry.labels)
        if problem := next(filter(None, problems), None):
            row["reason"] = f"a class's name {problem}"
        elif any(SEPARATOR in name for name in entry.labels):
            row["reason"] = f"a class's name has a {SEPARATOR} in it"


def _official_folder(path: str) -> str:
    """The split that a folder of a path is called by (`train2017`, `valid`), or empty."""
    names = (re.sub(r"\d+$", "", part.lower()) for part in PurePosixPath(path).parent.parts)
    return next((OFFICIAL[name] for name in names if name in OFFICIAL), "")


def _too_few_named(archive: Path, annotations: Annotations, named: list[str], quarantine: list[dict]) -> str:
    """Why there is nothing to learn from an archive of images with several classes each."""
    if not annotations.files:
        large = f" ({text.shortened(annotations.unread[0], 100)} is too large)" if annotations.unread else ""
        return f"{archive} has no file of labels{large}, which data.task=multi_label needs: {WANTED}"
    files = ", ".join(text.shortened(file, 100) for file in annotations.files)
    reasons = Counter(entry["reason"] for entry in quarantine)
    left_out = f" ({_left_out(reasons)} left out)" if reasons else ""
    return (
        f"{archive}: by {files} its usable pictures have {len(named)} class(es) in all{left_out}; "
        "two at least are needed"
    )


def _too_few(archive: Path, counts: Counter, paths: list[str], quarantine: list[dict]) -> str:
    """Why there is nothing to learn from an archive, and what it should hold.

    Args:
        archive: as it is named to the person.
        counts: pictures by class.
        paths: of the pictures that lie in folders.
        quarantine: paths and reasons.
    """
    wanted = "it should hold folders of pictures, a folder a class"
    if len(counts) > 1:
        named = _several([f"'{_shown(name)}'" for name in sorted(counts)])
        return (
            f"{archive} has no class folders: {named} are splits by their names; {wanted}, in these. "
            f"It has:\n{_tree(paths)}"
        )
    if counts:
        (label,) = counts
        reasons = Counter(entry["reason"] for entry in quarantine)
        left_out = f" ({_left_out(reasons)} left out)" if reasons else ""
        return (
            f"{archive} has pictures of one class only, '{_shown(label)}'{left_out}; {wanted}, two at least. "
            f"The classes are the folders below those that all pictures share. It has:\n{_tree(paths)}"
        )
    if not quarantine:
        return f"{archive} holds no files; {wanted}"
    first = next((entry for entry in quarantine if entry["reason"] == STRAY), quarantine[0])
    path, reason = text.shortened(first["path"], 200), first["reason"]
    if reason == STRAY:
        return f"{archive}: '{path}' lies in no class folder; put each picture in a folder named as its class"
    return f"{archive} holds no usable picture ('{path}': {reason}); {wanted}"


def _tree(paths: list[str]) -> str:
    """The folders of pictures with their counts, a line each: three levels and TREE lines at most."""
    counts = Counter(
        parts[:depth]
        for parts in (PurePosixPath(path).parent.parts for path in paths)
        for depth in range(1, min(len(parts), 3) + 1)
    )
    lines = [
        f"{'  ' * len(parts)}{text.shortened(parts[-1], 60)}/  {counts[parts]:,}" for parts in sorted(counts)
    ]
    more = [f"  and {len(lines) - TREE} more folders"] if len(lines) > TREE else []
    return "\n".join(lines[:TREE] + more)


def _left_out(reasons: Counter) -> str:
    told = [f"{number:,} × {text.shortened(reason, 80)}" for reason, number in reasons.most_common()]
    return _several(told, 3)


def describe(folder: Path) -> list[str]:
    """What a person should know of a pack, a line each: its classes, what was left out, what looks odd."""
    task = tasks.of(json.loads((folder / "pack.json").read_text(encoding="utf-8"))["task"])
    found = [row["label"] for row in tables.read(folder / "index.csv")]
    classes = task.classes(found)
    numbers = task.counts(task.targets(found, classes), len(classes)).tolist()
    counts = Counter(dict(zip(classes, numbers, strict=True)))
    reasons = Counter(row["reason"] for row in tables.read(folder / "quarantine.csv"))
    lines = [f"the classes are {_several([f'{_shown(name)} ({counts[name]:,})' for name in sorted(counts)])}"]
    if reasons:
        lines.append(f"quarantined: {_left_out(reasons)}")
    for group in text.look_alikes(sorted(counts))[:NAMED]:
        # Names that look alike are told apart by their escapes.
        alike = [f"{text.shortened(name, 60)!a} ({counts[name]:,})" for name in group]
        lines.append(
            f"warning: {' and '.join(alike)} look like one class and are {len(group)} here; "
            "if they are one, give their folders one name"
        )
    splits = _splits_among(counts)
    for name in () if task.several else counts:
        if name.lower() in OFFICIAL or name in splits:
            lines.append(
                f"warning: {_shown(name)} is taken for a class, for other folders than splits lie beside it, "
                "or no folders in it"
            )
    return lines


def _shown(name: str) -> str:
    return text.shortened(name, 40)


def _several(words: list[str], most: int = NAMED) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


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
    hidden: list[str] = []
    try:
        task = tasks.of(cfg.data.task)
        summary = pack(place / "archive", place / "pack", cfg.pack.max_side, cfg.pack.classes, hidden, task)
    finally:  # they may be all that there is
        if hidden_pictures := list(filter(photos.is_named_as_picture, hidden)):
            print(f"pack: {photos.told_of_hidden(hidden_pictures)}", flush=True)
    print(
        f"pack: {summary['pictures']:,} pictures in {summary['classes']} classes, "
        f"{summary['quarantined']} quarantined (see data/{cfg.data.name}/pack/quarantine.csv)"
    )
    for line in describe(place / "pack"):
        print(f"pack: {line}")


if __name__ == "__main__":
    main()
