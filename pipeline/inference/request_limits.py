"""How many requests a server takes at a time, from whom, how large and how slow."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

from pipeline.common import text
from pipeline.inference import loopback

MAX_BYTES = 16_000_000  # of an upload; a phone's photo has 2 to 8 MB
AT_ONCE = 64  # requests that came whole and are taken; others are told to come again
BUSY = "too many requests at once; come again"
WAITING = 256  # connections whose request has not come whole; then the longest among them is closed
WAITING_BYTES = AT_ONCE * MAX_BYTES  # of their uploads together, likewise; on the disk from 1 MB on


class RequestLimits:
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


def patient_protocol(seconds: float, most: int = WAITING, held: int = WAITING_BYTES) -> type:
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
