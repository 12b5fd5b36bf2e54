"""Imports a file of labels in two steps: the file waits with a preview until a person applies it."""

import logging
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from catalog import exchange
from catalog.exchange.recognize import MAX_BYTES
from catalog.language import _, number
from catalog.library import Library
from catalog.store import Database, Session, import_log, import_preview, import_rows, imports
from catalog.store.bulk import PAUSE
from catalog.store.imports import Choices, Imported
from catalog.store.labels import Act
from catalog.store.matching import By
from catalog.store.tables import Action, ImportState, LabelImport, Project
from pipeline.common.errors import UserError

TRANSACTION = 500  # images: people can label between two transactions
_BATCH = re.compile(r"[0-9a-f]{24}")  # no dash at its beginning: commands take it as an argument

_log = logging.getLogger(__name__)


class CutOffError(UserError):
    """An import that has ended halfway: some labels are in.

    Attributes:
        batch: by which they can be taken back.
        given: their number.
    """

    def __init__(self, batch: str, given: int, reason: str):
        self.batch, self.given = batch, given
        message = _("the import was cut off (labels that are in: {count}): {reason}")
        super().__init__(message.format(count=number(given), reason=reason))


def read_file(file: Path) -> exchange.LabelFile:
    """The labels in a file.

    Raises:
        UserError: it is too large, or no file of labels.
    """
    if file.stat().st_size > MAX_BYTES:
        raise UserError(_("the file has more than {count} bytes; split it").format(count=number(MAX_BYTES)))
    return exchange.read(file.read_bytes())


def keep(database: Database, library: Library, project_id: int, person: str, name: str, file: Path) -> str:
    """Reads a file, computes its preview, and keeps both until a person applies the file.

    Returns:
        The batch that its labels will have.

    Raises:
        UserError: it can't be imported; it is deleted.
    """
    batch = secrets.token_hex(12)
    kept = waiting_file(library, project_id, batch)
    try:
        found = read_file(file)
        with database.read() as session:
            shown = import_preview.preview(session, _project(session, project_id), found.records)
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.rename(kept)
        with database.write() as session:
            import_log.add(session, project_id, batch, person, name, found.format, shown)
    except BaseException:
        file.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
        raise
    return batch


def _project(session: Session, project_id: int) -> Project:
    project = session.get(Project, project_id)
    if project is None:
        raise UserError(_("there is no such project"))
    return project


def waiting_file(library: Library, project_id: int, batch: str) -> Path:
    """Where a file is that was not imported to its end."""
    return library.imports(project_id) / batch


def find(session: Session, project_id: int, batch: str, person: str) -> LabelImport | None:
    """The import with this batch; None if there is none, or if it is somebody else's file that waits."""
    entry = import_log.find(session, project_id, batch) if _BATCH.fullmatch(batch) else None
    is_foreign = entry is not None and entry.state == ImportState.WAITING and entry.person != person
    return None if is_foreign else entry


@contextmanager
def _claimed(library: Library, project_id: int, batch: str) -> Iterator[Path]:
    """The file of an import, for one request at a time; the system frees it if the program is killed.

    Raises:
        UserError: it was imported, or is being imported.
    """
    file = waiting_file(library, project_id, batch)
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        if file.exists():
            lock.acquire()
    except Timeout:
        raise UserError(_("this file is being imported already")) from None
    try:
        if not file.exists():
            raise UserError(_("this file was imported before, or is gone; choose it again"))
        yield file
        if not file.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def is_running(library: Library, project_id: int, batch: str) -> bool:
    """Whether a file is being imported now."""
    if not waiting_file(library, project_id, batch).exists():
        return False
    try:
        with _claimed(library, project_id, batch):
            return False
    except UserError:
        return True


