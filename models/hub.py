"""timm's weights on the Hugging Face Hub, and suggestions for misspelled names."""

import difflib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import timm
from torch import nn

from pipeline.portable import within

SECONDS = 8  # timeout of the hub, including DNS, which the timeouts of HTTP libraries don't cover


class HubError(RuntimeError):
    """The hub does not provide the weights; the message gives a short reason."""


def similar_names(backbone: str, most: int = 5) -> list[str]:
    """timm's names similar to an unknown one: close spellings, the same family, variants."""
    names = timm.list_models()
    family = re.match(r"[a-z]*", backbone.lower())[0]
    related = [name for name in names if family and re.match(rf"{family}(?![a-z])", name)]
    close = difflib.get_close_matches(backbone.lower(), names, n=3, cutoff=0.7)
    variants = [name for name in names if len(backbone) > 2 and backbone.lower() in name]
    return list(dict.fromkeys([*close, *related, *variants]))[:most]


def with_weights(backbone: str) -> list[str]:
    """A backbone's names with each tag of pretrained weights that timm has for it."""
    return timm.list_models(f"{backbone.partition('.')[0]}.*", pretrained=True)


def create(backbone: str, **options: object) -> nn.Module:
    """A timm network with weights from the hub, or from the local cache if the hub is unreachable.

    Args:
        backbone: name of a timm model.
        options: further arguments of ``timm.create_model``.

    Raises:
        HubError: the hub is unreachable, or does not have the weights or refuses them.
    """
    from huggingface_hub import constants

    wanted = timm.get_pretrained_cfg(backbone)
    if wanted is None or not wanted.has_weights:
        raise HubError("timm knows none")
    problem = None if constants.is_offline_mode() else _problem(wanted.hf_hub_id)
    with _quiet(), _offline(problem is not None or constants.is_offline_mode()):
        try:
            return timm.create_model(backbone, pretrained=True, **options)
        except Exception as error:  # the hub's client raises many types
            if constants.is_offline_mode():
                problem = problem or "HF_HUB_OFFLINE is set"
                raise HubError(f"{problem}, and its cache holds no such weights") from error
            raise HubError(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _problem(repository: str | None) -> str | None:
    """Why the hub can't provide a repository, or None if it can.

    Checked first because timm tries one file name after another, each with retries: about a minute.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    def ask() -> str | None:
        try:
            if repository:
                HfApi().model_info(repository, timeout=SECONDS / 2)
            return None
        except GatedRepoError:
            return f"{constants.ENDPOINT} wants an account for {repository}: huggingface-cli login"
        except RepositoryNotFoundError:
            return f"{constants.ENDPOINT} has no {repository}"
        except HfHubHTTPError as error:
            return f"{constants.ENDPOINT} answers {error.response.status_code}"
        except (KeyError, TypeError, ValueError, AttributeError):
            return f"{constants.ENDPOINT} does not answer as a hub does"
        except Exception as error:  # errors of its HTTP library
            return f"{constants.ENDPOINT} does not answer ({type(error).__name__})"

    try:
        return within(SECONDS, ask)
    except TimeoutError:
        return f"{constants.ENDPOINT} does not answer within {SECONDS} s"


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Within, if `chosen`, the hub's client uses only its cache."""
    from huggingface_hub import constants

    previous = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = previous


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what libraries log while they download weights; the error has all the information."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)
