"""A composed configuration that every stage would accept."""

from omegaconf import DictConfig

from pipeline.common.errors import UserError
from pipeline.config import compose_errors, validate
from pipeline.config.composition import composed, store_params


def compose(*overrides: str) -> DictConfig:
    """The configuration that a stage would get with these overrides, checked; for tests and programs.

    Raises:
        UserError: it can't be composed, or holds what no stage accepts.
    """
    store_params()
    try:
        cfg = composed(*overrides)
    except Exception as error:
        raise UserError(compose_errors.explain(error, list(overrides))) from error
    validate.check(cfg)
    return cfg
