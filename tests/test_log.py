"""Messages go to standard error with level and job, results to standard output."""

import logging
import os
import sys

import pytest
from conftest import outcome, petfaces

from pipeline.common import log
from pipeline.common.errors import UserError
from pipeline.stage import stage

_log = logging.getLogger("pipeline.example")


class Terminal:
    """A stream that is a terminal."""

    def __init__(self):
        self.written = ""

    def write(self, text: str) -> None:
        self.written += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def _job(cfg) -> None:
    _log.debug("details")
    _log.info("seed %d starts", cfg.seed)
    _log.warning("seed %d is slow", cfg.seed)
    log.result(f"seed {cfg.seed} is done")


def _run(monkeypatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["stage.py", *words])
    return outcome(stage(_job))


def test_results_go_to_stdout_and_messages_to_stderr(monkeypatch, capsys):
    assert _run(monkeypatch, "seed=3") is None
    shown = capsys.readouterr()
    assert shown.out == "test_log: seed 3 is done\n"
    assert shown.err == "test_log: seed 3 starts\ntest_log: warning: seed 3 is slow\n"


def test_each_line_of_a_sweep_names_its_job(monkeypatch, capsys, tmp_path):
    assert _run(monkeypatch, "--multirun", "seed=3,4", f"hydra.sweep.dir={tmp_path}") is None
    shown = capsys.readouterr()
    assert shown.out == "test_log job 0: seed 3 is done\ntest_log job 1: seed 4 is done\n"
    assert "test_log job 0: seed=3\n" in shown.err  # its overrides
    assert "test_log job 1: seed 4 starts\n" in shown.err


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_petfaces_log_sets_the_level_and_hides_no_result(monkeypatch, capsys, level, count):
    monkeypatch.setenv("PETFACES_LOG", level)
    _run(monkeypatch, "seed=3")
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1
    assert shown.err.count("\n") == count


def test_hydra_verbose_shows_debug_messages(monkeypatch, capsys):
    _run(monkeypatch, "seed=3", "hydra.verbose=true")
    logging.getLogger().setLevel(logging.WARNING)  # Hydra changed it
    assert "test_log: debug: details" in capsys.readouterr().err


def test_an_unknown_level_is_an_error(monkeypatch, capsys):
    monkeypatch.setenv("PETFACES_LOG", "loud")
    assert (
        _run(monkeypatch, "seed=3")
        == "error: PETFACES_LOG=loud is unknown; use one of debug, info, warning, error"
    )


@pytest.mark.parametrize(("flag", "shown"), [("--quiet", False), ("--verbose", True)])
def test_quiet_and_verbose_apply_to_subprocesses_too(monkeypatch, capsys, flag, shown):
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


def test_messages_hide_passwords_and_escape_control_characters(capsys):
    _log.warning("%s at %s", "a\x1b[2Jname", "http://ann:secret@host/x")
    assert capsys.readouterr().err == "warning: a\\x1b[2Jname at http://ann:***@host/x\n"


def test_an_error_exits_with_status_1_and_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        log.fail(UserError("no disk"))
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: no disk\n"
