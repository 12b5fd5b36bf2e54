"""Downloads of a project's labels."""

import shlex
import tempfile
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.background import BackgroundTask

from catalog import export
from catalog.store import exported
from catalog.store.exported import Labels
from catalog.web.context import Context, InContext, project_or_404, render

router = APIRouter(include_in_schema=False)


def _labels(context: Context, project_id: int) -> Labels:
    with context.database.read() as session:
        return exported.labels(session, project_or_404(session, project_id))


@router.get("/projects/{project_id}/export")
def page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        project = project_or_404(session, project_id)
        return render(
            "export.html", project=project, name=shlex.quote(project.name), **exported.count(session, project)
        )


def _download(content: str | bytes, name: str, media_type: str) -> Response:
    return Response(
        content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@router.get("/projects/{project_id}/export/coco.json")
def coco(project_id: int, context: InContext) -> Response:
    return _download(export.coco(_labels(context, project_id)), "coco.json", "application/json")


@router.get("/projects/{project_id}/export/labels.csv")
def csv(project_id: int, context: InContext) -> Response:
    return _download(export.table(_labels(context, project_id)), "labels.csv", "text/csv; charset=utf-8")


@router.get("/projects/{project_id}/export/folders.zip")
def folders(project_id: int, context: InContext) -> FileResponse:
    labels = _labels(context, project_id)
    file = Path(tempfile.mkstemp(suffix=".zip", dir=context.library.folder)[1])
    try:
        export.class_folders(labels, context.library, file)
    except BaseException:
        file.unlink()
        raise
    return FileResponse(
        file, media_type="application/zip", filename="folders.zip", background=BackgroundTask(file.unlink)
    )
