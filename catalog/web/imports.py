"""Imports labels from a file: the upload, the preview with its choices, and what was done."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from catalog import importing
from catalog.exchange.recognize import MAX_BYTES
from catalog.language import _
from catalog.store import Session, import_log, import_preview
from catalog.store.imports import Choices, Replace
from catalog.store.tables import ImportState, LabelImport
from catalog.web.context import ByPerson, Context, InContext, Person, labeled_or_404, render
from pipeline.common import text
from pipeline.common.errors import UserError

PATH = "/projects/*/import"  # takes MAX_REQUEST bytes
MAX_REQUEST = MAX_BYTES + 100_000

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project_id}/import")
def page(project_id: int, context: InContext, person: ByPerson) -> HTMLResponse:
    return _page(project_id, context, person)


def _page(
    project_id: int, context: Context, person: Person, error: str = "", status: int = 200
) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        entries = [
            (entry, import_log.done(entry)) for entry in import_log.listed(session, project_id, person.name)
        ]
        return render("import.html", status, project=project, error=error, most=MAX_BYTES, entries=entries)


@router.post("/projects/{project_id}/import")
def upload(project_id: int, file: UploadFile, context: InContext, person: ByPerson) -> Response:
    """Keeps a file with its preview; nothing else changes yet."""
    with context.database.read() as session:
        labeled_or_404(session, project_id)
    name = text.shortened(text.path(file.filename or ""), 100)
    handle, path = tempfile.mkstemp(dir=context.library.temporary)
    with os.fdopen(handle, "wb") as target:
        shutil.copyfileobj(file.file, target, 1 << 20)
    try:
        batch = importing.keep(context.database, context.library, project_id, person.name, name, Path(path))
    except UserError as error:
        message = _("{name} can't be imported: {reason}").format(name=name or _("the file"), reason=error)
        return _page(project_id, context, person, message, 422)
    return _to(project_id, batch)


def _to(project_id: int, batch: str) -> RedirectResponse:
    return RedirectResponse(f"/projects/{project_id}/import/{batch}", 303)


def _entry(session: Session, project_id: int, batch: str, person: Person) -> LabelImport:
    """The import with this batch.

    Raises:
        HTTPException: 404 if it is gone, or somebody else's file that waits.
    """
    labeled_or_404(session, project_id)
    found = importing.find(session, project_id, batch, person.name)
    if found is None:
        raise HTTPException(404, _("this file doesn't wait any more; choose it again"))
    return found


@router.get("/projects/{project_id}/import/{batch}")
def preview(project_id: int, batch: str, context: InContext, person: ByPerson) -> HTMLResponse:
    """What the file would change; what it has changed, once it was applied."""
    with context.database.read() as session:
        entry = _entry(session, project_id, batch, person)
        project, done = labeled_or_404(session, project_id), import_log.done(entry)
        if entry.state == ImportState.DONE or done.given or entry.undone_at is not None:
            file = importing.waiting_file(context.library, project_id, batch)
            is_running = importing.is_running(context.library, project_id, batch)
            return render(
                "import_done.html",
                project=project,
                entry=entry,
                done=done,
                is_running=is_running,
                can_go_on=file.exists() and not is_running,
            )
        shown = import_log.preview(entry)
        unusable = import_preview.unusable_classes(session, project, shown.unknown_classes)
        return render("import_preview.html", project=project, entry=entry, shown=shown, unusable=unusable)


@router.post("/projects/{project_id}/import/{batch}")
def apply(
    project_id: int,
    batch: str,
    context: InContext,
    person: ByPerson,
    replace: Annotated[Replace, Form()] = Replace.NONE,
    new_class: Annotated[list[str] | None, Form()] = None,
    with_tests: Annotated[bool, Form()] = False,
    with_names: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    """Applies a file with the choices of its preview."""
    with context.database.read() as session:
        shown = import_log.preview(_entry(session, project_id, batch, person))
    if foreign := set(new_class or ()) - set(shown.unknown_classes):
        message = _("the file has no new class {name}")
        raise UserError(message.format(name=text.shortened(min(foreign), 60)))
    choices = Choices(replace, frozenset(new_class or ()), with_tests, with_names)
    _apply(context, project_id, batch, choices)
    return _to(project_id, batch)


def _apply(context: Context, project_id: int, batch: str, choices: Choices) -> None:
    # The page of the import says what is in, and offers to go on or to take it back.
    with suppress(importing.CutOffError):
        importing.apply_waiting(context.database, context.library, project_id, batch, choices)


@router.post("/projects/{project_id}/import/{batch}/rest")
def go_on(project_id: int, batch: str, context: InContext, person: ByPerson) -> RedirectResponse:
    """Applies the rest of a file whose import was cut off, with the same choices."""
    with context.database.read() as session:
        choices = import_log.choices(_entry(session, project_id, batch, person))
    _apply(context, project_id, batch, choices)
    return _to(project_id, batch)


@router.post("/projects/{project_id}/import/{batch}/cancel")
def cancel(project_id: int, batch: str, context: InContext, person: ByPerson) -> RedirectResponse:
    """Deletes a file that waits."""
    with context.database.read() as session:
        _entry(session, project_id, batch, person)
    importing.forget(context.database, context.library, project_id, batch)
    return RedirectResponse(f"/projects/{project_id}/import", 303)
