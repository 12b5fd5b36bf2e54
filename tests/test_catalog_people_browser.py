"""In a browser: signing in, labeling as a labeler, and managing people work by keyboard, and fit a phone."""

import pytest
from catalog_server import Catalog, folder_of
from chromium import check_page, chromium
from people import PASSWORD, add_person
from sqlalchemy import select

from catalog.store import accounts
from catalog.store.tables import Event, Role

UNSEEN_MS = 350  # a page can't be submitted sooner
LONG = "Wilhelmina van den Boogaard-Achterberg"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 30), name="Animals of the shelter in the north")
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, LONG)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.fixture
def new_tab(browser, address):
    """Opens tabs in which somebody signs in; a JavaScript error fails the test."""
    problems: list[str] = []
    contexts = []

    def open_tab(name: str, path: str = "/", **options):
        context = browser.new_context(**options)
        context.add_init_script("localStorage.setItem('seen-help:1', 'yes')")
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(address + path)
        sign_in(tab, name)
        tab.wait_for_url(address + path)
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert problems == []


def sign_in(tab, name):
    tab.wait_for_selector("#password")
    tab.focus("#name")
    tab.keyboard.type(name)
    tab.keyboard.press("Tab")
    tab.keyboard.type(PASSWORD)
    tab.keyboard.press("Enter")


def ready(tab):
    tab.wait_for_selector("html[data-ready=yes]")
    tab.wait_for_timeout(UNSEEN_MS)


def test_a_labeler_signs_in_and_labels_by_keyboard(catalog, new_tab):
    tab = new_tab(LONG)
    tab.click(".card .button")
    ready(tab)
    shown = "[...document.querySelectorAll('.cell img')].every((image) => image.naturalWidth > 0)"
    assert tab.wait_for_function(shown)
    tab.keyboard.press("Control+a")
    tab.keyboard.press("1")
    with tab.expect_response(lambda answer: answer.url.endswith("/pages") and answer.ok):
        tab.keyboard.press("Enter")
    with catalog.database.read() as session:
        assert set(session.scalars(select(Event.person))) == {LONG}


def test_labels_are_still_there_after_signing_in_again(catalog, new_tab):
    tab = new_tab(LONG, "/projects/1/label")
    ready(tab)
    for key in "123":
        tab.keyboard.press(key)
    with catalog.database.write() as session:
        accounts.end_sessions(accounts.by_name(session, LONG))
    tab.keyboard.press("Enter")  # asks whether to leave the rest for later
    tab.keyboard.press("Enter")
    tab.click("#notice a")
    sign_in(tab, LONG)
    ready(tab)
    assert tab.locator(".cell.labeled").count() == 3


def test_the_dashboard_leads_to_the_sign_in_page_when_the_session_has_ended(catalog, new_tab):
    tab = new_tab("ann", "/projects/1")
    with catalog.database.write() as session:
        accounts.end_sessions(accounts.by_name(session, "ann"))
    tab.wait_for_url("**/sign-in?next=%2Fprojects%2F1", timeout=10_000)


def test_an_admin_adds_and_removes_somebody_by_keyboard(catalog, new_tab):
    tab = new_tab("ann", "/people")
    tab.focus("#name")
    tab.keyboard.type("lars")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".password")
    tab.focus("summary[aria-label='Remove lars']")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/people")
    tab.wait_for_selector("summary[aria-label='Remove lars']", state="detached")
    with catalog.database.read() as session:
        assert [account.name for account in accounts.all_accounts(session)] == ["ann", LONG]


def test_axe_finds_no_violation_and_nothing_overflows_on_a_phone(address, new_tab, axe):
    paths = {
        "ann": ("/", "/people", "/account", "/projects/1", "/projects/1/label", "/projects/1/settings"),
        LONG: ("/", "/account", "/projects/1/label", "/people", "/sign-in"),
    }
    for name, pages in paths.items():
        tab = new_tab(name, viewport={"width": 390, "height": 800})
        for path in pages:
            tab.goto(address + path)
            tab.wait_for_load_state("networkidle")
            check_page(tab, axe, path)
