"""A report's ``index.html`` on a data set and its candidates, and the images that it shows.

The page has no scripts and loads only images from its own folder, so it can be opened from disk.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import portable
from pipeline.common import pages
from pipeline.data.dataset import ImageDataset, PackedDataset

TEMPLATE = Path(__file__).with_name("report_page.html")
SIDE = 112  # maximum of a thumbnail's longer side, in pixels
# How many of each the page shows; together they bound the size of ``pictures/``.
PAIRS, EXAMPLES, MISTAKES, SUSPICIOUS, GROUPS, MEMBERS, LISTED = 6, 2, 18, 18, 12, 4, 48


class Thumbnails:
    """Writes small images to the folder ``pictures/``, each once, named by the hash of the packed image.

    Args:
        pack: the source of the images.
        folder: the page's folder.
    """

    def __init__(self, pack: PackedDataset, folder: Path):
        self.folder, self.table = folder, pack.table
        self.rows = {path: row for row, path in enumerate(pack.table["path"])}
        self.images = ImageDataset(pack, np.arange(len(pack.table)), lambda image, *_: image)

    def __call__(self, path: str) -> dict:
        """Writes the thumbnail of one image of the pack.

        Returns:
            Attributes of the `img` element (`src`, `alt`, `width`, `height`), and the image's `label` and
            `split`.
        """
        row = self.rows[path]
        small = Image.fromarray(portable.shrink(Image.fromarray(self.images.image(row)), SIDE))
        record = self.table.iloc[row]
        file = self.folder / "pictures" / f"{record['sha256'][:16]}.jpg"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            small.save(file, "JPEG", quality=78, optimize=True)
        return {
            "src": f"pictures/{file.name}",
            "alt": "/".join(Path(path).parts[-2:]),
            "width": small.width,
            "height": small.height,
            "label": record["label"],
            "split": record["split"],
        }


def confused(predictions: list[dict], confusions: list[dict], thumbnail: Thumbnails) -> list[dict]:
    """The most confused pairs of classes: misclassified images beside typical ones of both classes.

    Typical images of a class are the correctly classified test images with the highest confidence; if there
    are none, the first training images.

    Args:
        predictions: rows of ``predictions.csv``.
        confusions: rows of ``confusions.csv``, most frequent first.
        thumbnail: writes an image.

    Returns:
        The first `PAIRS` of `confusions`, each with lists of thumbnails: `misjudged`, `of_label` and
        `of_taken_for`.
    """
    ranked = sorted(predictions, key=lambda row: -float(row["probability"]))

    def typical(label: str) -> list[dict]:
        correct = [row["path"] for row in ranked if row["label"] == row["predicted"] == label]
        table = thumbnail.table
        training = table["path"][(table["label"] == label) & (table["split"] == "train")]
        return [thumbnail(path) for path in (correct or list(training))[:EXAMPLES]]

    pairs = []
    for pair in confusions[:PAIRS]:
        label, taken_for = pair["label"], pair["taken_for"]
        wrong = [row for row in ranked if (row["label"], row["predicted"]) == (label, taken_for)]
        misjudged = [thumbnail(row["path"]) | {"sure": float(row["probability"])} for row in wrong[:EXAMPLES]]
        typical_images = {"of_label": typical(label), "of_taken_for": typical(taken_for)}
        pairs.append({**pair, "misjudged": misjudged, **typical_images})
    return pairs


def mistakes(predictions: list[dict], thumbnail: Thumbnails) -> list[dict]:
    """Thumbnails of misclassified test images with `taken_for` and `sure`, highest confidence first."""
    wrong = [row for row in predictions if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: -float(row["probability"]))
    return [
        thumbnail(row["path"]) | {"taken_for": row["predicted"], "sure": float(row["probability"])}
        for row in wrong[:MISTAKES]
    ]


def near_duplicates(pack: PackedDataset, thumbnail: Thumbnails) -> dict:
    """Groups of near-duplicates: those with several labels first, then the largest.

    Returns:
        Numbers of `groups`, of their `pictures` and of `contradictory` groups (with several labels); and the
        groups that are `shown`.
    """
    table = pack.table[pack.table.duplicated("group", keep=False)]
    groups = [members for _, members in table.groupby("group", sort=False)]
    groups.sort(key=lambda members: (-members["label"].nunique(), -len(members), members["path"].iloc[0]))
    return {
        "groups": len(groups),
        "pictures": len(table),
        "contradictory": sum(members["label"].nunique() > 1 for members in groups),
        "shown": [
            {
                "members": [thumbnail(path) for path in members["path"][:MEMBERS]],
                "more": max(0, len(members) - MEMBERS),
                "contradictory": members["label"].nunique() > 1,
            }
            for members in groups[:GROUPS]
        ],
    }


def counts(pack: PackedDataset, recalls: dict[str, float]) -> dict:
    """Number of images of each class in each split, and the best model's recall on test images.

    Args:
        pack: the packed data set.
        recalls: recall by class.

    Returns:
        The `splits`, a row per class in `rows` (`label`, `counts` by split, `recall` or None), the `largest`
        class's number of images, and the `totals` by split.
    """
    splits = ["train", "val", "test"] + (["dropped"] if "dropped" in set(pack.table["split"]) else [])
    by_split = {
        split: pack.task.counts(pack.targets[pack.rows(split)], len(pack.classes)).tolist()
        for split in splits
    }
    rows = [
        {
            "label": label,
            "counts": [by_split[split][index] for split in splits],
            "recall": recalls.get(label) if by_split["test"][index] else None,
        }
        for index, label in enumerate(pack.classes)
    ]
    return {
        "splits": splits,
        "rows": rows,
        "largest": max(sum(row["counts"]) for row in rows),
        "totals": [sum(row["counts"][index] for row in rows) for index in range(len(splits))],
    }


def intervals(bounds: list[list[float]]) -> dict:
    """Positions of the leaderboard's intervals on a common scale.

    Args:
        bounds: lower bound, metric and upper bound of each model, as fractions.

    Returns:
        The scale's ends, `from` and `to`, in per cent; and `bars`, the bounds as per cent of its width.
    """
    low = 10 * math.floor(10 * min(row[0] for row in bounds))
    high = 10 * math.ceil(10 * max(row[2] for row in bounds))
    width = max(high - low, 10)

    def position(fraction: float) -> float:
        return round(100 * (100 * fraction - low) / width, 2)

    return {"from": low, "to": low + width, "bars": [list(map(position, row)) for row in bounds]}


def write(folder: Path, **shown: object) -> None:
    """Writes ``index.html``.

    Args:
        folder: the report's folder.
        shown: the template's variables.
    """
    limits = {"MISTAKES": MISTAKES, "SUSPICIOUS": SUSPICIOUS, "GROUPS": GROUPS, "LISTED": LISTED}
    page = pages.render(TEMPLATE, **shown, **limits)
    (folder / "index.html").write_text(f"{page}\n", encoding="utf-8")
