"""Where the project's files are."""

from pathlib import Path

from pipeline.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PARAMS = ROOT / "params.yaml"


def main_checkout() -> Path:
    """The checkout that holds the stores: ROOT, unless this is one of DVC's temporary copies."""
    parts = ROOT.parts
    for place in range(len(parts) - 2):
        if parts[place : place + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:place])
    return ROOT


def from_root(path: str | Path, base: Path = ROOT) -> Path:
    """Resolves a relative path from `base`, not from where the program was started; `~` is the home.

    Raises:
        UserError: it begins with `~` and the name of nobody here.
    """
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder; write the whole path") from error
