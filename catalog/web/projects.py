"""Pages of projects: the list, creating one, its dashboard and settings, and uploads."""

import json
import secrets
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse

from catalog import champions
from catalog.language import N_, _
from catalog.store import Session, dashboard, images, jobs, projects, relabeling
from catalog.store.projects import Draft
from catalog.store.tables import Help, Kind, Project, Source, Status
from catalog.web.context import ByPerson, Context, InContext, labeled_or_404, render
from pipeline.artifacts import atomic
from pipeline.common.errors import UserError
from pipeline.common.paths import main_checkout
from pipeline.sources import archives

router = APIRouter(include_in_schema=False)

INSTRUCTIONS = N_("""\
**Unclear images:** press 0 for "unknown" if you can't tell.

**Cut-off animals:** label them if the face can be seen.

**Wrong images** (no animal, several animals): press 0 as well.
""")
SHOWN_FILES = 500  # unusable files on a page
EXAMPLE = {
    "task": "single_label",
    "source": "folder",
    "instructions": INSTRUCTIONS,
    "model_help": Help.SUGGESTIONS,
    "champion": "",
    "test_percent": 5,
    "is_watched": False,
}


def _datasets() -> list[str]:
    """Data sets of the pipeline whose images are here."""
    return sorted(file.parent.name for file in (main_checkout() / "data").glob("*/archive"))


def state_of(session: Session, project: Project) -> str:
    """`paused`, `initializing` while images are read, or `running`."""
    if project.paused:
        return "paused"
    return "initializing" if jobs.is_open(session, project.id, jobs.Kind.READ) else "running"


@router.get("/")
def index(context: InContext, person: ByPerson) -> HTMLResponse:
    with context.database.read() as session:
        if not person.is_admin:
            return render("labeler.html", projects=projects.to_label(session))
        rows = []
        everything = projects.all_projects(session)
        for project in (each for each in everything if each.kind == Kind.LABEL):
            counts = projects.counts(session, project.id)
            total = sum(counts.values())
            done = total - counts[Status.WAITING] - counts[Status.SKIPPED]
            rows.append(
                {"project": project, "state": state_of(session, project), "done": done, "total": total}
            )
        return render("projects.html", rows=rows, taught=len(projects.taught(session)))


@router.get("/projects/new")
def new(context: InContext) -> HTMLResponse:
    empty = dict.fromkeys(("name", "path", "dataset", "classes"), "")
    return _form(empty | EXAMPLE | {"instructions": _(INSTRUCTIONS)})


def _form(values: dict[str, str], error: str = "", status: int = 200) -> HTMLResponse:
    return render(
        "new.html",
        status,
        values=values,
        error=error,
        datasets=_datasets(),
        champions=champions.available(),
    )


