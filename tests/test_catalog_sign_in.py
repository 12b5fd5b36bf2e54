"""Signing in: sessions end when they should, guesses are delayed, and the cookie can't be taken along."""

import socket
import time

import pytest
import requests
from argon2 import PasswordHasher
from catalog_server import Catalog, folder_of
from people import HASH, PASSWORD, add_person, sign_in, try_to_sign_in

from benchmarks.common import serving
from catalog import passwords
from catalog.app import application
from catalog.store import UnavailableError, accounts
from catalog.store.tables import Role
from catalog.web.sessions import SECONDS, Sessions, key_in
from catalog.web.throttle import SIZE, Attempts, Throttle
from pipeline.common.errors import UserError

pytestmark = pytest.mark.integration  # they hash passwords, which takes its time

NEW = "another long password"


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, "lars")
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


def is_in(browser, address):
    answer = browser.get(f"{address}/account", timeout=30)
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


def change(catalog, name, action):
    with catalog.database.write() as session:
        action(session, accounts.by_name(session, name))


@pytest.mark.parametrize(
    "action",
    [
        lambda session, account: accounts.remove(session, account),
        lambda session, account: accounts.change_password(account, passwords.hashed(NEW)),
        lambda session, account: accounts.change_role(session, account, Role.ADMIN),
        lambda session, account: accounts.end_sessions(account),
    ],
    ids=["removed", "password", "role", "everywhere"],
)
def test_a_change_of_an_account_ends_its_sessions_at_once(catalog, address, action):
    browser, other = sign_in(address, "lars"), sign_in(address, "ann")
    assert is_in(browser, address)
    change(catalog, "lars", action)
    assert not is_in(browser, address)
    assert is_in(other, address)


def test_an_account_of_the_same_name_does_not_take_over_old_sessions(catalog, address):
    browser = sign_in(address, "lars")
    change(catalog, "lars", accounts.remove)
    add_person(catalog, "lars")
    assert not is_in(browser, address)


def test_signing_out_ends_the_session_of_this_browser_and_everywhere_all(address):
    one, two, three = (sign_in(address, "lars") for _ in range(3))
    one.post(f"{address}/sign-out", timeout=30)
    assert [is_in(each, address) for each in (one, two, three)] == [False, True, True]
    two.post(f"{address}/sign-out-everywhere", timeout=30)
    assert [is_in(each, address) for each in (two, three)] == [False, False]


def test_a_session_ends_after_twelve_hours(catalog, monkeypatch):
    sessions = Sessions(b"k" * 32)
    with catalog.database.read() as session:
        account = accounts.by_name(session, "ann")
        answer = requests.Response()
        answer.set_cookie = lambda name, value, **_: setattr(answer, "cookie", {name: value})
        sessions.start(answer, account, "http")
        assert sessions.read(answer.cookie, "http") == (account.id, account.session_key)
    assert Sessions(b"l" * 32).read(answer.cookie, "http") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + SECONDS + 5)
    assert SECONDS == 12 * 3600 and sessions.read(answer.cookie, "http") is None


def test_the_cookie_is_for_this_server_only_and_not_for_scripts(catalog, address):
    answer = try_to_sign_in(requests.Session(), address, "lars")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("petfaces-catalog=") and "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert "Secure" not in cookie and "Domain" not in cookie
    form = {"name": "lars", "password": PASSWORD}
    proxied = requests.post(
        f"{address}/sign-in",
        data=form,
        headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"},
        allow_redirects=False,
        timeout=30,
    )
    cookie = proxied.headers["set-cookie"]
    assert cookie.startswith("__Host-petfaces-catalog=") and "Secure" in cookie and "Path=/" in cookie
    # A cookie that was planted without https isn't read by https.
    planted = {"Cookie": answer.headers["set-cookie"].split(";")[0]}
    by_https = {**planted, "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    assert requests.get(f"{address}/account", headers=planted, timeout=30).status_code == 200
    assert requests.get(f"{address}/account", headers=by_https, timeout=30).status_code == 401


def test_a_changed_cookie_is_no_session(address):
    browser = sign_in(address, "lars")
    value = browser.cookies["petfaces-catalog"]
    changed = value[:-3] + ("A" if value[-3] != "A" else "B") + value[-2:]  # the last one holds spare bits
    for wrong in (changed, "x", "WzEsIiJd.aaaa.bbbb", "é"):
        answer = requests.get(
            f"{address}/account", headers={"Cookie": f"petfaces-catalog={wrong}".encode()}, timeout=30
        )
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/projects/1?a=b", "/projects/1?a=b"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\tx", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_signing_in_leads_to_pages_of_this_server_only(address, target, location):
    answer = try_to_sign_in(requests.Session(), address, "lars", next=target)
    assert answer.headers["location"] == location


def test_a_wrong_name_and_a_wrong_password_look_the_same_and_both_are_hashed(address, monkeypatch):
    checked = []
    monkeypatch.setattr(
        passwords, "matches", lambda *given, real=passwords.matches: checked.append(given) or real(*given)
    )
    answers = [try_to_sign_in(requests.Session(), address, name, "wrong") for name in ("lars", "nobody")]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].text.replace("lars", "nobody") == answers[1].text
    assert "set-cookie" not in answers[0].headers
    assert [stored is None for _, stored in checked] == [False, True]


