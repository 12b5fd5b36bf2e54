"""Stage split: groups near-duplicates, and assigns groups to train, val and test, stratified by class."""

import hashlib
import logging
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from pipeline import tasks
from pipeline.artifacts import seal
from pipeline.common import log, tables, text
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.data import pack_index
from pipeline.stage import stage

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def near_duplicates(hashes: list[str], distance: int) -> np.ndarray:
    """Groups perceptual hashes that differ in at most `distance` bits, transitively.

    Compares all pairs, so the time is quadratic: about a second for 2,700 images. Index structures help only
    at distances too small to find another crop of the same photo.

    Args:
        hashes: hexadecimal, all of one length, a multiple of 64 bits.
        distance: in bits.

    Returns:
        int array, the group of each image; groups are numbered by their first image.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    words = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint64).reshape(len(hashes), -1)
    rows, columns = [], []
    for image in range(len(words) - 1):
        distances = np.bitwise_count(words[image + 1 :] ^ words[image]).sum(axis=1, dtype=np.uint16)
        matches = np.flatnonzero(distances <= distance)
        rows += [image] * len(matches)
        columns += list(matches + image + 1)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(hashes), len(hashes)))
    return connected_components(graph, directed=False)[1]


def assign(labels: list[str], groups: np.ndarray, shares: dict[str, float], seed: int) -> np.ndarray:
    """Assigns whole groups to splits so that each class has the given share in each split.

    A group counts for the class of its first image. scikit-learn's StratifiedGroupKFold keeps the shares
    only on average over classes; here each class has at least one image in every split.

    Args:
        labels: class of each image.
        groups: group of each image.
        shares: fraction of `val`, of `test` or of both; the rest is `train`.
        seed: random seed of the assignment.

    Returns:
        Array of split names, one per image.

    Raises:
        UserError: classes have fewer groups than there are splits.
    """
    labels = np.asarray(labels)
    split_of_group = np.full(groups.max() + 1, "train", dtype="<U7")
    first = np.unique(groups, return_index=True)[1]
    sizes = np.bincount(groups)
    own_groups = {label: groups[first[labels[first] == label]] for label in np.unique(labels)}
    _check_sizes({label: len(found) for label, found in own_groups.items()}, len(shares) + 1)
    for label, class_groups in own_groups.items():
        # One RNG stream per class name, so that a new class does not change the others' splits.
        class_seed = int.from_bytes(hashlib.sha256(str(label).encode()).digest()[:8], "big")
        unassigned = list(np.random.default_rng([seed, class_seed]).permutation(class_groups))
        total = sizes[class_groups].sum()
        for index, (split, share) in enumerate(shares.items()):
            wanted, assigned = max(1, round(total * share)), 0
            for group in list(unassigned):
                # A group larger than the rest of the share stays in train, except the first.
                fits = assigned + sizes[group] <= wanted or assigned == 0
                if assigned < wanted and fits and len(unassigned) > len(shares) - index:
                    split_of_group[group] = split
                    assigned += sizes[group]
                    unassigned.remove(group)
    return split_of_group[groups]


def assign_multi_label(
    labels: list[str], groups: np.ndarray, shares: dict[str, float], seed: int
) -> np.ndarray:
    """Assigns groups to splits so that each split has its share of each class, for multi-label data.

    Iterative stratification (Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10): the rarest class is
    assigned first, each group to the split that lacks most of it.

    Arguments, result and errors are those of `assign`; a label may name several classes.
    """
    task = tasks.of("multi_label")
    classes = task.classes(labels)
    targets = task.targets(labels, classes).astype(np.float64)
    count = groups.max() + 1
    # Per group, the number of images of each class and, in the last column, of images.
    group_totals = np.zeros((count, len(classes) + 1))
    np.add.at(group_totals, groups, np.column_stack([targets, np.ones(len(labels))]))
    counts = {name: int(np.count_nonzero(group_totals[:, index])) for index, name in enumerate(classes)}
    _check_sizes(counts, len(shares) + 1)
    names = [*shares, "train"]
    fractions = np.array([*shares.values(), 1 - sum(shares.values())])
    missing = fractions[:, None] * group_totals.sum(axis=0)
    split_of_group, has = np.full(count, -1), np.zeros((len(names), len(classes) + 1), dtype=bool)
    order = np.random.default_rng(seed).permutation(count)
    while (unassigned := order[split_of_group[order] < 0]).size:
        remaining = np.count_nonzero(group_totals[unassigned, :-1], axis=0)
        rarest = int(np.argmin(np.where(remaining, remaining, count + 1)))
        if not remaining.any():
            rarest = len(classes)  # images without any class
        candidates = unassigned[group_totals[unassigned, rarest] > 0]
        for number, group in enumerate(candidates):
            empty = [index for index in range(len(names)) if not has[index, rarest]]
            # The last groups go to splits without this class: a small share would round to zero.
            allowed = empty if len(candidates) - number <= len(empty) else range(len(names))
            split = max(allowed, key=lambda index: (missing[index, rarest], missing[index, -1]))
            split_of_group[group] = split
            missing[split] -= group_totals[group]
            has[split] |= group_totals[group] > 0
    return np.array(names, dtype="<U7")[split_of_group][groups]


def _check_sizes(counts: dict[str, int], splits: int) -> None:
    """Raises UserError if a class has fewer groups than there are splits.

    Args:
        counts: number of groups by class.
        splits: number of splits.
    """
    if small := {label: count for label, count in counts.items() if count < splits}:
        named = text.listed([f"'{text.shortened(label, 60)}' ({count})" for label, count in small.items()], 8)
        raise UserError(
            f"{len(small)} class(es) have fewer different pictures than the {splits} splits: "
            f"{named}; add pictures or remove the class"
        )


def keep_official(official: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Keeps the data's official split, but drops images that would leak test or val.

    Args:
        official: `train`, `val`, `test` or empty, one per image.
        groups: near-duplicate group of each image.

    Returns:
        Array, one per image: `val` and `test` as given; `dropped` for an image outside test with a
        near-duplicate in test, or a train image with one in val; `train` for the rest.
    """
    result = np.where(np.isin(official, ("val", "test")), official, "train").astype("<U7")
    for held_out in ("test", "val"):
        leaks = np.isin(groups, groups[result == held_out])
        result[leaks & (result != held_out) & (result != "test")] = "dropped"
    return result


