"""Admins manage people on a page and by commands; the last admin stays; labels are counted by person."""

import time

import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit
from conftest import outcome, petfaces
from people import HASH, PASSWORD, add_person, sign_in, try_to_sign_in
from sqlalchemy import update

from catalog import cli, passwords
from catalog.store import accounts, dashboard
from catalog.store.tables import Account, Event, Role
from pipeline.common.errors import UserError

pytestmark = pytest.mark.integration  # they hash passwords, which takes its time


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 6), page_size=1)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.fixture
def command(catalog):
    """Runs a command on the catalog's accounts."""
    return lambda *arguments: petfaces("catalog", "--folder", str(catalog.library.folder), *arguments)


def password_in(text):
    return text.split('class="password">')[1].split("<")[0]


def names(catalog):
    with catalog.database.read() as session:
        return {account.name: account.role for account in accounts.all_accounts(session)}


def test_the_first_account_is_added_in_the_browser_and_then_everybody_signs_in(catalog, address):
    assert "There are no accounts yet" in requests.get(f"{address}/people", timeout=30).text
    refused = requests.post(f"{address}/people", data={"name": "ann", "role": "labeler"}, timeout=30)
    assert (refused.status_code, "the first account must be an admin" in refused.text) == (422, True)
    answer = requests.post(f"{address}/people", data={"name": "ann", "role": "admin"}, timeout=30)
    assert requests.get(f"{address}/people", timeout=30).status_code == 401
    browser = sign_in(address, "ann", password_in(answer.text))
    assert browser.get(f"{address}/people", timeout=30).status_code == 200


def test_an_admin_adds_changes_and_removes_people(catalog, address):
    add_person(catalog, "ann", Role.ADMIN)
    ann = sign_in(address, "ann")
    made = password_in(ann.post(f"{address}/people", data={"name": " lars "}, timeout=30).text)
    lars = sign_in(address, "lars", made)
    renewed = password_in(ann.post(f"{address}/people/2/password", timeout=30).text)
    assert lars.get(f"{address}/account", timeout=30).status_code == 401
    assert try_to_sign_in(requests.Session(), address, "lars", made).status_code == 401
    sign_in(address, "lars", renewed)
    ann.post(f"{address}/people/2/role", data={"role": "admin"}, timeout=30)
    assert names(catalog) == {"ann": "admin", "lars": "admin"}
    lars = sign_in(address, "lars", renewed)
    lars.post(f"{address}/people/1/remove", timeout=30)
    assert names(catalog) == {"lars": "admin"}
    assert ann.get(f"{address}/people", timeout=30).status_code == 401


def test_a_session_that_ends_while_a_password_is_hashed_adds_nobody(catalog, address, monkeypatch):
    add_person(catalog, "ann", Role.ADMIN)
    thief, hashed = sign_in(address, "ann"), passwords.hashed

    def meanwhile(password):
        with catalog.database.write() as session:
            accounts.change_password(accounts.by_name(session, "ann"), HASH)
        return hashed(password)

    monkeypatch.setattr(passwords, "hashed", meanwhile)
    answer = thief.post(f"{address}/people", data={"name": "eve", "role": "admin"}, timeout=30)
    assert (answer.status_code, names(catalog)) == (401, {"ann": "admin"})


@pytest.mark.parametrize("action", ["password", "role", "remove"])
def test_nobody_locks_the_own_account_out(catalog, address, action):
    add_person(catalog, "ann", Role.ADMIN)
    ann = sign_in(address, "ann")
    answer = ann.post(f"{address}/people/1/{action}", data={"role": "labeler"}, timeout=30)
    assert (answer.status_code, "your own account" in answer.text) == (422, True)
    assert names(catalog) == {"ann": "admin"}
    assert ann.post(f"{address}/people/9/remove", timeout=30).status_code == 404


def test_a_name_is_the_same_however_its_accents_are_written(catalog, address):
    add_person(catalog, "Zoe\u0308", Role.ADMIN)
    assert names(catalog) == {"Zo\u00eb": "admin"}
    for written in ("Zo\u00eb", "Zoe\u0308"):
        sign_in(address, written)


