"""Limits of the server on the number, size, duration and Host header of requests."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

from pipeline.common import text
from pipeline.inference import loopback

MAX_BYTES = 16_000_000  # per upload; a phone's photo has 2 to 8 MB
AT_ONCE = 64  # fully received requests in progress; further ones get status 503
BUSY = "too many requests at once; come again"
WAITING = 256  # connections with an incomplete request; beyond, the oldest is closed
WAITING_BYTES = AT_ONCE * MAX_BYTES  # of incomplete uploads in total; each is on disk from 1 MB on


class RequestLimits:
    """ASGI middleware that limits the number, size, duration and Host header of requests.

    Args:
        app: the wrapped ASGI app.
        most: maximum bytes of a request.
        seconds: time limit for receiving a request.
        at_once: maximum number of fully received requests in progress.
        hosts: allowed values of `Host` besides loopback names; None allows any.
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
        # Prevents DNS rebinding: another site's host name that resolves to this machine.
        if self.hosts is not None and not loopback.is_loopback(host) and host not in self.hosts:
            shown_host = text.shortened(host, 100)
            detail = f"the host {shown_host} is not this server's; if it is, start it with --allow-host"
            await self._refuse(scope, receive, send, 421, detail)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most:
            detail = f"the upload has {int(length):,} bytes, more than {self.most:,}"
            await self._refuse(scope, receive, send, 413, detail)
            return
        with contextlib.ExitStack() as slot:
            if int(length) or b"transfer-encoding" in headers:
                receive = self._watched(receive, slot)
            elif not self._take(slot):
                await self._refuse(scope, receive, send, 503, BUSY)
                return
            await self.app(scope, receive, send)

    def _take(self, slot: contextlib.ExitStack) -> bool:
        """Counts a fully received request until it is answered; returns False if there are too many."""
        if self.present >= self.at_once:
            return False
        self.present += 1
        slot.callback(self._leave)
        return True

    def _leave(self) -> None:
        self.present -= 1

    def _watched(
        self, receive: Callable[[], Awaitable[dict]], slot: contextlib.ExitStack
    ) -> Callable[[], Awaitable[dict]]:
        """Wraps `receive` with limits; FastAPI answers with the HTTPException that it raises."""
        from starlette.exceptions import HTTPException

        loop, headers = asyncio.get_running_loop(), {"connection": "close"}
        deadline, received, is_complete = loop.time() + self.seconds, 0, False

        async def limited_receive() -> dict:
            nonlocal received, is_complete
            if is_complete:
                return await receive()  # only the disconnect message can follow
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - loop.time()))
            except TimeoutError:
                detail = f"the upload did not come within {self.seconds:g} seconds"
                raise HTTPException(408, detail, headers) from None
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body")
            if received > self.most:
                raise HTTPException(413, f"the upload has more than {self.most:,} bytes", headers)
            if is_complete and message["type"] == "http.request" and not self._take(slot):
                raise HTTPException(503, BUSY, headers)
            return message

        return limited_receive

    async def _refuse(self, scope, receive, send, status: int, detail: str) -> None:
        from starlette.responses import JSONResponse

        answer = JSONResponse({"detail": detail}, status, headers={"connection": "close"})
        await answer(scope, receive, send)


def patient_protocol(seconds: float, most: int = WAITING, held: int = WAITING_BYTES) -> type:
    """Subclass of uvicorn's HTTP protocol that closes connections without a request in time.

    Args:
        seconds: from connecting, or from the last response, to the end of the next request's headers.
        most: maximum number of connections with an incomplete request; beyond, the oldest is closed, so that
            slow clients can't block others.
        held: maximum bytes received of incomplete requests in total; beyond, the oldest is closed.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    waiting: dict[H11Protocol, int] = {}  # bytes received, oldest connection first

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
            super().on_response_complete()  # starts the next request if it has already arrived
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
                oldest = next(iter(waiting))
                del waiting[oldest]
                oldest.transport.close()

        def _give_up(self, before) -> None:
            if self.cycle is before and not self.transport.is_closing():
                self.transport.close()

    return Patient
