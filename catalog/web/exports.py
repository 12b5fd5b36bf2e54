"""Downloads of a project's labels."""

import shlex
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, HTMLResponse, Response

from catalog import export, label_studio
from catalog.store import exported, projects
from catalog.store.exported import Labels
from catalog.web.context import Context, InContext, project_or_404, render
from catalog.web.downloads import zip_response

router = APIRouter(include_in_schema=False)


def _labels(context: Context, project_id: int, with_waiting: bool = False) -> Labels:
    with context.database.read() as session:
        return exported.labels(session, project_or_404(session, project_id), with_waiting)


@router.get("/projects/{project_id}/export")
def page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        project = project_or_404(session, project_id)
        return render(
            "export.html",
            project=project,
            name=shlex.quote(project.name),
            local_files=label_studio.LOCAL_FILES,
            folder=context.library.folder,
            **exported.count(session, project),
        )


def download(content: str | bytes, name: str, media_type: str) -> Response:
    """A file for the browser to save."""
    return Response(
        content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def csv_download(content: str, name: str) -> Response:
    """A CSV file that begins with a byte order mark: without one, Excel takes it for another encoding."""
    return download(content.encode("utf-8-sig"), name, "text/csv; charset=utf-8")


@router.get("/projects/{project_id}/export/coco.json")
def coco(project_id: int, context: InContext) -> Response:
    return download(export.coco(_labels(context, project_id)), "coco.json", "application/json")


@router.get("/projects/{project_id}/export/labels.csv")
def csv(project_id: int, context: InContext) -> Response:
    return csv_download(export.table(_labels(context, project_id)), "labels.csv")


@router.get("/projects/{project_id}/export/folders.zip")
def folders(project_id: int, context: InContext) -> FileResponse:
    labels = _labels(context, project_id)
    return zip_response(
        context.library, "folders.zip", lambda file: export.class_folders(labels, context.library, file)
    )


@router.get("/projects/{project_id}/export/label-studio.json")
def tasks(
    project_id: int,
    context: InContext,
    prefix: Annotated[str, Query(max_length=500)] = label_studio.LOCAL_FILES,
    own_paths: bool = False,
    with_waiting: bool = False,
) -> Response:
    labels = _labels(context, project_id, with_waiting)
    content = label_studio.tasks(labels, prefix.strip(), own_paths)
    return download(content, "label-studio.json", "application/json")


@router.get("/projects/{project_id}/export/label-studio.xml")
def configuration(project_id: int, context: InContext) -> Response:
    with context.database.read() as session:
        project = project_or_404(session, project_id)
        classes = [found.name for found in projects.classes(session, project_id)]
        content = label_studio.configuration(project.task, classes)
    return download(content, "label-studio.xml", "application/xml")
