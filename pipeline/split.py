"""Stage split: near-duplicates into groups, groups into train, val and test, class by class."""

import hashlib
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from pipeline import tasks
from pipeline.artifacts import seal
from pipeline.common import tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.data import pack_index
from pipeline.stage import stage

SPLITS = ("train", "val", "test")


def near_duplicates(hashes: list[str], distance: int) -> np.ndarray:
    """Groups perceptual hashes that differ in at most `distance` bits, chains included.

    Every pair is compared, a row against all later ones, so the time grows with the square: about a second
    for 2,700 pictures. Cleverer indexes help only at distances too small to find a photo cropped again.

    Args:
        hashes: hexadecimal, all of one length, a multiple of 64 bits.
        distance: in bits.

    Returns:
        int array, a group number a picture; groups are numbered by their first picture.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    words = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(len(hashes), -1)
    rows, columns = [], []
    for picture in range(len(words) - 1):
        differ = np.bitwise_count(words[picture + 1 :] ^ words[picture]).sum(axis=1, dtype=np.uint16)
        near = np.flatnonzero(differ <= distance)
        rows += [picture] * len(near)
        columns += list(near + picture + 1)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(hashes), len(hashes)))
    return connected_components(graph, directed=False)[1]


def assign(labels: list[str], groups: np.ndarray, shares: dict[str, float], seed: int) -> np.ndarray:
    """Deals groups to splits so that each class keeps its shares and no group is divided.

    A group counts for the class of its first picture. scikit-learn's StratifiedGroupKFold keeps such
    shares only on average over classes; here each class has at least one picture in every split.

    Args:
        labels: class of each picture.
        groups: group of each picture.
        shares: of `val` and `test`, or of those of them that are dealt; the rest trains.
        seed: moves the splits.

    Returns:
        Array of split names, one a picture.

    Raises:
        UserError: classes have fewer groups than there are splits.
    """
    labels = np.asarray(labels)
    split_of_group = np.full(groups.max() + 1, "train", dtype="<U7")
    first = np.unique(groups, return_index=True)[1]
    sizes = np.bincount(groups)
    own_groups = {label: groups[first[labels[first] == label]] for label in np.unique(labels)}
    small = {label: len(own) for label, own in own_groups.items() if len(own) <= len(shares)}
    _refuse_small(small, len(shares) + 1)
    for label, own in own_groups.items():
        # A class draws from its own stream, by its name: a new class does not move the others.
        name = int.from_bytes(hashlib.sha256(str(label).encode()).digest()[:8], "big")
        dealt = list(np.random.default_rng([seed, name]).permutation(own))
        total = sizes[own].sum()
        for place, (split, share) in enumerate(shares.items()):
            wanted, taken = max(1, round(total * share)), 0
            for group in list(dealt):
                # A group too big for what is left of the share stays in train; the first one counts always.
                fits = taken + sizes[group] <= wanted or taken == 0
                if taken < wanted and fits and len(dealt) > len(shares) - place:
                    split_of_group[group] = split
                    taken += sizes[group]
                    dealt.remove(group)
    return split_of_group[groups]


def assign_several(labels: list[str], groups: np.ndarray, shares: dict[str, float], seed: int) -> np.ndarray:
    """Deals groups to splits so that each split has its share of each class, where images have several.

    Iterative stratification (Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10): the rarest class is
    dealt first, each time to the split that lacks most of it.

    Args, result and errors are those of `assign`; a label may name several classes.
    """
    task = tasks.of("multi_label")
    classes = task.classes(labels)
    wanted = task.targets(labels, classes).astype(np.float64)
    count = groups.max() + 1
    # What a group brings: pictures of each class, and in the last column pictures.
    brings = np.zeros((count, len(classes) + 1))
    np.add.at(brings, groups, np.column_stack([wanted, np.ones(len(labels))]))
    having = {name: int(np.count_nonzero(brings[:, index])) for index, name in enumerate(classes)}
    _refuse_small({name: found for name, found in having.items() if found <= len(shares)}, len(shares) + 1)
    names = [*shares, "train"]
    parts = np.array([*shares.values(), 1 - sum(shares.values())])
    lacks = parts[:, None] * brings.sum(axis=0)
    dealt, has = np.full(count, -1), np.zeros((len(names), len(classes) + 1), dtype=bool)
    order = np.random.default_rng(seed).permutation(count)
    while (left := order[dealt[order] < 0]).size:
        remaining = np.count_nonzero(brings[left, :-1], axis=0)
        rarest = int(np.argmin(np.where(remaining, remaining, count + 1)))
        if not remaining.any():
            rarest = len(classes)  # pictures without any class
        mine = left[brings[left, rarest] > 0]
        for number, group in enumerate(mine):
            empty = [index for index in range(len(names)) if not has[index, rarest]]
            # The last ones go where there is none yet: a small share would be rounded to nothing.
            free = empty if len(mine) - number <= len(empty) else range(len(names))
            split = max(free, key=lambda index: (lacks[index, rarest], lacks[index, -1]))
            dealt[group] = split
            lacks[split] -= brings[group]
            has[split] |= brings[group] > 0
    return np.array(names, dtype="<U7")[dealt][groups]


def _refuse_small(small: dict[str, int], splits: int) -> None:
    """Ends where classes have fewer different pictures than there are splits.

    Raises:
        UserError: some have.
    """
    if small:
        named = ", ".join(
            f"'{text.shortened(label, 60)}' ({count})" for label, count in list(small.items())[:8]
        )
        more = f" and {len(small) - 8} more" if len(small) > 8 else ""
        raise UserError(
            f"{len(small)} class(es) have fewer different pictures than the {splits} splits: "
            f"{named}{more}; add pictures or take the class away"
        )


def keep_official(official: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Keeps the split that the data brings, less what would tell its answers.

    Args:
        official: `train`, `val`, `test` or empty, one a picture.
        groups: of near-duplicates, one a picture.

    Returns:
        Array, one a picture: `val` and `test` as they came; `dropped` for a picture whose near-duplicate
        stands in test, or for one of train whose near-duplicate stands in val; `train` for the rest.
    """
    result = np.where(np.isin(official, ("val", "test")), official, "train").astype("<U7")
    for guarded in ("test", "val"):
        known = np.isin(groups, groups[result == guarded])
        result[known & (result != guarded) & (result != "test")] = "dropped"
    return result


