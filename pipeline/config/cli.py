"""The command ``petfaces config``."""

import click

from pipeline.config.files import choose


@click.command()
@click.argument("choice", metavar="GROUP=CHOICE")
def main(choice: str) -> None:
    """Write the choice of a config group into params.yaml, such as data=petfaces."""
    group, equals, name = choice.partition("=")
    if not equals:
        raise click.UsageError("use GROUP=CHOICE, such as data=petfaces")
    choose(group, name)
