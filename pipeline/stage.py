"""Makes a Hydra program of a stage's function."""

import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline import config
from pipeline.artifacts.lineage import settings_of
from pipeline.artifacts.resume import effective
from pipeline.common import text
from pipeline.common.errors import StoppedError, UserError, os_errors_as_user_errors
from pipeline.common.paths import CONF
from pipeline.config import compose_errors, validate
from pipeline.sweeps import resume


def _settings_hash(*, _root_: DictConfig) -> str:
    """Names a sweep's job by what it trains: its number says so only within one run of one sweeper."""
    cfg = OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])
    try:
        tree = effective(settings_of(cfg))
    except Exception:  # whatever is wrong, the job itself tells it, and ends no other
        tree = OmegaConf.to_container(cfg, resolve=False)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]


OmegaConf.register_new_resolver("settings_hash", _settings_hash, replace=True)


def stage(function: Callable[[DictConfig], object]) -> Callable[[], None]:
    """Makes a Hydra program of a stage's function; a UserError ends it in one line and status 1.

    In a sweep a job that fails, by whatever exception, does not end the others; the program then ends with
    status 1 (see `pipeline.sweeps.resume`).
    """
    full = None  # what the person's environment says of HYDRA_FULL_ERROR

    @functools.wraps(function)
    def guarded(cfg: DictConfig) -> object:
        job = HydraConfig.get()
        try:
            if job.mode == RunMode.MULTIRUN:
                return resume.run_job(lambda: _checked(function, cfg, job), job)
            # From here on Hydra prints the traceback of a mistake in the code as it usually does.
            if full is None:
                os.environ.pop("HYDRA_FULL_ERROR", None)
            return _checked(function, cfg, job)
        except StoppedError as error:
            print(f"stopped: {error}", file=sys.stderr)
            sys.exit(128 + signal.SIGTERM)
        except KeyboardInterrupt:
            print("stopped by Ctrl-C; the same command goes on from what was kept", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except UserError as error:
            sys.exit(f"error: {error}")

    def program() -> None:
        nonlocal full
        full = os.environ.get("HYDRA_FULL_ERROR")
        # Hydra then raises what goes wrong while it composes instead of printing several lines.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            _refuse_recorded_password(sys.argv[1:])
            config.store_params()
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(guarded)()
        except UserError as error:
            sys.exit(f"error: {error}")
        except Exception as error:
            if full:
                raise
            sys.exit(f"error: {compose_errors.explain(error, sys.argv[1:])}")
        finally:
            os.environ.pop("HYDRA_FULL_ERROR", None)
            if full:
                os.environ["HYDRA_FULL_ERROR"] = full

    return program


def _refuse_recorded_password(words: list[str]) -> None:
    """Keeps passwords out of what Hydra and this project record of a sweep's command.

    Raises:
        UserError: a word has one.
    """
    for word in words if {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words) else ():
        if text.without_password(word) != word:
            raise UserError(
                f"{word}: a sweep's command is recorded with its password; name a mirror that needs one by "
                "the variable PETFACES_MIRROR instead"
            )


def _checked(function: Callable[[DictConfig], object], cfg: DictConfig, job: DictConfig) -> object:
    """Calls a stage's function if its configuration passes the check.

    Raises:
        UserError: it does not, or the function raised one.
    """
    for group in ("data", "augment", "model", "trainer"):
        if group not in job.runtime.choices:  # Hydra would merge the files of a list
            raise UserError(f"{group} takes the name of one file; to try several: --multirun {group}=A,B")
    validate.check(cfg)
    for group in ("data", "model"):
        # DVC knows a choice by its file's name, the stages by the name in it.
        if cfg[group].name != job.runtime.choices[group]:
            raise UserError(
                f"conf/{group}/{job.runtime.choices[group]}.yaml says name: {cfg[group].name}; "
                "file and name must be the same"
            )
    with os_errors_as_user_errors():
        return function(cfg)
