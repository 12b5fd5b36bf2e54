"""Config groups and files in ``conf/``, and group choices in ``params.yaml``."""

import re
from collections.abc import Iterator

from pipeline.common.errors import UserError
from pipeline.common.paths import CONF, PARAMS

SHARED = ("data", "trainer")  # groups selectable in params.yaml; the model selects the others


def config_groups() -> list[str]:
    """Names of the config groups, the folders of ``conf/``."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def choices(group: str) -> list[str]:
    """Names of the choices of a config group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the leaf values of a nested dict under dotted keys; a list is one value."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def choose(group: str, choice: str) -> None:
    """Sets a config group in ``params.yaml``, keeping comments; does not rewrite an unchanged file.

    Raises:
        UserError: the choice is unknown, or ``params.yaml`` has no such key.
    """
    if choice not in choices(group):
        raise UserError(f"{group}={choice} is not known; choose one of {', '.join(choices(group)) or 'none'}")
    text = PARAMS.read_text(encoding="utf-8")
    changed, count = re.subn(rf"(?m)^({group}: *)[^\s#]+", rf"\g<1>{choice}", text)
    if not count:
        raise UserError(f"params.yaml has no key {group}")
    if changed != text:
        PARAMS.write_text(changed, encoding="utf-8")
