"""Names the breed in photos: ``python -m pipeline.predict PHOTO…``"""

import argparse
import json
import sys
from pathlib import Path

from pipeline import config, seal
from pipeline.config import ROOT, UserError


def _champion(name: str) -> Path:
    """Folder of a data set's champion, with ``model.onnx`` and ``model.json``.

    Raises:
        UserError: there is none yet, or it is damaged.
    """
    folder = ROOT / "runs" / name / "register/champion/portable"
    if not (folder / "model.onnx").is_file():
        known = sorted(path.parts[-4] for path in (ROOT / "runs").glob("*/register/champion/portable"))
        hint = f"; there is one of {', '.join(known)}" if known else ""
        raise UserError(
            f"no champion of '{name}' is here{hint}; train one first: make demo, or make petfaces"
        )
    seal.check(folder)
    return folder


def predict(photos: list[str], model: str, top: int) -> int:
    """Prints a table of the most probable breeds of each photo.

    Args:
        photos: paths of files.
        model: name of a data set.
        top: how many breeds to show.

    Returns:
        How many photos could not be read; each is named on standard error and stops nothing.

    Raises:
        UserError: there is no such model.
    """
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from pipeline.portable import Portable, UnreadableError

    folder = _champion(model)
    portable = Portable(folder)
    console = Console()
    failed = 0
    for photo in photos:
        try:
            prepared = portable.prepare(Path(photo).read_bytes())
        except (OSError, UnreadableError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"error: {photo}: {reason}", file=sys.stderr)
            failed += 1
            continue
        probabilities = portable.probabilities(prepared[None])[0]
        print(photo)  # above the table, not as its title, which would be folded to its width
        table = Table()
        table.add_column("breed")
        table.add_column("probability", justify="right")
        for place in np.argsort(-probabilities, kind="stable")[:top]:
            table.add_row(portable.classes[place], f"{probabilities[place]:.1%}")
        console.print(table)
    card = json.loads((folder / "model.json").read_text())
    if card["drawings"]:
        print("This champion was trained on drawings and knows no photographs. The real faces: make petfaces")
    elif failed < len(photos):
        print("It was trained on heads cut tight: crop the photo to the pet's head for a fair answer.")
    return failed


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict", description="Names the breed in photos."
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a picture's file")
    parser.add_argument(
        "--model", metavar="DATA", help="data set whose champion answers; default: params.yaml's"
    )
    parser.add_argument("--top", type=int, default=5, help="breeds to show (default 5)")
    chosen = parser.parse_args(arguments)
    try:
        failed = predict(chosen.photos, chosen.model or config.compose().data.name, chosen.top)
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
