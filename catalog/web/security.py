"""Protection of a server on this machine against other sites in the same browser."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would make the Origin of our own forms null
    "Cross-Origin-Resource-Policy": "same-origin",  # other sites can't embed the images
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SameOrigin:
    """ASGI middleware that refuses requests from other sites, and sets the security headers.

    Browsers send `Origin` with each POST, and `Sec-Fetch-Site` with each request. Programs send neither.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD") and _is_foreign(headers):
            await PlainTextResponse("this request comes from another site; refused", 403)(
                scope, receive, send
            )
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _is_foreign(headers: Headers) -> bool:
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    own = {f"http://{headers.get('host')}", f"https://{headers.get('host')}"}
    return (origin is not None and origin not in own) or site not in (None, "same-origin", "none")
