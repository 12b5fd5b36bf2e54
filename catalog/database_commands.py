"""Commands of ``petfaces catalog`` for whoever looks after its database: copy, back up, restore."""

import contextlib
from pathlib import Path

import click

from catalog import running
from catalog.library import DATABASE_VARIABLE, Library
from pipeline.common import log, text
from pipeline.common.errors import UserError


@click.command("copy-database")
@click.argument("target", metavar="URL")
@click.pass_obj
def copy_database(library: Library, target: str) -> None:
    """Copy the whole database to an empty one at URL, and check the copy.

    URL is postgresql://USER@HOST/NAME, or sqlite:////FOLDER/catalog.db to go back to a file. The catalog
    must be stopped: labels that were given meanwhile would stay behind.
    """
    from catalog import belonging
    from catalog.store import copying, identity, open_database

    with contextlib.ExitStack() as stack:
        if library.folder.is_dir():  # else it isn't made for the lock
            stack.enter_context(running.stopped(library))
        source = belonging.open_catalog(library)
        stack.callback(source.close)
        copy = open_database(target)
        stack.callback(copy.close)
        if identity.are_same(source, copy):
            raise UserError(f"{copy.name} is the catalog's own database; name an empty one")
        rows = copying.copy(source, copy, lambda name, count: click.echo(f"{name}: {count:,} rows"))
        belonging.record(library, copy)
        click.echo(f"{sum(rows.values()):,} rows are in {copy.name}; all labels follow from the events")
    click.echo(f"To use it: set {DATABASE_VARIABLE} to its URL, or start the catalog with --database URL")
    click.echo(f"{source.name} stays as it was; delete it once the catalog runs on the copy")


@click.command()
@click.argument("target", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def backup(library: Library, target: Path) -> None:
    """Back the catalog up to FOLDER, while people label.

    Images that FOLDER has are not copied again; those that were deleted for good are deleted there, too.
    """
    from catalog import backup as backups
    from catalog import belonging

    database = belonging.open_catalog(library)
    try:
        outcome = backups.write(library, database, target)
    except OSError as error:
        message = f"the backup to {target} was not finished ({error}); the last one there, if any, is whole"
        raise UserError(message) from error
    finally:
        database.close()
    click.echo(f"{target}: {outcome.images:,} images; {outcome.copied:,} files were new")
    _name_missing(outcome.missing, "in the catalog; read the images of the project again")


@click.command()
@click.argument("source", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def restore(library: Library, source: Path) -> None:
    """Make a catalog from the backup in FOLDER.

    --folder and --database, before `restore`, name the new catalog, which must be empty.
    """
    from catalog import backup as backups
    from catalog import belonging
    from catalog.store import open_database

    backups.check_target(library)
    with running.stopped(library):
        database = open_database(library.database)
        try:
            outcome = backups.restore(library, database, source)
            belonging.record(library, database)
            click.echo(
                f"{outcome.images:,} images and their labels are in {library.folder} and {database.name}"
            )
        finally:
            database.close()
    _name_missing(outcome.missing, "in the backup; everything else was restored")


def _name_missing(paths: tuple[str, ...], where: str) -> None:
    if paths:
        log.fail(f"{len(paths):,} image files are missing or damaged {where}: {text.listed(list(paths), 3)}")
