"""Commands of ``petfaces catalog`` for labels from files."""

from pathlib import Path

import click

from catalog.library import Library
from pipeline.common import text
from pipeline.common.errors import UserError


@click.command("import")
@click.argument("project")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Import without asking.")
@click.option(
    "--replace",
    type=click.Choice(["none", "imported", "all"]),
    default="none",
    show_default=True,
    help="Labels here that differ from the file's: keep all, replace those that came from a file, or all.",
)
@click.option("--add-classes", is_flag=True, help="Add the file's classes that PROJECT doesn't have.")
@click.option("--without-tests", is_flag=True, help="Leave test images out.")
@click.option("--without-names", is_flag=True, help="Leave images out that only their file name tells.")
@click.pass_obj
def import_labels(
    library: Library,
    project: str,
    file: Path,
    yes: bool,
    replace: str,
    add_classes: bool,
    without_tests: bool,
    without_names: bool,
) -> None:
    """Give PROJECT's images the labels in FILE: Label Studio JSON, COCO or CSV.

    What would change is shown first. The import can be taken back with undo-import.
    """
    from catalog import account, importing, importing_report
    from catalog.belonging import open_catalog
    from catalog.store import import_preview, projects
    from catalog.store.imports import Choices, Replace

    if not file.is_file():
        raise UserError(f"{file} is not there; name a file of labels")
    database = open_catalog(library)
    found = importing.read_file(file)
    with database.read() as session:
        chosen = projects.labeled_by_name(session, project)
        shown, project_id = import_preview.preview(session, chosen, found.records), chosen.id
        unusable = import_preview.unusable_classes(session, chosen, shown.unknown_classes)
    importing_report.print_preview(found.format, shown, unusable)
    new = set(shown.unknown_classes) - set(unusable) if add_classes else set()
    choices = Choices(Replace(replace), frozenset(new), not without_tests, not without_names)
    if not importing_report.changes(shown, choices):
        click.echo("Nothing to import.")
        return
    if not yes:
        click.confirm(f"Import into {project}?", abort=True)
    about = text.shortened(text.path(file.name), 100), found.format
    try:
        done = importing.apply(database, project_id, found.records, choices, account.name(), *about)
    except importing.CutOffError as error:
        command = importing_report.undo_command(project, error.batch)
        raise UserError(f"{error}; to take them back: {command}") from error
    importing_report.print_done(done, project)


@click.command("undo-import")
@click.argument("project")
@click.argument("batch")
@click.pass_obj
def undo_import(library: Library, project: str, batch: str) -> None:
    """Take an import back by the BATCH that it has printed: images get the labels from before it."""
    from catalog import account, undoing
    from catalog.belonging import open_catalog
    from catalog.store import projects

    database = open_catalog(library)
    with database.read() as session:
        project_id = projects.by_name(session, project).id
    undone, kept = undoing.undo(database, project_id, batch, account.name())
    if not undone + kept:
        raise UserError(f"{project} has no such import; the command import prints its BATCH")
    click.echo(
        f"{undone:,} images have their labels from before again; {kept:,} were labeled since "
        "then or are open elsewhere, and stay"
    )
