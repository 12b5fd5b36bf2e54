"""The command ``petfaces tracking``."""

import click

from pipeline.tracking import restore, web_ui
from pipeline.tracking.store import reachable


@click.group()
def main() -> None:
    """Keep MLflow, the mirror of the files, complete, and show its page."""


@main.command()
def sync() -> None:
    """Write into MLflow whatever it lacks of the files under runs/."""
    restore.sync()


@main.command()
@click.option("--port", type=int, default=5000, show_default=True)
def ui(port: int) -> None:
    """Serve MLflow's page on this machine and print its links."""
    with reachable():
        web_ui.ui(port)
