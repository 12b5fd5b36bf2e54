"""Validates a composed configuration against `settings`, with one-line errors."""

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from pipeline.common.errors import UserError
from pipeline.common.text import printable
from pipeline.config.contradictions import contradictions
from pipeline.config.wording import adapter, explain


def check(cfg: DictConfig) -> None:
    """Validates every key and value of a composed configuration.

    Raises:
        UserError: a key is unknown or missing, a value has the wrong type or is out of range, or values
            contradict each other.
    """
    try:
        missing = OmegaConf.missing_keys(cfg) - {"out"}
        tree = OmegaConf.to_container(cfg, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"configuration: {printable(str(error).partition(chr(10))[0])}") from error
    if missing:
        raise UserError(f"{sorted(missing)[0]} has no value; set it")
    check_tree(tree)


def check_tree(tree: dict) -> None:
    """Like `check`, for a resolved configuration as plain values."""
    try:
        adapter().validate_python(tree)
    except ValidationError as error:
        raise UserError(explain(error, tree)) from error
    for problem in contradictions(tree):
        raise UserError(problem)
