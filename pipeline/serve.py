"""Answers uploads from an exported model: ``python -m pipeline.serve DIR``

Nothing but the exported folder is needed. Each upload that is no single still picture within the limits gets
a status from 400 to 499 and one line that says why; memory is bounded by the limits and by how many requests
are taken at a time. Pictures are decoded in processes that are ended when they take too long.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import queue
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import config, loopback, tasks, text
from pipeline.config import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.portable import Portable

MAX_BYTES = 16_000_000  # of an upload; a phone's photo has 2 to 8 MB
MAX_PIXELS = 25_000_000  # of a picture; decoded they take 140 MB (JPEG) to 430 MB (WebP)
SECONDS = 20  # in which an upload must have come
DECODE_SECONDS = 10  # in which it must have been decoded; 25 million pixels take 0.1 to 1.5
AT_ONCE = 64  # requests that came whole and are taken; others are told to come again
BUSY = "too many requests at once; come again"
NO_PHOTO = "photo: send the picture as a file in the form's field photo, as curl -F photo=@FILE does"
WAITING = 256  # connections whose request has not come whole; then the longest among them is closed
WAITING_BYTES = AT_ONCE * MAX_BYTES  # of their uploads together, likewise; on the disk from 1 MB on


class Limits:
    """ASGI middleware: how many requests there are, to whom, and how large and slow an upload may be.

    Args:
        app: what answers.
        most: bytes of a request.
        seconds: for all of it to come.
        at_once: requests that came whole.
        hosts: names beside this machine's own that `Host` may hold; None allows any.
    """

    def __init__(self, app, most: int, seconds: float, at_once: int, hosts: list[str] | None):
        self.app, self.most, self.seconds, self.at_once, self.hosts = app, most, seconds, at_once, hosts
        self.present = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = loopback.host_of(headers.get(b"host", b"localhost").decode("latin-1"))
        # A page of a stranger whose name leads to this machine would reach it with that name.
        if self.hosts is not None and not loopback.is_loopback(host) and host not in self.hosts:
            named = text.shortened(host, 100)
            why = f"the host {named} is not this server's; if it is, start it with --allow-host"
            await self._refuse(scope, receive, send, 421, why)
            return
        told = headers.get(b"content-length", b"0")
        if told.isdigit() and int(told) > self.most:
            why = f"the upload has {int(told):,} bytes, more than {self.most:,}"
            await self._refuse(scope, receive, send, 413, why)
            return
        with contextlib.ExitStack() as place:
            if int(told) or b"transfer-encoding" in headers:
                receive = self._watched(receive, place)
            elif not self._take(place):
                await self._refuse(scope, receive, send, 503, BUSY)
                return
            await self.app(scope, receive, send)

    def _take(self, place: contextlib.ExitStack) -> bool:
        """Counts a request that came whole until it is answered; False where there are too many."""
        if self.present >= self.at_once:
            return False
        self.present += 1
        place.callback(self._leave)
        return True

    def _leave(self) -> None:
        self.present -= 1

    def _watched(
        self, receive: Callable[[], Awaitable[dict]], place: contextlib.ExitStack
    ) -> Callable[[], Awaitable[dict]]:
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
            if whole and message["type"] == "http.request" and not self._take(place):
                raise HTTPException(503, BUSY, closing)
            return message

        return watched

    async def _refuse(self, scope, receive, send, status: int, why: str) -> None:
        from starlette.responses import JSONResponse

        answer = JSONResponse({"detail": why}, status, headers={"connection": "close"})
        await answer(scope, receive, send)


def application(
    model: "Portable",
    seconds: float = SECONDS,
    decode_seconds: float = DECODE_SECONDS,
    hosts: list[str] | None = None,
) -> "FastAPI":
    """The program that answers HTTP.

    Args:
        model: on one thread; as many pictures are computed at a time as there are cores.
        seconds: in which an upload must have come.
        decode_seconds: in which a picture must have been decoded.
        hosts: as `Limits` understands them.
    """
    from fastapi import FastAPI, HTTPException, Query, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel

    from pipeline.decoder import Decoder
    from pipeline.portable import UnreadableError, reason

    class Answer(BaseModel):
        """Classes, best first, their calibrated probabilities, and whether the first is too little.

        Of a model that names several classes: whether each is present instead.
        """

        labels: list[str]
        probabilities: list[float]
        unsure: bool | None = None
        present: list[bool] | None = None

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
    # Memory is bounded by how many pictures are decoded at a time.
    workers = min(4, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(workers)
    decoders = [Decoder(card.input.max_side, MAX_PIXELS, decode_seconds) for _ in range(workers)]
    idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()

    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        for decoder in decoders:
            decoder.start()
            idle.put(decoder)
        yield
        for decoder in decoders:
            decoder.close()

    app = FastAPI(
        lifespan=running,
        title=f"Pet Faces: {card.data}",
        description=tasks.of(card.task).purpose,
        docs_url=None,  # FastAPI's page of it would fetch its script from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Limits, most=MAX_BYTES, seconds=seconds, at_once=AT_ONCE, hosts=hosts)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["loc"][0] == "body":
            return JSONResponse({"detail": NO_PHOTO}, 422)
        place = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{place}: {first['msg']}"}, 422)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Health:
        """That it answers, and with which model."""
        return Health(
            status="ok",
            model=card.name,
            data=card.data,
            classes=len(model.classes),
            drawings=card.drawings,
        )

    statuses = (400, 408, 413, 421, 422, 500, 503)

    @app.post(
        "/predict",
        responses={status: {"model": Problem} for status in statuses},
        response_model_exclude_none=True,
    )
    async def predict(photo: UploadFile, top: int = Query(5, ge=1, le=1000)) -> Answer:
        """The most probable classes of one photo, sent as the form's field `photo`."""

        def answer() -> Answer | tuple[int, str]:
            # An error that left this thread would keep the upload in its frames until they are collected.
            decoder = idle.get()
            try:
                pixels = decoder.read(photo.file.read())
            except UnreadableError as error:
                return 422, f"photo: {error}"
            except Exception as error:
                return 500, reason(error)
            finally:
                idle.put(decoder)
            try:
                return Answer(**model.answer(pixels, top))
            except Exception as error:  # what ONNX Runtime raises concerns this picture alone
                return 500, f"photo: the model gives no answer ({text.printable(reason(error))})"

        told = await asyncio.get_running_loop().run_in_executor(pool, answer)
        if isinstance(told, tuple):
            raise HTTPException(*told)
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


