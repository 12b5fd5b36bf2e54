"""Imports labels from a file: the upload, the preview with its choices, and what was done."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from catalog import importing
from catalog.exchange.recognize import MAX_BYTES
from catalog.importing import Waiting
from catalog.language import _
from catalog.store import projects
from catalog.store.imports import Choices, Replace
from catalog.web.context import ByPerson, Context, InContext, Person, labeled_or_404, render
from pipeline.common import text
from pipeline.common.errors import UserError

PATH = "/projects/*/import"  # takes MAX_REQUEST bytes
MAX_REQUEST = MAX_BYTES + 100_000

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project_id}/import")
def page(project_id: int, context: InContext) -> HTMLResponse:
    return _page(project_id, context)


def _page(project_id: int, context: Context, error: str = "", status: int = 200) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        return render("import.html", status, project=project, error=error, most=MAX_BYTES)


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
        waiting = importing.keep(context.database, context.library, project_id, person.name, name, Path(path))
    except UserError as error:
        message = _("{name} can't be imported: {reason}").format(name=name or _("the file"), reason=error)
        return _page(project_id, context, message, 422)
    return _to(waiting)


def _to(waiting: Waiting) -> RedirectResponse:
    return RedirectResponse(f"/projects/{waiting.project_id}/import/{waiting.token}", 303)


def _waiting(context: Context, project_id: int, token: str, person: Person) -> Waiting:
    """The file with this token.

    Raises:
        HTTPException: 404 if it is gone, or somebody else's.
    """
    found = importing.find(context.library, token, project_id, person.name)
    if found is None:
        raise HTTPException(404, _("this file doesn't wait any more; choose it again"))
    return found


@router.get("/projects/{project_id}/import/{token}")
def preview(project_id: int, token: str, context: InContext, person: ByPerson) -> HTMLResponse:
    """What the file would change; what it has changed, once it was applied."""
    waiting = _waiting(context, project_id, token, person)
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        classes = [found.name for found in projects.classes(session, project_id)]
        template = "import_done.html" if waiting.done else "import_preview.html"
        return render(template, project=project, waiting=waiting, shown=waiting.preview, classes=classes)


@router.post("/projects/{project_id}/import/{token}")
def apply(
    project_id: int,
    token: str,
    context: InContext,
    person: ByPerson,
    replace: Annotated[Replace, Form()] = Replace.NONE,
    new_class: Annotated[list[str] | None, Form()] = None,
    with_tests: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    """Applies a file with the choices of its preview."""
    waiting = _waiting(context, project_id, token, person)
    if foreign := set(new_class or ()) - set(waiting.preview.unknown_classes):
        message = _("the file has no new class {name}")
        raise UserError(message.format(name=text.shortened(min(foreign), 60)))
    choices = Choices(replace, frozenset(new_class or ()), with_tests)
    importing.apply_waiting(context.database, context.library, waiting, choices)
    return _to(waiting)


@router.post("/projects/{project_id}/import/{token}/cancel")
def cancel(project_id: int, token: str, context: InContext, person: ByPerson) -> RedirectResponse:
    """Deletes a file that waits."""
    importing.forget(context.library, _waiting(context, project_id, token, person))
    return RedirectResponse(f"/projects/{project_id}/import", 303)
