"""The page on which admins add, rename and merge the classes of a project."""

from typing import Annotated

from fastapi import APIRouter, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from catalog.language import _
from catalog.store import Session, class_changes, classes, image_counts, projects, relabeling
from catalog.store.class_changes import Policy
from catalog.store.tables import LabelClass, Project
from catalog.web.context import ByPerson, Context, InContext, labeled_or_404, render
from pipeline.common.errors import UserError

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project_id}/classes")
def classes_page(project_id: int, context: InContext) -> HTMLResponse:
    return _page(context, project_id)


def _page(
    context: Context,
    project_id: int,
    error: str = "",
    typed: str = "",
    policy: Policy = Policy.CONTINUE,
) -> HTMLResponse:
    """The page; after a mistake with `error` and what was typed."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        going_on = relabeling.unfinished(session, project.id)
        return render(
            "classes.html",
            422 if error else 200,
            project=project,
            classes=projects.classes(session, project.id),
            counts=image_counts.by_class(session, project.id),
            going_on=going_on[0] if going_on else None,
            history=classes.history(session, project.id),
            labels={str(each): classes.labels_of(session, project, each) for each in Policy},
            error=error,
            typed=typed,
            policy=policy,
        )


@router.get("/projects/{project_id}/classes/progress")
def progress(project_id: int, context: InContext) -> dict[str, int | bool]:
    """How far the change of labels is."""
    with context.database.read() as session:
        found = relabeling.unfinished(session, labeled_or_404(session, project_id).id)
        counts = {"changed": found[0].changed, "total": found[0].total} if found else {}
        return {"is_done": not found, **counts}


@router.post("/projects/{project_id}/classes")
def add(
    project_id: int,
    context: InContext,
    person: ByPerson,
    names: Annotated[str, Form(max_length=300_000)] = "",
    policy: Annotated[Policy, Form()] = Policy.CONTINUE,
    is_confirmed: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Adds classes, after a question if that discards labels."""
    lines = tuple(line.strip() for line in names.splitlines() if line.strip())
    try:
        if policy == Policy.DISCARD and not is_confirmed:
            with context.database.read() as session:
                project = labeled_or_404(session, project_id)
                count = classes.labels_of(session, project, policy)
                return render("classes_discard.html", project=project, names=names, count=count, added=lines)
        with context.database.write() as session:
            classes.add(session, labeled_or_404(session, project_id), lines, policy, person.name)
    except UserError as error:
        return _page(context, project_id, str(error), names, policy)
    return _done(context, project_id)


@router.post("/projects/{project_id}/classes/{class_id}/rename")
def rename(
    project_id: int,
    class_id: int,
    context: InContext,
    person: ByPerson,
    name: Annotated[str, Form(max_length=1000)] = "",
) -> HTMLResponse:
    try:
        with context.database.write() as session:
            found = _class_or_404(session, labeled_or_404(session, project_id), class_id)
            class_changes.rename(session, found, name.strip(), person.name)
    except UserError as error:
        return _page(context, project_id, str(error))
    return _done(context, project_id)


@router.post("/projects/{project_id}/classes/{class_id}/merge")
def merge(
    project_id: int,
    class_id: int,
    context: InContext,
    person: ByPerson,
    into: Annotated[int, Form()],
    is_confirmed: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Merges a class into another one, after a question with the number of its images."""
    try:
        if not is_confirmed:
            with context.database.read() as session:
                project = labeled_or_404(session, project_id)
                found, other = (_class_or_404(session, project, number) for number in (class_id, into))
                count = image_counts.by_class(session, project.id)[found.id]
                return render("classes_merge.html", project=project, found=found, into=other, count=count)
        with context.database.write() as session:
            project = labeled_or_404(session, project_id)
            found, other = (_class_or_404(session, project, number) for number in (class_id, into))
            classes.merge(session, project, found, other, person.name)
    except UserError as error:
        return _page(context, project_id, str(error))
    return _done(context, project_id)


@router.post("/projects/{project_id}/classes/undo/{change_id}")
def undo(project_id: int, change_id: int, context: InContext, person: ByPerson) -> HTMLResponse:
    """Takes back what a change has done to labels."""
    try:
        with context.database.write() as session:
            classes.undo(session, labeled_or_404(session, project_id), change_id, person.name)
    except UserError as error:
        return _page(context, project_id, str(error))
    return _done(context, project_id)


@router.post("/projects/{project_id}/classes/pause")
def pause(project_id: int, context: InContext, is_paused: Annotated[bool, Form()] = False) -> HTMLResponse:
    """Pauses or resumes the project."""
    try:
        with context.database.write() as session:
            projects.pause(session, labeled_or_404(session, project_id), is_paused)
    except UserError as error:
        return _page(context, project_id, str(error))
    return _done(context, project_id)


def _done(context: Context, project_id: int) -> RedirectResponse:
    context.relabeler.wake()
    return RedirectResponse(f"/projects/{project_id}/classes", 303)


def _class_or_404(session: Session, project: Project, class_id: int) -> LabelClass:
    """A present class of a project.

    Raises:
        HTTPException: 404 if there is none.
    """
    found = session.get(LabelClass, class_id)
    if found is None or found.project_id != project.id or found.merged_into is not None:
        raise HTTPException(404, _("there is no such class; it was merged perhaps"))
    return found
