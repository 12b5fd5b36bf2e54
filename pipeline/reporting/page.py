"""``index.html`` of a report: what it shows of a data set's candidates and of the data, pictures beside it.

One file without scripts, which loads nothing but pictures of its own folder, so it opens from disk.
"""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import portable
from pipeline.common import text
from pipeline.data.dataset import ImageDataset, PackedDataset

TEMPLATE = Path(__file__).with_name("page.html")
SIDE = 112  # pixels of a picture's longer side, at most
# How many of each the page shows; together they bound the pictures' folder.
PAIRS, EXAMPLES, MISTAKES, SUSPICIOUS, GROUPS, MEMBERS, LISTED = 6, 2, 18, 18, 12, 4, 48


class Thumbnails:
    """Small pictures in a folder ``pictures/``, each written once, under the hash of its pixels.

    Args:
        pack: where they come from.
        folder: of the page.
    """

    def __init__(self, pack: PackedDataset, folder: Path):
        self.folder, self.table = folder, pack.table
        self.row = {path: row for row, path in enumerate(pack.table["path"])}
        self.pictures = ImageDataset(pack, np.arange(len(pack.table)), lambda picture, *_: picture, seed=0)

    def __call__(self, path: str) -> dict:
        """Writes one picture.

        Returns:
            What an `img` needs, and the picture's `label` and `split`.
        """
        row = self.row[path]
        small = Image.fromarray(portable.shrink(Image.fromarray(self.pictures.picture(row)), SIDE))
        known = self.table.iloc[row]
        file = self.folder / "pictures" / f"{known['sha256'][:16]}.jpg"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=78, optimize=True)
            file.write_bytes(buffer.getvalue())
        return {
            "src": f"pictures/{file.name}",
            "alt": "/".join(Path(path).parts[-2:]),
            "width": small.width,
            "height": small.height,
            "label": known["label"],
            "split": known["split"],
        }


def confused(predictions: list[dict], confusions: list[dict], tile: Thumbnails) -> list[dict]:
    """The most confused pairs of classes: misjudged pictures beside typical ones of both classes.

    Typical are the test pictures of a class that the model named rightly and was surest of; where there are
    none, the first training pictures.

    Args:
        predictions: of the test pictures.
        confusions: pairs, most first.
        tile: writes a picture.
    """
    surest = sorted(predictions, key=lambda row: -float(row["probability"]))

    def typical(label: str) -> list[dict]:
        right = [row["path"] for row in surest if row["label"] == row["predicted"] == label]
        table = tile.table
        taught = table["path"][(table["label"] == label) & (table["split"] == "train")]
        return [tile(path) for path in (right or list(taught))[:EXAMPLES]]

    pairs = []
    for pair in confusions[:PAIRS]:
        wrong = [
            row for row in surest if row["label"] == pair["label"] and row["predicted"] == pair["taken_for"]
        ][:EXAMPLES]
        pairs.append(
            {
                **pair,
                "misjudged": [tile(row["path"]) | {"sure": float(row["probability"])} for row in wrong],
                "of_label": typical(pair["label"]),
                "of_taken_for": typical(pair["taken_for"]),
            }
        )
    return pairs


def mistakes(predictions: list[dict], tile: Thumbnails) -> list[dict]:
    """Test pictures that the model named wrongly, surest first."""
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
    """Pictures of each class in each split, and how many of its test pictures the best model found.

    Args:
        pack: the data.
        recalls: share found, by class.
    """
    splits = [
        split
        for split in ("train", "val", "test", "dropped")
        if split != "dropped" or "dropped" in set(pack.table["split"])
    ]
    known = {
        split: pack.task.counts(pack.targets[pack.rows(split)], len(pack.classes)).tolist()
        for split in splits
    }
    rows = [
        {
            "label": label,
            "counts": [known[split][number] for split in splits],
            "recall": recalls.get(label) if known["test"][number] else None,
        }
        for number, label in enumerate(pack.classes)
    ]
    return {
        "splits": splits,
        "rows": rows,
        "largest": max(sum(row["counts"]) for row in rows),
        "totals": [sum(row["counts"][place] for row in rows) for place in range(len(splits))],
    }


def intervals(shares: list[list[float]]) -> dict:
    """Where the leaderboard's intervals lie on a common scale, in per cent of its width.

    Args:
        shares: of each model the lower end, the figure and the upper end.
    """
    low = 10 * math.floor(10 * min(row[0] for row in shares))
    high = 10 * math.ceil(10 * max(row[2] for row in shares))
    width = max(high - low, 10)

    def place(share: float) -> float:
        return round(100 * (100 * share - low) / width, 2)

    return {
        "from": low,
        "to": low + width,
        "bars": [list(map(place, row)) for row in shares],
    }


def write(folder: Path, **shown: object) -> None:
    """Writes ``index.html``.

    Args:
        folder: of the report.
        shown: what the template names.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        finalize=text.html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    limits = {"MISTAKES": MISTAKES, "SUSPICIOUS": SUSPICIOUS, "GROUPS": GROUPS, "LISTED": LISTED}
    (folder / "index.html").write_text(template.render(**shown, **limits) + "\n", encoding="utf-8")
