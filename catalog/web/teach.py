"""The teach page: classes with samples, training, and the live answer."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated

from fastapi import APIRouter, Body, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from catalog import sentences
from catalog.language import _
from catalog.store import erasing, jobs, projects, samples
from catalog.store.tables import Help, JobState, Kind, Source
from catalog.teach.comparison import Comparison
from catalog.teach.teacher import Progress
from catalog.web.context import Context, InContext, render, taught_or_404
from catalog.web.samples import ShownClass, delete_files, shown_class
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable import UnreadableError

router = APIRouter()


class ShownModel(BaseModel):
    """The newest model; `validation` is None until it is known how good the model is."""

    version: str
    classes: list[int]
    images: int
    seconds: float
    steps: int
    loss: list[float]
    validation: dict | None


class ShownProgress(BaseModel):
    """What the server is doing, and why the last training failed."""

    phase: str
    done: int
    total: int
    message: str


class State(BaseModel):
    """All that the page shows of a project, but the samples themselves."""

    name: str
    classes: list[ShownClass]
    removed: int
    progress: ShownProgress
    model: ShownModel | None


@router.get("/teach", include_in_schema=False)
def index(context: InContext) -> HTMLResponse:
    return projects_page(context)


@router.get("/teach/open", include_in_schema=False)
def reopened() -> RedirectResponse:
    """The address of the form after a file that could not be opened."""
    return RedirectResponse("/teach", 303)


def projects_page(context: Context, error: str = "", status: int = 200) -> HTMLResponse:
    """The projects of the teach page, and what went wrong when a saved one was opened."""
    with context.database.read() as session:
        rows = [
            {
                "project": project,
                "classes": [each.name for each in projects.classes(session, project.id)],
                "images": sum(each.images for each in samples.counts(session, project.id).values()),
            }
            for project in projects.taught(session)
        ]
        return render("teach_projects.html", status, rows=rows, error=error)


@router.post("/teach", include_in_schema=False)
def create(context: InContext) -> RedirectResponse:
    """Starts a project with two empty classes."""
    with context.database.write() as session:
        taken = {project.name for project in projects.all_projects(session)}
        names = (_("Project %(number)s") % {"number": number} for number in range(1, len(taken) + 2))
        draft = projects.Draft(
            name=next(name for name in names if name not in taken),
            task="single_label",
            source=Source.UPLOAD,
            source_path="",
            classes=tuple(_("Class %(number)s") % {"number": number} for number in (1, 2)),
            model_help=Help.NONE,
            test_fraction=0,
            kind=Kind.TEACH,
        )
        project_id = projects.create(session, draft).id
    return RedirectResponse(f"/teach/{project_id}", 303)


@router.get("/teach/{project_id}", include_in_schema=False)
def page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        return render("teach.html", project=taught_or_404(session, project_id))


@router.get("/api/teach/{project_id}")
def state(project_id: int, context: InContext) -> State:
    """The project's classes, its model, and what happens now."""
    with context.database.read() as session:
        project = taught_or_404(session, project_id)
        counts = samples.counts(session, project.id)
        return State(
            name=project.name,
            classes=[shown_class(found, counts) for found in projects.classes(session, project.id)],
            removed=len(samples.removed(session, project.id)),
            progress=ShownProgress(**asdict(_progress(context, project.id))),
            model=_model(context, project.id),
        )


def _progress(context: Context, project_id: int) -> Progress:
    try:
        context.teacher.exported()
    except UserError as error:
        return Progress("preparing", message=str(error))
    found = context.teacher.progress(project_id)
    return replace(found, message=sentences.shown(found.message)) if found.message else found


def _model(context: Context, project_id: int) -> ShownModel | None:
    model = context.teacher.model(project_id)
    if model is None:
        return None
    return ShownModel(
        version=model.version,
        classes=model.classes,
        images=sum(model.images),
        seconds=model.seconds,
        steps=len(model.training.loss),
        loss=[float(model.training.loss[0]), float(model.training.loss[-1])],
        validation=asdict(model.validation) if model.validation else None,
    )


@router.post("/api/teach/{project_id}/name")
def rename(project_id: int, name: Annotated[str, Body(embed=True)], context: InContext) -> dict[str, str]:
    """Renames the project."""
    with context.database.write() as session:
        project = taught_or_404(session, project_id)
        projects.rename(session, project, name.strip())
        return {"name": project.name}


