"""The command `petfaces`: quick help, plugins, the same exit codes everywhere, output for programs."""

import json
import subprocess
import sys

import click
import pytest
from conftest import ended, petfaces

from pipeline import __main__ as cli
from pipeline.common.errors import UserError


def test_help_imports_no_command():
    code = (
        "import sys; from pipeline.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print([name for name in sys.modules if name.startswith('pipeline.')], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0
    assert all(f"\n  {name} " in told.stdout for name in cli.COMMANDS)
    assert not any(module in told.stderr for module in cli.COMMANDS.values())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_its_first_line_is_listed(name, capsys):
    petfaces(name, "--help")
    assert f"Usage: petfaces {name}" in capsys.readouterr().out
    petfaces("--help")
    command = cli.LazyGroup().get_command(None, name)
    first_line = " ".join(command.help.partition("\n")[0].split())
    assert f" {name} {first_line}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UserError("the disk is gone"), 1, "error: the disk is gone"),
        (PermissionError(13, "Permission denied", "x"), 1, "error: x can't be read or written"),
        (KeyboardInterrupt(), 130, "stopped: Ctrl-C"),
        (click.UsageError("no"), 2, "Error: no"),
    ],
)
def test_errors_of_all_commands_end_alike(monkeypatch, capsys, error, status, told):
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: failing)
    with pytest.raises(SystemExit) as end:
        petfaces("failing")
    assert end.value.code == status
    assert told in capsys.readouterr().err


def test_another_package_adds_a_command_by_an_entry_point(monkeypatch, capsys):
    class Entry:
        name, dist = "catalog", type("Dist", (), {"name": "petfaces-catalog"})

        @staticmethod
        def load() -> click.Command:
            return click.Command("catalog", callback=lambda: click.echo("labels"))

    class Found(list):
        names = frozenset(("catalog", "predict"))  # of which the latter is taken

    monkeypatch.setattr(
        cli.metadata,
        "entry_points",
        lambda group, name="catalog": Found([Entry()] if name == "catalog" else []),
    )
    petfaces("catalog")
    petfaces("--help")
    said = capsys.readouterr().out
    assert "labels" in said and "Provided by petfaces-catalog." in said


def test_another_checkout_is_not_changed_by_mistake(tmp_path, monkeypatch):
    (tmp_path / "pipeline").mkdir()
    for file in ("dvc.yaml", "pipeline/__main__.py"):
        (tmp_path / file).touch()
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    assert "is another checkout; activate its .venv" in ended(lambda: petfaces("config", "data=sample"))


def test_programs_get_json(repro, capsys):
    petfaces("leaderboard", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert {"model", "test/top1"} <= rows[0].keys()
    petfaces("registry", "list", "--json")
    told = json.loads(capsys.readouterr().out)
    assert any(version["champion"] for version in told["versions"]) and told["history"]
