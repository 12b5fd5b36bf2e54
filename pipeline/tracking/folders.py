"""The folders that train and evaluate leave: which there are, what they hold, what they are known by."""

import hashlib
from pathlib import Path


def read_curves(folder: Path) -> list[dict]:
    """Rows of ``curves.csv``; what a row does not have is None."""
    import csv

    with open(folder / "curves.csv", newline="") as file:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def digest(folder: Path) -> str:
    """Hash of a folder's files by name and bytes."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def model_hash(folder: Path) -> str:
    """Of a train folder's weights and card (classes, sizing): what a registered version is known by."""
    whole = hashlib.sha256((folder / "weights.safetensors").read_bytes())
    whole.update((folder / "model.json").read_bytes())
    return whole.hexdigest()


def trained(runs: Path) -> list[Path]:
    """Finished train folders of DVC, sweeps and single runs; no champion's copy, nothing cut short."""
    folders = (path.parent for path in runs.rglob("lineage.json"))
    left_out = {"register", ".work"}
    return sorted(
        folder
        for folder in folders
        if not left_out & set(folder.relative_to(runs).parts) and folder.suffix != ".part"
    )


def judged(folder: Path) -> Path | None:
    """The evaluation of a train folder, unless it is of a former model there."""
    evaluation = folder.parent.parent / "evaluate" / folder.name
    known = evaluation / "model.sha256"
    return evaluation if known.is_file() and known.read_text().strip() == model_hash(folder) else None
