"""The command `petfaces`: fast help, plugins, consistent exit codes, JSON output."""

import json
import subprocess
import sys

import click
import pytest
from conftest import outcome, petfaces

from pipeline import __main__ as cli
from pipeline.common.errors import UserError


def test_help_imports_no_command():
    code = (
        "import sys; from pipeline.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print([name for name in sys.modules if name.startswith('pipeline.')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)
    assert not any(module in done.stderr for module in cli.COMMANDS.values())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_and_its_first_line_is_listed(name, capsys):
    petfaces(name, "--help")
    assert f"Usage: petfaces {name}" in capsys.readouterr().out
    petfaces("--help")
    command = cli.LazyGroup().get_command(None, name)
    first_line = " ".join(command.help.partition("\n")[0].split())
    assert f" {name} {first_line}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("the disk is gone"), 1, "error: the disk is gone"),
        (PermissionError(13, "Permission denied", "x"), 1, "error: x can't be read or written"),
        (KeyboardInterrupt(), 130, "stopped: Ctrl-C"),
        (click.UsageError("no"), 2, "Error: no"),
    ],
)
def test_all_commands_report_errors_alike(monkeypatch, capsys, error, status, message):
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: failing)
    with pytest.raises(SystemExit) as end:
        petfaces("failing")
    assert end.value.code == status
    assert message in capsys.readouterr().err


def test_a_package_can_add_a_command_by_entry_point(monkeypatch, capsys):
    class Entry:
        name, module, dist = "catalog", "petfaces_catalog", type("Dist", (), {"name": "petfaces-catalog"})

        @staticmethod
        def load() -> click.Command:
            return click.Command("catalog", callback=lambda: click.echo("labels"))

    class Found(list):
        names = frozenset(("catalog", "predict"))  # `predict` is a built-in command

    monkeypatch.setattr(
        cli.metadata,
        "entry_points",
        lambda group, name="catalog": Found([Entry()] if name == "catalog" else []),
    )
    petfaces("catalog")
    petfaces("--help")
    output = capsys.readouterr().out
    assert "labels" in output and "Provided by petfaces-catalog." in output


def test_another_checkout_is_not_changed_by_mistake(tmp_path, monkeypatch):
    (tmp_path / "pipeline").mkdir()
    for file in ("dvc.yaml", "pipeline/__main__.py"):
        (tmp_path / file).touch()
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    assert "is another checkout; activate its .venv" in outcome(lambda: petfaces("config", "data=sample"))


def test_leaderboard_and_registry_print_json(repro, capsys):
    petfaces("leaderboard", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert {"model", "test/top1"} <= rows[0].keys()
    petfaces("registry", "list", "--json")
    registry = json.loads(capsys.readouterr().out)
    assert any(version["champion"] for version in registry["versions"]) and registry["history"]
