"""Accounts of a catalog in tests, and their signed-in browsers."""

import requests
from catalog_server import Catalog

from catalog import passwords
from catalog.store import accounts
from catalog.store.tables import Role

PASSWORD = "correct horse battery"
HASH = passwords.hashed(PASSWORD)


def add_person(catalog: Catalog, name: str, role: Role = Role.LABELER) -> int:
    """Adds an account with PASSWORD; returns its id."""
    with catalog.database.write() as session:
        return accounts.add(session, name, role, HASH).id


def sign_in(address: str, name: str, password: str = PASSWORD, **form: str) -> requests.Session:
    """A browser in which a person has signed in."""
    browser = requests.Session()
    answer = try_to_sign_in(browser, address, name, password, **form)
    assert answer.status_code == 303, answer.text
    return browser


def try_to_sign_in(
    browser: requests.Session, address: str, name: str, password: str = PASSWORD, **form: str
) -> requests.Response:
    """The answer to the form of the sign-in page."""
    form = {"name": name, "password": password, **form}
    return browser.post(f"{address}/sign-in", data=form, allow_redirects=False, timeout=30)
