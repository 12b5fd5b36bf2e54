"""Messages go to standard error with level and job, results to standard output."""

import logging
import os
import sys

import pytest
from conftest import ended, petfaces

from pipeline.common import log
from pipeline.common.errors import UserError
from pipeline.stage import stage

_log = logging.getLogger("pipeline.example")


class Terminal:
    """A standard error that is a terminal."""

    def __init__(self):
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def _job(cfg) -> None:
    _log.debug("looks closely")
    _log.info("seed %d begins", cfg.seed)
    _log.warning("seed %d is slow", cfg.seed)
    log.result(f"seed {cfg.seed} is done")


def _run(monkeypatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["stage.py", *words])
    return ended(stage(_job))


def test_results_are_on_standard_output_and_all_else_on_standard_error(monkeypatch, capsys):
    assert _run(monkeypatch, "seed=3") is None
    shown = capsys.readouterr()
    assert shown.out == "test_log: seed 3 is done\n"
    assert shown.err == "test_log: seed 3 begins\ntest_log: warning: seed 3 is slow\n"


def test_each_line_of_a_sweep_names_its_job(monkeypatch, capsys, tmp_path):
    assert _run(monkeypatch, "--multirun", "seed=3,4", f"hydra.sweep.dir={tmp_path}") is None
    shown = capsys.readouterr()
    assert shown.out == "test_log job 0: seed 3 is done\ntest_log job 1: seed 4 is done\n"
    assert "test_log job 0: seed=3\n" in shown.err  # what it tries
    assert "test_log job 1: seed 4 begins\n" in shown.err


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_a_variable_sets_the_level_and_never_hides_a_result(monkeypatch, capsys, level, count):
    monkeypatch.setenv("PETFACES_LOG", level)
    _run(monkeypatch, "seed=3")
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1
    assert shown.err.count("\n") == count


def test_hydras_own_verbose_shows_debugging_messages(monkeypatch, capsys):
    _run(monkeypatch, "seed=3", "hydra.verbose=true")
    logging.getLogger().setLevel(logging.WARNING)  # Hydra has changed it
    assert "test_log: debug: looks closely" in capsys.readouterr().err


def test_an_unknown_level_is_named(monkeypatch, capsys):
    monkeypatch.setenv("PETFACES_LOG", "loud")
    assert (
        _run(monkeypatch, "seed=3")
        == "error: PETFACES_LOG=loud is unknown; use one of debug, info, warning, error"
    )


@pytest.mark.parametrize(("flag", "shown"), [("--quiet", False), ("--verbose", True)])
def test_the_commands_have_flags_that_programs_below_them_follow(monkeypatch, capsys, flag, shown):
    monkeypatch.setenv("PETFACES_LOG", "info")
    with pytest.raises(SystemExit):
        petfaces(flag, "sweeps", "no-such-sweep")
    err = capsys.readouterr().err
    assert "error: " in err
    assert ("Traceback" in err) == shown
    assert log.is_quiet() != shown
    assert os.environ["PETFACES_LOG"] == ("debug" if shown else "warning")


def test_only_a_terminal_gets_colours(monkeypatch, capsys):
    _log.warning("plain")
    assert capsys.readouterr().err == "warning: plain\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    _log.warning("shown")
    assert "\x1b[33m" in terminal.written and terminal.written.endswith("shown\n")
    terminal.written = ""
    monkeypatch.setenv("NO_COLOR", "1")
    _log.warning("shown")
    assert terminal.written == "warning: shown\n"


def test_no_message_holds_a_password_or_a_control_character(capsys):
    _log.warning("%s at %s", "a\x1b[2Jname", "http://ann:secret@host/x")
    assert capsys.readouterr().err == "warning: a\\x1b[2Jname at http://ann:***@host/x\n"


def test_an_error_ends_a_program_with_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        log.fail(UserError("no disk"))
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: no disk\n"
