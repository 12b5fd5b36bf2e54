"""``curves.csv`` of a train folder: what was measured while it learned, a row an epoch or a strength."""

import csv
from pathlib import Path


def write(rows: list[dict], file: Path) -> None:
    """Writes the rows under all of their keys, in the order in which these first appear."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(folder: Path) -> list[dict]:
    """Rows of a train folder's ``curves.csv``; what a row does not have is None."""
    with open(folder / "curves.csv", newline="") as file:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
