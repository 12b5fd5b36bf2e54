"""One rule for configuration: ``conf/`` < ``params.yaml`` < experiment < the command line, by Hydra alone."""

import errno
import functools
import hashlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline import text

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PARAMS = ROOT / "params.yaml"

SHARED = ("data", "trainer")  # groups that params.yaml may choose; the others belong to a model

# Nothing phones home unasked; a person's own setting wins.
for _name, _value in {"NO_ALBUMENTATIONS_UPDATE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}.items():
    os.environ.setdefault(_name, _value)

# Every program imports this module before it prints.
text.tolerant_output()


def _one_line_for_ctrl_c(kind: type[BaseException], error: BaseException, trace) -> None:
    """A traceback for every exception that nobody catches, but not for Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped: Ctrl-C", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _one_line_for_ctrl_c

# Hydra would write below the working directory; the project's folders are below its root.
OmegaConf.register_new_resolver("root", lambda: str(ROOT), replace=True)


def _settings_hash(*, _root_: DictConfig) -> str:
    """Names a sweep's job by what it trains: its number says so only within one run of one sweeper."""
    from pipeline.lineage import settings_of
    from pipeline.unfinished import effective

    cfg = OmegaConf.masked_copy(_root_, [key for key in _root_ if key != "hydra"])
    try:
        tree = effective(settings_of(cfg))
    except Exception:  # whatever is wrong, the job itself tells it, and ends no other
        tree = OmegaConf.to_container(cfg, resolve=False)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]


OmegaConf.register_new_resolver("settings_hash", _settings_hash, replace=True)


class UserError(Exception):
    """Something a person can mend: the message says in one line what, where and what to do.

    Wherever it is shown or kept, addresses in it have no password.
    """

    def __str__(self) -> str:
        """The message; what it quotes of files and names can't steer a terminal."""
        # PyTorch puts the traceback of a loader's process before it, and ends the line.
        whole = super().__str__()
        _, found, message = whole.rpartition(f"{UserError.__module__}.{type(self).__qualname__}: ")
        return text.lines(text.without_password(message.removesuffix("\n") if found else whole))


class SharedError(UserError):
    """Ends all processes of a training alike: the first one tells it."""


class StoppedError(SharedError):
    """A signal asked to stop; what was reached is on the disk."""


def main_checkout() -> Path:
    """The checkout that holds the stores: ROOT, unless this is one of DVC's temporary copies."""
    parts = ROOT.parts
    for place in range(len(parts) - 2):
        if parts[place : place + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:place])
    return ROOT


def from_root(path: str | Path, base: Path = ROOT) -> Path:
    """Resolves a relative path from `base`, not from where the program was started; `~` is the home.

    Raises:
        UserError: it begins with `~` and the name of nobody here.
    """
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such home folder; write the whole path") from error


def config_groups() -> list[str]:
    """Names of the folders of ``conf/``."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


def choices(group: str) -> list[str]:
    """Names of the files of a config group."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a plain tree under dotted keys; a list is one value."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def store_params() -> None:
    """Hands ``params.yaml`` to Hydra as the config `params`, which ``conf/config.yaml`` lists.

    A string under the name of a config group chooses that group; any other key is a value.

    Raises:
        UserError: a key or a choice that ``conf/`` does not know, or a number that YAML reads as another.
    """
    from pipeline import validate, yaml_files

    params = yaml_files.load(PARAMS)
    for file in CONF.rglob("*.yaml"):  # which Hydra reads
        yaml_files.check_numbers(file)
    groups, values = [], {}
    for key, value in params.items():
        if key in config_groups():
            if key not in SHARED:
                raise UserError(
                    f"params.yaml: {key} belongs to one model; choose it in conf/model/ or by {key}={value}"
                )
            if value not in choices(key):
                raise UserError(f"params.yaml: {key}: {validate.unknown_choice(value, choices(key))}")
            groups.append({f"override /{key}": value})
        else:
            values[key] = params._get_node(key)
    for key in values:
        if key not in validate.known_keys():
            raise UserError(validate.unknown(str(key)))
    ConfigStore.instance().store("params", {"defaults": groups, **values}, package="_global_")


def compose(*overrides: str) -> DictConfig:
    """The configuration that a stage would get with these overrides, checked; for tests and programs.

    Raises:
        UserError: it can't be composed, or holds what no stage accepts.
    """
    from pipeline import compose_errors, validate

    store_params()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", list(overrides))
    except Exception as error:
        raise UserError(compose_errors.explain(error, list(overrides))) from error
    validate.check(cfg)
    return cfg


@contextmanager
def told() -> Iterator[None]:
    """Ends what the machine refuses (permissions, a full disk), and damaged models, in one line.

    Raises:
        UserError: in place of such an OSError (others are mistakes of the code and come through), or of
            `portable.DamagedError`, which can't derive from it.
    """
    try:
        yield
    except ValueError as error:
        from pipeline.portable import DamagedError

        if not isinstance(error, DamagedError):
            raise
        raise UserError(str(error)) from error
    except OSError as error:
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
        refused += (errno.ENAMETOOLONG, errno.ELOOP)
        if error.errno not in refused:
            raise
        name = text.shortened(error.filename or "a file", 200)
        raise UserError(
            f"{name} can't be read or written ({error.strerror}); make room or give permission, or name "
            "another place"
        ) from error


@contextmanager
def in_one_line() -> Iterator[None]:
    """Ends a program with status 1 where it raises what a person can mend; decorates its `main`."""
    try:
        with told():
            yield
    except UserError as error:
        sys.exit(f"error: {error}")


def stage(function: Callable[[DictConfig], object]) -> Callable[[], None]:
    """Makes a Hydra program of a stage's function; a UserError ends it in one line and status 1.

    In a sweep a job that fails, by whatever exception, does not end the others; the program then ends with
    status 1 (see `pipeline.sweeps.again`).
    """

    full = None  # what the person's environment says of HYDRA_FULL_ERROR

    @functools.wraps(function)
    def guarded(cfg: DictConfig) -> object:
        job = HydraConfig.get()
        try:
            if job.mode == RunMode.MULTIRUN:
                from pipeline.sweeps import again

                return again.run_job(lambda: _checked(function, cfg, job), job)
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
        from pipeline import compose_errors

        nonlocal full
        full = os.environ.get("HYDRA_FULL_ERROR")
        # Hydra then raises what goes wrong while it composes instead of printing several lines.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            _refuse_recorded_password(sys.argv[1:])
            store_params()
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
    from pipeline import validate

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
    with told():
        return function(cfg)


def choose(group: str, choice: str) -> None:
    """Writes the choice of a config group into ``params.yaml``, comments kept; nothing if it stands there.

    Raises:
        UserError: the choice is not known, or ``params.yaml`` has no such key.
    """
    if choice not in choices(group):
        raise UserError(f"{group}={choice} is not known; choose one of {', '.join(choices(group)) or 'none'}")
    former = PARAMS.read_text(encoding="utf-8")
    changed, found = re.subn(rf"(?m)^({group}: *)[^\s#]+", rf"\g<1>{choice}", former)
    if not found:
        raise UserError(f"params.yaml has no key {group}")
    if changed != former:
        PARAMS.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or "=" not in sys.argv[1]:
        sys.exit("usage: python -m pipeline.config GROUP=CHOICE   (writes it into params.yaml)")
    with in_one_line():
        choose(*sys.argv[1].split("=", 1))
