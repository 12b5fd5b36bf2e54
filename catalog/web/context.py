"""What the handlers share: the database, the library of images and the templates."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jinja2
from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from catalog import language, sentences
from catalog.language import _
from catalog.library import Library
from catalog.store import Database, Session
from catalog.store.tables import Kind, Page, Project, Role
from catalog.teach.teacher import Teacher
from catalog.web.language import here, texts_address
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
}
_TEMPLATES.filters |= {
    "moment": _at_run_time(language.moment),
    "number": _at_run_time(language.number),
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
    """

    database: Database
    library: Library
    owner: str
    teacher: Teacher


def _context(request: Request) -> Context:
    return request.app.state.context


InContext = Annotated[Context, Depends(_context)]


@dataclass(frozen=True)
class Person:
    """Who sends a request; `name` is recorded with each label."""

    name: str
    role: Role


def _person(request: Request) -> Person:
    return Person(request.app.state.context.owner, Role.ADMIN)


ByPerson = Annotated[Person, Depends(_person)]


def render(template: str, status: int = 200, **shown: object) -> HTMLResponse:
    """A page from a template of ``catalog/templates``."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(shown), status)


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


def _or_404(found: object, message: str):
    if found is None:
        raise HTTPException(404, message)
    return found
