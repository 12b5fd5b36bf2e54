"""What the handlers share: the database, the library of images and the templates."""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jinja2
from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from markupsafe import Markup
from starlette.datastructures import Headers

from catalog import language, sentences
from catalog.language import _
from catalog.library import Library
from catalog.relabeler import Relabeler
from catalog.store import Database, Session
from catalog.store.tables import Kind, Page, PageKind, Project, Role
from catalog.teach.teacher import Teacher
from catalog.web.hashing import Hashing
from catalog.web.language import here, texts_address
from catalog.web.sessions import Sessions
from catalog.web.throttle import Attempts
from pipeline.common import text

PACKAGE = Path(__file__).parents[1]
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PACKAGE / "templates"),
    autoescape=True,
    finalize=text.html,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.i18n"],
)


@dataclass(frozen=True)
class Person:
    """Who sends a request.

    Attributes:
        name: recorded with each label.
        role: what the person may do.
        account_id: None while there are no accounts: the machine's account uses the catalog.
        session_key: the account's when the request began.
    """

    name: str
    role: Role
    account_id: int | None = None
    session_key: str = field(default="", repr=False)

    @property
    def is_admin(self) -> bool:
        return self.role == Role.ADMIN


signed_in: ContextVar[Person | None] = ContextVar("signed_in", default=None)  # set by catalog.web.access


def _at_run_time(function: Callable) -> Callable:
    """Keeps Jinja from calling a function of the language when it compiles a template."""

    @jinja2.pass_context
    def call(_context: jinja2.runtime.Context, *arguments: object) -> object:
        return function(*arguments)

    return call


def _with_values(function: Callable) -> Callable:
    """Puts values into a text: numbers in the language's way, others as `finalize` and autoescape do it."""

    @jinja2.pass_context
    def call(_context: jinja2.runtime.Context, *arguments: object, **values: object) -> Markup:
        shown = {
            name: language.number(value) if type(value) in (int, float) else text.html(value)
            for name, value in values.items()
        }
        return Markup(function(*arguments)) % shown

    return call


_TEMPLATES.install_gettext_callables(language.gettext, language.ngettext, newstyle=True)
_TEMPLATES.globals |= {
    "gettext": _with_values(language.gettext),
    "ngettext": _with_values(language.ngettext),
    "language": _at_run_time(language.current),
    "languages": language.LANGUAGES,
    "texts_address": _at_run_time(texts_address),
    "here": _at_run_time(here),
    "person": _at_run_time(signed_in.get),
}
_TEMPLATES.filters |= {
    "moment": _at_run_time(language.moment),
    "number": _at_run_time(language.number),
    "date": _at_run_time(language.date),
    "ago": _at_run_time(lambda at: language.ago(time.time() - at)),
    "percent": _at_run_time(language.percent),
    "sentence": _at_run_time(sentences.shown),
}
_TEMPLATES.policies["ext.i18n.trimmed"] = True


@dataclass(frozen=True)
class Context:
    """The application's state.

    Attributes:
        database: the catalog's.
        library: image files.
        owner: the account that runs the server.
        teacher: trains and runs the models of the teach page.
        sessions: of people who have signed in.
        attempts: to sign in.
        hashing: of passwords.
        relabeler: changes many labels after a change of classes.
    """

    database: Database
    library: Library
    owner: str
    teacher: Teacher
    sessions: Sessions
    attempts: Attempts
    hashing: Hashing
    relabeler: Relabeler


def _context(request: Request) -> Context:
    return request.app.state.context


InContext = Annotated[Context, Depends(_context)]


def _person(request: Request) -> Person:
    return request.scope["person"]


ByPerson = Annotated[Person, Depends(_person)]


def render(
    template: str, status: int = 200, headers: Mapping[str, str] | None = None, /, **shown: object
) -> HTMLResponse:
    """A page from a template of ``catalog/templates``."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(shown), status, headers)


def error_answer(headers: Headers, status: int, message: str, **details: object) -> Response:
    """An error as a page for browsers, or as JSON for programs, with more details for them."""
    if accepts_pages(headers):
        return render("error.html", status, message=message)
    return JSONResponse({"detail": message, **details}, status)


def accepts_pages(headers: Headers) -> bool:
    """Whether a request comes from a browser that shows the answer, rather than from a program or script."""
    return "text/html" in headers.get("accept", "")


def labeled_or_404(session: Session, project_id: int) -> Project:
    """The project of an address of the label pages.

    Raises:
        HTTPException: 404 if there is none, or it belongs to the teach page.
    """
    project = project_or_404(session, project_id)
    if project.kind != Kind.LABEL:
        raise HTTPException(404, _("there is no such project"))
    return project


def project_or_404(session: Session, project_id: int) -> Project:
    """The project of an address, of either kind.

    Raises:
        HTTPException: 404 if there is none.
    """
    return _or_404(session.get(Project, project_id), _("there is no such project"))


def taught_or_404(session: Session, project_id: int) -> Project:
    """The project of an address of the teach page.

    Raises:
        HTTPException: 404 if there is none, or it is labeled on the label page.
    """
    project = project_or_404(session, project_id)
    if project.kind != Kind.TEACH:
        raise HTTPException(404, _("there is no such project"))
    return project


def page_or_404(session: Session, token: str) -> Page:
    """The page of an address.

    Raises:
        HTTPException: 404 if there is none.
    """
    return _or_404(session.get(Page, token), _("there is no such page"))


def own_page_or_404(session: Session, token: str, person: Person) -> Page:
    """The page of an address; for a labeler, one that was handed out to this person.

    Raises:
        HTTPException: 404 if there is none.
    """
    page = page_or_404(session, token)
    return _or_404(page if may_use(person, page) else None, _("there is no such page"))


def may_use(person: Person, page: Page) -> bool:
    """Whether a person may see and submit a page."""
    return person.is_admin or (page.person == person.name and page.kind != PageKind.REVIEW)


def _or_404(found: object, message: str):
    if found is None:
        raise HTTPException(404, message)
    return found
