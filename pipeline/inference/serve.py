"""HTTP server for an exported model: ``petfaces serve DIR``

It needs only the exported folder. An upload that is not a single still image within the limits gets a 4xx
status and a one-line reason. Memory is bounded by limits on sizes and on the number of requests in progress.
Images are decoded in subprocesses, which are killed if they take too long.
"""

import asyncio
import contextlib
import logging
import os
import queue
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import tasks
from pipeline.common import pages, text
from pipeline.common.errors import UserError
from pipeline.inference import loopback, request_limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pipeline.portable import OnnxClassifier

MAX_PIXELS = 25_000_000  # per image; decoding takes 140 MB (JPEG) to 430 MB (WebP)
UPLOAD_TIMEOUT = 20  # seconds
DECODE_TIMEOUT = 10  # seconds; 25 million pixels take 0.1 to 1.5
NO_PHOTO = "photo: send the picture as a file in the form's field photo, as curl -F photo=@FILE does"


def application(
    model: "OnnxClassifier",
    upload_timeout: float = UPLOAD_TIMEOUT,
    decode_timeout: float = DECODE_TIMEOUT,
    hosts: list[str] | None = None,
) -> "FastAPI":
    """Builds the FastAPI app.

    Args:
        model: limited to one thread, because up to four images are processed in parallel.
        upload_timeout: seconds for receiving an upload.
        decode_timeout: seconds for decoding an image.
        hosts: see `request_limits.RequestLimits`.
    """
    from fastapi import FastAPI, HTTPException, Query, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel

    from pipeline.inference.decoder import Decoder
    from pipeline.portable import UnreadableError, reason

    # Clients see the docstrings of these classes and of the endpoints in the OpenAPI description.
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
    # Limits memory: each worker decodes one image at a time.
    workers = min(4, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(workers)
    decoders = [Decoder(card.input.max_side, MAX_PIXELS, decode_timeout) for _ in range(workers)]
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
        docs_url=None,  # FastAPI's docs page loads scripts from a CDN
        redoc_url=None,
    )
    app.add_middleware(
        request_limits.RequestLimits,
        max_bytes=request_limits.MAX_BYTES,
        timeout=upload_timeout,
        max_active=request_limits.MAX_ACTIVE,
        hosts=hosts,
    )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["loc"][0] == "body":
            return JSONResponse({"detail": NO_PHOTO}, 422)
        location = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{location}: {first['msg']}"}, 422)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Health:
        """That it answers, and with which model."""
        return Health(
            status="ok", model=card.name, data=card.data, classes=len(model.classes), drawings=card.drawings
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
            # An exception that left this thread would keep the upload alive in its traceback's frames.
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
            except Exception as error:  # of ONNX Runtime
                return 500, f"photo: the model gives no answer ({text.printable(reason(error))})"

        result = await asyncio.get_running_loop().run_in_executor(pool, answer)
        if isinstance(result, tuple):
            raise HTTPException(*result)
        return result

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The OpenAPI description as a self-contained page with a form to try it."""
        policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"
        page = pages.render(Path(__file__).with_name("serve_docs.html"), api=app.openapi())
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    return app


def run(folder: Path, host: str, port: int, allowed: list[str] | None = None) -> None:
    """Serves until Ctrl-C or SIGTERM; then finishes the requests in progress.

    Args:
        folder: a folder written by `pipeline.inference.export`.
        host: the address to listen on.
        port: 0 picks a free one.
        allowed: allowed Host names besides loopback names; if empty, any name is allowed unless `host` is
            loopback.

    Raises:
        UserError: the folder has no valid model, or the address can't be used.
    """
    import socket

    import uvicorn

    from pipeline.portable import DamagedError, OnnxClassifier

    if not host:
        raise UserError("--host is empty; give an address, such as 127.0.0.1 for this machine only")
    if not (folder / "model.onnx").is_file():
        model = f"--model {folder} " if (folder / "weights.safetensors").is_file() else ""
        raise UserError(
            f"{folder} holds no model.onnx; export a model and serve that folder: "
            f"petfaces export {model}--out exported"
        )
    try:
        model = OnnxClassifier(folder, threads=1)
    except DamagedError as error:
        raise UserError(str(error)) from error
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)  # before the address is printed, so that early clients are answered
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--port {port} on {host}: {reason}; choose another port") from error
    hosts = [name.lower() for name in allowed or []] if allowed or loopback.is_loopback(host) else None
    settings = uvicorn.Config(
        application(model, hosts=hosts),
        http=request_limits.limited_protocol(UPLOAD_TIMEOUT),
        ws="none",
        timeout_graceful_shutdown=30,
        timeout_keep_alive=5,
        log_level="error",  # uvicorn's warnings are about bad requests, which the client is told
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    name = text.printable(model.card.data)
    print(f"{name} at {address}/predict; API: {address}/docs; press Ctrl-C to stop", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn re-raises it after a graceful shutdown
        uvicorn.Server(settings).run(sockets=[listener])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on; by default this machine only.")
@click.option("--port", type=int, default=8000, show_default=True)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="Accept requests for this host name, such as a proxy's, besides localhost; repeatable. "
    "Default: none if --host is loopback, else any.",
)
def main(folder: Path, host: str, port: int, allowed: tuple[str, ...]) -> None:
    """Serve an exported model over HTTP; FOLDER is what export wrote."""
    run(folder, host, port, list(allowed))
