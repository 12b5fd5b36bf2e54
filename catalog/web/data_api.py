"""The JSON interface of the data page, which other programs use too."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel, Field

from catalog.language import _
from catalog.store import Session, bulk, found_images, history, labels, projects, search
from catalog.store.bulk import Done
from catalog.store.found_images import FoundImage
from catalog.store.history import Entry
from catalog.store.labels import Act, Answer
from catalog.store.tables import Action, Image, Project, Status
from catalog.web.context import ByPerson, Context, InContext, labeled_or_404
from catalog.web.fields import ImageId, Text
from catalog.web.searching import ByAddress, position
from pipeline.common.errors import UserError

PAGE = 60  # images
MAX_PAGE = 500

router = APIRouter()
Ids = Annotated[list[ImageId], Field(min_length=1, max_length=search.COUNTED)]


class FoundPage(BaseModel):
    """A page of results.

    Attributes:
        previous, next: values of the parameters `before` and `after`, or null.
        seen: for actions on these images, which then leave alone what was labeled after this.
    """

    images: list[FoundImage]
    previous: str | None
    next: str | None
    seen: int


class Count(BaseModel):
    """How many images match; null if they are more than `most`."""

    count: int | None
    most: int = search.COUNTED


class Matching(BaseModel):
    """The ids of the images that match, in their order; not all of them if they are more than the limit."""

    ids: list[int]
    is_all: bool


class ImageHistory(BaseModel):
    """An image with all that happened to it, oldest first."""

    id: int
    sha256: str
    path: str
    width: int
    height: int
    is_test: bool
    history: list[Entry]


class Targets(BaseModel):
    """Images for an action.

    Attributes:
        ids: of the images; those of other projects are ignored.
        seen: of the answer that showed them; images that were labeled later are left alone. Null changes all.
    """

    ids: Ids
    seen: int | None = None


class Rejection(Targets):
    """Images to send back to the queue, and why."""

    reason: Annotated[Text, Field(max_length=500)]


class GroupLabel(Targets):
    """Images that get the same label."""

    status: Status = Status.LABELED
    classes: list[int] = Field(default=[], max_length=projects.MAX_CLASSES)


@router.get("/api/projects/{project_id}/images")
def images(
    project_id: int,
    context: InContext,
    query: ByAddress,
    after: str | None = None,
    before: str | None = None,
    size: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
) -> FoundPage:
    """Images that match; the first page, that behind `after`, or that before `before`."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        seen = labels.last_event(session)
        found = search.find(session, project.id, query.search(), size, position(after), position(before))
        shown = found_images.at(session, project.id, found.positions)
        return FoundPage(
            images=shown,
            previous=str(found.positions[0]) if found.has_previous and found.positions else None,
            next=str(found.positions[-1]) if found.has_next else None,
            seen=seen,
        )


@router.get("/api/projects/{project_id}/images/count")
def count(project_id: int, context: InContext, query: ByAddress) -> Count:
    """How many images match."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        return Count(count=search.count(session, project.id, query.search()))


@router.get("/api/projects/{project_id}/images/ids")
def matching(project_id: int, context: InContext, query: ByAddress) -> Matching:
    """Ids of the images that match, for an action on all of them."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        wanted = query.search()
        found = search.ids(session, project.id, wanted)
        return Matching(ids=found, is_all=search.count(session, project.id, wanted) is not None)


@router.get("/api/projects/{project_id}/images/{image_id}")
def image_history(project_id: int, image_id: int, context: InContext) -> ImageHistory:
    """An image, with who has labeled it, when and how."""
    with context.database.read() as session:
        image = image_or_404(session, labeled_or_404(session, project_id), image_id)
        own = {name: getattr(image, name) for name in ImageHistory.model_fields if name != "history"}
        return ImageHistory(**own, history=history.of(session, image))


@router.post("/api/projects/{project_id}/reject")
def reject(project_id: int, rejection: Rejection, context: InContext, person: ByPerson) -> Done:
    """Sends images back to the queue; the label page shows the reason."""
    reason = rejection.reason.strip()
    if not reason:
        raise UserError(_("give a reason; those who label these images again see it"))
    project, act = _project(context, project_id), Act.start(Action.REJECT, reason)

    def step(session: Session, ids: list[int]) -> Done:
        return bulk.reject(session, project, ids, reason, person.name, act, rejection.seen)

    return bulk.in_steps(context.database, rejection.ids, act, step)


@router.post("/api/projects/{project_id}/label")
def label(project_id: int, given: GroupLabel, context: InContext, person: ByPerson) -> Done:
    """Gives images the same label; test images are left alone."""
    project, act = _project(context, project_id), Act.start(Action.GROUP)
    answer = _answer(context, project, given)

    def step(session: Session, ids: list[int]) -> Done:
        return bulk.label(session, project, ids, answer, person.name, act, given.seen)

    return bulk.in_steps(context.database, given.ids, act, step)


@router.post("/api/projects/{project_id}/confirm")
def confirm(project_id: int, given: Targets, context: InContext, person: ByPerson) -> Done:
    """Records that labels are right: they are no suspects any more."""
    project, act = _project(context, project_id), Act.start(Action.CONFIRM)

    def step(session: Session, ids: list[int]) -> Done:
        return bulk.confirm(session, project, ids, person.name, act, given.seen)

    return bulk.in_steps(context.database, given.ids, act, step)


def image_or_404(session: Session, project: Project, image_id: int) -> Image:
    """An image of the project.

    Raises:
        HTTPException: 404 if there is none.
    """
    image = session.get(Image, image_id)
    if image is None or image.project_id != project.id:
        raise HTTPException(404, _("there is no such image"))
    return image


def _project(context: Context, project_id: int) -> Project:
    """The project, for transactions to come."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        session.expunge(project)
        return project


def _answer(context: Context, project: Project, given: GroupLabel) -> Answer:
    """The label for all images.

    Raises:
        UserError: the project can't have it.
    """
    if given.status not in (Status.LABELED, Status.UNKNOWN):
        raise UserError(_("give images a class or call them unknown; to label them later, send them back"))
    with context.database.read() as session:
        known = {found.id for found in projects.classes(session, project.id)}
    if unknown := set(given.classes) - known:
        raise UserError(_("there is no class {number} in this project").format(number=min(unknown)))
    if project.task == "single_label" and given.status == Status.LABELED and len(given.classes) != 1:
        raise UserError(_("this project has one class per image"))
    return Answer(given.status, tuple(given.classes))
