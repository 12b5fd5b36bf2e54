"""The label page, and the JSON interface that it and other programs use."""

from typing import Annotated

from fastapi import APIRouter, Body, HTTPException
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from catalog.language import _
from catalog.store import pages, projects
from catalog.store.labels import Answer
from catalog.store.pages import StalePageError
from catalog.store.tables import Page, PageKind, Status
from catalog.web.context import (
    ByPerson,
    Context,
    InContext,
    labeled_or_404,
    may_use,
    own_page_or_404,
    render,
)
from catalog.web.markdown import as_html

router = APIRouter()


class ShownClass(BaseModel):
    """A class of the project."""

    id: int
    name: str


class Labeling(BaseModel):
    """What a label page needs to know of its project."""

    project: int
    name: str
    task: str
    classes: list[ShownClass]


class ShownImage(BaseModel):
    """An image on a page.

    `suggested` and `confidence` are those of a prelabeled page; `reason` says why it was sent back.
    """

    id: int
    sha256: str
    suggested: list[int] | None
    confidence: float | None
    answer: "GivenAnswer | None"
    reason: str | None


class GivenAnswer(BaseModel):
    """A person's answer to an image."""

    status: Status
    classes: list[int] = Field(default=[], max_length=1000)


class OpenPage(BaseModel):
    """A page of images."""

    token: str
    kind: PageKind
    keys: list[int]
    images: list[ShownImage]


class NextPage(BaseModel):
    """A page, or why there is none, with the number of images that are done and of all."""

    page: OpenPage | None
    message: str
    done: int
    total: int


class Submission(BaseModel):
    """Answers by image id; images without one are given back."""

    answers: dict[int, GivenAnswer] = Field(max_length=100)


@router.get("/projects/{project_id}/label", include_in_schema=False)
def label_page(project_id: int, context: InContext, person: ByPerson) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        instructions = as_html(project.instructions)
        return render("label.html", project=project, instructions=instructions, is_admin=person.is_admin)


@router.get("/api/projects/{project_id}")
def describe(project_id: int, context: InContext) -> Labeling:
    """The project's task and classes."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        classes = projects.classes(session, project.id)
        return Labeling(
            project=project.id,
            name=project.name,
            task=project.task,
            classes=[ShownClass(id=found.id, name=found.name) for found in classes],
        )


@router.post("/api/projects/{project_id}/pages")
def open_page(
    project_id: int,
    context: InContext,
    person: ByPerson,
    token: Annotated[str | None, Body(embed=True)] = None,
    size: Annotated[int | None, Body(embed=True, ge=1, le=25)] = None,
) -> NextPage:
    """Hands out a page; `token` brings an open one back after a reload."""
    with context.database.write() as session:
        project = labeled_or_404(session, project_id)
        page = None
        own = session.get(Page, token) if token is not None else None
        if own is not None and own.project_id == project.id and may_use(person, own):
            # A page that has lost some of its images comes back, too: submitting it names them.
            page = own if pages.renew(session, own) else None
        page = page or pages.hand_out(session, project, person.name, size)
        opened = _shown(page) if page else None
    return _next(context, project_id, opened)


@router.post("/api/pages/{token}/submit", responses={409: {"description": "images were labeled elsewhere"}})
def submit(token: str, submission: Submission, context: InContext, person: ByPerson) -> JSONResponse:
    """Records a page's labels; repeating the request changes nothing."""
    answers = {
        number: Answer(given.status, tuple(given.classes)) for number, given in submission.answers.items()
    }
    with context.database.write() as session:
        page = own_page_or_404(session, token, person)
        project = labeled_or_404(session, page.project_id)
        if project.task == "single_label" and any(len(answer.classes) > 1 for answer in answers.values()):
            raise HTTPException(422, _("this project has one class per image"))
        if project.task == "single_label" and any(
            answer.status == Status.LABELED and not answer.classes for answer in answers.values()
        ):
            raise HTTPException(422, _("a labeled image needs a class"))
        if any(answer.status in (Status.WAITING, Status.REMOVED) for answer in answers.values()):
            raise HTTPException(422, _("leave an image out to give it back"))
        try:
            saved = pages.submit(session, page, answers)
        except StalePageError as error:
            detail = {"detail": str(error), "taken": error.taken, "is_saved": error.is_saved}
            return JSONResponse(detail, 409)
        return JSONResponse({"saved": saved})


@router.post("/api/pages/{token}/keep")
def keep(token: str, context: InContext, person: ByPerson) -> dict[str, bool]:
    """Keeps a page open; false if some of its images were handed out again."""
    with context.database.write() as session:
        page = own_page_or_404(session, token, person)
        return {"held": pages.renew(session, page) == len(page.images)}


@router.post("/api/pages/{token}/release")
def release(token: str, context: InContext, person: ByPerson) -> dict[str, bool]:
    """Gives a page's images back."""
    with context.database.write() as session:
        pages.release(session, own_page_or_404(session, token, person))
        return {"released": True}


@router.post("/api/pages/{token}/undo", responses={409: {"description": "labeled again since then"}})
def undo(token: str, context: InContext, person: ByPerson) -> NextPage:
    """Takes a submitted page's labels back, and hands it out again with them filled in."""
    with context.database.write() as session:
        page = own_page_or_404(session, token, person)
        reopened = pages.undo(session, page)
        if reopened is None:
            raise HTTPException(409, _("these images were labeled again or are open elsewhere"))
        project_id, opened = labeled_or_404(session, page.project_id).id, _shown(reopened)
    return _next(context, project_id, opened)


def _next(context: Context, project_id: int, page: OpenPage | None) -> NextPage:
    """A page with the project's counts, which others needn't wait for: they are read after the writing."""
    with context.database.read() as session:
        counts = projects.counts(session, project_id)
    total = sum(counts.values())
    message = ""
    if page is None:
        waiting = counts[Status.WAITING] + counts[Status.SKIPPED]
        message = _("All images are labeled.") if total and not waiting else ""
        if waiting:
            message = _(
                "All images that are left are open in another tab. They come back after three minutes."
            )
        elif not total:
            message = _("There are no images yet.")
    done = total - counts[Status.WAITING] - counts[Status.SKIPPED]
    return NextPage(page=page, message=message, done=done, total=total)


def _shown(page: Page) -> OpenPage:
    is_filled = page.kind == PageKind.PRELABELED
    return OpenPage(
        token=page.token,
        kind=PageKind(page.kind),
        keys=page.keys,
        images=[
            ShownImage(
                id=image["id"],
                sha256=image["sha256"],
                suggested=image["predicted"] if is_filled else None,
                confidence=image["confidence"] if is_filled else None,
                answer=image["answer"],
                reason=image.get("reason"),  # a page that was opened before there were reasons has none
            )
            for image in page.images
        ],
    )
