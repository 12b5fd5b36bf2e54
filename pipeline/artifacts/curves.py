"""``curves.csv`` of a train folder: what was measured while it learned, a row an epoch or a strength."""

from pathlib import Path

from pipeline.common import tables


def write(rows: list[dict], file: Path) -> None:
    """Writes the rows under all of their keys, in the order in which these first appear."""
    tables.write(file, rows)


def read(folder: Path) -> list[dict]:
    """Rows of a train folder's ``curves.csv``; what a row does not have is None."""
    return [
        {key: float(value) if value else None for key, value in row.items()}
        for row in tables.read(folder / "curves.csv")
    ]
