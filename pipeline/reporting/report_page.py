"""``index.html`` of a report, which shows a data set and its candidates, and the images next to it.

One file without scripts that loads only images of its own folder, so it opens from disk.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import portable
from pipeline.common import pages
from pipeline.data.dataset import ImageDataset, PackedDataset

TEMPLATE = Path(__file__).with_name("report_page.html")
SIDE = 112  # maximum of an image's longer side, in pixels
# How many of each the page shows; together they bound the size of the image folder.
PAIRS, EXAMPLES, MISTAKES, SUSPICIOUS, GROUPS, MEMBERS, LISTED = 6, 2, 18, 18, 12, 4, 48


class Thumbnails:
    """Small images in a folder ``pictures/``, each written once and named by the hash of its pixels.

    Args:
        pack: the source of the images.
        folder: the page's folder.
    """

    def __init__(self, pack: PackedDataset, folder: Path):
        self.folder, self.table = folder, pack.table
        self.row = {path: row for row, path in enumerate(pack.table["path"])}
        self.pictures = ImageDataset(pack, np.arange(len(pack.table)), lambda image, *_: image, seed=0)

    def __call__(self, path: str) -> dict:
        """Writes one image.

        Returns:
            Attributes of the `img` element, and the image's `label` and `split`.
        """
        row = self.row[path]
        small = Image.fromarray(portable.shrink(Image.fromarray(self.pictures.picture(row)), SIDE))
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


def confused(predictions: list[dict], confusions: list[dict], tile: Thumbnails) -> list[dict]:
    """The most confused pairs of classes: misclassified images beside typical ones of both classes.

    Typical images of a class are the correctly classified test images with the highest confidence; if there
    are none, the first training images.

    Args:
        predictions: predictions on the test images.
        confusions: pairs of classes, most frequent first.
        tile: writes an image.
    """
    ranked = sorted(predictions, key=lambda row: -float(row["probability"]))

    def typical(label: str) -> list[dict]:
        correct = [row["path"] for row in ranked if row["label"] == row["predicted"] == label]
        table = tile.table
        training = table["path"][(table["label"] == label) & (table["split"] == "train")]
        return [tile(path) for path in (correct or list(training))[:EXAMPLES]]

    pairs = []
    for pair in confusions[:PAIRS]:
        taken = (pair["label"], pair["taken_for"])
        wrong = [row for row in ranked if (row["label"], row["predicted"]) == taken]
        misjudged = [tile(row["path"]) | {"sure": float(row["probability"])} for row in wrong[:EXAMPLES]]
        pairs.append(
            {
                **pair,
                "misjudged": misjudged,
                "of_label": typical(pair["label"]),
                "of_taken_for": typical(pair["taken_for"]),
            }
        )
    return pairs


def mistakes(predictions: list[dict], tile: Thumbnails) -> list[dict]:
    """Misclassified test images, highest confidence first."""
    wrong = [row for row in predictions if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: -float(row["probability"]))
    return [
        tile(row["path"]) | {"taken_for": row["predicted"], "sure": float(row["probability"])}
        for row in wrong[:MISTAKES]
    ]


def near_duplicates(pack: PackedDataset, tile: Thumbnails) -> dict:
    """Groups of near-duplicates: those with several labels first, then the largest."""
    table = pack.table[pack.table.duplicated("group", keep=False)]
    groups = [members for _, members in table.groupby("group", sort=False)]
    groups.sort(key=lambda members: (-members["label"].nunique(), -len(members), members["path"].iloc[0]))
    return {
        "groups": len(groups),
        "pictures": len(table),
        "contradictory": sum(members["label"].nunique() > 1 for members in groups),
        "shown": [
            {
                "members": [tile(path) for path in members["path"][:MEMBERS]],
                "more": max(0, len(members) - MEMBERS),
                "contradictory": members["label"].nunique() > 1,
            }
            for members in groups[:GROUPS]
        ],
    }


def counts(pack: PackedDataset, recalls: dict[str, float]) -> dict:
    """Images of each class in each split, and the best model's recall on the test images.

    Args:
        pack: the data.
        recalls: recall by class.
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


def intervals(shares: list[list[float]]) -> dict:
    """Positions of the leaderboard's intervals on a common scale, in per cent of its width.

    Args:
        shares: lower bound, metric and upper bound of each model, as fractions.
    """
    low = 10 * math.floor(10 * min(row[0] for row in shares))
    high = 10 * math.ceil(10 * max(row[2] for row in shares))
    width = max(high - low, 10)

    def position(fraction: float) -> float:
        return round(100 * (100 * fraction - low) / width, 2)

    return {"from": low, "to": low + width, "bars": [list(map(position, row)) for row in shares]}


def write(folder: Path, **shown: object) -> None:
    """Writes ``index.html``.

    Args:
        folder: the report's folder.
        shown: the template's variables.
    """
    limits = {"MISTAKES": MISTAKES, "SUSPICIOUS": SUSPICIOUS, "GROUPS": GROUPS, "LISTED": LISTED}
    page = pages.render(TEMPLATE, **shown, **limits)
    (folder / "index.html").write_text(f"{page}\n", encoding="utf-8")