def split(pack: Path, target: Path, cfg: DictConfig) -> None:
    """Writes ``split.csv``: path, label, group, split (`train`, `val`, `test` or `dropped`)."""
    seal.check(pack)
    # Sorted by image hash, so that file names cannot affect the split.
    task = tasks.of(pack_index.read_summary(pack)["task"])
    index = pack_index.read_index(pack).sort_values(list(pack_index.IDENTITY), kind="stable")
    groups = near_duplicates(list(index["phash"]), cfg.distance)
    official = index["official"].to_numpy() if cfg.official else np.full(len(index), "")
    splits = keep_official(official, groups)
    # Splits that are not official are made from the training images.
    shares = {name: cfg[name] for name in ("val", "test") if name not in splits}
    is_train = splits == "train"
    present, trained = (task.classes(found.tolist()) for found in (index["label"], index["label"][is_train]))
    if present != trained:
        missing = sorted(set(present) - set(trained))
        shown = ", ".join(map(text.printable, missing[:8]))
        raise UserError(f"class(es) without a training picture: {shown}; add some")
    if shares:
        # Renumbers the groups: assign expects no gaps.
        train_groups = np.unique(groups[is_train], return_inverse=True)[1]
        assign_groups = assign_multi_label if task.is_multi_label else assign
        splits[is_train] = assign_groups(list(index["label"][is_train]), train_groups, shares, cfg.seed)
    index["group"], index["split"] = groups, splits
    index = index.sort_index()  # by path again, like the pack's index
    columns = ["path", "label", "group", "split"]
    tables.write(target, index[columns].to_dict("records"), columns)
    counts = index["split"].value_counts()
    repeated = int((np.bincount(groups) > 1).sum())
    log.result(
        f"{', '.join(f'{counts[name]} {name}' for name in SPLITS)}; {repeated} groups of near-duplicates"
    )
    if any(official):
        official_splits = " and ".join(name for name in ("val", "test") if name in official)
        _log.info("official splits of the data that are kept: %s", official_splits or "none")
    for path in index["path"][index["split"] == "dropped"]:
        _log.info("dropped %s: a near-duplicate is in test or val", path)


@stage
def main(cfg: DictConfig) -> None:
    data_dir = ROOT / "data" / cfg.data.name
    split(data_dir / "pack", data_dir / "split.csv", cfg.split)


if __name__ == "__main__":
    main()
