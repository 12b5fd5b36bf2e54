"""The command ``petfaces catalog``: the web application, and what is done with its labels."""

import contextlib
import ipaddress
import logging
import re
import socket
import subprocess
from pathlib import Path

import click

from catalog import database_commands, running
from catalog.import_commands import import_labels, undo_import
from catalog.library import DATABASE_VARIABLE, Library, default_folder
from catalog.user_cli import user
from pipeline.common import log
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT, main_checkout
from pipeline.inference.loopback import is_loopback

PORT = 8300
EVERY_ADDRESS = ("", "0.0.0.0", "::")
DEMO = "Drawn faces"
DATA = {"single_label": "labels", "multi_label": "labels_multi"}  # the data set of a project's task


@click.group(invoke_without_command=True)
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), help="Where images and labels lie."
)
@click.option(
    "--database",
    envvar=DATABASE_VARIABLE,
    default="",
    metavar="URL",
    help="PostgreSQL, as postgresql://USER@HOST/NAME; instead of catalog.db in the folder.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address needs accounts.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 picks a free one."
)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="A name by which browsers reach the catalog, through a proxy for example; may be repeated.",
)
@click.pass_context
def main(
    ctx: click.Context, folder: Path | None, database: str, host: str, port: int, allowed: tuple[str, ...]
) -> None:
    """Label images in the browser, with a model's help; without a command, start the web application."""
    ctx.obj = Library(folder.resolve() if folder else default_folder(), database)
    if ctx.invoked_subcommand is None:
        serve(ctx.obj, host, port, allowed)


main.add_command(user)
main.add_command(import_labels)
main.add_command(undo_import)


def serve(library: Library, host: str, port: int, allowed: tuple[str, ...] = ()) -> None:
    """Runs the web application until Ctrl-C.

    Args:
        library: its files.
        host: address to listen on.
        port: port to listen on.
        allowed: names of this server besides those of loopback.

    Raises:
        UserError: others could reach it and there are no accounts, its name is unknown, or the port is taken.
    """
    is_shared = bool(allowed) or not is_loopback(host)
    for name in allowed:
        if not _is_host(name):
            raise UserError(
                f"--allow-host {name or repr(name)}: give a host's name without scheme, port, path or "
                "wildcard, such as catalog.example.org"
            )
    with running.server(library):
        _serve(library, host, port, allowed, is_shared)


def _is_host(name: str) -> bool:
    """Whether it is a host's name or address, as browsers send it without the port."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None  # others are sent as xn--…
    return True


def _serve(library: Library, host: str, port: int, allowed: tuple[str, ...], is_shared: bool) -> None:
    import uvicorn

    from catalog.app import application
    from catalog.belonging import open_catalog
    from catalog.store import accounts

    database = open_catalog(library, may_create=True)
    with database.read() as session:
        if is_shared and not accounts.exist(session):
            option = f"--allow-host {allowed[0]}" if allowed else f"--host {host}"
            raise UserError(
                f"{option} lets others reach the catalog, and it has no accounts; "
                "add yours first: petfaces catalog user add NAME"
            )
    if is_shared and not allowed and host in EVERY_ADDRESS:
        raise UserError(
            f"--host {host} is every address of this machine; say by which name browsers reach it: "
            "--allow-host catalog.example.org"
        )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; name another") from error
    hosts = [*allowed, host]
    app = application(database, library, hosts=hosts, needs_accounts=is_shared)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the browser gets the reason
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    click.echo(f"The catalog is at {address}; Ctrl-C ends it. Its files: {library.folder}")
    if not is_loopback(host):
        warning = "Passwords and images travel unencrypted; put a proxy with TLS in front: docs/catalog.md"
        click.echo(warning, err=True)
    settings = uvicorn.Config(app, ws="none", log_level="warning", timeout_graceful_shutdown=10)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after an orderly end
        uvicorn.Server(settings).run(sockets=[listener])


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True)
@click.pass_obj
def demo(library: Library, port: int) -> None:
    """Start with a project of the sample's drawn faces, without their labels."""
    from catalog.belonging import open_catalog
    from catalog.store import projects
    from catalog.store.tables import Source
    from pipeline.sources import archives, photos

    archive = main_checkout() / "data/sample/archive"
    if not archive.is_file():
        raise UserError("the sample isn't here yet; run: make demo")
    names = {
        Path(path).parent.name for path, _ in archives.members(archive) if photos.is_named_as_picture(path)
    }
    database = open_catalog(library, may_create=True)
    with database.write() as session:
        if not any(project.name == DEMO for project in projects.all_projects(session)):
            draft = projects.Draft(
                name=DEMO,
                task="single_label",
                source=Source.DATASET,
                source_path="sample",
                classes=tuple(sorted(names)),
                instructions="Each face is drawn, and each breed has its own colours and ears.",
                probable_keys=True,
            )
            projects.create(session, draft)
    database.close()
    serve(library, "127.0.0.1", port)


@main.command()
@click.argument("project")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=ROOT / "labels")
@click.pass_obj
def export(library: Library, project: str, out: Path) -> None:
    """Write PROJECT's labels as a snapshot, snapshot.tar, that the pipeline trains on."""
    task = _export(library, project, out)
    click.echo(f"To train on them: data={DATA[task]} with fetch.path={out / 'snapshot.tar'}")