@router.post("/api/teach/{project_id}/erase")
def erase_project(project_id: int, context: InContext) -> dict[str, bool]:
    """Deletes the project with all its files and rows."""
    _erase(project_id, context)
    return {"erased": True}


def _erase(project_id: int, context: Context) -> None:
    with context.database.write() as session:
        unused = erasing.project(session, taught_or_404(session, project_id))
        delete_files(context, unused)
    context.teacher.forget(project_id)
    context.library.erase_project(project_id)
    context.teacher.discard([image.sha256 for image in unused])


@router.post("/api/teach/erase")
def erase_everything(context: InContext) -> dict[str, int]:
    """Deletes all projects of the teach page with their files and rows."""
    with context.database.read() as session:
        found = [project.id for project in projects.taught(session)]
    for project_id in found:
        _erase(project_id, context)
    return {"erased": len(found)}


@router.post("/api/teach/{project_id}/train")
def train(project_id: int, context: InContext) -> ShownProgress:
    """Trains on the present samples; from then on each change trains again by itself."""
    with context.database.read() as session:
        taught_or_404(session, project_id)
        found = samples.taught(session, project_id)
    if len({each.class_id for each in found}) < 2:
        raise HTTPException(422, _("Add images to at least two classes, then press Train."))
    context.teacher.has_changed(project_id, train=True)
    return ShownProgress(**asdict(_progress(context, project_id)))


class ShownComparison(BaseModel):
    """Training against tuning: `none`, `waiting`, `running`, `done` or `failed`, with both curves so far."""

    state: str
    message: str
    images: int = 0
    held_out: int = 0
    tuning: list[dict[str, float]] = []
    scratch: list[dict[str, float]] = []


@router.get("/api/teach/{project_id}/comparison")
def comparison(project_id: int, context: InContext) -> ShownComparison:
    """How a small network from scratch does on the same images."""
    with context.database.read() as session:
        taught_or_404(session, project_id)
        job = jobs.latest(session, project_id).get(jobs.Kind.COMPARE)
    if job is None:
        return ShownComparison(state="none", message="")
    found, model = Comparison.load(context.library.compared(project_id)), context.teacher.model(project_id)
    is_open = job.state in jobs.OPEN
    if (
        not is_open
        and job.state == JobState.DONE
        and (found is None or model is None or found.samples != model.samples)
    ):
        return ShownComparison(state="none", message="")
    curves = asdict(found) if found else {}
    curves.pop("samples", None)
    return ShownComparison(state=str(job.state), message=sentences.shown(job.message), **curves)


@router.post("/api/teach/{project_id}/comparison")
def compare(project_id: int, context: InContext) -> ShownComparison:
    """Trains a small network from scratch on the same images, in the background."""
    with context.database.write() as session:
        jobs.request(session, taught_or_404(session, project_id).id, jobs.Kind.COMPARE)
    context.library.compared(project_id).unlink(missing_ok=True)
    return ShownComparison(state="waiting", message="")


@router.post("/api/teach/{project_id}/answer")
async def answer(project_id: int, request: Request, context: InContext) -> dict:
    """The model's answer to the image in the request's body."""
    return asdict(await with_body(request, context, project_id, context.teacher.answer))


@router.post("/api/teach/{project_id}/evidence")
async def evidence(project_id: int, class_id: int, request: Request, context: InContext) -> list[list[float]]:
    """How much each place of the image in the request's body speaks for a class, in rows."""
    found = await with_body(
        request, context, project_id, lambda key, data: context.teacher.evidence(key, data, class_id)
    )
    return found.tolist()


async def with_body(request: Request, context: Context, project_id: int, function: Callable):
    """Calls a function with the project's id and the request's body, in a thread.

    Raises:
        HTTPException: 404 if there is no such project, 422 if the body is no image.
    """
    data = await request.body()

    def call():
        with context.database.read() as session:
            taught_or_404(session, project_id)
        return function(project_id, data)

    try:
        return await run_in_threadpool(call)
    except UnreadableError as error:
        raise HTTPException(422, text.printable(error)) from None
