"""The command ``petfaces``, also ``python -m pipeline``; the stages are separate Hydra programs."""

import ast
import os
from importlib import import_module, metadata
from pathlib import Path

import click

from pipeline.common import errors, log
from pipeline.common.paths import ROOT

COMMANDS = {  # modules, each with a Click command `main`; imported only when the command runs
    "predict": "pipeline.inference.predict",
    "export": "pipeline.inference.export",
    "serve": "pipeline.inference.serve",
    "leaderboard": "pipeline.reporting.leaderboard",
    "sweeps": "pipeline.sweeps.show",
    "registry": "pipeline.maintenance.champion",
    "reproduce": "pipeline.maintenance.reproduce",
    "verify": "pipeline.maintenance.verify",
    "tracking": "pipeline.tracking.cli",
    "config": "pipeline.config.cli",
}
PLUGINS = "petfaces.commands"  # entry-point group; each entry of another package is a Click command


class LazyGroup(click.Group):
    """Imports commands only when they run, and reports their errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(metadata.entry_points(group=PLUGINS).names - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return import_module(COMMANDS[cmd_name]).main
        for entry in metadata.entry_points(group=PLUGINS, name=cmd_name):
            try:
                return entry.load()
            except Exception as error:  # importing another package can raise anything
                message = f"the command {cmd_name} of {entry.dist.name} can't be loaded: {error}"
                raise click.ClickException(message) from error
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _help_line(module)) for name, module in COMMANDS.items()]
        plugins = [entry for entry in metadata.entry_points(group=PLUGINS) if entry.name not in COMMANDS]
        own = {entry.name: _help_line(entry.module) for entry in plugins if _source(entry.module).is_file()}
        rows += sorted((each.name, own.get(each.name, f"Provided by {each.dist.name}.")) for each in plugins)
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with errors.exit_on_user_error():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            log.stop("Ctrl-C")


def _source(module: str) -> Path:
    """The file of a module of this checkout."""
    return ROOT / f"{module.replace('.', '/')}.py"


def _help_line(module: str) -> str:
    """The first docstring line of a module's function ``main``, read without importing the module."""
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return ast.get_docstring(functions["main"]).partition("\n")[0]


def _check_checkout() -> None:
    """Checks that the current directory is in this checkout, or in none.

    Raises:
        UserError: it is in another checkout, whose files the user probably meant.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "pipeline/__main__.py").is_file():
            if folder.resolve() != ROOT:
                raise errors.UserError(
                    f"this petfaces belongs to {ROOT}, but {folder} is another checkout; activate its .venv, "
                    "or run there: python -m pipeline"
                )
            return


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-q", "--quiet", "level", flag_value="warning", help="Show results, warnings and errors only.")
@click.option("-v", "--verbose", "level", flag_value="debug", help="Show debug messages and tracebacks too.")
def main(level: str | None) -> None:
    """Pet Faces: use, compare and manage trained models.

    The stages of the pipeline are separate programs: python -m pipeline.train key=value.
    """
    if level:
        os.environ[log.VARIABLE] = level
    log.setup()
    _check_checkout()


if __name__ == "__main__":
    main(prog_name="petfaces")
