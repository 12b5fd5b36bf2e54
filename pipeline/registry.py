"""Who is champion: ``python -m pipeline.registry list | promote VERSION --why … | rollback --why …``"""

import argparse
import subprocess
import sys

from pipeline import config, text
from pipeline.config import ROOT, UserError

REASON = 300  # characters of a reason that are shown


def show(name: str) -> None:
    """Prints the versions of a data set and the changes of its champion.

    Raises:
        UserError: the registry has no such name.
    """
    from rich.console import Console
    from rich.table import Table

    from pipeline import tracking

    where = text.without_password(tracking.uri())
    table = Table(title=text.rich(f"versions of {name} at {where}"))
    for heading in ("version", "model", "test top-1", "", "commit"):
        table.add_column(heading, justify="right" if heading in ("version", "test top-1") else "left")
    for row in tracking.versions(name):
        top1 = "–" if row["test/top1"] is None else f"{row['test/top1']:.1%}"
        state = (
            "champion" if row["champion"] else f"taken back: {row['withdrawn']}" if row["withdrawn"] else ""
        )
        state = text.shortened(state, REASON)
        table.add_row(*map(text.rich, (row["version"], row["model"], top1, state, row["commit"][:12])))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for change in tracking.history(name):
        instead = f" instead of version {change.former}" if change.former else ""
        why = text.shortened(change.why, REASON)
        print(text.printable(f"{change.when}  version {change.version} became champion{instead}: {why}"))


def _refresh(name: str) -> None:
    """Lets the files follow the registry: the stage register copies the champion's, the report names it."""
    if not (ROOT / "runs" / name / "register").is_dir():
        return
    if config.compose().data.name != name:
        print(
            f"runs/{name}/register/champion/ still holds the former champion; after `data: {name}` in "
            "params.yaml run: dvc repro --force --single-item register && dvc repro"
        )
        return
    for command in (["repro", "--force", "--single-item", "register"], ["repro", "report"]):
        if subprocess.run([sys.executable, "-m", "dvc", *command], cwd=ROOT).returncode:
            raise UserError(f"the alias is set, but the files do not follow: dvc {' '.join(command)} failed")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.registry", description="Who is champion, since when and why."
    )
    parser.add_argument("--data", metavar="DATA", help="name in the registry; default: params.yaml's data")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="versions, and the changes of the champion")
    promoting = commands.add_parser("promote", help="make a version the champion")
    promoting.add_argument("version", type=int)
    backing = commands.add_parser("rollback", help="go back to the champion before this one")
    for each in (promoting, backing):
        each.add_argument("--why", required=True, help="kept with the change")
    given = parser.parse_args(arguments)
    try:
        from pipeline import tracking

        name = given.data or config.compose().data.name
        with tracking.reachable():
            if given.command == "promote":
                tracking.promote(name, str(given.version), given.why, by_person=True)
                print(f"registry: version {given.version} is champion of {name}", flush=True)
            elif given.command == "rollback":
                gone, back = tracking.withdraw(name, given.why)
                print(f"registry: version {back} is champion of {name} again, instead of {gone}", flush=True)
            else:
                show(name)
        if given.command != "list":
            _refresh(name)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
