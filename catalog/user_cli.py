"""The commands ``petfaces catalog user``: accounts of the people who use the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import click

from catalog.library import Library
from pipeline.common.errors import UserError

if TYPE_CHECKING:
    from catalog.store import Session

ROLES = click.Choice(["admin", "labeler"])


@click.group()
def user() -> None:
    """Accounts: once there is one, everybody has to sign in."""


def _password_options(command: Callable) -> Callable:
    """Options for where a new password comes from; without any it is asked for."""
    generate = click.option("--generate", is_flag=True, help="Make a random password and print it.")
    from_stdin = click.option("--password-stdin", is_flag=True, help="Read it from the first line of stdin.")
    return generate(from_stdin(command))


@contextmanager
def _writing(library: Library, may_create: bool = False) -> Iterator[Session]:
    from catalog.belonging import open_catalog

    database = open_catalog(library, may_create)
    try:
        with database.write() as session:
            yield session
    finally:
        database.close()


@user.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="By default admin for the first account, labeler for the others.")
@_password_options
@click.pass_obj
def add(library: Library, name: str, role: str | None, generate: bool, password_stdin: bool) -> None:
    """Add an account for NAME, which is recorded with each of the person's labels."""
    from catalog.store import accounts
    from catalog.store.tables import Role

    with _writing(library, may_create=True) as session:
        accounts.check_name(session, name)  # before a password is typed
        is_first = not accounts.exist(session)
    chosen = Role(role) if role else Role.ADMIN if is_first else Role.LABELER
    new = _new_password(generate, password_stdin)
    with _writing(library) as session:
        accounts.add(session, name, chosen, new.hashed)
    new.show()
    click.echo(f"{name} can sign in now, as {chosen}")
    if is_first:
        click.echo("From now on everybody has to sign in, on this machine too")


@user.command("list")
@click.pass_obj
def list_accounts(library: Library) -> None:
    """List the accounts: name, role, day of creation and number of labels."""
    from catalog.belonging import open_catalog
    from catalog.store import accounts

    with open_catalog(library).read() as session:
        labels = accounts.labels_by_person(session)
        for account in accounts.all_accounts(session):
            day = datetime.fromtimestamp(account.created_at).date()
            count = f"{labels.get(account.name, 0):,} labels"
            click.echo(f"{account.name}\t{account.role}\tsince {day}\t{count}")
        if not accounts.exist(session):
            click.echo("There is no account; add one: petfaces catalog user add NAME")


@user.command()
@click.argument("name")
@click.pass_obj
def remove(library: Library, name: str) -> None:
    """Remove NAME's account and end its sessions; the person's labels stay."""
    from catalog.store import accounts

    with _writing(library) as session:
        accounts.remove(session, accounts.by_name(session, name), to_none=True)
        is_open = not accounts.exist(session)
    click.echo(f"{name} is removed and signed out; the labels stay")
    if is_open:
        click.echo(
            "There is no account left: a catalog that runs lets nobody in; started again, it is open to "
            "this machine, without signing in"
        )


@user.command()
@click.argument("name")
@_password_options
@click.pass_obj
def password(library: Library, name: str, generate: bool, password_stdin: bool) -> None:
    """Give NAME a new password and end the person's sessions."""
    from catalog.store import accounts

    with _writing(library) as session:
        accounts.by_name(session, name)
    new = _new_password(generate, password_stdin)
    with _writing(library) as session:
        accounts.change_password(accounts.by_name(session, name), new.hashed)
    new.show()
    click.echo(f"{name} has a new password and is signed out")


@user.command()
@click.argument("name")
@click.argument("role", type=ROLES)
@click.pass_obj
def role(library: Library, name: str, role: str) -> None:
    """Give NAME another role and end the person's sessions."""
    from catalog.store import accounts
    from catalog.store.tables import Role

    with _writing(library) as session:
        accounts.change_role(session, accounts.by_name(session, name), Role(role))
    click.echo(f"{name} is {role} now")


class _Password(NamedTuple):
    """The hash of a new password, and the password itself if it was made here."""

    hashed: str
    made: str = ""

    def show(self) -> None:
        """Prints the password that was made, once it is saved."""
        if self.made:
            click.echo(f"The password, which is shown only now: {self.made}")


def _new_password(generate: bool, from_stdin: bool) -> _Password:
    """A new password: made here, read, or asked for.

    Raises:
        UserError: it can't be used, or can't be asked for.
    """
    from catalog import passwords

    if generate and from_stdin:
        raise UserError("--generate or --password-stdin: choose one")
    if generate:
        made = passwords.generate()
        return _Password(passwords.hashed(made), made)
    if from_stdin:
        return _Password(passwords.hashed(sys.stdin.readline().rstrip("\r\n")))
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to type a password in; use --password-stdin or --generate")
    question = f"Password (at least {passwords.MIN_LENGTH} characters)"
    return _Password(passwords.hashed(click.prompt(question, hide_input=True, confirmation_prompt=True)))