def forget(database: Database, library: Library, project_id: int, batch: str) -> None:
    """Deletes a file of which no label was taken over.

    Raises:
        UserError: it is being imported, or labels of it are in.
    """
    lost = waiting_file(library, project_id, batch)
    with database.read() as session:
        _refuse_if_given(import_log.find(session, project_id, batch))  # before a file is made for it
    lost.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lost.touch()  # so that it can be claimed
    with _claimed(library, project_id, batch) as file:
        with database.write() as session:
            entry = import_log.find(session, project_id, batch)
            _refuse_if_given(entry)
            if entry is not None:
                session.delete(entry)
        file.unlink()


def _refuse_if_given(entry: LabelImport | None) -> None:
    if entry is not None and import_log.done(entry).given:
        raise UserError(_("labels of this file are in; undo the import instead"))


def apply_waiting(
    database: Database, library: Library, project_id: int, batch: str, choices: Choices
) -> Imported:
    """Applies a file that waits, or goes on with one that was cut off.

    Raises:
        UserError: it was applied before, or is being applied now.
        CutOffError: some of its labels are in.
    """
    with _claimed(library, project_id, batch) as file:
        records = read_file(file).records
        done = _apply(database, project_id, batch, records, choices)
        file.unlink()
    return done


def apply(
    database: Database,
    project_id: int,
    records: list[exchange.Record],
    choices: Choices,
    person: str,
    name: str = "",
    format_name: str = "",
) -> Imported:
    """Gives a project the labels of a file: one action, in several transactions.

    Raises:
        UserError: a new class can't be added; nothing is changed then.
        CutOffError: some of its labels are in.
    """
    batch = secrets.token_hex(12)
    with database.write() as session:
        _project(session, project_id)
        import_log.add(session, project_id, batch, person, name, format_name)
    try:
        return _apply(database, project_id, batch, records, choices)
    except CutOffError:
        raise
    except UserError:
        with database.write() as session:
            session.delete(import_log.find(session, project_id, batch))
        raise


def _entry(session: Session, project_id: int, batch: str) -> LabelImport:
    """The import, if it may go on.

    Raises:
        UserError: it was taken back, has ended, or is gone.
    """
    entry = import_log.find(session, project_id, batch)
    if entry is None or entry.state == ImportState.DONE:
        raise UserError(_("this file was imported before, or is gone; choose it again"))
    if entry.undone_at is not None:
        raise UserError(_("this import was taken back; choose the file again to import it"))
    return entry


def _apply(
    database: Database, project_id: int, batch: str, records: list[exchange.Record], choices: Choices
) -> Imported:
    with database.write() as session:
        entry, project = _entry(session, project_id, batch), _project(session, project_id)
        done, person = import_log.done(entry).again(), entry.person
        done.added += imports.add_classes(session, project, choices.new_classes, person)
        import_log.start(entry, choices, done)
    given = done.given
    try:
        with database.read() as session:
            everything = import_rows.rows(session, _project(session, project_id), records)
            before = import_log.labeled(session, _entry(session, project_id, batch))
        usable = [row for row in everything if row.answer is not None]
        done.skipped = len(everything) - len(usable)
        chosen = [row for row in usable if choices.with_names or row.found.by != By.NAME]
        done.named = len(usable) - len(chosen)
        answers = {row.found.image_id: row.answer for row in chosen}
        ids, act = [each for each in answers if each not in before], Act(Action.IMPORT, batch)
        for start in range(0, len(ids), TRANSACTION):
            chunk = {each: answers[each] for each in ids[start : start + TRANSACTION]}
            if start:
                time.sleep(PAUSE)
            with database.write() as session:
                entry = _entry(session, project_id, batch)
                imports.give(session, _project(session, project_id), chunk, choices, person, act, done)
                import_log.note(entry, done)
            given = done.given
        with database.write() as session:
            entry = _entry(session, project_id, batch)
            if done.given or done.added:
                imports.ask_for_suggestions(session, _project(session, project_id))
            import_log.note(entry, done)
            entry.state = ImportState.DONE
    except Exception as error:
        if not given:
            raise
        if not isinstance(error, UserError):
            _log.exception("an import was cut off")
        reason = str(error) if isinstance(error, UserError) else _("an error in the catalog")
        raise CutOffError(batch, given, reason) from error
    return done
