"""The label page, and the JSON interface that it and other programs use."""

from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import APIRouter, Body, HTTPException
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from catalog import language
from catalog.language import _, ngettext
from catalog.store import Session, class_changes, merged, pages, projects, second_labels
from catalog.store.labels import Answer
from catalog.store.pages import StalePageError
from catalog.store.tables import Page, PageKind, Project, Status
from catalog.web.context import (
    ByPerson,
    Context,
    InContext,
    Person,
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
    """What a label page needs to know of its project.

    `merged` has, for each class that was merged, the one that stands for it now.
    """

    project: int
    name: str
    task: str
    classes: list[ShownClass]
    classes_version: int
    merged: dict[int, int]


class ShownImage(BaseModel):
    """An image on a page.

    `suggested` and `confidence` are those of a prelabeled page; `reason` says why it was sent back;
    `opinions` are the two answers that a review decides between.
    """

    id: int
    sha256: str
    suggested: list[int] | None
    confidence: float | None
    answer: "GivenAnswer | None"
    reason: str | None
    opinions: list["Opinion"] = []


class GivenAnswer(BaseModel):
    """A person's answer to an image."""

    status: Status
    classes: list[int] = Field(default=[], max_length=1000)


class Opinion(GivenAnswer):
    """The answer of one of two people."""

    person: str


class OpenPage(BaseModel):
    """A page of images."""

    token: str
    kind: PageKind
    keys: list[int]
    images: list[ShownImage]


class NextPage(BaseModel):
    """A page, or why there is none, with the number of images that are done and of all.

    `may_come` says whether it is worth asking again soon. When `classes_version` isn't that of the project
    that was asked for before, its classes have changed.
    """

    page: OpenPage | None
    message: str
    may_come: bool
    done: int
    total: int
    classes_version: int


class Submission(BaseModel):
    """Answers by image id; images without one are given back."""

    answers: dict[int, GivenAnswer] = Field(max_length=100)


@router.get("/projects/{project_id}/label", include_in_schema=False)
def label_page(project_id: int, context: InContext, person: ByPerson) -> HTMLResponse:
    return _label_page(context, project_id, person, is_review=False)


@router.get("/projects/{project_id}/review", include_in_schema=False)
def review_page(project_id: int, context: InContext, person: ByPerson) -> HTMLResponse:
    """The label page with images that two people have labeled differently."""
    return _label_page(context, project_id, person, is_review=True)


def _label_page(context: Context, project_id: int, person: Person, is_review: bool) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        instructions = as_html(project.instructions)
        shown = {"instructions": instructions, "is_admin": person.is_admin, "is_review": is_review}
        return render("label.html", project=project, **shown)


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
            classes_version=class_changes.version(session, project.id),
            merged=merged.successors(session, project.id),
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
    return _open(context, project_id, person, token, lambda *each: pages.hand_out(*each, size), False)


@router.post("/api/projects/{project_id}/review")
def open_review(
    project_id: int,
    context: InContext,
    person: ByPerson,
    token: Annotated[str | None, Body(embed=True)] = None,
    size: Annotated[int | None, Body(embed=True, ge=1, le=25)] = None,
) -> NextPage:
    """Hands out a page of images that two people have labeled differently, with both answers."""
    return _open(context, project_id, person, token, lambda *each: pages.hand_out_review(*each, size), True)


def _open(
    context: Context,
    project_id: int,
    person: Person,
    token: str | None,
    hand_out: Callable[[Session, Project, str], Page | None],
    is_review: bool,
) -> NextPage:
    """The open page with this token, or a new one."""
    with context.database.write() as session:
        project = labeled_or_404(session, project_id)
        page = None
        own = session.get(Page, token) if token is not None else None
        is_same = own is not None and own.project_id == project.id
        if is_same and may_use(person, own) and (own.kind == PageKind.REVIEW) == is_review:
            # A page that has lost some of its images comes back, too: submitting it names them.
            page = own if pages.renew(session, own) else None
        page = page or hand_out(session, project, person.name)
        opened = _shown(page, merged.successors(session, project.id)) if page else None
    return _next(context, project_id, person, opened, is_review)


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
def keep(token: str, context: InContext, person: ByPerson) -> dict[str, bool | int]:
    """Keeps a page open; `held` is false if some of its images were handed out again."""
    with context.database.write() as session:
        page = own_page_or_404(session, token, person)
        held = pages.renew(session, page) == len(page.images)
        return {"held": held, "classes_version": class_changes.version(session, page.project_id)}


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
        project_id = labeled_or_404(session, page.project_id).id
        opened = _shown(reopened, merged.successors(session, project_id))
    return _next(context, project_id, person, opened)


def _next(
    context: Context, project_id: int, person: Person, page: OpenPage | None, is_review: bool = False
) -> NextPage:
    """A page with the project's counts, which others needn't wait for: they are read after the writing."""
    with context.database.read() as session:
        counts, version = projects.counts(session, project_id), class_changes.version(session, project_id)
        seconds = second_labels.waiting(session, project_id) if page is None and not is_review else {}
    total = sum(counts.values())
    left = counts[Status.WAITING] + counts[Status.SKIPPED]
    message, may_come = "", False
    if page is None:
        own = seconds.pop(person.name, 0)
        open_elsewhere = counts[Status.DISPUTED] if is_review else left + sum(seconds.values())
        may_come = bool(open_elsewhere) or not total
        if open_elsewhere:
            message = _(
                "All images that are left are open in another tab. They come back after three minutes."
            )
        elif is_review:
            message = _("No image is disputed.")
        elif not total:
            message = _("There are no images yet.")
        elif own:
            message = ngettext(
                "All images are labeled. {count} of your labels waits for the label of another person.",
                "All images are labeled. {count} of your labels wait for the label of another person.",
                own,
            ).format(count=language.number(own))
        else:
            message = _("All images are labeled.")
    return NextPage(
        page=page,
        message=message,
        may_come=may_come,
        done=total - left,
        total=total,
        classes_version=version,
    )


def _shown(page: Page, successor_of: Mapping[int, int]) -> OpenPage:
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
                # A page that was opened before there were such has none.
                reason=image.get("reason"),
                opinions=image.get("opinions", []),
            )
            for image in (pages.current_classes(each, successor_of) for each in page.images)
        ],
    )
