"""What the handlers share: the database, the library of images and the templates."""

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jinja2
from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse

from catalog.library import Library
from catalog.store import Database, Session
from catalog.store.tables import Page, Project
from pipeline.common import text

PACKAGE = Path(__file__).parents[1]
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PACKAGE / "templates"),
    autoescape=True,
    finalize=text.html,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Context:
    """The application's state.

    Attributes:
        database: the catalog's.
        library: image files.
        person: who is recorded with each label: the account that runs the server.
    """

    database: Database
    library: Library
    person: str


def _context(request: Request) -> Context:
    return request.app.state.context


InContext = Annotated[Context, Depends(_context)]


def person() -> str:
    """The name of the account that runs this process."""
    try:
        return getpass.getuser()[:100]
    except (KeyError, OSError):  # a container without a user database
        return "unknown"


def render(template: str, status: int = 200, **shown: object) -> HTMLResponse:
    """A page from a template of ``catalog/templates``."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(shown), status)


def project_or_404(session: Session, project_id: int) -> Project:
    """The project of an address.

    Raises:
        HTTPException: 404 if there is none.
    """
    return _or_404(session.get(Project, project_id), "project")


def page_or_404(session: Session, token: str) -> Page:
    """The page of an address.

    Raises:
        HTTPException: 404 if there is none.
    """
    return _or_404(session.get(Page, token), "page")


def _or_404(found: object, kind: str):
    if found is None:
        raise HTTPException(404, f"there is no such {kind}")
    return found
