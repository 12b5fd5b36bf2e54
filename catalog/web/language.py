"""Each request has a language; people switch it on each page."""

from contextvars import ContextVar
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, HTTPException
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from catalog import language as languages
from catalog.language import ENGLISH, LANGUAGES, _

COOKIE = "language"
COOKIE_SECONDS = 365 * 24 * 3600
_CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}  # the address has the version

router = APIRouter(include_in_schema=False)
_here: ContextVar[str] = ContextVar("here", default="/")


class RequestLanguage:
    """ASGI middleware that sets the language of each request, and remembers its page for the switch."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        token = _here.set(_page(scope, headers))
        try:
            with languages.using(wanted(headers)):
                await self.app(scope, receive, send)
        finally:
            _here.reset(token)


def wanted(headers: Headers) -> str:
    """The language that was chosen on a page, or the best one that the browser accepts, or English."""
    chosen = cookie_parser(headers.get("cookie", "")).get(COOKIE)
    return chosen if chosen in LANGUAGES else _accepted(headers.get("accept-language", ""))


def _accepted(header: str) -> str:
    """The best language of an ``Accept-Language`` such as ``nl-BE,nl;q=0.9,en;q=0.8``."""
    best, weight = ENGLISH, 0.0
    for part in header.split(","):
        name, _separator, quality = part.partition(";")
        code = name.strip().lower().partition("-")[0]
        try:
            found = float(quality.strip().removeprefix("q=")) if quality else 1.0
        except ValueError:
            continue
        if code in LANGUAGES and found > weight:
            best, weight = code, found
    return best


def _page(scope: Scope, headers: Headers) -> str:
    """The page that a request shows; for a form's answer, the page that the form was on."""
    if scope["method"] == "GET":
        query = scope["query_string"].decode("latin-1")
        return scope["path"] + (f"?{query}" if query else "")
    return urlsplit(headers.get("referer", "")).path or "/"


def here() -> str:
    """The path of the present page."""
    return _here.get()


def texts_address() -> str | None:
    """Where scripts get the texts of the present language; None for English, which they contain."""
    language = languages.current()
    return None if language == ENGLISH else f"/texts/{language}.json?{languages.version(language)}"


@router.get("/texts/{language}.json")
def texts(language: str) -> JSONResponse:
    if language not in LANGUAGES:
        raise HTTPException(404, _("there is no such language"))
    return JSONResponse(languages.for_scripts(language), headers=_CACHED)


@router.post("/language")
def switch(
    language: Annotated[str, Form()], back: Annotated[str, Form(max_length=2000)] = "/"
) -> RedirectResponse:
    """Keeps the language in a cookie, and shows the page again."""
    if language not in LANGUAGES:
        raise HTTPException(422, _("there is no such language"))
    answer = RedirectResponse(back if is_local(back) else "/", 303)
    answer.set_cookie(COOKIE, language, max_age=COOKIE_SECONDS, samesite="strict", httponly=True)
    return answer


def is_local(address: str) -> bool:
    r"""Whether an address is a path of this server; ``//host`` and ``/\host`` are other servers."""
    return address[:1] == "/" and address[1:2] not in ("/", "\\") and address.isprintable()
