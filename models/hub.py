"""timm's weights on the Hugging Face hub, and which of its names may be meant."""

import difflib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import timm
from torch import nn

SECONDS = 8  # within which the hub must answer, names looked up included


class HubError(RuntimeError):
    """The hub does not give what was asked for; the message says why in a few words."""


def near(backbone: str, most: int = 5) -> list[str]:
    """Names of timm that may be meant: of nearly the same letters, of the same family, variants."""
    names = timm.list_models()
    family = re.match(r"[a-z]*", backbone.lower())[0]
    related = [name for name in names if family and re.match(rf"{family}(?![a-z])", name)]
    close = difflib.get_close_matches(backbone.lower(), names, n=3, cutoff=0.7)
    variants = [name for name in names if len(backbone) > 2 and backbone.lower() in name]
    return list(dict.fromkeys([*close, *related, *variants]))[:most]


def with_weights(backbone: str) -> list[str]:
    """Names of a backbone with each of the weights that timm has for it."""
    return timm.list_models(f"{backbone.partition('.')[0]}.*", pretrained=True)


def create(backbone: str, **options: object) -> nn.Module:
    """A timm network with weights from the hub, or from its cache where the hub does not answer.

    Args:
        backbone: a name that timm knows.
        options: further arguments of ``timm.create_model``.

    Raises:
        HubError: the hub does not answer, does not have the weights, or does not give them.
    """
    from huggingface_hub import constants

    wanted = timm.get_pretrained_cfg(backbone)
    if wanted is None or not wanted.has_weights:
        raise HubError("timm knows none")
    problem = None if constants.is_offline_mode() else _problem(wanted.hf_hub_id)
    with _quiet(), _offline(problem is not None or constants.is_offline_mode()):
        try:
            return timm.create_model(backbone, pretrained=True, **options)
        except Exception as error:  # the hub's client raises many kinds
            if constants.is_offline_mode():
                problem = problem or "HF_HUB_OFFLINE is set"
                raise HubError(f"{problem}, and its cache holds no such weights") from error
            raise HubError(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _problem(repository: str | None) -> str | None:
    """Why the hub will not give a repository; None where it will.

    timm would ask it for one file name after the other, each with retries: about a minute.
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
        except Exception as error:  # of its HTTP library
            return f"{constants.ENDPOINT} does not answer ({type(error).__name__})"

    return _within(SECONDS, ask, f"{constants.ENDPOINT} does not answer within {SECONDS} s")


def _within(seconds: float, ask: Callable[[], str | None], late: str) -> str | None:
    """What a function says, or `late`; no library's timeout covers the look-up of a name."""
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else late


@contextmanager
def _offline(chosen: bool) -> Iterator[None]:
    """Within, the hub's client looks into its cache only."""
    from huggingface_hub import constants

    former = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = chosen
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = former


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, the libraries that fetch weights log nothing: the error says it all."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm", "httpx", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
