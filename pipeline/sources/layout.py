"""Infers classes and an official split from a data set's folders, or labels images by annotations."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from pipeline.common import text
from pipeline.sources.annotations import Annotations
from pipeline.tasks import SEPARATOR

# Names of folders above the class folders, and the official split that they define; val may be missing.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "pred", "predict"), "test"),
}
# Words that are ignored next to a split name in a folder's name, or as its suffix.
NEUTRAL = (
    *("set", "data", "dataset", "images", "image", "imgs", "img"),
    *("pictures", "photos", "folder", "split"),
)
SPECIES = ("cat", "dog")
NO_CLASS = "in no class folder"


def _split_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split in a folder's name and its other words, or None: `seg_train2` gives `train` and `seg`."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    if official := SPLIT_NAMES.get("".join(words)):  # also matches train_val
        return official, ()
    candidates = [(word, SPLIT_NAMES.get(re.sub(f"({'|'.join(NEUTRAL)})$", "", word))) for word in words]
    official = [split for _, split in candidates if split]
    rest = tuple(word for word, split in candidates if not split and word not in NEUTRAL)
    return (official[0], rest) if len(official) == 1 else None


def splits_among(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The sibling folder names that are splits, with their other words.

    They must differ only in the split, as `seg_train` and `seg_test` do; `steam_train` next to `crash_test`
    may be a class.
    """
    found = {name: split for name in names if (split := _split_name(name))}
    kinds = defaultdict(set)
    for official, rest in found.values():
        kinds[rest].add(official)
    return {name: rest for name, (_, rest) in found.items() if len(kinds[rest]) > 1}


@dataclass(frozen=True)
class Layout:
    """Position of the class folders in a data set's tree.

    Attributes:
        shared: number of leading folders that all images share.
        splits: by name, those of the next folders that are official splits: the split, and the number of
            folders from there down to the class folder, including the split folder.
    """

    shared: int
    splits: dict[str, tuple[str, int]]

    @classmethod
    def of(cls, folders: Collection[tuple[str, ...]]) -> "Layout":
        """Infers the layout.

        Args:
            folders: path parts of the folders that hold images; may be empty.
        """
        # A prefix shared by the smallest and the largest is shared by all.
        ends = zip(min(folders, default=()), max(folders, default=()), strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], ends)))
        if all(len(folder) == shared for folder in folders):
            shared = max(0, shared - 1)  # all images in one folder: it is the class
        below = defaultdict(list)
        for folder in folders:
            if len(folder) > shared:
                below[folder[shared]].append(folder[shared + 1 :])
        # A single folder named train among others may be a vehicle class. Sibling train and test folders, or
        # only such folders, are splits if they have subfolders.
        deep = [name for name, inner in below.items() if any(inner)]
        rests = set(splits_among(deep).values())
        if len(rests) > 1:  # ambiguous: trust only names without other words, such as train and test
            rests &= {()}
        if deep and all(name.lower() in SPLIT_NAMES for name in below):
            rests = {()}
        splits = {}
        for name in below:
            official, rest = _split_name(name) or ("", None)
            if rest in rests:
                splits[name] = official, 1 + _repeated_depth(official, rest, below[name])
        if not any(len(inner) >= splits[name][1] for name in splits for inner in below[name]):
            # No class folder would remain, so the inner folder of train/train is a class.
            splits = {name: (official, 1) for name, (official, _) in splits.items()}
        return cls(shared, splits)


def _repeated_depth(official: str, rest: tuple[str, ...], inner: list[tuple[str, ...]]) -> int:
    """Number of nested folders that repeat the split and contain everything in it."""
    depth = 0
    while len(names := {folder[depth] for folder in inner if len(folder) > depth}) == 1:
        if _split_name(*names) not in ((official, rest), (official, ())):
            break
        depth += 1
    return depth


def labels(path: str, classes: str, layout: Layout | None = None) -> dict:
    """Parses a path ``[…/][<split>/]<class>/[…/]<breed>_<number>.<suffix>``.

    Args:
        path: path in the archive.
        classes: `folder`, or `breed`: the folder's species, then the file name up to its number.
        layout: the data set's layout; by default inferred from this path alone.

    Returns:
        `path`, `label` (empty if there is no class folder), `species`, `breed` and `official` (`train`,
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


def label_by_folder(rows: list[dict], classes: str, layout: Layout) -> None:
    """Adds the values from `labels` to each row, and `reason`: why the image can't be used, or None.

    The layout must be inferred from all images, unusable ones too; otherwise a class without usable images
    could change which folders count as classes.
    """
    for row in rows:
        row |= labels(row["path"], classes, layout)
        problem = text.class_name_problem(row["label"]) if row["label"] else None
        row["reason"] = f"its class's name {problem}" if problem else None if row["label"] else NO_CLASS


def label_by_annotations(rows: list[dict], annotations: Annotations) -> None:
    """Like `label_by_folder`, with labels from the archive's annotation files."""
    found = annotations.assign([row["path"] for row in rows])
    folders = {row["path"]: _official_folder(row["path"]) for row in rows}
    splits = folders if len(set(folders.values()) - {""}) > 1 else {}  # train alone is no split
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
    """The split named by a folder in a path (`train2017`, `valid`), or empty."""
    names = (re.sub(r"\d+$", "", part.lower()) for part in PurePosixPath(path).parent.parts)
    return next((SPLIT_NAMES[name] for name in names if name in SPLIT_NAMES), "")
