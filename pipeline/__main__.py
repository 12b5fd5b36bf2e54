"""The command ``petfaces``, same as ``python -m pipeline``; the stages are separate Hydra programs."""

import os
from importlib import import_module, metadata
from pathlib import Path

import click

from pipeline.common import errors, log
from pipeline.common.paths import ROOT

# Module and help line of each command: a module is imported only when its command runs.
COMMANDS = {
    "predict": ("pipeline.inference.predict", "Name the classes in photos."),
    "export": (
        "pipeline.inference.export",
        "Write a model's folder: ONNX, weights, model card, example and a page to try it.",
    ),
    "serve": (
        "pipeline.inference.serve",
        "Answer uploads from an exported model; FOLDER is what export wrote.",
    ),
    "leaderboard": (
        "pipeline.reporting.leaderboard",
        "Compare the candidates of params.yaml's data set on the test split.",
    ),
    "sweeps": (
        "pipeline.sweeps.show",
        "Write a sweep's page and print its best configurations; without a name, list the sweeps.",
    ),
    "registry": (
        "pipeline.maintenance.champion",
        "Say who is champion, since when and why; promote another version, or go back.",
    ),
    "reproduce": (
        "pipeline.maintenance.reproduce",
        "Rebuild a registered version, and say whether the weights are the same.",
    ),
    "verify": (
        "pipeline.maintenance.verify",
        "Read all of data/, runs/, DVC's cache and MLflow's models, and name what is damaged.",
    ),
    "tracking": (
        "pipeline.tracking.cli",
        "Keep MLflow, the mirror of the files, complete, and show its page.",
    ),
    "config": (
        "pipeline.config.cli",
        "Write the choice of a config group into params.yaml, as in data=petfaces.",
    ),
}
PLUGINS = "petfaces.commands"  # entry points of other packages: each a command


class Commands(click.Group):
    """Imports commands lazily, and reports their errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(metadata.entry_points(group=PLUGINS).names - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return import_module(COMMANDS[cmd_name][0]).main
        for entry in metadata.entry_points(group=PLUGINS, name=cmd_name):
            try:
                return entry.load()
            except Exception as error:  # whatever another package raises while it is imported
                message = f"the command {cmd_name} of {entry.dist.name} can't be loaded: {error}"
                raise click.ClickException(message) from error
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, help_line) for name, (_, help_line) in COMMANDS.items()]
        plugins = sorted(metadata.entry_points(group=PLUGINS), key=lambda entry: entry.name)
        rows += [
            (entry.name, f"Provided by {entry.dist.name}.") for entry in plugins if entry.name not in COMMANDS
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with errors.in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            log.stop("Ctrl-C")


def _check_checkout() -> None:
    """Makes sure that ``petfaces`` does not act on another checkout than the one it is called in.

    Raises:
        UserError: it would.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "pipeline/__main__.py").is_file():
            if folder.resolve() != ROOT:
                raise errors.UserError(
                    f"this petfaces belongs to {ROOT}, and {folder} is another checkout; use that one's own "
                    ".venv, or run there: python -m pipeline"
                )
            return


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-q", "--quiet", "level", flag_value="warning", help="Show results, warnings and errors only.")
@click.option(
    "-v", "--verbose", "level", flag_value="debug", help="Show debugging messages and tracebacks, too."
)
def main(level: str | None) -> None:
    """Pet Faces: use, compare and keep trained models.

    The stages of the pipeline are programs of their own: python -m pipeline.train key=value.
    """
    if level:
        os.environ[log.VARIABLE] = level
    log.setup()
    _check_checkout()


if __name__ == "__main__":
    main(prog_name="petfaces")
