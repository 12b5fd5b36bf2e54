"""A resolved configuration in the fewest words, and as a file of ``conf/experiment/``.

Which words: first the choice of a file for each group, then the values that these choices do not bring by
themselves. Whatever follows from another word (the thirty keys of another model, ``model.input.size`` from
``data.side``) is none.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline.common import yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import CONF
from pipeline.config import components
from pipeline.config import files as conf_files
from pipeline.config.checked import compose

NAMED = ("data", "model")  # groups whose files say their own name; the others are recognised by content
OTHERS = ("augment", "trainer")


@dataclass
class Overrides:
    """What to say to get a configuration.

    Attributes:
        choices: a file for each group of `NAMED` and `OTHERS`.
        values: by dotted key, what differs from what these choices compose to.
        default: of `choices`, those that the model and ``params.yaml`` make anyway.
    """

    choices: dict[str, str]
    values: dict[str, object]
    default: frozenset[str] = frozenset()


class OverrideFinder:
    """Finds the words of configurations; what the same choices compose to is composed once."""

    def __init__(self):
        self._composed = functools.cache(compose)
        self._files = functools.cache(_files)
        self._plain = functools.cache(self._flat)

    def words(self, settings: dict) -> Overrides:
        """The fewest words that compose to these settings.

        Args:
            settings: a resolved configuration, as ``config.yaml`` of a train folder holds it.

        Raises:
            UserError: the files that it chose are no longer in ``conf/``.
        """
        choices = {}
        for group in NAMED:
            choices[group] = settings[group]["name"]
            if choices[group] not in conf_files.choices(group):
                raise UserError(f"conf/{group}/{choices[group]}.yaml is gone")
        own = self._composed(*(f"{key}={value}" for key, value in choices.items()))
        default = set()
        for group in OTHERS:
            brought = self._nearest(group, _held(group, OmegaConf.to_container(own, resolve=True)))
            choices[group] = self._nearest(group, _held(group, settings), brought)
            if choices[group] == brought:
                default.add(group)
        base = self._composed(*(f"{key}={value}" for key, value in choices.items()))
        plain = self._plain(*choices.values())
        return Overrides(choices, _values(base, plain, settings), frozenset(default))

    def _flat(self, *chosen: str) -> dict:
        """What choices compose to, flat."""
        words = (f"{group}={choice}" for group, choice in zip(NAMED + OTHERS, chosen, strict=True))
        return dict(conf_files.flat(OmegaConf.to_container(self._composed(*words), resolve=True)))

    def _nearest(self, group: str, tree: dict, preferred: str | None = None) -> str:
        """The file of a group that leaves the least to say; of equals, the preferred one."""
        files = self._files(group)

        def left(choice: str) -> tuple[int, bool, str]:
            plain = files[choice]
            said = [value for key, value in conf_files.flat(tree) if key not in plain or plain[key] != value]
            return sum(map(len, map(str, said))), choice != preferred, choice

        return min(files, key=left)


def _held(group: str, tree: dict) -> dict:
    """What a group's file says of a whole configuration: a trainer's also says `runtime`."""
    return {key: tree.get(key, {}) for key in ("trainer", "runtime")} if group == "trainer" else tree[group]


def _files(group: str) -> dict[str, dict]:
    """The files of a group by name, each flat."""
    return {
        choice: dict(conf_files.flat(yaml_files.read(CONF / group / f"{choice}.yaml")))
        for choice in conf_files.choices(group)
    }


def _values(base: DictConfig, plain: dict, settings: dict) -> dict:
    """What differs from a composed configuration and does not follow from what else differs.

    Args:
        base: composed, with its interpolations.
        plain: the same, resolved and flat.
        settings: what is wanted.
    """
    free = tuple(f"{key}." for key in components.ALLOWED)  # no file of a group needs to say them
    wanted = {key: value for key, value in conf_files.flat(settings) if key in plain or key.startswith(free)}

    def follows(key: str) -> bool:
        *parents, last = key.split(".")
        node = functools.reduce(lambda tree, parent: tree[parent], parents, base)
        return OmegaConf.is_interpolation(node, last)

    values = {
        key: value
        for key, value in wanted.items()
        if key not in plain or (plain[key] != value and not follows(key))
    }
    said = base.copy()
    for key, value in values.items():
        OmegaConf.update(said, key, value, force_add=True)
    now = dict(conf_files.flat(OmegaConf.to_container(said, resolve=True)))
    return values | {key: value for key, value in wanted.items() if now.get(key) != value}


def text(words: Overrides, comment: list[str]) -> str:
    """The file of ``conf/experiment/``; data and model always, for its figures are theirs."""
    # Hydra looks for the package in a file's first 512 bytes only.
    lines = ["# @package _global_", *(f"# {line}".rstrip() for line in comment), "defaults:"]
    lines += [
        f"  - override /{group}: {choice}"
        for group, choice in words.choices.items()
        if group in NAMED or group not in words.default
    ]
    tree = OmegaConf.create()
    for key, value in words.values.items():
        if key != "seed":  # whoever runs it chooses
            OmegaConf.update(tree, key, value)
    body = OmegaConf.to_yaml(tree) if len(tree) else ""
    return "\n".join(lines) + "\n" + body


def check_name(name: str) -> Path:
    """Where an experiment of this name goes.

    Raises:
        UserError: it is no name, or taken.
    """
    file = CONF / "experiment" / f"{name}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,99}", name):
        raise UserError(
            f"'{name[:100]}' is no name for an experiment: up to 100 letters, digits, _ and - only"
        )
    if file.exists():
        raise UserError(f"conf/experiment/{name}.yaml exists already; choose another name, or delete it")
    return file


def save(name: str, words: Overrides, settings: dict, comment: list[str]) -> Path:
    """Writes ``conf/experiment/NAME.yaml`` and composes it, to be sure.

    Raises:
        UserError: no name, a name that is taken, or a configuration that ``conf/`` can't express any more.
    """
    file = check_name(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text(words, comment), encoding="utf-8")
    kept = False
    try:
        composed = OmegaConf.to_container(compose(f"experiment={name}"), resolve=True)
        plain = dict(conf_files.flat(composed))
        lost = [
            key
            for key, value in conf_files.flat(settings)
            if key != "seed" and (key not in plain or plain[key] != value)
        ]
        kept = not lost
    finally:
        if not kept:
            file.unlink()
    if lost:
        raise UserError(
            f"conf/ has changed since this sweep and can't say {', '.join(lost[:5])} any more; "
            "nothing is written"
        )
    return file
