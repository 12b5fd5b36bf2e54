"""Protection of the server against other sites in the same browser."""

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

    A link on another site may open a page, which that site can neither read nor frame. It can't load anything
    else from here, such as images, data or scripts, and can't change anything.

    Browsers send `Origin` with each POST. They send `Sec-Fetch-Site` with each request by https or to this
    machine; the other headers and the session cookie's `SameSite` protect where it is missing. Programs send
    neither.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if _is_foreign(headers, scope["scheme"]) and not _opens_a_page(scope["method"], headers):
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


def _opens_a_page(method: str, headers: Headers) -> bool:
    """Whether the browser shows the answer in a tab, after a click on a link for example."""
    wanted = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    return method in ("GET", "HEAD") and wanted == ("navigate", "document")


def _is_foreign(headers: Headers, scheme: str) -> bool:
    """Whether a request comes from another site; `scheme` is that of the request."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    own = {f"https://{headers.get('host')}"}
    if scheme == "http":  # or of a proxy that does not say that the browser uses https
        own.add(f"http://{headers.get('host')}")
    return (origin is not None and origin not in own) or site not in (None, "same-origin", "none")