def _export(library: Library, project: str, out: Path) -> str:
    """Writes the snapshot of a project; returns the project's task."""
    from catalog import export as exports
    from catalog.belonging import open_catalog
    from catalog.store import exported, projects

    with open_catalog(library).read() as session:
        labels = exported.labels(session, projects.by_name(session, project))
    file = exports.snapshot(labels, library, out)
    unknown, off = len(labels.images) - len(labels.labeled), len(labels.labeled) - len(labels.chosen)
    few = len(labels.chosen) - len(labels.trainable)
    click.echo(
        f"{file}: {len(labels.trainable):,} labels; left out: {unknown:,} unknown images, "
        f"{few:,} of classes with too few images to train on, "
        f"{off:,} of classes that are left out of training"
    )
    return labels.task


@main.command()
@click.argument("project")
@click.pass_obj
def retrain(library: Library, project: str) -> None:
    """Train, evaluate and register on PROJECT's labels; the champion then predicts in the project.

    In a project of the teach page the taught model goes on to answer.
    """
    task = _export(library, project, ROOT / "labels")
    # Standard DVC: writes the two values into params.yaml, and runs the stages that they change.
    settings = [f"data={DATA[task]}", "fetch.path=labels/snapshot.tar"]
    command = ["dvc", "exp", "run", *(word for setting in settings for word in ("-S", setting))]
    click.echo(f"$ {' '.join(command)}")
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        raise UserError(f"dvc ended with status {status}; see the messages above")
    if _is_taught(library, project):
        click.echo(f"The champion of {DATA[task]} has learned these images; to compare: petfaces leaderboard")
    else:
        _adopt(library, project, DATA[task])
        try:
            _take_over_suspects(library, project, DATA[task])
        except UserError as error:  # the training itself has succeeded
            click.echo(f"the label suspects stay as they were: {error}", err=True)


@main.command("suspects")
@click.argument("project")
@click.pass_obj
def find_suspects(library: Library, project: str) -> None:
    """Show on PROJECT's data page which labels the pipeline's audit doubts; retrain does this by itself."""
    from catalog.belonging import open_catalog
    from catalog.store import projects

    with open_catalog(library).read() as session:
        task = projects.by_name(session, project).task
    _take_over_suspects(library, project, DATA[task])


def _take_over_suspects(library: Library, project: str, data: str) -> None:
    from catalog import suspects
    from catalog.belonging import open_catalog

    count = suspects.take_over(open_catalog(library), project, data, ROOT)
    click.echo(f"{count:,} labels to look at again, on the project's page Data, in the order of the audit")


def _is_taught(library: Library, project: str) -> bool:
    from catalog.belonging import open_catalog
    from catalog.store import projects
    from catalog.store.tables import Kind

    with open_catalog(library).read() as session:
        return projects.by_name(session, project).kind == Kind.TEACH


@main.command("open")
@click.argument("source", type=click.Path(path_type=Path))
@click.pass_obj
def open_project(library: Library, source: Path) -> None:
    """Open a project that the teach page has saved: SOURCE is its zip, or the folder it was unpacked to."""
    from catalog import account, decoding
    from catalog.belonging import open_catalog
    from catalog.teach import saved_project

    if not source.exists():
        raise UserError(f"{source} is not there; name the zip that the teach page has saved, or its folder")
    database = open_catalog(library)
    try:
        opened = saved_project.open_saved(source, database, library, account.name())
    finally:
        decoding.close()
    reasons = "missing, damaged or in no class"
    left_out = f"; left out: {opened.left_out:,} that are {reasons}" if opened.left_out else ""
    click.echo(f"{opened.images:,} images{left_out}. Start the catalog and open /teach/{opened.project_id}")


@main.command()
@click.argument("project")
@click.argument("data")
@click.pass_obj
def adopt(library: Library, project: str, data: str) -> None:
    """Let the champion of the data set DATA predict in PROJECT; retrain does this by itself."""
    _adopt(library, project, data)


def _adopt(library: Library, project: str, data: str) -> None:
    from catalog import champions
    from catalog.belonging import open_catalog
    from catalog.store import projects

    database = open_catalog(library)
    with database.read() as session:
        found = projects.by_name(session, project)
        classes = [each.name for each in projects.classes(session, found.id)]
        task = found.task
    champion = champions.adopt(library, data, task, classes)
    with database.write() as session:
        projects.use_champion(session, projects.by_name(session, project), champion.name)
    click.echo(f"{champion.name} predicts in {project}, until a head trained there is right more often")


@main.command()
@click.option("--repair", is_flag=True, help="Set current labels to those of the events.")
@click.pass_obj
def verify(library: Library, repair: bool) -> None:
    """Check that all current labels follow from the recorded events."""
    from catalog.belonging import open_catalog
    from catalog.store import image_counts, labels, projects

    database = open_catalog(library)
    with database.read() as session:
        names = {project.id: project.name for project in projects.all_projects(session)}
        wrong = {key: sum(1 for _ in labels.differences(session, key)) for key in names}
    for key, count in wrong.items():
        if count and repair:
            with database.write() as session:
                labels.rebuild(session, key)
        repaired = " (repaired)" if count and repair else ""
        click.echo(f"{names[key]}: {count:,} labels differ from the events{repaired}")
    with database.read() as session:
        wrong_counts = image_counts.wrong(session)
    if wrong_counts and repair:
        with database.write() as session:
            image_counts.recount(session)
    if wrong_counts:  # they are derived, so nothing is lost
        repaired = " (repaired)" if repair else ""
        click.echo(f"{wrong_counts:,} stored numbers of images are wrong{repaired}")
    if (any(wrong.values()) or wrong_counts) and not repair:
        log.fail("labels differ from the events; petfaces catalog verify --repair sets them right")


for _command in (database_commands.copy_database, database_commands.backup, database_commands.restore):
    main.add_command(_command)
