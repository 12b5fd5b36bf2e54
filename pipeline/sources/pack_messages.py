"""Messages about a pack: its classes, what was quarantined, and why an archive can't be used."""

import json
from collections import Counter
from pathlib import Path, PurePosixPath

from pipeline import tasks
from pipeline.common import tables, text
from pipeline.sources.annotations import FORMATS, Annotations
from pipeline.sources.layout import NO_CLASS, SPLIT_NAMES, splits_among

MAX_CLASSES, MAX_FOLDERS = 8, 20  # listed in a message


def too_few_labels(archive: Path, annotations: Annotations, classes: int, quarantine: list[dict]) -> str:
    """Error message for a multi-label archive with fewer than two classes."""
    if not annotations.files:
        large = annotations.unreadable and f" ({text.shortened(annotations.unreadable[0], 100)} is too large)"
        return f"{archive} has no annotation file{large or ''}, which data.task=multi_label needs: {FORMATS}"
    files = ", ".join(text.shortened(file, 100) for file in annotations.files)
    return (
        f"{archive}: the usable pictures in {files} have {classes} class(es){_left_out(quarantine)}; "
        "at least two are needed"
    )


def too_few_folders(archive: Path, counts: Counter, paths: list[str], quarantine: list[dict]) -> str:
    """Error message for an archive with fewer than two class folders; says what it should contain.

    Args:
        archive: path to show to the user.
        counts: number of usable images by class.
        paths: paths of the images that are in folders.
        quarantine: rows with `path` and `reason`.
    """
    wanted = "it should contain one folder of pictures per class"
    if len(counts) > 1:
        named = text.listed([f"'{short_name(name)}'" for name in sorted(counts)], MAX_CLASSES)
        return (
            f"{archive} has no class folders: {named} are names of splits; {wanted}, in each split. "
            f"It has:\n{_tree(paths)}"
        )
    if counts:
        (label,) = counts
        return (
            f"{archive} has pictures of one class only, '{short_name(label)}'{_left_out(quarantine)}; "
            f"{wanted}, at least two. The classes are the folders below those that all pictures share. "
            f"It has:\n{_tree(paths)}"
        )
    if not quarantine:
        return f"{archive} contains no files; {wanted}"
    first = next((entry for entry in quarantine if entry["reason"] == NO_CLASS), quarantine[0])
    path, reason = text.shortened(first["path"], 200), first["reason"]
    if reason == NO_CLASS:
        return f"{archive}: '{path}' is in no class folder; put pictures in folders named after their class"
    return f"{archive} contains no usable picture ('{path}': {reason}); {wanted}"


def _tree(paths: list[str]) -> str:
    """Folders with their image counts, one per line: at most three levels and MAX_FOLDERS lines."""
    counts = Counter(
        parts[:depth]
        for parts in (PurePosixPath(path).parent.parts for path in paths)
        for depth in range(1, min(len(parts), 3) + 1)
    )
    lines = [
        f"{'  ' * len(parts)}{text.shortened(parts[-1], 60)}/  {counts[parts]:,}" for parts in sorted(counts)
    ]
    more = [f"  and {len(lines) - MAX_FOLDERS} more folders"] if len(lines) > MAX_FOLDERS else []
    return "\n".join(lines[:MAX_FOLDERS] + more)


def _left_out(quarantine: list[dict]) -> str:
    return f" ({_reasons(quarantine)} left out)" if quarantine else ""


def _reasons(quarantine: list[dict]) -> str:
    """Why images were left out, with the number of images, the most frequent reasons first."""
    reasons = Counter(row["reason"] for row in quarantine).most_common()
    return text.listed([f"{number:,} × {text.shortened(reason, 80)}" for reason, number in reasons], 3)


def describe(folder: Path) -> list[str]:
    """Lines about a pack for the user: its classes, what was quarantined, and warnings."""
    task = tasks.of(json.loads((folder / "pack.json").read_text(encoding="utf-8"))["task"])
    found = [row["label"] for row in tables.read(folder / "index.csv")]
    classes = task.classes(found)
    numbers = task.counts(task.targets(found, classes), len(classes)).tolist()
    counts = Counter(dict(zip(classes, numbers, strict=True)))
    sizes = [f"{short_name(name)} ({counts[name]:,})" for name in sorted(counts)]
    lines = [f"the classes are {text.listed(sizes, MAX_CLASSES)}"]
    if quarantine := tables.read(folder / "quarantine.csv"):
        lines.append(f"quarantined: {_reasons(quarantine)}")
    for group in text.look_alikes(sorted(counts))[:MAX_CLASSES]:
        # Escapes make visually identical names distinguishable.
        alike = [f"{text.shortened(name, 60)!a} ({counts[name]:,})" for name in group]
        lines.append(
            f"warning: {' and '.join(alike)} look alike, but are {len(group)} classes; "
            "if they are the same, rename their folders"
        )
    splits = splits_among(counts)
    for name in () if task.is_multi_label else counts:
        if name.lower() in SPLIT_NAMES or name in splits:
            lines.append(
                f"warning: {short_name(name)} is treated as a class, not a split: other folders are next to "
                "it, or it has no subfolders"
            )
    return lines


def short_name(name: str) -> str:
    """A class name for a message: printable, at most 40 characters."""
    return text.shortened(name, 40)
