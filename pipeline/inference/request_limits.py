"""Limits of the server on the number, size, duration and Host header of requests."""

import asyncio
import contextlib
import fnmatch
import json
from collections.abc import Awaitable, Callable, Mapping

from pipeline.common import text
from pipeline.inference import loopback

MAX_BYTES = 16_000_000  # per upload; a phone's photo has 2 to 8 MB
MAX_ACTIVE = 64  # fully received requests in progress; further ones get status 503
BUSY = "too many requests at once; come again"
MAX_INCOMPLETE = 256  # connections with an incomplete request; beyond, the oldest is closed
MAX_INCOMPLETE_BYTES = MAX_ACTIVE * MAX_BYTES  # received in total; an upload is on disk from 1 MB on


class RequestLimits:
    """ASGI middleware that limits the number, size, duration and Host header of requests.

    Args:
        app: the wrapped ASGI app.
        max_bytes: maximum size of a request's body.
        timeout: seconds for receiving a request.
        max_active: maximum number of fully received requests in progress.
        hosts: allowed values of `Host` besides loopback names; None allows any.
        max_bytes_of: other maximum sizes, by path; `*` in it stands for any text.
    """

    def __init__(
        self,
        app,
        max_bytes: int,
        timeout: float,
        max_active: int,
        hosts: list[str] | None,
        max_bytes_of: Mapping[str, int] | None = None,
    ):
        self.app, self.max_bytes, self.timeout = app, max_bytes, timeout
        self.max_active, self.hosts = max_active, hosts
        self.max_bytes_of = max_bytes_of or {}
        self.active = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = loopback.host_of(headers.get(b"host", b"localhost").decode("latin-1"))
        # Prevents DNS rebinding: another site's host name that resolves to loopback.
        if self.hosts is not None and not loopback.is_loopback(host) and host not in self.hosts:
            shown_host = text.shortened(host, 100)
            detail = f"the host {shown_host} is not this server's; if it is, start it with --allow-host"
            await self._refuse(scope, receive, send, 421, detail)
            return
        length = headers.get(b"content-length", b"0")
        max_bytes = self._max_bytes(scope["path"])
        if length.isdigit() and int(length) > max_bytes:
            detail = f"the upload has {int(length):,} bytes, more than {max_bytes:,}"
            await self._refuse(scope, receive, send, 413, detail)
            return
        with contextlib.ExitStack() as slot:
            if int(length) or b"transfer-encoding" in headers:
                receive = self._limited(receive, slot, max_bytes)
            elif not self._acquire(slot):
                await self._refuse(scope, receive, send, 503, BUSY)
                return
            await self.app(scope, receive, send)

    def _max_bytes(self, path: str) -> int:
        limits = (limit for pattern, limit in self.max_bytes_of.items() if fnmatch.fnmatchcase(path, pattern))
        return next(limits, self.max_bytes)

    def _acquire(self, slot: contextlib.ExitStack) -> bool:
        """Counts a received request as active until `slot` closes; returns False if there are too many."""
        if self.active >= self.max_active:
            return False
        self.active += 1
        slot.callback(self._release)
        return True

    def _release(self) -> None:
        self.active -= 1

    def _limited(
        self, receive: Callable[[], Awaitable[dict]], slot: contextlib.ExitStack, max_bytes: int
    ) -> Callable[[], Awaitable[dict]]:
        """Wraps `receive` with limits; FastAPI turns the HTTPException that it raises into a response."""
        from starlette.exceptions import HTTPException

        loop, headers = asyncio.get_running_loop(), {"connection": "close"}
        deadline, received, is_complete = loop.time() + self.timeout, 0, False

        async def limited_receive() -> dict:
            nonlocal received, is_complete
            if is_complete:
                return await receive()  # only the disconnect message can follow
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - loop.time()))
            except TimeoutError:
                detail = f"the upload did not come within {self.timeout:g} seconds"
                raise HTTPException(408, detail, headers) from None
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body")
            if received > max_bytes:
                raise HTTPException(413, f"the upload has more than {max_bytes:,} bytes", headers)
            if is_complete and message["type"] == "http.request" and not self._acquire(slot):
                raise HTTPException(503, BUSY, headers)
            return message

        return limited_receive

    async def _refuse(self, scope, receive, send, status: int, detail: str) -> None:
        from starlette.responses import JSONResponse

        response = JSONResponse({"detail": detail}, status, headers={"connection": "close"})
        await response(scope, receive, send)


def limited_protocol(
    timeout: float, max_incomplete: int = MAX_INCOMPLETE, max_bytes: int = MAX_INCOMPLETE_BYTES
) -> type:
    """Subclass of uvicorn's HTTP protocol that closes connections whose request does not arrive in time.

    Args:
        timeout: seconds from connecting, or from the last response, to the end of the next request's headers.
        max_incomplete: maximum number of connections with an incomplete request; beyond, the oldest is
            closed, so that slow clients can't block others.
        max_bytes: maximum bytes received of incomplete requests in total; beyond, the oldest is closed.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    incomplete: dict[H11Protocol, int] = {}  # bytes received, oldest connection first

    class LimitedProtocol(H11Protocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._await_request(None)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_received():
                incomplete.pop(self, None)
            elif self in incomplete:
                incomplete[self] += len(data)
                self._close_oldest()

        def connection_lost(self, error: Exception | None) -> None:
            incomplete.pop(self, None)
            super().connection_lost(error)

        def on_response_complete(self) -> None:
            last_cycle = self.cycle
            super().on_response_complete()  # starts the next request if it has already arrived
            self._await_request(last_cycle)

        def send_400_response(self, msg: str) -> None:
            body = json.dumps({"detail": msg}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers.append((b"content-length", str(len(body)).encode()))
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _is_received(self) -> bool:
            """Whether a request is fully received and not yet answered."""
            return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

        def _await_request(self, last_cycle) -> None:
            """Counts the connection as incomplete, and closes it unless the next request starts in time."""
            incomplete.pop(self, None)
            if not self._is_received() and not self.transport.is_closing():
                incomplete[self] = 0
                self._close_oldest()
            self.loop.call_later(timeout, self._close_if_idle, last_cycle)

        def _close_oldest(self) -> None:
            while len(incomplete) > max_incomplete or sum(incomplete.values()) > max_bytes:
                oldest = next(iter(incomplete))
                del incomplete[oldest]
                oldest.transport.close()

        def _close_if_idle(self, last_cycle) -> None:
            if self.cycle is last_cycle and not self.transport.is_closing():
                self.transport.close()

    return LimitedProtocol
