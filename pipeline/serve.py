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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import config, text
from pipeline.config import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.portable import Portable

MAX_BYTES = 16_000_000  # of an upload; a phone's photo has 2 to 8 MB
MAX_PIXELS = 25_000_000  # of a picture; while it is decoded, transparent parts included, 175 MB
SECONDS = 20  # in which an upload must have come
AT_ONCE = 64  # requests that are taken; others are told to come again


class Limits:
    """ASGI middleware: how many requests there are, and how large and slow an upload may be.

    Args:
        app: what answers.
        most: bytes of a request.
        seconds: for all of it to come.
        at_once: requests.
    """

    def __init__(self, app, most: int, seconds: float, at_once: int):
        self.app, self.most, self.seconds, self.at_once, self.present = app, most, seconds, at_once, 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.present >= self.at_once:
            await self._refuse(scope, receive, send, 503, "too many requests at once; come again")
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self.most:
            why = f"the upload has {int(told):,} bytes, more than {self.most:,}"
            await self._refuse(scope, receive, send, 413, why)
            return
        self.present += 1
        try:
            await self.app(scope, self._watched(receive), send)
        finally:
            self.present -= 1

    def _watched(self, receive: Callable[[], Awaitable[dict]]) -> Callable[[], Awaitable[dict]]:
        """`receive` with an end to its patience; FastAPI answers with the HTTPException that it raises."""
        from starlette.exceptions import HTTPException

        loop, closing = asyncio.get_running_loop(), {"connection": "close"}
        until, seen, whole = loop.time() + self.seconds, 0, False

        async def watched() -> dict:
            nonlocal seen, whole
            if whole:
                return await receive()  # what follows is the connection's end
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - loop.time()))
            except TimeoutError:
                why = f"the upload did not come within {self.seconds:g} seconds"
                raise HTTPException(408, why, closing) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body")
            if seen > self.most:
                raise HTTPException(413, f"the upload has more than {self.most:,} bytes", closing)
            return message

        return watched

    async def _refuse(self, scope, receive, send, status: int, why: str) -> None:
        from starlette.responses import JSONResponse

        answer = JSONResponse({"detail": why}, status, headers={"connection": "close"})
        await answer(scope, receive, send)


def application(model: "Portable", seconds: float = SECONDS) -> "FastAPI":
    """The program that answers HTTP.

    Args:
        model: on one thread; as many pictures are computed at a time as there are cores.
        seconds: in which an upload must have come.
    """
    from fastapi import FastAPI, HTTPException, Query, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel

    from pipeline.portable import UnreadableError, read_picture

    class Answer(BaseModel):
        """Classes, best first, their calibrated probabilities, and whether the first is too little."""

        labels: list[str]
        probabilities: list[float]
        unsure: bool

    class Problem(BaseModel):
        """Why there is no answer, in one line."""

        detail: str

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
    app.add_middleware(Limits, most=MAX_BYTES, seconds=seconds, at_once=AT_ONCE)
    # Memory is bounded by how many pictures are decoded at a time, and by few threads doing it: each thread's
    # heap keeps the room of what it once held.
    pool = ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{place}: {first['msg']}"}, 422)

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

    @app.post("/predict", responses={status: {"model": Problem} for status in (400, 408, 413, 422, 503)})
    async def predict(photo: UploadFile, top: int = Query(5, ge=1, le=1000)) -> Answer:
        """The most probable classes of one photo, sent as the form's field `photo`."""

        def answer() -> Answer | str:
            # An error that left this thread would keep the upload in its frames until they are collected.
            try:
                picture = read_picture(photo.file.read(), MAX_PIXELS, still=True)
            except UnreadableError as error:
                return str(error)
            return Answer(**model.answer(picture, top))

        told = await asyncio.get_running_loop().run_in_executor(pool, answer)
        if isinstance(told, str):
            raise HTTPException(422, f"photo: {told}")
        return told

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"
        return HTMLResponse(_docs(app.openapi()), headers={"Content-Security-Policy": policy})

    return app


def _docs(form: dict) -> str:
    """The OpenAPI description as a page that asks for nothing else, with a form to try it."""
    import jinja2

    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(
        (Path(__file__).parent / "serve_docs.html").read_text(encoding="utf-8")
    ).render(form=form)


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


def _patient(seconds: float) -> type:
    """uvicorn's protocol, which closes a connection that brings no request in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self._give_up, None)

        def on_response_complete(self) -> None:
            before = self.cycle
            super().on_response_complete()  # which begins the next request, if that is here already
            self.loop.call_later(seconds, self._give_up, before)

        def _give_up(self, before) -> None:
            if self.cycle is before and not self.transport.is_closing():
                self.transport.close()

    return Patient


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
        door.listen(2048)  # now, so that whoever reads the address below is answered
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or error
        raise UserError(f"--port {port} on {host}: {told}; name another") from error
    settings = uvicorn.Config(
        application(model),
        http=_patient(SECONDS),
        timeout_graceful_shutdown=30,
        timeout_keep_alive=5,
        log_level="warning",
    )
    where = f"http://{host}:{door.getsockname()[1]}"
    name = text.printable(model.card["data"])
    print(
        f"serve: {name} at {where}/predict; form: {where}/openapi.json; Ctrl-C ends it",
        flush=True,
    )
    uvicorn.Server(settings).run(sockets=[door])


if __name__ == "__main__":
    main(sys.argv[1:])
