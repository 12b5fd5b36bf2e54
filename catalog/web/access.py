"""Who may send which request. Admins may send all, others what is listed here: a new route is safe."""

import re
from urllib.parse import urlencode

from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from catalog.language import _
from catalog.store import UnavailableError, accounts
from catalog.store.tables import Role
from catalog.web.context import Context, Person, accepts_pages, error_answer, signed_in
from catalog.web.language import here

PUBLIC = (
    *("GET /sign-in", "POST /sign-in", "POST /language", "GET /texts/{language}.json"),
    "GET /static/{path:path}",
)
# The pages and images among them answer only for what was handed out to the person.
OF_LABELERS = (
    *("GET /", "GET /projects/{project_id}/label", "GET /api/projects/{project_id}"),
    "POST /api/projects/{project_id}/pages",
    *("POST /api/pages/{token}/submit", "POST /api/pages/{token}/keep"),
    *("POST /api/pages/{token}/release", "POST /api/pages/{token}/undo"),
    *("GET /images/{image_id}/thumbnail", "GET /images/{image_id}/large"),
    *("GET /account", "POST /account", "POST /sign-out", "POST /sign-out-everywhere"),
)
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def _compiled(routes: tuple[str, ...]) -> list[tuple[str, re.Pattern]]:
    return [(method, compile_path(path)[0]) for method, path in map(str.split, routes)]


_PUBLIC, _OF_LABELERS = _compiled(PUBLIC), _compiled(OF_LABELERS)


class Access:
    """ASGI middleware that finds out who sends a request, and refuses what the person may not do.

    Args:
        app: the wrapped ASGI app.
        context: the application's.
        needs_accounts: whether everybody has to sign in even if there is no account. Once there is one, it
            stays so until the server ends: removing the last account must not open the catalog to everybody.
    """

    def __init__(self, app: ASGIApp, context: Context, needs_accounts: bool):
        self.app, self._context, self._needs_accounts = app, context, needs_accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        if _is_among(scope, _PUBLIC):  # the same for everybody
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            person = await run_in_threadpool(self._person, scope, headers)
        except UnavailableError as error:
            await error_answer(headers, 503, str(error))(scope, receive, send)
            return
        is_account = person is not None and person.account_id is not None

        async def send_uncached(message: Message) -> None:
            """After signing out, going back must show nothing."""
            if message["type"] == "http.response.start" and self._needs_accounts:
                MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
            await send(message)

        token = signed_in.set(person if is_account else None)
        try:
            scope["person"] = person
            answer = self._refusal(scope, headers, person) or self.app
            await answer(scope, receive, send_uncached)
        finally:
            signed_in.reset(token)

    def _person(self, scope: Scope, headers: Headers) -> Person | None:
        """Who sends a request; None for somebody who has to sign in."""
        cookies = cookie_parser(headers.get("cookie", ""))
        found = self._context.sessions.read(cookies, scope["scheme"])
        with self._context.database.read() as session:
            if found and (account := accounts.of_session(session, *found)):
                self._needs_accounts = True
                return Person(account.name, Role(account.role), *found)
            self._needs_accounts = self._needs_accounts or accounts.exist(session)
        if self._needs_accounts or _is_from_proxy(scope, headers):
            return None
        return Person(self._context.owner, Role.ADMIN)

    def _refusal(self, scope: Scope, headers: Headers, person: Person | None) -> Response | None:
        """The answer to a request that the person may not send; None if it is allowed."""
        if person is None and not self._needs_accounts:
            text = _("this came through a proxy, and there are no accounts; on the server run: {command}")
            return error_answer(headers, 403, text.format(command="petfaces catalog user add NAME"))
        if person is None:
            return _to_sign_in(scope, headers)
        if not person.is_admin and not _is_among(scope, _OF_LABELERS):
            return error_answer(headers, 403, _("this page is for admins; you can label images"))
        return None


def _is_from_proxy(scope: Scope, headers: Headers) -> bool:
    """Whether a proxy has passed a request on: it makes this server's loopback address one that others reach.

    nginx without further settings names nothing, but speaks HTTP/1.0, which browsers don't.
    """
    return scope["http_version"] == "1.0" or any(name in headers for name in _OF_PROXIES)


def _to_sign_in(scope: Scope, headers: Headers) -> Response:
    if not accepts_pages(headers) or headers.get("sec-fetch-mode", "navigate") != "navigate":
        return error_answer(Headers(), 401, _("your session has ended, or you have not signed in"))
    if scope["method"] in ("GET", "HEAD"):
        return RedirectResponse(f"/sign-in?{urlencode({'next': here()})}", 303)
    text = _("your session has ended; sign in in another tab, then go back and send the form again")
    return error_answer(headers, 401, text)


def _is_among(scope: Scope, routes: list[tuple[str, re.Pattern]]) -> bool:
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return any(method == each and pattern.match(scope["path"]) for each, pattern in routes)
