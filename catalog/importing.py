"""Imports a file of labels in two steps: the file waits with a preview until a person applies it."""

import dataclasses
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from catalog import exchange
from catalog.exchange.recognize import MAX_BYTES
from catalog.language import _, number
from catalog.library import Library
from catalog.store import Database, Session, import_preview, import_rows, imports
from catalog.store.bulk import PAUSE
from catalog.store.import_preview import Preview
from catalog.store.imports import Choices, Imported
from catalog.store.labels import Act
from catalog.store.tables import Action, Project
from catalog.sweep import OLD
from pipeline.common.errors import UserError

TRANSACTION = 500  # images: people can label between two transactions
_TOKEN = re.compile(r"[A-Za-z0-9_-]{24}")


@dataclass(frozen=True)
class Waiting:
    """An uploaded file with its preview, or with what was done once it is applied.

    Attributes:
        token: random; names its folder.
        project_id, person: who uploaded it, and for which project; nobody else can apply it.
        name: of the file, for display.
        format: of `exchange.Format`.
        preview: what it would have changed when it came.
        done: what it has changed; None before.
    """

    token: str
    project_id: int
    person: str
    name: str
    format: str
    preview: Preview
    done: Imported | None = None


_JSON = TypeAdapter(Waiting)


def read_file(file: Path) -> exchange.LabelFile:
    """The labels in a file.

    Raises:
        UserError: it is too large, or no file of labels.
    """
    if file.stat().st_size > MAX_BYTES:
        raise UserError(_("the file has more than {count} bytes; split it").format(count=number(MAX_BYTES)))
    return exchange.read(file.read_bytes())


def keep(
    database: Database, library: Library, project_id: int, person: str, name: str, file: Path
) -> Waiting:
    """Reads a file, computes its preview, and moves it to a folder of its own.

    Raises:
        UserError: it can't be imported; it is deleted.
    """
    try:
        found = read_file(file)
        with database.read() as session:
            shown = import_preview.preview(session, _project(session, project_id), found.records)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    _forget_old(library)
    waiting = Waiting(secrets.token_urlsafe(18), project_id, person, name, found.format, shown)
    folder = _folder(library, waiting.token)
    folder.mkdir(mode=0o700)
    file.rename(folder / "file")
    _write(folder, waiting)
    return waiting


def _project(session: Session, project_id: int) -> Project:
    project = session.get(Project, project_id)
    if project is None:
        raise UserError(_("there is no such project"))
    return project


def _folder(library: Library, token: str) -> Path:
    return library.temporary / f"import-{token}"


def _forget_old(library: Library) -> None:
    for folder in library.temporary.glob("import-*"):
        if time.time() - folder.stat().st_mtime > OLD:
            shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, waiting: Waiting) -> None:
    part = folder / "part.json"
    part.write_bytes(_JSON.dump_json(waiting))
    part.replace(folder / "waiting.json")


def find(library: Library, token: str, project_id: int, person: str) -> Waiting | None:
    """The file with this token; None if it isn't there, or belongs to another project or person."""
    if not _TOKEN.fullmatch(token):
        return None
    try:
        found = _JSON.validate_json((_folder(library, token) / "waiting.json").read_bytes())
    except FileNotFoundError:
        return None
    return found if (found.project_id, found.person) == (project_id, person) else None


def forget(library: Library, waiting: Waiting) -> None:
    """Deletes a file that waits."""
    shutil.rmtree(_folder(library, waiting.token), ignore_errors=True)


def apply_waiting(database: Database, library: Library, waiting: Waiting, choices: Choices) -> Imported:
    """Applies a file that waits, once.

    Raises:
        UserError: it was applied before, or is being applied now.
    """
    folder = _folder(library, waiting.token)
    try:
        (folder / "file").rename(folder / "applied")  # of two requests at once, one succeeds
    except FileNotFoundError:
        raise UserError(_("this file is being imported already, or was imported before")) from None
    try:
        records = read_file(folder / "applied").records
        done = apply(database, waiting.project_id, records, choices, waiting.person)
    except BaseException:
        (folder / "applied").rename(folder / "file")  # what was imported is found to be equal next time
        raise
    _write(folder, dataclasses.replace(waiting, done=done))
    (folder / "applied").unlink(missing_ok=True)
    return done


def apply(
    database: Database, project_id: int, records: list[exchange.Record], choices: Choices, person: str
) -> Imported:
    """Gives a project the labels of a file: one action, in several transactions.

    Raises:
        UserError: a new class can't be added; nothing is changed then.
    """
    act = Act.start(Action.IMPORT)
    done = Imported(batch=act.batch)
    with database.write() as session:
        done.added = imports.add_classes(session, _project(session, project_id), choices.new_classes, person)
    with database.read() as session:
        everything = import_rows.rows(session, _project(session, project_id), records)
    answers = {row.found.image_id: row.answer for row in everything if row.answer is not None}
    done.skipped = sum(row.answer is None for row in everything)
    ids = list(answers)
    for start in range(0, len(ids), TRANSACTION):
        chunk = {number: answers[number] for number in ids[start : start + TRANSACTION]}
        if start:
            time.sleep(PAUSE)
        with database.write() as session:
            imports.give(session, _project(session, project_id), chunk, choices, person, act, done)
    if done.new or done.replaced or done.added:
        with database.write() as session:
            imports.ask_for_suggestions(session, _project(session, project_id))
    return done
