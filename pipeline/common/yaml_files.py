"""Reads the project's YAML files; errors include the line."""

import io
import re
from contextlib import suppress
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.common.text import printable

# Values that YAML 1.1 reads as octal (010), hexadecimal, binary or sexagesimal (1:30) numbers.
_ODD_NUMBER = re.compile(
    r"""(?mx) ^ [^#'"\n]*? (?: :[ ]+ | -[ ]+ | [\[,][ ]* )
    ( [-+]? (?: 0[0-7_]+ | 0x[\da-fA-F_]+ | 0b[01_]+ | [1-9][\d_]*(?: :[0-5]?\d )+ ) )
    [ ]* (?= [,\]}\#] | $ )"""
)
_CONFLICT = re.compile(r"(?m)^(<{7}|\|{7}|>{7})( |$)")


def load(file: Path) -> DictConfig:
    """Loads a YAML mapping with OmegaConf; an empty file gives an empty mapping.

    Raises:
        UserError: the file is missing, not UTF-8, invalid YAML, not a mapping, or has git conflict markers.
    """
    name = _name(file)
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError as error:
        raise UserError(f"{name} is missing; restore it: git checkout -- {name}") from error
    except OSError as error:
        raise UserError(f"{name} can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: not UTF-8; save the file in UTF-8") from error
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        raise UserError(
            f"{name}, line {line}: git left conflict markers; keep one side and delete the lines that begin "
            "with <<<<<<<, ======= and >>>>>>>"
        )
    _check_numbers(name, text)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise UserError(f"{name}, line {root.start_mark.line + 1}: must be a mapping, key: value")
        return OmegaConf.create() if root is None else OmegaConf.load(io.StringIO(text))
    except yaml.YAMLError as error:
        raise UserError(f"{name}{_problem(error, text)}") from error
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{name}: {_first_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{name}: nested too deeply") from error


def check_numbers(file: Path) -> None:
    """Rejects numbers that YAML 1.1 reads as octal or sexagesimal: 010 is 8, 1:30 is 90.

    Raises:
        UserError: there is one.
    """
    with suppress(OSError, UnicodeDecodeError):  # reported when the file is read
        _check_numbers(_name(file), file.read_bytes().decode())


def _check_numbers(name: str, text: str) -> None:
    if found := _ODD_NUMBER.search(text):
        line, number = text.count("\n", 0, found.start(1)) + 1, found[1]
        raise UserError(
            f"{name}, line {line}: YAML reads {number} as {yaml.safe_load(number)}; write that, or "
            f"'{number}' for a string"
        )


def _name(file: Path) -> str:
    return printable(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)


def read(file: Path) -> dict:
    """Like `load`, as a dict; interpolations such as ``${data}`` are not resolved."""
    return OmegaConf.to_container(load(file))


def _first_line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def _problem(error: yaml.YAMLError, text: str) -> str:
    """Line and problem, to be appended to the file's name."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f", line {line}: character {error.character:#x} is not allowed in YAML; delete it"
    if mark is None:
        return f": {_first_line(error)}"
    problem = printable(error.problem or error.context)
    if r"'\t'" in problem:
        return f", line {mark.line + 1}: YAML does not allow a tab here; indent with spaces"
    return f", line {mark.line + 1}: {problem}; fix that line"