def split(pack: Path, target: Path, cfg: DictConfig) -> None:
    """Writes ``split.csv``: path, label, group, split (`train`, `val`, `test` or `dropped`)."""
    if cfg.val <= 0 or cfg.test <= 0 or cfg.val + cfg.test >= 1:
        raise UserError(
            f"split.val={cfg.val} and split.test={cfg.test} must be above 0 and leave something to train on"
        )
    seal.check(pack)
    # Dealt in the order of the pictures' hashes: another name for a picture moves none.
    task = tasks.of(pack_index.read_summary(pack)["task"])
    index = pack_index.read_index(pack).sort_values(list(pack_index.PICTURE), kind="stable")
    groups = near_duplicates(list(index["phash"]), cfg.distance)
    official = index["official"].to_numpy() if cfg.official else np.full(len(index), "")
    result = keep_official(official, groups)
    # What the data does not bring is dealt from what is left to train on.
    shares = {name: cfg[name] for name in ("val", "test") if name not in result}
    free = result == "train"
    there, learnt = (task.classes(found.tolist()) for found in (index["label"], index["label"][free]))
    if there != learnt:
        missing = sorted(set(there) - set(learnt))
        named = ", ".join(map(text.printable, missing[:8]))
        raise UserError(f"class(es) without a picture to train on: {named}; add some")
    if shares:
        # Groups are numbered anew: assign wants them without gaps.
        own = np.unique(groups[free], return_inverse=True)[1]
        deal = assign_several if task.several else assign
        result[free] = deal(list(index["label"][free]), own, shares, cfg.seed)
    index["group"], index["split"] = groups, result
    index = index.sort_index()  # by path again, as the pack's index
    columns = ["path", "label", "group", "split"]
    tables.write(target, index[columns].to_dict("records"), columns)
    counts = index["split"].value_counts()
    repeated = int((np.bincount(groups) > 1).sum())
    print(
        f"split: {', '.join(f'{counts[name]} {name}' for name in SPLITS)}; "
        f"{repeated} groups of near-duplicates"
    )
    if any(official):
        kept = " and ".join(name for name in ("val", "test") if name in official)
        print(f"split: {kept or 'no split'} as the data brings it")
    for path in index["path"][index["split"] == "dropped"]:
        print(f"split: dropped {text.printable(path)}: a near-duplicate stands in test or val")


@stage
def main(cfg: DictConfig) -> None:
    place = ROOT / "data" / cfg.data.name
    split(place / "pack", place / "split.csv", cfg.split)


if __name__ == "__main__":
    main()