@config.in_one_line()
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.serve", description="Answers uploads from an exported model."
    )
    parser.add_argument("folder", type=Path, help="what pipeline.export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="a name by which it may be asked, beside this machine's own, that of a proxy perhaps; may be "
        "repeated (default: none where --host is this machine only, otherwise any)",
    )
    given = parser.parse_args(arguments)
    run(given.folder, given.host, given.port, given.allow_host)


def _patient(seconds: float, most: int = WAITING, held: int = WAITING_BYTES) -> type:
    """uvicorn's protocol, which closes a connection that brings no request in time.

    Args:
        seconds: from the connection's start, or its last answer, to the end of the next head.
        most: connections that may wait for the rest of a request; beyond, the longest among them is closed,
            so that however many are slow, whoever is not finds room.
        held: bytes that may have come of their requests, likewise.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    waiting: dict[H11Protocol, int] = {}  # bytes that came; the longest first

    class Patient(H11Protocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._wait(None)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_whole():
                waiting.pop(self, None)
            elif self in waiting:
                waiting[self] += len(data)
                self._make_room()

        def connection_lost(self, error: Exception | None) -> None:
            waiting.pop(self, None)
            super().connection_lost(error)

        def on_response_complete(self) -> None:
            before = self.cycle
            super().on_response_complete()  # which begins the next request, if that is here already
            self._wait(before)

        def send_400_response(self, msg: str) -> None:
            answer = json.dumps({"detail": msg}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers.append((b"content-length", str(len(answer)).encode()))
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=answer),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _is_whole(self) -> bool:
            return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

        def _wait(self, before) -> None:
            waiting.pop(self, None)
            if not self._is_whole() and not self.transport.is_closing():
                waiting[self] = 0
                self._make_room()
            self.loop.call_later(seconds, self._give_up, before)

        def _make_room(self) -> None:
            while len(waiting) > most or sum(waiting.values()) > held:
                longest = next(iter(waiting))
                del waiting[longest]
                longest.transport.close()

        def _give_up(self, before) -> None:
            if self.cycle is before and not self.transport.is_closing():
                self.transport.close()

    return Patient


def run(folder: Path, host: str, port: int, allowed: list[str] | None = None) -> None:
    """Serves until Ctrl-C or SIGTERM; what was begun is answered first.

    Args:
        folder: what `pipeline.export` wrote.
        host: the address to listen on.
        port: 0 takes a free one.
        allowed: names by which it may be asked, beside this machine's own; where there are none, any is
            allowed unless the address is this machine's own.

    Raises:
        UserError: the folder holds no whole model, or the port is taken.
    """
    import socket

    import uvicorn

    from pipeline.portable import DamagedError, Portable

    if not host:
        raise UserError("--host is empty; name an address, 127.0.0.1 for this machine only")
    if not (folder / "model.onnx").is_file():
        model = f"--model {folder} " if (folder / "weights.safetensors").is_file() else ""
        raise UserError(
            f"{folder} holds no model.onnx; make one, and serve that folder: "
            f"python -m pipeline.export {model}--out exported"
        )
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
    hosts = [name.lower() for name in allowed or []] if allowed or loopback.is_loopback(host) else None
    settings = uvicorn.Config(
        application(model, hosts=hosts),
        http=_patient(SECONDS),
        ws="none",
        timeout_graceful_shutdown=30,
        timeout_keep_alive=5,
        log_level="error",  # what it warns of is said to the client; it need not stand on the terminal, too
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    where = f"http://{f'[{host}]' if ':' in host else host}:{door.getsockname()[1]}"
    name = text.printable(model.card.data)
    print(
        f"serve: {name} at {where}/predict; form: {where}/openapi.json; Ctrl-C ends it",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in order, then raises it again
        uvicorn.Server(settings).run(sockets=[door])


if __name__ == "__main__":
    main(sys.argv[1:])
