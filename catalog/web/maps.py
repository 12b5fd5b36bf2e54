"""The map page: positions and colours of all images as arrays, and labels for a group of them."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Body, HTTPException
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field

from catalog import maps, sentences
from catalog.language import _, number
from catalog.maps import Map
from catalog.store import Session, bulk, jobs, labels, projects, search
from catalog.store import maps as stored
from catalog.store.bulk import Done
from catalog.store.labels import Act, Answer
from catalog.store.tables import Action, JobState, Project, Status
from catalog.web.context import ByPerson, Context, InContext, labeled_or_404, render
from catalog.web.fields import ImageId
from pipeline.common.errors import UserError

router = APIRouter()

MAX_CODES = 65_536  # that 16 bits can tell apart
_COLORINGS = {"labels": stored.labels, "predictions": stored.predictions, "people": stored.people}


class Work(BaseModel):
    """The helper's work on the map."""

    state: JobState
    done: int
    total: int
    message: str


class MapState(BaseModel):
    """What there is of the map.

    Attributes:
        version: empty while there is none.
        is_arranged: false while the first two principal components are shown.
        points: images on it.
        images: images of the project.
        is_current: whether it has all images that can be read.
        placed: images that have joined since it was arranged.
        message: why there can't be one.
        work: the last job.
    """

    version: str
    is_arranged: bool
    points: int
    images: int
    is_current: bool
    placed: int
    message: str
    work: Work | None


class Group(BaseModel):
    """Images that get the same classes.

    Attributes:
        ids: of the images; those of other projects are ignored.
        seen: of the colours that showed them; images that were labeled later are left alone.
        classes: for all of them.
    """

    ids: list[ImageId] = Field(min_length=1, max_length=search.COUNTED)
    seen: int | None = None
    classes: list[int] = Field(max_length=projects.MAX_CLASSES)


@router.get("/projects/{project_id}/map", include_in_schema=False)
def map_page(project_id: int, context: InContext) -> HTMLResponse:
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        return render("map.html", project=project, most=search.COUNTED)


@router.get("/api/projects/{project_id}/map")
def state(project_id: int, context: InContext) -> MapState:
    """The map's version and progress."""
    with context.database.read() as session:
        return _state(context, session, labeled_or_404(session, project_id))


@router.post("/api/projects/{project_id}/map")
def request(project_id: int, context: InContext, anew: Annotated[bool, Body(embed=True)] = False) -> MapState:
    """Asks for the map unless it has all images; `anew` arranges all of them again.

    The present map stays until the new one is there.
    """
    with context.database.write() as session:
        project = labeled_or_404(session, project_id)
        if anew and project.paused:
            raise UserError(_paused(project))
        found = _state(context, session, project)
        if anew:
            maps.ask_anew(context.library.map(project.id))
        is_wanted = not found.is_current or maps.asked_anew(context.library.map(project.id)) is not None
        is_missing = is_wanted and not (found.message or project.paused)
        # A job that runs may have begun before this was asked.
        if anew or (is_missing and not jobs.is_open(session, project.id, jobs.Kind.MAP)):
            jobs.request(session, project.id, jobs.Kind.MAP)
            session.flush()
        return _state(context, session, project)


def _state(context: Context, session: Session, project: Project) -> MapState:
    extent = stored.extent(session, project.id)
    found = maps.load(context.library.map(project.id))
    job = jobs.newest(session, project.id, jobs.Kind.MAP)
    message = ""
    if found is None and extent.images < stored.MIN_IMAGES:
        few = sentences.TOO_FEW_TO_MAP.format(least=stored.MIN_IMAGES, count=extent.images)
        message = sentences.shown(few)
    elif found is None and project.paused:
        message = _paused(project)
    is_current = found is not None and (found.images, found.newest) == (extent.images, extent.newest)
    work = None
    if job is not None:
        work = Work(
            state=JobState(job.state),
            done=job.done,
            total=job.total,
            message=sentences.shown(job.message),
        )
    return MapState(
        version=found.version if found else "",
        is_arranged=found is not None and found.fit is not None,
        points=len(found.ids) if found else 0,
        images=extent.images,
        is_current=is_current and found.fit is not None,
        placed=found.placed if found else 0,
        message=message,
        work=work,
    )


@router.get("/api/projects/{project_id}/map/{version}/points")
def points(project_id: int, version: str, context: InContext) -> Response:
    """All ids as float64, then all positions as float32, little-endian."""
    found = _map_or_404(context, project_id, version)
    content = found.ids.astype("<f8").tobytes() + found.positions.astype("<f4").tobytes()
    # The version is that of the content; Vary: what an account may see ends with its session.
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Cookie"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.get("/api/projects/{project_id}/map/{version}/{coloring}")
def colors(
    project_id: int,
    version: str,
    coloring: Literal["labels", "predictions", "people"],
    context: InContext,
) -> Response:
    """What the map shows of each image.

    The answer is the number of bytes of a JSON list (uint32, little-endian), this list, and for each image in
    the order of the map the position in it: uint16, or uint32 if the list has more than MAX_CODES entries.
    The first entry, null, stands for nothing. The header Last-Event is `seen` of a group that is labeled by
    what was shown.
    """
    found = _map_or_404(context, project_id, version)
    order = np.argsort(found.ids)
    ids = found.ids[order]
    codes, values = np.zeros(len(ids), np.uint32), [None]
    with context.database.read() as session:
        seen = labels.last_event(session)
        for group in _COLORINGS[coloring](session, project_id):
            at = np.minimum(np.searchsorted(ids, group.ids), len(ids) - 1)
            at = at[ids[at] == group.ids]  # others have joined since
            if len(at):
                codes[order[at]] = len(values)
                values.append(group.value)
    text = json.dumps(values).encode()
    kind = "<u2" if len(values) <= MAX_CODES else "<u4"
    content = len(text).to_bytes(4, "little") + text + codes.astype(kind).tobytes()
    headers = {"Cache-Control": "no-store", "Last-Event": str(seen)}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.post("/api/projects/{project_id}/map/label")
def label(project_id: int, group: Group, context: InContext, person: ByPerson) -> Done:
    """Gives a group of images the same classes."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        known = {found.id for found in projects.classes(session, project.id)}
        if unknown := set(group.classes) - known:
            message = _("there is no class {number} in this project")
            raise HTTPException(422, message.format(number=number(min(unknown))))
        if project.task == "single_label" and len(group.classes) != 1:
            raise HTTPException(422, _("this project has one class per image"))
        session.expunge(project)  # for the transactions to come
    answer, act = Answer(Status.LABELED, tuple(group.classes)), Act.start(Action.GROUP)

    def step(session: Session, ids: Sequence[int]) -> Done:
        return bulk.label(session, project, ids, answer, person.name, act, group.seen)

    return bulk.in_steps(context.database, group.ids, act, step)


def _paused(project: Project) -> str:
    return _("{project} is paused; resume it on its settings page").format(project=project.name)


def _map_or_404(context: Context, project_id: int, version: str) -> Map:
    """The map of an address.

    Raises:
        HTTPException: 404 if there is no such project or map, or the map has changed since.
    """
    with context.database.read() as session:
        labeled_or_404(session, project_id)
    found = maps.load(context.library.map(project_id))
    if found is None or found.version != version:
        raise HTTPException(404, _("the map has changed; load the page again"))
    return found