def test_an_account_of_an_earlier_version_signs_in_however_its_accents_are_written(catalog, address):
    add_person(catalog, "Zoe\u0308", Role.ADMIN)
    with catalog.database.write() as session:  # as earlier versions stored it
        session.execute(update(Account).values(name="Zoe\u0308"))
    for written in ("Zo\u00eb", "Zoe\u0308"):
        sign_in(address, written)


def test_a_new_account_with_a_removed_persons_name_sees_none_of_the_images_on_the_open_pages(
    catalog, address
):
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, "lars")
    opened = sign_in(address, "lars").post(f"{address}/api/projects/1/pages", timeout=30).json()["page"]
    image = f"{address}/images/{opened['images'][0]['id']}/thumbnail"
    with catalog.database.write() as session:
        accounts.remove(session, accounts.by_name(session, "lars"))
    add_person(catalog, "lars")
    again = sign_in(address, "lars")
    assert again.get(image, timeout=30).status_code == 404
    assert sign_in(address, "ann").get(image, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ann\u200b", "can&#39;t be seen"),
        ("a\u00adnn", "can&#39;t be seen"),
        ("\u3164", "can&#39;t be seen"),
        ("", "name is empty"),
        ("x" * 101, "more than 100 characters"),
        ("a\u202eb", "control characters"),
        ("ann", "there is an account ann already"),
        ("Ann", "Ann looks like ann"),
    ],
)
def test_a_name_that_cannot_be_is_an_error_of_the_form(catalog, address, name, message):
    add_person(catalog, "ann", Role.ADMIN)
    answer = sign_in(address, "ann").post(f"{address}/people", data={"name": name}, timeout=30)
    assert (answer.status_code, message in answer.text) == (422, True)
    assert names(catalog) == {"ann": "admin"}


def test_names_are_shown_as_text(catalog, address):
    add_person(catalog, "<b>ann</b>", Role.ADMIN)
    text = sign_in(address, "<b>ann</b>").get(f"{address}/people", timeout=30).text
    assert "<b>ann" not in text and "&lt;b&gt;ann" in text


def test_the_last_admin_stays_an_admin_while_there_are_others(catalog):
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, "lars")
    for change in (
        lambda session, account: accounts.remove(session, account, to_none=True),
        lambda session, account: accounts.change_role(session, account, Role.LABELER),
    ):
        with pytest.raises(UserError, match="ann is the only admin"), catalog.database.write() as session:
            change(session, accounts.by_name(session, "ann"))
    assert names(catalog) == {"ann": "admin", "lars": "labeler"}


def test_no_password_is_printed_for_an_account_that_is_not_made(command, capsys):
    line = outcome(lambda: command("user", "add", "ann", "--role", "labeler", "--generate"))
    assert "the first account must be an admin" in line
    assert capsys.readouterr().out == ""


def test_commands_add_list_change_and_remove_accounts(command, catalog, capsys, monkeypatch, address):
    command("user", "list")
    assert "There is no account" in capsys.readouterr().out
    command("user", "add", "ann", "--generate")
    lines = capsys.readouterr().out.splitlines()
    made = lines[0].rpartition(" ")[2]
    assert lines[1:] == [
        "ann can sign in now, as admin",
        "From now on everybody has to sign in, on this machine too",
    ]
    sign_in(address, "ann", made)
    monkeypatch.setattr("sys.stdin", _Lines(f"{PASSWORD}\n"))
    command("user", "add", "lars", "--password-stdin")
    lars = sign_in(address, "lars")
    command("user", "password", "lars", "--generate")
    command("user", "role", "lars", "admin")
    assert lars.get(f"{address}/account", timeout=30).status_code == 401
    capsys.readouterr()
    command("user", "list")
    shown = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(name, role, labels) for name, role, _, labels in shown] == [
        ("ann", "admin", "0 labels"),
        ("lars", "admin", "0 labels"),
    ]
    command("user", "remove", "ann")
    command("user", "remove", "lars")
    assert "There is no account left" in capsys.readouterr().out
    assert names(catalog) == {}


