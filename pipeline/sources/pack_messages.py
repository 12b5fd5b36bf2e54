"""Messages about a pack: its classes, what was left out, and why an archive can't be used for training."""

import json
from collections import Counter
from pathlib import Path, PurePosixPath

from pipeline import tasks
from pipeline.common import tables, text
from pipeline.sources.annotations import WANTED, Annotations
from pipeline.sources.layout import OFFICIAL, STRAY, splits_among

NAMED, TREE = 8, 20  # maximum number of classes printed, and of folders in an error message


def too_few_named(archive: Path, annotations: Annotations, named: list[str], quarantine: list[dict]) -> str:
    """Error message for a multi-label archive with too few classes for training."""
    if not annotations.files:
        large = f" ({text.shortened(annotations.unread[0], 100)} is too large)" if annotations.unread else ""
        return f"{archive} has no file of labels{large}, which data.task=multi_label needs: {WANTED}"
    files = ", ".join(text.shortened(file, 100) for file in annotations.files)
    return (
        f"{archive}: by {files} its usable pictures have {len(named)} class(es) in all"
        f"{_left_out(quarantine)}; two at least are needed"
    )


def too_few(archive: Path, counts: Counter, paths: list[str], quarantine: list[dict]) -> str:
    """Error message for an archive with too few classes for training; says what it should hold.

    Args:
        archive: path to show to the user.
        counts: number of images by class.
        paths: paths of the images that are in folders.
        quarantine: rows with `path` and `reason`.
    """
    wanted = "it should hold folders of pictures, a folder a class"
    if len(counts) > 1:
        named = text.listed([f"'{shown(name)}'" for name in sorted(counts)], NAMED)
        return (
            f"{archive} has no class folders: {named} are splits by their names; {wanted}, in these. "
            f"It has:\n{_tree(paths)}"
        )
    if counts:
        (label,) = counts
        return (
            f"{archive} has pictures of one class only, '{shown(label)}'{_left_out(quarantine)}; {wanted}, "
            "two at least. The classes are the folders below those that all pictures share. "
            f"It has:\n{_tree(paths)}"
        )
    if not quarantine:
        return f"{archive} holds no files; {wanted}"
    first = next((entry for entry in quarantine if entry["reason"] == STRAY), quarantine[0])
    path, reason = text.shortened(first["path"], 200), first["reason"]
    if reason == STRAY:
        return f"{archive}: '{path}' lies in no class folder; put each picture in a folder named as its class"
    return f"{archive} holds no usable picture ('{path}': {reason}); {wanted}"


def _tree(paths: list[str]) -> str:
    """Folders with their image counts, one per line: at most three levels and TREE lines."""
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


def _left_out(quarantine: list[dict]) -> str:
    return f" ({_reasons(quarantine)} left out)" if quarantine else ""


def _reasons(quarantine: list[dict]) -> str:
    """Why images were left out, with the number of images, the most frequent reasons first."""
    reasons = Counter(row["reason"] for row in quarantine).most_common()
    return text.listed([f"{number:,} × {text.shortened(reason, 80)}" for reason, number in reasons], 3)


def describe(folder: Path) -> list[str]:
    """Lines that describe a pack to the user: its classes, what was quarantined, and warnings."""
    task = tasks.of(json.loads((folder / "pack.json").read_text(encoding="utf-8"))["task"])
    found = [row["label"] for row in tables.read(folder / "index.csv")]
    classes = task.classes(found)
    numbers = task.counts(task.targets(found, classes), len(classes)).tolist()
    counts = Counter(dict(zip(classes, numbers, strict=True)))
    sizes = [f"{shown(name)} ({counts[name]:,})" for name in sorted(counts)]
    lines = [f"the classes are {text.listed(sizes, NAMED)}"]
    if quarantine := tables.read(folder / "quarantine.csv"):
        lines.append(f"quarantined: {_reasons(quarantine)}")
    for group in text.look_alikes(sorted(counts))[:NAMED]:
        # Escapes make visually identical names distinguishable.
        alike = [f"{text.shortened(name, 60)!a} ({counts[name]:,})" for name in group]
        lines.append(
            f"warning: {' and '.join(alike)} look like one class and are {len(group)} here; "
            "if they are one, give their folders one name"
        )
    splits = splits_among(counts)
    for name in () if task.is_multi_label else counts:
        if name.lower() in OFFICIAL or name in splits:
            lines.append(
                f"warning: {shown(name)} is taken for a class, for other folders than splits lie beside it, "
                "or no folders in it"
            )
    return lines


def shown(name: str) -> str:
    return text.shortened(name, 40)
