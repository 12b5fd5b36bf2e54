"""Signing in and out, and a person's own account."""

import math
import unicodedata
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from catalog import passwords
from catalog.language import _, ngettext, number
from catalog.store import Session, accounts
from catalog.store.tables import Account
from catalog.web.context import ByPerson, Context, InContext, Person, render
from catalog.web.language import is_local
from pipeline.common.errors import UserError

router = APIRouter(include_in_schema=False)
Name = Annotated[str, Form(max_length=200)]
Password = Annotated[str, Form(max_length=passwords.MAX_LENGTH)]


@router.get("/sign-in")
def sign_in_page(target: Annotated[str, Query(alias="next")] = "/") -> HTMLResponse:
    return render("sign_in.html", next=target, name="", error="")


@router.post("/sign-in")
async def sign_in(
    request: Request,
    context: InContext,
    name: Name = "",
    password: Password = "",
    target: Annotated[str, Form(alias="next", max_length=4000)] = "/",
) -> Response:
    """Starts a session. Whether the name or the password was wrong isn't said, nor shown by the time."""
    name = unicodedata.normalize("NFC", name.strip())  # the throttle counts one name for all its forms
    account = await run_in_threadpool(
        _find, context, name
    )  # first: while the database is away nothing counts
    if waits := _begin_attempt(request, context, name):
        return render(
            "sign_in.html", 429, {"Retry-After": str(waits)}, next=target, name=name, error=_wait(waits)
        )
    stored = account.password if account else None
    if not await context.hashing.run(passwords.matches, password, stored):
        error = _("the name or the password is wrong")
        return render("sign_in.html", 401, next=target, name=name, error=error)
    context.attempts.succeeded(name, _address(request))
    if passwords.is_outdated(stored):
        renewed = await context.hashing.run(passwords.hashed, password)
        await run_in_threadpool(_renew_hash, context, account, renewed)
    answer = RedirectResponse(target if is_local(target) else "/", 303)
    context.sessions.start(answer, account, request.url.scheme)
    return answer


@router.post("/sign-out")
def sign_out(request: Request, context: InContext) -> RedirectResponse:
    """Ends the session of this browser."""
    answer = RedirectResponse("/sign-in", 303)
    context.sessions.end(answer, request.url.scheme)
    return answer


@router.post("/sign-out-everywhere")
def sign_out_everywhere(context: InContext, person: ByPerson) -> RedirectResponse:
    """Ends all sessions of the person."""
    with context.database.write() as session:
        accounts.end_sessions(_own(session, person))
    return RedirectResponse("/sign-in", 303)


@router.get("/account")
def account_page(context: InContext, person: ByPerson) -> HTMLResponse:
    with context.database.read() as session:
        return _account(_own(session, person))


def _account(account: Account, status: int = 200, error: str = "", is_changed: bool = False) -> HTMLResponse:
    least = passwords.MIN_LENGTH
    return render("account.html", status, account=account, error=error, is_changed=is_changed, least=least)


@router.post("/account")
async def change_password(
    request: Request,
    context: InContext,
    person: ByPerson,
    present: Password = "",
    password: Password = "",
    repeated: Password = "",
) -> Response:
    """Changes the person's password, and ends all other sessions."""
    account = await run_in_threadpool(_read_own, context, person)
    if waits := _begin_attempt(request, context, account.name):
        return _account(account, 429, _wait(waits))
    if not await context.hashing.run(passwords.matches, present, account.password):
        return _account(account, 422, _("the present password is wrong"))
    context.attempts.succeeded(account.name, _address(request))
    if password != repeated:
        return _account(account, 422, _("the new password and its repetition differ"))
    try:
        renewed = await context.hashing.run(passwords.hashed, password)
    except UserError as error:
        return _account(account, 422, str(error))
    changed = await run_in_threadpool(_change_password, context, account, renewed)
    answer = _account(changed, is_changed=True)
    context.sessions.start(answer, changed, request.url.scheme)
    return answer


def _begin_attempt(request: Request, context: Context, name: str) -> int:
    """Counts an attempt to use a password; seconds to wait if there were too many."""
    return math.ceil(context.attempts.begin(name, _address(request)))


def _wait(seconds: int) -> str:
    text = ngettext(
        "too many attempts; try again in {seconds} second",
        "too many attempts; try again in {seconds} seconds",
        seconds,
    )
    return text.format(seconds=number(seconds))


def _address(request: Request) -> str:
    """The client's; behind a proxy that uvicorn trusts, the one that the proxy names."""
    return request.client.host if request.client else ""


def _find(context: Context, name: str) -> Account | None:
    with context.database.read() as session:
        account = accounts.find(session, name)
        session.expunge_all()
        return account


def _renew_hash(context: Context, account: Account, password: str) -> None:
    with context.database.write() as session:
        if current := accounts.of_session(session, account.id, account.session_key):
            current.password = password


def _own(session: Session, person: Person) -> Account:
    if person.account_id is None:
        raise HTTPException(404, _("nobody has signed in: there are no accounts"))
    account = accounts.by_id(session, person.account_id)
    if account is None:  # removed since the request began
        raise HTTPException(401, _("your session has ended, or you have not signed in"))
    return account


def _read_own(context: Context, person: Person) -> Account:
    with context.database.read() as session:
        account = _own(session, person)
        session.expunge(account)
        return account


def _change_password(context: Context, account: Account, password: str) -> Account:
    """Changes the password, unless somebody else did so since the present one was checked.

    Raises:
        HTTPException: 401; an admin has reset the password or removed the account meanwhile.
    """
    with context.database.write() as session:
        current = accounts.of_session(session, account.id, account.session_key)
        if current is None:
            raise HTTPException(401, _("your session has ended, or you have not signed in"))
        accounts.change_password(current, password)
        session.flush()
        session.expunge(current)
        return current
