"""The page on which admins add people, change what they may do, and remove them."""

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Form, HTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse

from catalog import passwords
from catalog.language import _
from catalog.store import Session, accounts
from catalog.store.tables import Account, Role
from catalog.web.context import ByPerson, Context, InContext, Person, render
from pipeline.common.errors import UserError

router = APIRouter(include_in_schema=False)


@router.get("/people")
def people(context: InContext, person: ByPerson) -> HTMLResponse:
    return _page(context, person)


def _page(
    context: Context,
    person: Person,
    status: int = 200,
    typed: str = "",
    error: str = "",
    created: tuple[str, str] | None = None,
) -> HTMLResponse:
    """The page.

    Args:
        context: the application's.
        person: who sees it.
        status: of the answer.
        typed: a new name with a mistake.
        error: the mistake.
        created: a name and its new password, which is shown this once.
    """
    with context.database.read() as session:
        everybody = accounts.all_accounts(session)
        return render(
            "people.html",
            status,
            people=everybody,
            labels=accounts.labels_by_person(session),
            own=person.account_id,
            owner=context.owner,
            typed=typed,
            error=error,
            created=created,
        )


@router.post("/people")
async def add(
    context: InContext,
    person: ByPerson,
    name: Annotated[str, Form(max_length=1000)] = "",
    role: Annotated[Role, Form()] = Role.LABELER,
) -> HTMLResponse:
    name = name.strip()
    try:
        password = await _new_password(context)
        await run_in_threadpool(_add, context, person, name, role, password.hashed)
    except UserError as error:
        return await run_in_threadpool(_page, context, person, 422, name, str(error))
    return await run_in_threadpool(_page, context, person, created=(name, password.text))


@router.post("/people/{account_id}/password")
async def new_password(account_id: int, context: InContext, person: ByPerson) -> HTMLResponse:
    """Gives somebody a random password."""
    password = await _new_password(context)
    name = await run_in_threadpool(_change_password, context, person, account_id, password.hashed)
    return await run_in_threadpool(_page, context, person, created=(name, password.text))


@router.post("/people/{account_id}/role")
def change_role(
    account_id: int, context: InContext, person: ByPerson, role: Annotated[Role, Form()]
) -> RedirectResponse:
    with context.database.write() as session:
        accounts.change_role(session, _other(session, account_id, person), role)
    return RedirectResponse("/people", 303)


@router.post("/people/{account_id}/remove")
def remove(account_id: int, context: InContext, person: ByPerson) -> RedirectResponse:
    with context.database.write() as session:
        accounts.remove(session, _other(session, account_id, person))
    return RedirectResponse("/people", 303)


class _Password(NamedTuple):
    """A random password with its hash."""

    text: str
    hashed: str

    @classmethod
    def new(cls) -> "_Password":
        text = passwords.generate()
        return cls(text, passwords.hashed(text))


async def _new_password(context: Context) -> _Password:
    return await context.hashing.run(_Password.new)


def _add(context: Context, person: Person, name: str, role: Role, password: str) -> None:
    with context.database.write() as session:
        _check_still_admin(session, person)
        accounts.add(session, name, role, password)


def _change_password(context: Context, person: Person, account_id: int, password: str) -> str:
    with context.database.write() as session:
        account = _other(session, account_id, person)
        accounts.change_password(account, password)
        return account.name


def _other(session: Session, account_id: int, person: Person) -> Account:
    """Somebody else's account; people change their own elsewhere, and can't lock themselves out.

    Raises:
        HTTPException: there is none, or it is the person's own.
    """
    _check_still_admin(session, person)
    account = accounts.by_id(session, account_id)
    if account is None:
        raise HTTPException(404, _("there is no such account; it was removed perhaps"))
    if account.id == person.account_id:
        raise HTTPException(422, _("this is your own account; another admin can change it"))
    return account


def _check_still_admin(session: Session, person: Person) -> None:
    """Raises HTTPException if the session has ended, or the rights, since they were checked.

    Two admins may act at once, and passwords queue to be hashed.
    """
    if person.account_id is None:
        if accounts.exist(session):
            raise HTTPException(403, _("you are no admin any more"))
    elif accounts.of_session(session, person.account_id, person.session_key) is None:
        raise HTTPException(401, _("your session has ended, or you have not signed in"))
