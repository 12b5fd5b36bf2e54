"""The catalog's web application."""

import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from catalog import account, decoding
from catalog.helper_process import HelperProcess
from catalog.language import _
from catalog.library import Library
from catalog.relabeler import Relabeler
from catalog.store import Database, UnavailableError
from catalog.sweep import sweep
from catalog.teach.teacher import Teacher
from catalog.web import (
    agreement,
    classes,
    context,
    data,
    data_api,
    explain,
    exports,
    images,
    imports,
    labeling,
    language,
    lesson,
    maps,
    people,
    projects,
    samples,
    sessions,
    sign_in,
    taking,
    teach,
    undo,
)
from catalog.web.access import Access
from catalog.web.hashing import Hashing
from catalog.web.language import RequestLanguage
from catalog.web.security import SameOrigin
from catalog.web.sessions import Sessions
from catalog.web.throttle import Attempts
from pipeline.common.errors import UserError
from pipeline.inference.request_limits import RequestLimits

MAX_REQUEST = 80_000_000  # bytes: one image of the largest size, with its form
TIMEOUT = 600  # seconds for a request to arrive
MAX_ACTIVE = 64  # requests
ROUTES = (
    *(projects, classes, labeling, agreement, data, data_api, maps, undo, images, exports, imports),
    *(teach, samples, explain, taking, lesson, language, sign_in, people),
)


def application(
    database: Database,
    library: Library,
    with_helper: bool = True,
    hosts: Sequence[str] = (),
    needs_accounts: bool = False,
) -> FastAPI:
    """Builds the application.

    Args:
        database: the catalog's.
        library: image files.
        with_helper: whether to run the helper process; tests run its jobs themselves.
        hosts: names of this server besides those of loopback.
        needs_accounts: whether everybody has to sign in even if there is no account.
    """
    helper = HelperProcess(library)
    teacher = Teacher(database, library)
    relabeler = Relabeler(database)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if with_helper:
            helper.start()
        teacher.start()
        relabeler.start()
        threading.Thread(target=sweep, args=(database, library), daemon=True).start()
        yield
        helper.stop()
        teacher.stop()
        relabeler.stop()
        decoding.close()

    app = FastAPI(title="Pet Faces catalog", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.context = context.Context(
        database,
        library,
        account.name(),
        teacher,
        Sessions(sessions.key_in(library.session_key)),
        Attempts(),
        Hashing(),
        relabeler,
    )
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=context.PACKAGE / "static"), "static")
    # The first is the innermost: it answers in the request's language.
    app.add_middleware(Access, context=app.state.context, needs_accounts=needs_accounts)
    app.add_middleware(RequestLanguage)
    app.add_middleware(SameOrigin)
    app.add_middleware(
        RequestLimits,
        max_bytes=MAX_REQUEST,
        timeout=TIMEOUT,
        max_active=MAX_ACTIVE,
        hosts=[host.lower() for host in hosts],
        max_bytes_of={taking.OPEN: taking.MAX_SAVED, imports.PATH: imports.MAX_REQUEST},
    )

    @app.exception_handler(OverflowError)
    async def too_large(request: Request, _error: OverflowError) -> Response:
        """A number in the request that no id can have."""
        return _answer(request, 404, _("there is no such page"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        is_no_route = error.detail == HTTPStatus.NOT_FOUND.phrase
        message = _("there is no such page") if is_no_route else str(error.detail)
        return _answer(request, error.status_code, message)

    @app.exception_handler(UnavailableError)
    async def unavailable(request: Request, error: UnavailableError) -> Response:
        return _answer(request, 503, str(error))

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return _answer(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where, *names = map(str, first["loc"])
        if where == "path":  # such as /projects/abc
            return _answer(request, 404, _("there is no such page"))
        is_missing = first["type"] == "missing"
        text = _("{field} is missing") if is_missing else _("{field} can't have this value")
        message = text.format(field=".".join(names) or where)
        details = [{"loc": each["loc"], "msg": each["msg"]} for each in error.errors()]
        return _answer(request, 422, message, errors=details)

    return app


def _answer(request: Request, status: int, message: str, **details: object) -> Response:
    return context.error_answer(request.headers, status, message, **details)
