"""The catalog's web application."""

import contextlib
import threading
from collections.abc import AsyncIterator
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from catalog import account, decoding
from catalog.helper_process import HelperProcess
from catalog.language import _
from catalog.library import Library
from catalog.store import Database
from catalog.sweep import sweep
from catalog.teach.teacher import Teacher
from catalog.web import (
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
    projects,
    samples,
    taking,
    teach,
    undo,
)
from catalog.web.language import RequestLanguage
from catalog.web.security import SameOrigin
from pipeline.common.errors import UserError
from pipeline.inference.request_limits import RequestLimits

MAX_REQUEST = 80_000_000  # bytes: one image of the largest size, with its form
TIMEOUT = 600  # seconds for a request to arrive
MAX_ACTIVE = 64  # requests
ROUTES = (
    *(projects, labeling, data, data_api, maps, undo, images, exports, imports),
    *(teach, samples, explain, taking, lesson, language),
)


def application(database: Database, library: Library, with_helper: bool = True) -> FastAPI:
    """Builds the application.

    Args:
        database: the catalog's.
        library: image files.
        with_helper: whether to run the helper process; tests run its jobs themselves.
    """
    helper = HelperProcess(library.folder)
    teacher = Teacher(database, library)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if with_helper:
            helper.start()
        teacher.start()
        threading.Thread(target=sweep, args=(database, library), daemon=True).start()
        yield
        helper.stop()
        teacher.stop()
        decoding.close()

    app = FastAPI(title="Pet Faces catalog", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.context = context.Context(database, library, account.name(), teacher)
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=context.PACKAGE / "static"), "static")
    app.add_middleware(RequestLanguage)
    app.add_middleware(SameOrigin)
    app.add_middleware(
        RequestLimits,
        max_bytes=MAX_REQUEST,
        timeout=TIMEOUT,
        max_active=MAX_ACTIVE,
        hosts=[],
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

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return _answer(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _answer(request, 422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    return app


def _answer(request: Request, status: int, message: str) -> Response:
    """An error as a page for browsers, or as JSON for programs."""
    if "text/html" in request.headers.get("accept", ""):
        return context.render("error.html", status, message=message)
    return JSONResponse({"detail": message}, status)
