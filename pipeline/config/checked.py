"""Composes and validates a configuration."""

from omegaconf import DictConfig

from pipeline.common.errors import UserError
from pipeline.config import compose_errors, validate
from pipeline.config.composition import composed, store_params


def compose(*overrides: str) -> DictConfig:
    """Composes the configuration that a stage gets with these overrides, and validates it.

    Raises:
        UserError: it can't be composed, or is invalid.
    """
    store_params()
    try:
        cfg = composed(*overrides)
    except Exception as error:
        raise UserError(compose_errors.explain(error, list(overrides))) from error
    validate.check(cfg)
    return cfg
