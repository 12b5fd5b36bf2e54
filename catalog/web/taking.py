"""Taking a project of the teach page away: saving and opening it, and exporting its model."""

import shlex
import shutil
import tempfile
import zipfile
from pathlib import Path

from fastapi import APIRouter, HTTPException, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel

from catalog import sentences
from catalog.language import _
from catalog.store import jobs, projects
from catalog.store.tables import JobState
from catalog.teach import saved_project
from catalog.web.context import ByPerson, Context, InContext, render, taught_or_404
from catalog.web.downloads import zip_response
from catalog.web.teach import projects_page
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.inference import browser_demo

MAX_SAVED = 4_000_000_000  # bytes of a saved project; uploads go to the disk
OPEN = "/teach/open"  # the path that takes so much

router = APIRouter()


class ShownExport(BaseModel):
    """The export of the model: `none`, `waiting`, `running`, `done`, `failed` or `outdated`.

    `has_page` tells whether the browser page is part of it, `has_model` whether there is anything to export.
    """

    state: str
    message: str
    has_page: bool = False
    has_model: bool = True


@router.post(OPEN, include_in_schema=False)
def open_saved(file: UploadFile, context: InContext, person: ByPerson) -> Response:
    """Opens a saved project, and trains it."""
    name = text.shortened(text.path(file.filename or ""), 100)
    with tempfile.NamedTemporaryFile(dir=context.library.temporary, suffix=".zip") as target:
        shutil.copyfileobj(file.file, target, 1 << 20)
        target.flush()
        try:
            opened = saved_project.open_saved(
                Path(target.name), context.database, context.library, person.name, name
            )
        except UserError as error:
            return projects_page(context, str(error), 422)
    context.teacher.has_changed(opened.project_id, train=True)
    return RedirectResponse(f"/teach/{opened.project_id}", 303)


@router.get("/teach/{project_id}/project.zip", include_in_schema=False)
def save(project_id: int, context: InContext) -> FileResponse:
    """The project with its images, to be opened again here or on another machine."""

    def write(file: Path) -> None:
        with context.database.read() as session:
            project = taught_or_404(session, project_id)
            saved_project.save(session, project, context.library, file)

    return zip_response(context.library, f"{_name(project_id, context)}.zip", write)


def _name(project_id: int, context: Context) -> str:
    """The project's name as that of a file."""
    with context.database.read() as session:
        return taught_or_404(session, project_id).name.replace("/", "-")


@router.get("/teach/{project_id}/take", include_in_schema=False)
def page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        project = taught_or_404(session, project_id)
        return render("teach_take.html", project=project, name=shlex.quote(project.name))


@router.get("/api/teach/{project_id}/export")
def state(project_id: int, context: InContext) -> ShownExport:
    """How far the export of the present model is."""
    with context.database.read() as session:
        taught_or_404(session, project_id)
        job = jobs.latest(session, project_id).get(jobs.Kind.EXPORT)
        if job is None:
            return ShownExport(
                state="none", message="", has_model=context.teacher.model(project_id) is not None
            )
        shown = ShownExport(state=str(job.state), message=sentences.shown(job.message))
    folder = _exported(project_id, context)
    if shown.state == JobState.DONE and folder is None:
        shown.state = "outdated"
    shown.has_model = context.teacher.model(project_id) is not None
    shown.has_page = folder is not None and (folder / "try").is_dir()
    return shown


def _exported(project_id: int, context: Context) -> Path | None:
    """The folder of the present model's export; None if there is none with the present names."""
    model = context.teacher.model(project_id)
    with context.database.read() as session:
        names = {found.id: found.name for found in projects.classes(session, project_id)}
    if model is None or not names.keys() >= set(model.classes):
        return None
    key = model.export_key([names[class_id] for class_id in model.classes])
    folder = context.library.exported(project_id) / key
    return folder if folder.is_dir() else None


@router.post("/api/teach/{project_id}/export")
def export(project_id: int, context: InContext) -> ShownExport:
    """Asks the helper to export the present model."""
    if context.teacher.model(project_id) is None:
        raise HTTPException(422, _("Press Train first."))
    with context.database.write() as session:
        jobs.request(session, taught_or_404(session, project_id).id, jobs.Kind.EXPORT)
    return ShownExport(state="waiting", message="")


@router.get("/teach/{project_id}/model.zip", include_in_schema=False)
def download(project_id: int, context: InContext) -> FileResponse:
    """The exported folder as a zip."""
    name = _name(project_id, context)
    folder = _exported(project_id, context)
    if folder is None:
        raise HTTPException(404, _("Export the model first."))

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, Path(name) / path.relative_to(folder))

    return zip_response(context.library, f"{name} model.zip", write)


@router.get("/teach/{project_id}/try/{file}", include_in_schema=False)
def try_page(project_id: int, file: str, context: InContext) -> FileResponse:
    """The export's browser page."""
    with context.database.read() as session:
        taught_or_404(session, project_id)
    folder = _exported(project_id, context)
    if folder is None or file not in {each.name for each in (folder / "try").glob("*")}:
        raise HTTPException(404, _("Export the model first."))
    return FileResponse(folder / "try" / file, headers={"Content-Security-Policy": browser_demo.POLICY})
