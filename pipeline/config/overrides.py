"""Finds a minimal set of overrides for a resolved configuration and writes it to ``conf/experiment/``.

Overrides are a choice for each config group, then the values that differ from those choices. They omit values
that follow from another override (the keys of another model, or ``model.input.size`` from ``data.side``).
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
from pipeline.config.composition import compose

BY_NAME = ("data", "model")  # config groups whose choice is found by the name in its file
BY_CONTENT = ("augment", "trainer")


@dataclass
class Overrides:
    """The overrides that reproduce a configuration.

    Attributes:
        choices: choice by group, for `BY_NAME` and `BY_CONTENT`.
        values: values by dotted key that differ from the composed choices.
        default: groups whose choice the model and ``params.yaml`` already imply.
    """

    choices: dict[str, str]
    values: dict[str, object]
    default: frozenset[str] = frozenset()


class OverrideFinder:
    """Finds the overrides of configurations; caches compositions and files."""

    def __init__(self):
        self._composed = functools.cache(compose)
        self._files = functools.cache(_files)
        self._plain = functools.cache(lambda *overrides: _resolved(self._composed(*overrides)))

    def find(self, settings: dict) -> Overrides:
        """Returns the minimal overrides that compose to these settings.

        Args:
            settings: a resolved configuration, such as ``config.yaml`` of a train folder.

        Raises:
            UserError: the file of its data set or model is no longer in ``conf/``.
        """
        choices = {}
        for group in BY_NAME:
            choices[group] = settings[group]["name"]
            if choices[group] not in conf_files.choices(group):
                raise UserError(f"conf/{group}/{choices[group]}.yaml no longer exists; restore it from git")
        named_only = self._composed(*(f"{key}={value}" for key, value in choices.items()))
        default = set()
        for group in BY_CONTENT:
            implied = self._nearest(group, _part(group, OmegaConf.to_container(named_only, resolve=True)))
            choices[group] = self._nearest(group, _part(group, settings), implied)
            if choices[group] == implied:
                default.add(group)
        overrides = [f"{key}={value}" for key, value in choices.items()]
        values = _values(self._composed(*overrides), self._plain(*overrides), settings)
        return Overrides(choices, values, frozenset(default))

    def _nearest(self, group: str, tree: dict, preferred: str | None = None) -> str:
        """The choice of a group with the fewest characters to override; ties go to `preferred`."""
        files = self._files(group)

        def cost(choice: str) -> tuple[int, bool, str]:
            plain = files[choice]
            diff = [value for key, value in conf_files.flat(tree) if key not in plain or plain[key] != value]
            return sum(map(len, map(str, diff))), choice != preferred, choice

        return min(files, key=cost)


def _resolved(cfg: DictConfig) -> dict[str, object]:
    """A configuration's values by dotted key, without interpolations."""
    return dict(conf_files.flat(OmegaConf.to_container(cfg, resolve=True)))


def _part(group: str, tree: dict) -> dict:
    """The part of a configuration that a group's file defines; a trainer's file also defines `runtime`."""
    return {key: tree.get(key, {}) for key in ("trainer", "runtime")} if group == "trainer" else tree[group]


def _files(group: str) -> dict[str, dict]:
    """The values of each file of a group, by choice and dotted key."""
    return {
        choice: dict(conf_files.flat(yaml_files.read(CONF / group / f"{choice}.yaml")))
        for choice in conf_files.choices(group)
    }


def _values(base: DictConfig, plain: dict, settings: dict) -> dict:
    """Values by dotted key that differ from a composed configuration and don't follow from other differences.

    Args:
        base: the composed configuration, with interpolations.
        plain: the same, resolved, by dotted key.
        settings: the configuration to reproduce.
    """
    added = tuple(f"{key}." for key in components.ALLOWED)  # keys that no group file has to define
    wanted = {key: value for key, value in conf_files.flat(settings) if key in plain or key.startswith(added)}

    def is_interpolated(key: str) -> bool:
        *parents, last = key.split(".")
        node = functools.reduce(lambda tree, parent: tree[parent], parents, base)
        return OmegaConf.is_interpolation(node, last)

    values = {
        key: value
        for key, value in wanted.items()
        if key not in plain or (plain[key] != value and not is_interpolated(key))
    }
    overridden = base.copy()
    for key, value in values.items():
        OmegaConf.update(overridden, key, value, force_add=True)
    result = _resolved(overridden)
    return values | {key: value for key, value in wanted.items() if result.get(key) != value}


def experiment_yaml(overrides: Overrides, comment: list[str]) -> str:
    """Contents of the experiment file; always includes data and model, on which its results depend."""
    # Hydra reads the package directive only in a file's first 512 bytes.
    lines = ["# @package _global_", *(f"# {line}".rstrip() for line in comment), "defaults:"]
    lines += [
        f"  - override /{group}: {choice}"
        for group, choice in overrides.choices.items()
        if group in BY_NAME or group not in overrides.default
    ]
    tree = OmegaConf.create()
    for key, value in overrides.values.items():
        if key != "seed":  # left to the user of the experiment
            OmegaConf.update(tree, key, value)
    body = OmegaConf.to_yaml(tree) if len(tree) else ""
    return "\n".join(lines) + "\n" + body


def check_name(name: str) -> Path:
    """Returns the path of a new experiment's file.

    Raises:
        UserError: the name is invalid or exists already.
    """
    file = CONF / "experiment" / f"{name}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,99}", name):
        raise UserError(f"'{name[:100]}' is not an experiment name; use up to 100 letters, digits, _ and -")
    if file.exists():
        raise UserError(f"conf/experiment/{name}.yaml exists already; choose another name, or delete it")
    return file


def save(name: str, overrides: Overrides, settings: dict, comment: list[str]) -> Path:
    """Writes ``conf/experiment/NAME.yaml``, verifies that it composes to `settings`, and returns its path.

    Raises:
        UserError: the name is invalid or exists, or ``conf/`` can no longer express these settings.
    """
    file = check_name(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(experiment_yaml(overrides, comment), encoding="utf-8")
    try:
        plain = _resolved(compose(f"experiment={name}"))
        lost = [
            key
            for key, value in conf_files.flat(settings)
            if key != "seed" and (key not in plain or plain[key] != value)
        ]
        if lost:
            raise UserError(
                f"conf/ has changed since this sweep and can no longer express {', '.join(lost[:5])}; "
                "nothing was written"
            )
    except BaseException:
        file.unlink()
        raise
    return file
