"""The data page, on which people look through images and labels, and the page of one image."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from catalog.store import Session, found_images, history, labels, projects, search
from catalog.store.search import Position
from catalog.store.tables import Project
from catalog.web import searching
from catalog.web.context import InContext, labeled_or_404, render
from catalog.web.data_api import image_or_404
from catalog.web.searching import ByAddress, SearchQuery

router = APIRouter(include_in_schema=False)


@router.get("/projects/{project_id}/data")
def data_page(project_id: int, context: InContext, query: ByAddress) -> HTMLResponse:
    """The filters as the address has them; the page's script asks for the images."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        query.search()  # a mistake in the address gets its line here
        return render(
            "data.html",
            project=project,
            query=query,
            statuses=searching.STATUSES,
            origins=searching.ORIGINS,
            orders=searching.ORDERS,
            tests=searching.TESTS,
            classes=projects.classes(session, project.id),
            people=search.people(session, project.id),
        )


@router.get("/projects/{project_id}/data/{image_id}")
def image_page(
    project_id: int, image_id: int, context: InContext, query: ByAddress, at: str = ""
) -> HTMLResponse:
    """One image with its history; `at` is its place in the results of the search that led here."""
    with context.database.read() as session:
        project = labeled_or_404(session, project_id)
        seen = labels.last_event(session)
        image = image_or_404(session, project, image_id)
        place = searching.position(at) or search.place(session, image, query.search().order)
        # What the results show of it; the value of a position doesn't matter for that.
        (shown,) = found_images.at(session, project.id, [Position(0, image.id)])
        return render(
            "data_image.html",
            project=project,
            image=image,
            seen=seen,
            shown=shown,
            query=query,
            history=history.of(session, image)[::-1],
            origins=searching.ORIGINS,
            statuses=searching.STATUSES,
            **_neighbours(session, project, query, place),
        )


def _neighbours(
    session: Session, project: Project, query: SearchQuery, place: Position | None
) -> dict[str, str]:
    """Addresses of the images before and behind a place in the results; empty where there is none."""
    found = (None, None)
    if place is not None:
        found = search.neighbours(session, project.id, query.search(), place)
    root = f"/projects/{project.id}/data"
    return {
        name: f"{root}/{each.id}{query.address(at=each)}" if each is not None else ""
        for name, each in zip(("previous", "next"), found, strict=True)
    }
