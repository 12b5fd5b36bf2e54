"""What the folders of a data set tell: its classes, and an official split."""

import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from pipeline.common import text
from pipeline.sources.annotations import Annotations
from pipeline.tasks import SEPARATOR

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
SPECIES = ("cat", "dog")
STRAY = "in no class folder"


def _split_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a folder's name may tell, and its other words: `seg_train2` gives `train` and `seg`."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    if official := OFFICIAL.get("".join(words)):  # train_val, too
        return official, ()
    told = [(word, OFFICIAL.get(re.sub(f"({'|'.join(NEUTRAL)})$", "", word))) for word in words]
    official = [split for _, split in told if split]
    rest = tuple(word for word, split in told if not split and word not in NEUTRAL)
    return (official[0], rest) if len(official) == 1 else None


def splits_among(names: Collection[str]) -> dict[str, tuple[str, ...]]:
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
        rests = set(splits_among(deep).values())
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


def label_by_folder(rows: list[dict], classes: str, layout: Layout) -> None:
    """Adds to each row what its path tells, and `reason`, why it can't be used, or None.

    Which folders all pictures share is known only at the end; those that can't be used count too, or a class
    of which none can would leave the others' folders to be taken for classes.
    """
    for row in rows:
        row |= labels(row["path"], classes, layout)
        problem = text.class_name_problem(row["label"]) if row["label"] else None
        row["reason"] = f"its class's name {problem}" if problem else None if row["label"] else STRAY


def label_by_annotations(rows: list[dict], annotations: Annotations) -> None:
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
