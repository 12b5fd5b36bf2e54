"""Composes configurations with Hydra."""

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from pipeline.common import yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import CONF, PARAMS, ROOT
from pipeline.config import wording
from pipeline.config.files import SHARED, choices, config_groups

# Resolves paths in conf/ against the project's root rather than the working directory.
OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)


def store_params() -> None:
    """Registers ``params.yaml`` in Hydra's ConfigStore as `params`, which ``conf/config.yaml`` includes.

    A key that names a config group selects a choice of it; any other key sets a value.

    Raises:
        UserError: a key or choice is unknown to ``conf/``, or YAML reads a number as another one.
    """
    params = yaml_files.load(PARAMS)
    for file in CONF.rglob("*.yaml"):  # read by Hydra, not by yaml_files.load
        yaml_files.check_numbers(file)
    groups, values = [], {}
    for key, value in params.items():
        if key in config_groups():
            if key not in SHARED:
                raise UserError(
                    f"params.yaml: {key} belongs to one model; choose it in conf/model/ or by {key}={value}"
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


def composed(*overrides: str) -> DictConfig:
    """Composes `store_params` and these overrides without validation; Hydra's errors pass through."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))
