"""The files of ``conf/``, and the choices of ``params.yaml``."""

import re
from collections.abc import Iterator

from pipeline.common.errors import UserError
from pipeline.common.paths import CONF, PARAMS

SHARED = ("data", "trainer")  # groups that params.yaml may choose; the others belong to a model


def config_groups() -> list[str]:
    """Names of the folders of ``conf/``."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def choices(group: str) -> list[str]:
    """Names of the files of a config group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a plain tree under dotted keys; a list is one value."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def choose(group: str, choice: str) -> None:
    """Writes the choice of a config group into ``params.yaml``, comments kept; nothing if it stands there.

    Raises:
        UserError: the choice is not known, or ``params.yaml`` has no such key.
    """
    if choice not in choices(group):
        raise UserError(f"{group}={choice} is not known; choose one of {', '.join(choices(group)) or 'none'}")
    former = PARAMS.read_text(encoding="utf-8")
    changed, found = re.subn(rf"(?m)^({group}: *)[^\s#]+", rf"\g<1>{choice}", former)
    if not found:
        raise UserError(f"params.yaml has no key {group}")
    if changed != former:
        PARAMS.write_text(changed, encoding="utf-8")
