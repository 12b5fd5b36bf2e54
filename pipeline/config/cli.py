"""The command ``petfaces config``."""

import click

from pipeline.config.files import choose


@click.command()
@click.argument("choice", metavar="GROUP=CHOICE")
def main(choice: str) -> None:
    """Write the choice of a config group into params.yaml, as in data=petfaces."""
    group, equals, name = choice.partition("=")
    if not equals:
        raise click.UsageError("write GROUP=CHOICE, as in data=petfaces")
    choose(group, name)
