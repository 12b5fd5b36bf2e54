"""Paths of the project."""

from pathlib import Path

from pipeline.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PARAMS = ROOT / "params.yaml"


def main_checkout() -> Path:
    """The checkout that holds the stores: ROOT, or its origin if ROOT is a temporary copy of ``dvc exp``."""
    for parent in reversed(ROOT.parents):
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return ROOT


def from_root(path: str | Path, base: Path = ROOT) -> Path:
    """Resolves a path relative to `base`, not to the working directory; expands `~`.

    Raises:
        UserError: it begins with `~` and an unknown user name.
    """
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such user; write the path without ~") from error
