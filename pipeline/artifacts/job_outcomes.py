"""Outcomes of a sweep's jobs, ``.outcomes/NUMBER.json`` in the sweep's folder."""

import json
from contextlib import suppress
from pathlib import Path


def read(sweep: Path) -> dict[int, dict]:
    """Outcomes by job number.

    An outcome has `folder`, `words` (the job's overrides) and `error`: empty if the job succeeded, None if it
    has not ended. Earlier versions wrote only `error` and named each folder by its job number.
    """
    files = (file for file in sweep.glob(".outcomes/*.json") if file.stem.isdigit())
    return {int(file.stem): {"folder": file.stem, "words": "", **read_object(file)} for file in files}


def numbers(outcomes: dict[int, dict]) -> dict[str, int]:
    """Job numbers by folder name; the lowest number if several jobs share a folder."""
    return {str(outcomes[number]["folder"]): number for number in sorted(outcomes, reverse=True)}


def read_object(file: Path) -> dict:
    """A JSON file's object; empty if the file is missing or damaged."""
    with suppress(OSError, ValueError):
        tree = json.loads(file.read_text(encoding="utf-8"))
        return tree if isinstance(tree, dict) else {}
    return {}
