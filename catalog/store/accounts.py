"""Accounts of the people who use the catalog.

Passwords arrive here as hashes. Whatever changes an account also changes its session key, which ends its
sessions.
"""

import hmac
import secrets
import time
import unicodedata

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store.tables import Account, Event, Image, Page, Role
from pipeline.common import text
from pipeline.common.errors import UserError

MAX_NAME = 100  # characters
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters and marks that show nothing


def exist(session: Session) -> bool:
    """Whether there is an account."""
    return session.scalar(select(Account.id).limit(1)) is not None


def all_accounts(session: Session) -> list[Account]:
    """All accounts by name."""
    return sorted(session.scalars(select(Account)), key=lambda account: account.name.casefold())


def find(session: Session, name: str) -> Account | None:
    """The account with this name, or None; older accounts may have an accent as a character of its own."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} | {name}
    return session.scalar(select(Account).where(Account.name.in_(forms)))


def by_id(session: Session, account_id: int) -> Account | None:
    """The account with this id, or None."""
    return session.get(Account, account_id)


def by_name(session: Session, name: str) -> Account:
    """The account with this name.

    Raises:
        UserError: there is none.
    """
    account = find(session, name)
    if account is None:
        names = [found.name for found in all_accounts(session)]
        message = _("there is no account {name}; there are: {names}")
        raise UserError(
            message.format(name=text.shortened(name, 60), names=text.listed(names, 8) or _("none"))
        )
    return account


def of_session(session: Session, account_id: int, session_key: str) -> Account | None:
    """The account of a session; None if the session has ended."""
    account = session.get(Account, account_id)
    is_valid = account is not None and hmac.compare_digest(
        account.session_key.encode(), session_key.encode("utf-8", "surrogatepass")
    )
    return account if is_valid else None


def add(session: Session, name: str, role: Role, password: str) -> Account:
    """Adds an account; `password` is a hash.

    Raises:
        UserError: the name can't be used, or the first account is no admin.
    """
    name = unicodedata.normalize("NFC", name)  # keyboards differ in how they write an accent
    check_name(session, name)
    if role != Role.ADMIN and not exist(session):
        raise UserError(_("the first account must be an admin: somebody has to manage the others"))
    account = Account(name=name, role=role, password=password, session_key=_key(), created_at=time.time())
    session.add(account)
    session.flush()
    return account


def check_name(session: Session, name: str) -> None:
    """Raises UserError if a new account can't have this name."""
    if problem := text.class_name_problem(name):
        raise UserError(_("the person's name {problem}").format(problem=_(problem)))
    if any(unicodedata.category(letter) == "Cf" or letter in _BLANK for letter in name):
        raise UserError(_("the person's name has characters that can't be seen"))
    if name != name.strip():
        raise UserError(_("the person's name begins or ends with a space"))
    if len(name) > MAX_NAME:
        raise UserError(_("the person's name has more than 100 characters"))
    for account in all_accounts(session):
        if account.name == name:
            raise UserError(_("there is an account {name} already").format(name=name))
        if text.look_alikes([account.name, name]):
            message = _("{name} looks like {other}, who has an account already")
            raise UserError(message.format(name=name, other=account.name))


def remove(session: Session, account: Account, to_none: bool = False) -> None:
    """Removes an account and ends its sessions; labels keep the person's name.

    The person's open pages are given back, or a later account with the same name could see their images.

    Args:
        session: of a write transaction.
        account: the account.
        to_none: whether the only account may be removed, too.

    Raises:
        UserError: it is the last admin.
    """
    is_only = session.scalar(select(func.count()).select_from(Account)) == 1
    if not (to_none and is_only):
        _check_other_admin(session, account)
    tokens = select(Page.token).where(Page.person == account.name, Page.submitted_at.is_(None))
    held = update(Image).where(Image.page_token.in_(tokens))
    session.execute(held.values(page_token=None, leased_until=None))
    session.delete(account)


def change_role(session: Session, account: Account, role: Role) -> None:
    """Gives an account another role, and ends its sessions.

    Raises:
        UserError: it is the last admin.
    """
    if role == account.role:
        return
    _check_other_admin(session, account)
    account.role = role
    end_sessions(account)


def change_password(account: Account, password: str) -> None:
    """Gives an account another password, whose hash is given, and ends its sessions."""
    account.password = password
    end_sessions(account)


def end_sessions(account: Account) -> None:
    """Signs the person out everywhere."""
    account.session_key = _key()


def labels_by_person(session: Session) -> dict[str, int]:
    """Number of labels that each person has given on pages."""
    query = select(Event.person, func.count()).where(Event.page_kind.is_not(None)).group_by(Event.person)
    return dict(session.execute(query).tuples().all())


def _check_other_admin(session: Session, account: Account) -> None:
    """Raises UserError if an account is the only admin."""
    others = select(func.count()).where(Account.role == Role.ADMIN, Account.id != account.id)
    if account.role == Role.ADMIN and not session.scalar(others):
        raise UserError(
            _("{name} is the only admin; make somebody else an admin first").format(name=account.name)
        )


def _key() -> str:
    return secrets.token_urlsafe(24)