def test_without_an_account_a_password_is_verified_all_the_same(monkeypatch):
    verified = []
    hasher = PasswordHasher()

    class Counting:
        def hash(self, password):
            return hasher.hash(password)

        def verify(self, *arguments):
            verified.append(arguments)
            return hasher.verify(*arguments)

    monkeypatch.setattr(passwords, "_HASHER", Counting())
    assert not passwords.matches("some password", None)
    assert len(verified) == 1 and verified[0][0].startswith("$argon2id$")


def test_guesses_are_delayed_and_the_message_says_for_how_long(address):
    browser = requests.Session()
    guesses = [try_to_sign_in(browser, address, "lars", f"guess {number}") for number in range(6)]
    assert [guess.status_code for guess in guesses] == [401] * 5 + [429]
    answer = try_to_sign_in(browser, address, "lars")  # the right one has to wait, too
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert "too many attempts; try again in 1 second" in answer.text
    assert try_to_sign_in(browser, address, "ann").status_code == 303
    time.sleep(1.1)
    assert try_to_sign_in(browser, address, "lars").status_code == 303
    assert try_to_sign_in(browser, address, "lars", "wrong").status_code == 401  # counted from 0 again


def test_many_guesses_at_once_are_counted_before_they_are_checked():
    attempts = Attempts()
    assert [attempts.begin("lars", "203.0.113.7") > 0 for _ in range(7)] == [False] * 5 + [True] * 2


def test_guesses_from_many_addresses_are_delayed_and_do_not_keep_the_owner_out():
    attempts = Attempts()
    assert attempts.begin("lars", "203.0.113.7") == 0
    attempts.succeeded("lars", "203.0.113.7")
    assert all(attempts.begin("lars", f"198.51.100.{number}") == 0 for number in range(50))
    assert attempts.begin("lars", "198.51.100.99") > 0
    assert attempts.begin("lars", "203.0.113.7") == 0
    assert attempts.begin("lena", "198.51.100.99") == 0


def test_somebody_elses_guesses_from_an_address_do_not_delay_other_addresses():
    attempts = Attempts()
    assert [attempts.begin("lars", "203.0.113.7") > 0 for _ in range(6)] == [False] * 5 + [True]
    assert attempts.begin("lars", "203.0.113.8") == 0


def test_attempts_while_the_database_is_away_are_not_counted(address, monkeypatch):
    def away(*_):
        raise UnavailableError("the database can't be reached")

    with monkeypatch.context() as patched:
        patched.setattr(accounts, "find", away)
        answers = [try_to_sign_in(requests.Session(), address, "lars").status_code for _ in range(6)]
    assert answers == [503] * 6
    sign_in(address, "lars")


def test_delays_double_up_to_the_longest_and_end_after_an_hour():
    now = [1000.0]
    throttle = Throttle(free=2, longest=60, clock=lambda: now[0])
    waits = []
    for _ in range(12):
        waits.append(throttle.wait("a"))
        now[0] += waits[-1]
        throttle.count("a")
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    now[0] += 3600
    throttle.count("a")
    assert throttle.wait("a") == 0


def test_what_the_throttle_remembers_is_bounded():
    throttle = Throttle(free=1, longest=60)
    for number in range(SIZE + 100):
        throttle.count(str(number))
    assert len(throttle._attempts) == SIZE
    assert (throttle.wait("0"), throttle.wait(str(SIZE + 99)) > 0) == (0, True)


def test_an_own_account_does_not_reset_the_delay_of_an_address():
    attempts = Attempts()
    for number in range(20):
        attempts.begin("mallory", "2001:db8::1")
        attempts.succeeded("mallory", "2001:db8::1")
        assert attempts.begin(f"victim {number}", f"2001:db8::{number:x}") == 0
    assert attempts.begin("somebody", "2001:db8::ffff") > 0
    assert attempts.begin("somebody", "2001:db8:0:1::1") == 0


def test_the_address_behind_a_proxy_is_the_one_that_the_proxy_names(address):
    def guess(name, client):
        headers = {"X-Forwarded-For": f"198.51.100.1, {client}", "X-Forwarded-Proto": "https"}
        form = {"name": name, "password": "wrong"}
        return requests.post(f"{address}/sign-in", data=form, headers=headers, timeout=30).status_code

    assert [guess(f"name {number}", "203.0.113.7") for number in range(21)][-2:] == [401, 429]
    assert guess("name", "203.0.113.8") == 401


def test_hashes_of_older_parameters_are_renewed_when_somebody_signs_in(catalog, address):
    old = PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD.encode())
    with catalog.database.write() as session:
        accounts.by_name(session, "lars").password = old
    browser = sign_in(address, "lars")
    with catalog.database.read() as session:
        stored = accounts.by_name(session, "lars").password
    assert stored != old and not passwords.is_outdated(stored) and passwords.matches(PASSWORD, stored)
    assert is_in(browser, address)