class _Lines:
    """A standard input that is no terminal."""

    def __init__(self, text):
        self.readline = iter(text.splitlines(keepends=True)).__next__

    def isatty(self):
        return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["remove", "nobody"], "there is no account nobody; there are: ann"),
        (["password", "nobody", "--generate"], "there is no account nobody; there are: ann"),
        (["add", "ann", "--generate"], "there is an account ann already"),
        (["add", "lars", "--generate", "--password-stdin"], "--generate or --password-stdin: choose one"),
        (["add", "lars", "--password-stdin"], "a password has at least 10 characters"),
        (
            ["add", "lars"],
            "there is no terminal to type a password in; use --password-stdin or --generate",
        ),
        (["role", "ann", "labeler"], "ann is the only admin; make somebody else an admin first"),
    ],
)
def test_a_mistake_in_a_command_is_one_line(command, catalog, monkeypatch, arguments, message):
    add_person(catalog, "ann", Role.ADMIN)
    monkeypatch.setattr("sys.stdin", _Lines("short\n"))
    assert outcome(lambda: command("user", *arguments)) == f"error: {message}"
    assert names(catalog) == {"ann": "admin"}


def test_others_reach_the_catalog_only_by_a_name_that_was_given(command, catalog):
    assert "--allow-host catalog.example.org lets others reach" in outcome(
        lambda: command("--allow-host", "catalog.example.org")
    )
    add_person(catalog, "ann", Role.ADMIN)
    assert "say by which name browsers reach it" in outcome(lambda: command("--host", "0.0.0.0"))


def test_with_accounts_the_catalog_may_listen_beyond_loopback(command, catalog, monkeypatch, capsys):
    import uvicorn

    add_person(catalog, "ann", Role.ADMIN)
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append((server, *sockets)))
    command("--host", "0.0.0.0", "--port", "0", "--allow-host", "catalog.example.org")
    ((_, listener),) = served
    assert listener.getsockname()[0] == "0.0.0.0"
    listener.close()
    assert "unencrypted" in capsys.readouterr().err
    assert cli.PORT == 8300


def test_labels_are_counted_by_person_and_hour(catalog, address):
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, "lars")
    people = {name: sign_in(address, name) for name in ("ann", "lars")}
    for name in ("lars", "ann", "lars", "lars"):
        with_cookie = people[name]
        page = with_cookie.post(f"{address}/api/projects/1/pages", json={}, timeout=30).json()["page"]
        answers = {str(page["images"][0]["id"]): {"status": "labeled", "classes": [1]}}
        with_cookie.post(
            f"{address}/api/pages/{page['token']}/submit", json={"answers": answers}, timeout=30
        ).raise_for_status()
    with catalog.database.write() as session:
        session.execute(update(Event).where(Event.id == 1).values(at=time.time() - 2.5 * 3600))
        session.execute(update(Event).where(Event.id == 3).values(at=time.time() - 30 * 3600))
    with catalog.database.read() as session:
        found = dashboard.of(session, catalog.project(session))
        assert accounts.labels_by_person(session) == {"ann": 1, "lars": 3}
    assert [(work.name, work.total, work.last_hour, work.rate) for work in found.people] == [
        ("lars", 2, 1, 1.0),
        ("ann", 1, 1, 1.0),
    ]
    assert (found.per_hour[-1], found.per_hour[-3], sum(found.per_hour)) == (2, 1, 3)
    text = people["ann"].get(f"{address}/projects/1", timeout=30).text
    assert "Labels by person, last 24 hours" in text and "lars" in text
    assert "3 labels" in people["ann"].get(f"{address}/people", timeout=30).text


def test_one_person_without_an_account_gets_no_table_of_people(catalog, address):
    submit(address, open_page(address), 1)
    assert "Labels by person" not in requests.get(f"{address}/projects/1", timeout=30).text
