"""The programs ``python -m pipeline.tracking sync`` and ``ui``."""

import argparse
import sys

from pipeline import config
from pipeline.tracking.page import ui
from pipeline.tracking.replay import sync
from pipeline.tracking.store import reachable


@config.in_one_line()
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.tracking", description="MLflow, the mirror of the files."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="write into MLflow whatever it lacks of the files under runs/")
    page = commands.add_parser("ui", help="serve MLflow's page on this machine and print its links")
    page.add_argument("--port", type=int, default=5000)
    chosen = parser.parse_args(arguments)
    if chosen.command == "sync":
        sync()
    else:
        with reachable():
            ui(chosen.port)


if __name__ == "__main__":
    main(sys.argv[1:])
