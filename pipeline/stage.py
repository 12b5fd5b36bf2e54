"""Turns a stage's function into a Hydra program."""

import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline import config
from pipeline.artifacts.lineage import settings_of
from pipeline.artifacts.resume_state import result_settings
from pipeline.common import log, text
from pipeline.common.errors import StoppedError, UserError, os_errors_as_user_errors
from pipeline.common.paths import CONF
from pipeline.config import composition, validate
from pipeline.sweeps import resume


def _settings_hash(*, _root_: DictConfig) -> str:
    """Hash of a job's settings, for its folder: a job number is unique only within one run of the sweeper."""
    cfg = OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])
    try:
        tree = result_settings(settings_of(cfg))
    except Exception:  # the job itself reports the error, without ending other jobs
        tree = OmegaConf.to_container(cfg, resolve=False)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]


OmegaConf.register_new_resolver("settings_hash", _settings_hash, replace=True)


def stage(function: Callable[[DictConfig], object]) -> Callable[[], None]:
    """Turns a stage's function into a Hydra program that exits on a UserError with one line and status 1.

    In a sweep, a job that fails with any exception does not end the others; the program then exits with
    status 1 (see `pipeline.sweeps.resume`).
    """
    name = Path(function.__code__.co_filename).stem
    full_error = None  # the user's HYDRA_FULL_ERROR

    @functools.wraps(function)
    def guarded(cfg: DictConfig) -> object:
        job = HydraConfig.get()
        log.setup(name, verbose=job.verbose is True)  # a parallel launcher's processes start here
        try:
            if job.mode == RunMode.MULTIRUN:
                return resume.run_job(lambda: _checked(function, cfg, job), job)
            # From here on, Hydra shows unexpected exceptions as usual.
            if full_error is None:
                os.environ.pop("HYDRA_FULL_ERROR", None)
            return _checked(function, cfg, job)
        except StoppedError as error:
            log.stop(error, signal.SIGTERM)
        except KeyboardInterrupt:
            log.stop("Ctrl-C; run the same command again to continue from the last checkpoint")
        except UserError as error:
            log.fail(error)

    def program() -> None:
        nonlocal full_error
        log.setup(name)
        full_error = os.environ.get("HYDRA_FULL_ERROR")
        # Makes Hydra raise composition errors instead of printing several lines.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            _reject_recorded_password(sys.argv[1:])
            config.store_params()
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(guarded)()
        except UserError as error:
            log.fail(error)
        except Exception as error:
            if full_error:
                raise
            log.fail(composition.explain(error, sys.argv[1:]))
        finally:
            os.environ.pop("HYDRA_FULL_ERROR", None)
            if full_error:
                os.environ["HYDRA_FULL_ERROR"] = full_error

    return program


def _reject_recorded_password(args: list[str]) -> None:
    """Rejects passwords in a sweep's command, which Hydra and this project record.

    Raises:
        UserError: an argument contains one.
    """
    for arg in args if {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(args) else ():
        if text.without_password(arg) != arg:
            raise UserError(
                f"{arg}: a sweep's command is recorded with its password; set the mirror in the environment "
                "variable PETFACES_MIRROR instead"
            )


def _checked(function: Callable[[DictConfig], object], cfg: DictConfig, job: DictConfig) -> object:
    """Validates the configuration, calls a stage's function and returns its result.

    Raises:
        UserError: the configuration is invalid, or the function raised one.
    """
    for group in ("data", "augment", "model", "trainer"):
        if group not in job.runtime.choices:  # Hydra would merge a list of files
            raise UserError(f"{group} must be one name; to try several: --multirun {group}=A,B")
    validate.check(cfg)
    for group in ("data", "model"):
        # DVC identifies a choice by its file name, the stages by the name in the file.
        if cfg[group].name != job.runtime.choices[group]:
            raise UserError(
                f"conf/{group}/{job.runtime.choices[group]}.yaml has name: {cfg[group].name}; "
                "it must be the file's name"
            )
    with os_errors_as_user_errors():
        return function(cfg)
