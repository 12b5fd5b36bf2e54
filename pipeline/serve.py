"""Answers uploads from an exported model: ``python -m pipeline.serve DIR``

Nothing but the exported folder is needed. Each upload that is no single still picture within the limits gets
a status from 400 to 499 and one line that says why; memory is bounded by the limits and by how many requests
are taken at a time.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import config
from pipeline.config import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.portable import Portable

MAX_BYTES = 16_000_000  # of an upload; a phone's photo has 2 to 8 MB
MAX_PIXELS = 40_000_000  # of a picture; decoded 120 MB
SECONDS = 20  # in which an upload must have come
AT_ONCE = 64  # requests that are taken; others are told to come again


class Limits:
    """ASGI middleware: an upload's size and time are bounded before anything reads it.

    Args:
        app: what answers.
        most: bytes of a request.
        seconds: for all of it to come.
    """

    def __init__(self, app, most: int, seconds: float):
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self.most:
            await self._refuse(send, 413, f"the upload has {int(told):,} bytes, more than {self.most:,}")
            return
        loop = asyncio.get_running_loop()
        until, seen, answered = loop.time() + self.seconds, 0, False

        async def watched() -> dict:
            nonlocal seen
            if seen < 0:
                return await receive()  # all has come; what follows is the connection's end
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - loop.time()))
            except TimeoutError:
                raise _TooSlowError from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.most:
                    raise _TooLargeError
                if not message.get("more_body"):
                    seen = -1
            return message

        async def noted(message: dict) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, watched, noted)
        except _TooLargeError:
            if not answered:
                await self._refuse(send, 413, f"the upload has more than {self.most:,} bytes")
        except _TooSlowError:
            if not answered:
                await self._refuse(send, 408, f"the upload did not come within {self.seconds:g} seconds")

    async def _refuse(self, send: Callable[[dict], Awaitable[None]], status: int, why: str) -> None:
        from fastapi.responses import JSONResponse

        answer = JSONResponse({"detail": why}, status, headers={"connection": "close"})
        with suppress(OSError):  # nobody is there any more
            await send({"type": "http.response.start", "status": status, "headers": answer.raw_headers})
            await send({"type": "http.response.body", "body": answer.body})


class _TooLargeError(Exception):
    """More bytes came than are taken."""


class _TooSlowError(Exception):
    """They did not come in time."""


def application(model: "Portable", seconds: float = SECONDS) -> "FastAPI":
    """The program that answers HTTP.

    Args:
        model: on one thread; as many pictures are computed at a time as there are cores.
        seconds: in which an upload must have come.
    """
    from fastapi import FastAPI, HTTPException, Query, Request, UploadFile
    from fastapi.concurrency import run_in_threadpool
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel
    from starlette.requests import ClientDisconnect

    from pipeline.portable import UnreadableError, read_picture

    class Answer(BaseModel):
        """Classes, best first, their calibrated probabilities, and whether the first is too little."""

        labels: list[str]
        probabilities: list[float]
        unsure: bool

    class Health(BaseModel):
        """That it answers, and with which model."""

        status: str
        model: str
        data: str
        classes: int
        drawings: bool

    card = model.card
    app = FastAPI(
        title=f"Pet Faces: {card['data']}",
        description="Names the breed in a photo that is cropped to the pet's head.",
        docs_url=None,  # FastAPI's page of it would fetch its script from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Limits, most=MAX_BYTES, seconds=seconds)
    cores = asyncio.Semaphore(os.cpu_count() or 1)  # pictures decoded at a time: memory is bounded by it

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{place}: {first['msg']}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse({"detail": "the upload broke off"}, 400)

    @app.get("/health")
    async def health() -> Health:
        """That it answers, and with which model."""
        return Health(
            status="ok",
            model=card["name"],
            data=card["data"],
            classes=len(model.classes),
            drawings=card["drawings"],
        )

    @app.post("/predict")
    async def predict(photo: UploadFile, top: int = Query(5, ge=1, le=1000)) -> Answer:
        """The most probable classes of one photo, sent as the form's field `photo`."""

        def answer(data: bytes) -> dict:
            return model.answer(read_picture(data, MAX_PIXELS, still=True), top)

        async with cores:
            try:
                return Answer(**await run_in_threadpool(answer, await photo.read()))
            except UnreadableError as error:
                raise HTTPException(422, f"photo: {error}") from error

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"
        return HTMLResponse(_docs(app.openapi()), headers={"Content-Security-Policy": policy})

    return app


def _docs(form: dict) -> str:
    """The OpenAPI description as a page that asks for nothing else, with a form to try it."""
    import jinja2

    environment = jinja2.Environment(autoescape=True)
    return environment.from_string((Path(__file__).parent / "serve_docs.html").read_text()).render(form=form)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.serve", description="Answers uploads from an exported model."
    )
    parser.add_argument("folder", type=Path, help="what pipeline.export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    try:
        with config.told():
            run(given.folder, given.host, given.port)
    except UserError as error:
        sys.exit(f"error: {error}")


def run(folder: Path, host: str, port: int) -> None:
    """Serves until Ctrl-C or SIGTERM; what was begun is answered first.

    Raises:
        UserError: the folder holds no whole model, or the port is taken.
    """
    import socket

    import uvicorn

    from pipeline.portable import DamagedError, Portable

    if not (folder / "model.onnx").is_file():
        raise UserError(f"{folder} holds no model.onnx; make one: python -m pipeline.export --out {folder}")
    try:
        model = Portable(folder, threads=1)
    except DamagedError as error:
        raise UserError(str(error)) from error
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as error:
        raise UserError(f"--port {port} on {host}: {error.strerror}; name another") from error
    chosen = uvicorn.Config(
        application(model),
        limit_concurrency=AT_ONCE,
        timeout_graceful_shutdown=30,
        timeout_keep_alive=5,
        log_level="warning",
    )
    where = f"http://{host}:{door.getsockname()[1]}"
    print(
        f"serve: {model.card['data']} at {where}/predict; form: {where}/openapi.json; Ctrl-C ends it",
        flush=True,
    )
    uvicorn.Server(chosen).run(sockets=[door])


if __name__ == "__main__":
    main(sys.argv[1:])
