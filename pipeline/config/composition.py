"""Composes configurations with Hydra, and turns composition errors into one-line messages."""

import re

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.common import yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import CONF, PARAMS, ROOT
from pipeline.common.text import printable, without_password
from pipeline.config import validate, wording
from pipeline.config.files import SHARED, choices, config_groups

_OVERRIDE = re.compile(r"[+~]*([\w./@-]+)=?(.*)", re.DOTALL)

# Resolves paths in conf/ against the project's root rather than the working directory.
OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)


def store_params() -> None:
    """Registers ``params.yaml`` in Hydra's ConfigStore as `params`, which ``conf/config.yaml`` includes.

    A key that names a config group selects a choice of it; any other key sets a value.

    Raises:
        UserError: ``conf/`` lacks a key or choice, or a number is octal or sexagesimal (`check_numbers`).
    """
    params = yaml_files.load(PARAMS)
    for file in CONF.rglob("*.yaml"):  # read by Hydra, not by yaml_files.load
        yaml_files.check_numbers(file)
    groups, values = [], {}
    for key, value in params.items():
        if key in config_groups():
            if key not in SHARED:
                raise UserError(
                    f"params.yaml: {key} is chosen per model; set it in conf/model/, or use {key}={value}"
                )
            if value not in choices(key):
                raise UserError(f"params.yaml: {key}: {wording.unknown_choice(value, choices(key))}")
            groups.append({f"override /{key}": value})
        else:
            values[key] = params._get_node(key)
    for key in values:
        if key not in wording.known_keys():
            raise UserError(wording.unknown(str(key)))
    ConfigStore.instance().store("params", {"defaults": groups, **values}, package="_global_")


def compose(*overrides: str) -> DictConfig:
    """Returns the configuration that a stage gets with these overrides, validated.

    Raises:
        UserError: it can't be composed, or is invalid.
    """
    store_params()
    try:
        cfg = _composed(*overrides)
    except Exception as error:
        raise UserError(explain(error, list(overrides))) from error
    validate.check(cfg)
    return cfg


def _composed(*overrides: str) -> DictConfig:
    """Composes `store_params` and these overrides without validation; Hydra's errors pass through."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def explain(error: Exception, overrides: list[str]) -> str:
    """One-line message, without passwords, for an error of Hydra, OmegaConf or a YAML file of ``conf/``.

    Args:
        error: the exception that composing raised.
        overrides: the overrides on the command line.
    """
    return without_password(_explain(error, overrides))


def _explain(error: Exception, overrides: list[str]) -> str:
    if isinstance(error, OverrideParseException):
        return (
            f"{printable(error.override)} is not an override; use KEY=VALUE, with quotes around values "
            "that have spaces, commas or brackets: KEY='\"a, b\"'"
        )
    if broken := _broken_file():
        return broken
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error)
    text = str(error).strip() or str(error.__cause__ or type(error).__name__).strip()
    if found := re.match(r"Could not override '([^']+)'", text):
        key = found[1]
        if key.startswith("hydra."):
            return f"{printable(key)} is not a key of Hydra; --cfg hydra lists all"
        if "/" in key or "@" in key or key in config_groups():
            return f"{printable(key)} is not a group of conf/; choose one of {', '.join(config_groups())}"
        return wording.unknown(key, _selected(key.partition(".")[0], overrides))
    if found := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{printable(found[1])}: the key exists already; omit the +"
    if found := re.match(r"Multiple values for ([\w/]+)\.", text):
        group = found[1]
        return f"+{group}=…: {group} has a choice already; omit the +"
    if found := re.match(r"Ambiguous value for argument '([^']+)'", text):
        word = printable(found[1])
        key, _, value = word.partition("=")
        return f"{word}: several values need --multirun; write a list as {key}=[{value}]"
    if "Config group override must be" in text:
        words = printable(" ".join(overrides))
        return f"{words}: choose one file per group, such as model=scratch"
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = f"{text.removeprefix('Error merging override ')}: {error.__cause__}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        text = f"{type(error).__name__}: {text}"
    text = re.split(r"\n\s*(?:To append|Config search path|full_key|object_type)", text)[0]
    return f"configuration: {printable(' '.join(text.split()))}"


def _broken_file() -> str | None:
    """The error of the first unreadable file among ``params.yaml`` and ``conf/``; None if there is none."""
    for file in (PARAMS, *sorted(CONF.rglob("*.yaml"))):
        try:
            yaml_files.load(file)
        except UserError as error:
            return str(error)
    return None


def _missing(error: MissingConfigException) -> str:
    group, _, name = error.missing_cfg_file.partition("/")
    if not name:
        return f"there is no conf/{printable(group)}.yaml"
    by = re.match(r"In '([^']+)'", str(error))
    where = f"conf/{by[1]}.yaml: " if by and by[1] != "config" else ""
    return f"{where}{group}={wording.unknown_choice(name, choices(group))}"


def _selected(group: str, overrides: list[str]) -> str | None:
    """The choice of a group that these overrides select; None if it can't be determined."""
    matches = [_OVERRIDE.match(word) for word in overrides]
    groups = [match[0] for match in matches if match and match[1] in config_groups()]
    for match in reversed(matches):
        if match and match[1] == group:
            return match[2]
    try:
        return _composed(*groups)[group].get("name") if group in config_groups() else None
    except Exception:  # the overrides have another error too
        return None
