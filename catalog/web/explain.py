"""The page "What is a model?": the parts of the model that a project of the teach page has trained last."""

import functools
from dataclasses import asdict

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from catalog.language import _
from catalog.teach import explanation
from catalog.teach.model import TaughtModel
from catalog.web import teach
from catalog.web.context import Context, InContext, render
from pipeline.common.errors import UserError

router = APIRouter()


@router.get("/teach/{project_id}/model", include_in_schema=False)
def page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        project = teach.taught_or_404(session, project_id)
    try:
        model, exported = context.teacher.trained(project_id), context.teacher.exported()
    except UserError:  # it was not trained yet, or the backbone is being prepared
        return render("teach_model.html", project=project, parts=None)
    parts = explanation.parts(model, exported)
    return render("teach_model.html", project=project, parts=parts, most=explanation.SHOWN)


@router.get("/api/teach/{project_id}/steps")
def steps(project_id: int, context: InContext) -> dict:
    """The recorded training, see `explanation.Steps`."""
    return asdict(explanation.steps(_trained(context, project_id)))


@router.post("/api/teach/{project_id}/layers")
async def layers(project_id: int, request: Request, context: InContext) -> dict:
    """The way of the image in the request's body through the model, see `explanation.Way`."""
    return asdict(await teach.with_body(request, context, project_id, functools.partial(_way, context)))


def _way(context: Context, project_id: int, data: bytes) -> explanation.Way:
    model = _trained(context, project_id)
    return explanation.way(model, context.teacher.exported(), context.teacher.picture(data))


def _trained(context: Context, project_id: int) -> TaughtModel:
    """The project's model; 404 if there is no such project, 422 if it has no model."""
    with context.database.read() as session:
        teach.taught_or_404(session, project_id)
    try:
        return context.teacher.trained(project_id)
    except UserError:
        raise HTTPException(422, _("There is no model yet. Train one on the teach page first.")) from None
