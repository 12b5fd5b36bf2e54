"""Checks a composed configuration against `settings`; what is wrong is told in one line."""

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from pipeline.common.errors import UserError
from pipeline.common.text import printable
from pipeline.config.contradictions import contradictions
from pipeline.config.wording import adapter, explain


def check(cfg: DictConfig) -> None:
    """Checks every key and value of a composed configuration.

    Raises:
        UserError: an unknown key, a missing one, a value of another type or out of its range, or values that
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
    """Like `check`, of a resolved configuration as plain values."""
    try:
        adapter().validate_python(tree)
    except ValidationError as error:
        raise UserError(explain(error, tree)) from error
    for problem in contradictions(tree):
        raise UserError(problem)
