"""The command ``petfaces``, same as ``python -m pipeline``; the stages are separate Hydra programs."""

import sys
from importlib import import_module, metadata

import click

from pipeline.common import errors

# Module and help line of each command: a module is imported only when its command runs.
COMMANDS = {
    "predict": ("pipeline.inference.predict", "Name the classes in photos."),
    "export": ("pipeline.inference.export", "Write a model's folder, to take along."),
    "serve": ("pipeline.inference.serve", "Answer uploads from an exported model."),
    "leaderboard": ("pipeline.reporting.leaderboard", "Compare the candidates on the test split."),
    "sweeps": ("pipeline.sweeps.show", "Show a sweep's best configurations."),
    "registry": ("pipeline.maintenance.champion", "List, promote and roll back champions."),
    "reproduce": ("pipeline.maintenance.reproduce", "Rebuild a registered version."),
    "verify": ("pipeline.maintenance.verify", "Find what is damaged, and repair it."),
    "tracking": ("pipeline.tracking.cli", "Complete MLflow from the files; open its page."),
    "config": ("pipeline.config.cli", "Choose a data set for params.yaml."),
}
FURTHER = "petfaces.commands"  # entry points by which other packages add commands


class Commands(click.Group):
    """Imports commands lazily, and reports their errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(metadata.entry_points(group=FURTHER).names)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return import_module(COMMANDS[cmd_name][0]).main
        plugins = metadata.entry_points(group=FURTHER, name=cmd_name)
        return next(iter(plugins)).load() if plugins else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, help_line) for name, (_, help_line) in COMMANDS.items()]
        plugins = sorted(metadata.entry_points(group=FURTHER), key=lambda entry: entry.name)
        rows += [(entry.name, f"Of the package {entry.dist.name}.") for entry in plugins]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with errors.in_one_line():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stopped: Ctrl-C", file=sys.stderr)
            sys.exit(130)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Pet Faces: use, compare and keep trained models.

    The stages of the pipeline are programs of their own: python -m pipeline.train key=value.
    """


if __name__ == "__main__":
    main(prog_name="petfaces")
