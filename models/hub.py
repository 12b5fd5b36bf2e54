"""timm's weights on the Hugging Face Hub, and suggestions for misspelled names."""

import difflib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import timm
from torch import nn

from pipeline.portable import within

TIMEOUT_SECONDS = 8  # includes DNS, which the timeouts of HTTP libraries don't cover


class HubError(RuntimeError):
    """The hub does not provide the weights; the message gives a short reason."""


def similar_names(backbone: str, limit: int = 5) -> list[str]:
    """timm models with a name similar to an unknown one: close spellings, the same family, variants."""
    names = timm.list_models()
    family = re.match(r"[a-z]*", backbone.lower())[0]
    related = [name for name in names if family and re.match(rf"{family}(?![a-z])", name)]
    close = difflib.get_close_matches(backbone.lower(), names, n=3, cutoff=0.7)
    variants = [name for name in names if len(backbone) > 2 and backbone.lower() in name]
    return list(dict.fromkeys([*close, *related, *variants]))[:limit]


def tagged_names(backbone: str) -> list[str]:
    """A backbone's names with the tags of its pretrained weights, such as ``resnet18.a1_in1k``."""
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

    pretrained = timm.get_pretrained_cfg(backbone)
    if pretrained is None or not pretrained.has_weights:
        raise HubError("timm lists none")
    problem = None if constants.is_offline_mode() else _problem(pretrained.hf_hub_id)
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

    Checked first because timm tries one file name after another with retries, which takes about a minute.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    def query() -> str | None:
        try:
            if repository:
                HfApi().model_info(repository, timeout=TIMEOUT_SECONDS / 2)
            return None
        except GatedRepoError:
            return f"{constants.ENDPOINT} requires an account for {repository}: huggingface-cli login"
        except RepositoryNotFoundError:
            return f"{constants.ENDPOINT} has no {repository}"
        except HfHubHTTPError as error:
            return f"{constants.ENDPOINT} returns status {error.response.status_code}"
        except (KeyError, TypeError, ValueError, AttributeError):
            return f"{constants.ENDPOINT} is not a hub"
        except Exception as error:  # errors of the client's HTTP library
            return f"{constants.ENDPOINT} does not answer ({type(error).__name__})"

    try:
        return within(TIMEOUT_SECONDS, query)
    except TimeoutError:
        return f"{constants.ENDPOINT} does not answer within {TIMEOUT_SECONDS} s"


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Within the context, the hub's client uses only its cache if `offline`, else also the hub."""
    from huggingface_hub import constants

    previous = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = previous


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences all logging within the context; a failed download is reported by its exception."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(previous)