@router.post("/projects")
def create(
    context: InContext,
    name: Annotated[str, Form()] = "",
    task: Annotated[str, Form()] = "single_label",
    source: Annotated[str, Form()] = "folder",
    path: Annotated[str, Form()] = "",
    dataset: Annotated[str, Form()] = "",
    classes: Annotated[str, Form(max_length=300_000)] = "",
    instructions: Annotated[str, Form(max_length=100_000)] = "",
    model_help: Annotated[Help, Form()] = Help.SUGGESTIONS,
    champion: Annotated[str, Form()] = "",
    test_percent: Annotated[float, Form()] = 5,
    is_watched: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    given = {
        "name": name,
        "task": task,
        "source": source,
        "path": path,
        "dataset": dataset,
        "classes": classes,
        "instructions": instructions,
        "model_help": model_help,
        "champion": champion,
        "test_percent": test_percent,
        "is_watched": is_watched,
    }
    try:
        adopted = champions.adopt(context.library, champion, task, _lines(classes)) if champion else None
        with context.database.write() as session:
            project = projects.create(
                session,
                Draft(
                    name=name.strip(),
                    task=task,
                    source=Source(source),
                    source_path=_source_path(Source(source), path, dataset),
                    classes=_lines(classes) or tuple(adopted.classes if adopted else ()),
                    champion=adopted.name if adopted else "",
                    instructions=instructions,
                    model_help=model_help,
                    test_fraction=test_percent / 100,
                    is_watched=is_watched and source == Source.FOLDER,  # the field is hidden for others
                ),
            )
            project_id = project.id
    except (UserError, ValueError) as error:
        return _form(given, str(error), 422)
    return RedirectResponse(f"/projects/{project_id}", 303)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _source_path(source: Source, path: str, dataset: str) -> str:
    """The folder, archive or data set of a new project.

    Raises:
        UserError: it is missing.
    """
    if source == Source.DATASET:
        if dataset not in _datasets():
            raise UserError(_("choose a data set; they appear here after dvc repro fetch"))
        return dataset
    if source == Source.FOLDER:
        try:
            folder = Path(path.strip()).expanduser()
            is_usable = bool(path.strip()) and folder.is_absolute() and folder.exists()
        except (OSError, RuntimeError):  # no such home folder, no permission, or too long
            is_usable = False
        if not is_usable:
            raise UserError(_("images: give the whole path of a folder or archive on this machine"))
        return str(folder)
    return ""


@router.get("/projects/{project_id}")
def overview(project_id: int, context: InContext) -> HTMLResponse:
    return _dashboard("project.html", project_id, context)


@router.get("/projects/{project_id}/status")
def status(project_id: int, context: InContext) -> HTMLResponse:
    """The part of the dashboard that the page refreshes."""
    return _dashboard("status.html", project_id, context)


def _dashboard(template: str, project_id: int, context: Context) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        return render(
            template,
            project=project,
            name=shlex.quote(project.name),
            state=state_of(session, project),
            bad=images.count_quarantined(session, project.id),
            is_relabeling=bool(relabeling.unfinished(session, project.id)),
            **dashboard.of(session, project).as_dict(),
        )


@router.get("/projects/{project_id}/quarantine")
def quarantine(project_id: int, context: InContext, after: str = "") -> HTMLResponse:
    """Unusable files, some at a time: those behind the path `after`."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        files = images.quarantined(session, project.id, after, SHOWN_FILES + 1)
        return render(
            "quarantine.html",
            project=project,
            files=files[:SHOWN_FILES],
            is_first=not after,
            following=files[SHOWN_FILES - 1].path if len(files) > SHOWN_FILES else "",
            count=images.count_quarantined(session, project.id),
        )


@router.get("/projects/{project_id}/settings")
def settings(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        return _settings(session, labeled_or_404(session, project_id))


def _settings(
    session: Session,
    project: Project,
    given: dict[str, object] | None = None,
    error: str = "",
    status: int = 200,
) -> HTMLResponse:
    """The settings page, with what was typed after a mistake."""
    present = {column.name: getattr(project, column.name) for column in Project.__table__.columns}
    present["champion"] = champions.data_of(project.champion)
    return render(
        "settings.html",
        status,
        project=project,
        values=present | (given or {}),
        classes=projects.classes(session, project.id),
        sizes=projects.PAGE_SIZES,
        champions=sorted({*champions.available(), *filter(None, [champions.data_of(project.champion)])}),
        error=error,
    )


@router.post("/projects/{project_id}/settings")
def change_settings(
    project_id: int,
    context: InContext,
    name: Annotated[str, Form()] = "",
    instructions: Annotated[str, Form(max_length=100_000)] = "",
    page_size: Annotated[int, Form()] = 9,
    min_precision: Annotated[float, Form()] = 90,
    model_help: Annotated[Help, Form()] = Help.SUGGESTIONS,
    probable_keys: Annotated[bool, Form()] = False,
    uncertain_first: Annotated[bool, Form()] = False,
    champion: Annotated[str, Form()] = "",
    paused: Annotated[bool, Form()] = False,
    is_watched: Annotated[bool, Form()] = False,
    second_percent: Annotated[float, Form()] = 0,
) -> HTMLResponse:
    values = {
        "name": name.strip(),
        "instructions": instructions,
        "page_size": page_size,
        "min_precision": min_precision / 100,
        "model_help": model_help,
        "probable_keys": probable_keys,
        "uncertain_first": uncertain_first,
        "paused": paused,
        "is_watched": is_watched,
        "second_share": second_percent / 100,
    }
    try:
        with context.database.read() as session:
            project = labeled_or_404(session, project_id)
            names = [found.name for found in projects.classes(session, project.id)]
            values["champion"] = _chosen_champion(context, project, champion, names)
        with context.database.write() as session:
            project = labeled_or_404(session, project_id)
            projects.change(session, project, **values)
    except UserError as error:
        with context.database.read() as session:
            project = labeled_or_404(session, project_id)
            given = {**values, "champion": champion}
            return _settings(session, project, given, str(error), 422)
    return RedirectResponse(f"/projects/{project_id}", 303)


def _chosen_champion(context: Context, project: Project, data: str, classes: list[str]) -> str:
    """The name of the champion that was chosen by its data set; the present one if the choice is the same."""
    if data == champions.data_of(project.champion):
        return project.champion
    return champions.adopt(context.library, data, project.task, classes).name if data else ""


@router.post("/projects/{project_id}/jobs/{kind}")
def request_job(
    project_id: int, kind: Literal[jobs.Kind.READ, jobs.Kind.SUGGEST, jobs.Kind.MAP], context: InContext
) -> RedirectResponse:
    """Reads the images again, or computes suggestions or the map again."""
    with context.database.write() as session:
        project = labeled_or_404(session, project_id)
        jobs.request(session, project.id, kind)
    return RedirectResponse(f"/projects/{project_id}", 303)


@router.post("/projects/{project_id}/files")
def upload(project_id: int, files: list[UploadFile], context: InContext) -> dict[str, int]:
    """Keeps uploaded images for the helper to read; `refused` counts those that are too large."""
    with context.database.read() as session:
        labeled_or_404(session, project_id)
    folder = context.library.uploads(project_id)
    folder.mkdir(parents=True, exist_ok=True)
    usable = [file for file in files if (file.size or 0) <= archives.MAX_BYTES]
    for file in usable:
        token = secrets.token_hex(16)
        with open(folder / f"{token}.bin", "wb") as target:
            shutil.copyfileobj(file.file, target)
        name = json.dumps({"path": (file.filename or "image")[:1000]})
        atomic.replace_text(folder / f"{token}.json", name)  # the image is complete now
    if usable:
        with context.database.write() as session:
            jobs.request(session, project_id, jobs.Kind.READ)
    return {"received": len(usable), "refused": len(files) - len(usable)}
