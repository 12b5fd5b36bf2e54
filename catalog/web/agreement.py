"""How far people agree who have labeled the same images."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from catalog import agreement, export
from catalog.agreement import UNKNOWN
from catalog.language import _
from catalog.store import agreement as answers
from catalog.store import image_counts, projects, second_labels
from catalog.store.tables import Status
from catalog.web.context import InContext, labeled_or_404, render
from catalog.web.exports import csv_download

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project_id}/agreement")
def page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        names = {found.id: found.name for found in projects.classes(session, project.id)}
        pairs, has_several = answers.pairs(session, project), project.task == "multi_label"
        return render(
            "agreement.html",
            project=project,
            overall=agreement.overall(pairs, list(names), has_several),
            by_class=agreement.by_class(pairs, names, has_several),
            by_people=agreement.by_people(pairs, list(names), has_several),
            names=names | {UNKNOWN: _("unknown")},
            unknown=UNKNOWN,
            waiting=second_labels.waiting(session, project.id).total(),
            disputed=image_counts.by_status(session, project.id)[Status.DISPUTED],
        )


@router.get("/projects/{project_id}/agreement.csv")
def csv(project_id: int, context: InContext) -> Response:
    with context.database.read() as session:
        rows = answers.rows(session, labeled_or_404(session, project_id))
    return csv_download(export.agreement(rows), "agreement.csv")
