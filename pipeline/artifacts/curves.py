"""``curves.csv`` of a train folder: metrics per epoch, or per regularisation strength of a probe."""

from pathlib import Path

from pipeline.common import tables


def write(rows: list[dict], file: Path) -> None:
    """Writes the rows; the columns are all keys in order of first appearance."""
    tables.write(file, rows)


def read(folder: Path) -> list[dict]:
    """Rows of a train folder's ``curves.csv``; missing values are None."""
    return [
        {key: float(value) if value else None for key, value in row.items()}
        for row in tables.read(folder / "curves.csv")
    ]