def test_a_letter_of_two_characters_is_the_same_password():
    stored = passwords.hashed("a caf\N{LATIN SMALL LETTER E WITH ACUTE} at noon")
    assert passwords.matches("a cafe\N{COMBINING ACUTE ACCENT} at noon", stored)


@pytest.mark.parametrize(("password", "message"), [("short", "at least 10"), ("x" * 1001, "at most 1,000")])
def test_a_password_that_is_too_short_or_long_is_refused(password, message):
    with pytest.raises(UserError, match=message):
        passwords.hashed(password)


def test_people_change_their_own_password(catalog, address):
    browser, other = sign_in(address, "lars"), sign_in(address, "lars")

    def attempt(**form):
        return browser.post(f"{address}/account", data=form, timeout=30)

    wrong = attempt(present="wrong", password=NEW, repeated=NEW)
    assert (wrong.status_code, "the present password is wrong" in wrong.text) == (422, True)
    assert "differ" in attempt(present=PASSWORD, password=NEW, repeated="x").text
    assert "at least 10 characters" in attempt(present=PASSWORD, password="a", repeated="a").text
    assert "Your password is changed" in attempt(present=PASSWORD, password=NEW, repeated=NEW).text
    assert (is_in(browser, address), is_in(other, address)) == (True, False)
    sign_in(address, "lars", NEW)


@pytest.mark.parametrize("removed", [False, True])
def test_a_change_of_the_password_does_not_undo_what_an_admin_did_meanwhile(catalog, address, removed):
    browser, hashed = sign_in(address, "lars"), passwords.hashed

    def meanwhile(password: str) -> str:
        def act(session, account):
            if removed:
                accounts.remove(session, account)
            else:
                accounts.change_password(account, HASH)

        change(catalog, "lars", act)
        return hashed(password)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passwords, "hashed", meanwhile)
        form = {"present": PASSWORD, "password": NEW, "repeated": NEW}
        answer = browser.post(f"{address}/account", data=form, timeout=30)
    assert answer.status_code == 401 and "your session has ended" in answer.text
    assert try_to_sign_in(requests.Session(), address, "lars", NEW).status_code == 401


def test_images_are_not_shown_from_the_browsers_cache_after_signing_out(address):
    browser = sign_in(address, "ann")
    assert browser.get(f"{address}/images/1/thumbnail", timeout=30).headers["vary"] == "Cookie"
    browser.post(f"{address}/sign-out", timeout=30)
    assert browser.get(f"{address}/images/1/thumbnail", timeout=30).status_code == 401


def test_pages_are_not_kept_by_the_browser_once_there_are_accounts(address):
    browser = sign_in(address, "ann")
    assert browser.get(f"{address}/projects/1", timeout=30).headers["cache-control"] == "no-store"
    assert "private" in browser.get(f"{address}/images/1/thumbnail", timeout=30).headers["cache-control"]


def test_the_key_of_the_cookies_is_private_and_stays(tmp_path, caplog):
    file = tmp_path / "session.key"
    key = key_in(file)
    assert (len(key), file.stat().st_mode & 0o777) == (32, 0o600)
    assert key_in(file) == key and list(tmp_path.iterdir()) == [file]
    file.chmod(0o644)  # others may have read it
    renewed = key_in(file)
    assert f"others could read {file}: it is replaced" in caplog.text
    assert renewed != key and file.stat().st_mode & 0o777 == 0o600


def test_without_accounts_a_proxy_reaches_nothing(tmp_path):
    catalog = Catalog.create(tmp_path)
    with catalog.served() as address:
        assert requests.get(address, timeout=30).status_code == 200
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            answer = requests.get(address, headers={name: "203.0.113.7"}, timeout=30)
            assert (answer.status_code, "petfaces catalog user add" in answer.text) == (403, True)
        host = address.removeprefix("http://")
        with socket.create_connection(host.split(":")) as plain:  # as nginx does without further settings
            plain.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            assert b" 403 " in plain.recv(1000)


def test_removing_the_last_account_does_not_open_a_catalog_that_runs(tmp_path):
    catalog = Catalog.create(tmp_path)
    with catalog.served() as address:
        assert requests.get(address, timeout=30).status_code == 200
        add_person(catalog, "ann", Role.ADMIN)
        assert requests.get(address, timeout=30).status_code == 401
        change(catalog, "ann", lambda session, account: accounts.remove(session, account, to_none=True))
        assert requests.get(address, timeout=30).status_code == 401
    app = application(catalog.database, catalog.library, False, needs_accounts=True)
    with serving(app) as address:
        assert requests.get(address, timeout=30).status_code == 401


def test_names_of_the_server_besides_loopback_are_those_that_were_given(catalog):
    app = application(catalog.database, catalog.library, False, hosts=["Catalog.example.org"])
    with serving(app) as address:
        hosts = {"catalog.example.org": 200, "CATALOG.example.org:443": 200, "evil.example": 421}
        for host, status in hosts.items():
            answer = requests.get(f"{address}/sign-in", headers={"Host": host}, timeout=30)
            assert answer.status_code == status
            assert status == 200 or "--allow-host" in answer.text
