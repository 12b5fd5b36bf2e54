"""What a sweep's jobs have noted, ``.outcomes/NUMBER.json`` in the sweep's folder."""

import json
from contextlib import suppress
from pathlib import Path


def read(sweep: Path) -> dict[int, dict]:
    """The notes of all jobs by their numbers.

    A note has `folder`, `words` (the job's overrides) and `error`: empty where the job did not fail, None
    where it has not ended. Earlier code noted `error` alone and called the folders by the jobs' numbers.
    """
    files = (file for file in sweep.glob(".outcomes/*.json") if file.stem.isdigit())
    return {int(file.stem): {"folder": file.stem, "words": "", **read_object(file)} for file in files}


def numbers(noted: dict[int, dict]) -> dict[str, int]:
    """Numbers of the jobs by their folders' names; of several with one folder the lowest."""
    return {str(noted[number]["folder"]): number for number in sorted(noted, reverse=True)}


def read_object(file: Path) -> dict:
    """A JSON file's object; empty where it is missing or damaged."""
    with suppress(OSError, ValueError):
        tree = json.loads(file.read_text(encoding="utf-8"))
        return tree if isinstance(tree, dict) else {}
    return {}
