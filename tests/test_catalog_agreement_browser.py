"""In a browser: two people label the same images, an admin decides, and the agreement is shown."""

import pytest
from catalog_server import Catalog, folder_of
from chromium import axe_core, check_page, chromium
from people import PASSWORD, add_person
from sqlalchemy import select

from catalog.store import pages
from catalog.store.labels import Answer
from catalog.store.tables import Image, Project, Role, Status

UNSEEN_MS = 350  # a page can't be submitted sooner
COUNT = 12
LONG = "Wilhelmina van den Boogaard-Achterberg"
CLASSES = ("Abyssinian", "Wirehaired Pointing Griffon", "Bengal")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core; skipped if npm can't provide it."""
    return axe_core(tmp_path_factory.mktemp("axe"))


@pytest.fixture
def catalog(tmp_path):
    """Four images that somebody has labeled, all as the first class; all images are for two people."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", COUNT), classes=CLASSES, page_size=4, second_share=1.0)
    add_person(catalog, "ann", Role.ADMIN)
    add_person(catalog, LONG)
    add_person(catalog, "bob")
    label(catalog, LONG, 1)
    return catalog


def label(catalog, person, *classes):
    """A page that somebody labels: one class for all images, or one each."""
    with catalog.database.write() as session:
        page = pages.hand_out(session, session.get(Project, 1), person)
        given = classes * 4 if len(classes) == 1 else classes
        answers = {
            image["id"]: Answer(Status.LABELED, (number,))
            for image, number in zip(page.images, given, strict=False)
        }
        session.flush()
        pages.submit(session, page, answers)


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.fixture
def new_tab(browser, address):
    """Opens tabs in which somebody signs in; a JavaScript error fails the test."""
    problems: list[str] = []
    contexts = []

    def open_tab(name: str, path: str, **options):
        context = browser.new_context(**options)
        context.add_init_script("localStorage.setItem('seen-help:1', 'yes')")
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(f"{address}/{path}")
        tab.fill("#name", name)
        tab.fill("#password", PASSWORD)
        tab.keyboard.press("Enter")
        tab.wait_for_url(f"{address}/{path}")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert problems == []


def ready(tab):
    tab.wait_for_selector("html[data-ready=yes]")
    tab.wait_for_timeout(UNSEEN_MS)


def submit(tab):
    with tab.expect_response(lambda answer: answer.url.endswith(("/pages", "/review")) and answer.ok):
        tab.keyboard.press("Enter")
    tab.wait_for_timeout(UNSEEN_MS)


def statuses(catalog):
    with catalog.database.read() as session:
        return sorted(session.scalars(select(Image.status).where(Image.status != Status.WAITING)))


def test_second_labels_and_decisions_are_given_and_undone_by_keyboard(catalog, new_tab):
    tab = new_tab("bob", "projects/1/label")
    ready(tab)
    assert tab.inner_text("#kind").startswith("Somebody else has labeled these images, too.")
    assert tab.locator(".cell.labeled, .opinions").count() == 0 and LONG not in tab.content()
    for key in "1223":
        tab.keyboard.press(key)
    submit(tab)
    assert statuses(catalog) == ["disputed"] * 3 + ["labeled"]

    tab = new_tab("ann", "projects/1")
    tab.click("text=Decide about 3 disputed images")
    ready(tab)
    assert tab.inner_text("#kind") == "Two people disagree about these images: your label decides."
    assert tab.locator(".cell").count() == 3
    assert f"{LONG}: Abyssinian" in tab.inner_text("#image-0 .opinions")
    assert f"{LONG}: Abyssinian" in tab.get_attribute("#image-0", "aria-label")
    assert tab.locator(".opinions", has_text="bob: Wirehaired Pointing Griffon").count() == 2
    tab.reload()
    ready(tab)
    assert tab.locator(".cell").count() == 3  # the same page
    tab.keyboard.press("Control+a")
    tab.keyboard.press("2")
    submit(tab)
    assert tab.inner_text("#kind") == "No image is disputed."
    assert statuses(catalog) == ["labeled"] * 4
    with tab.expect_response("**/undo"):
        tab.keyboard.press("Control+z")
    ready(tab)
    assert tab.locator(".cell.labeled .opinions").count() == 3
    assert statuses(catalog) == ["disputed"] * 3 + ["labeled"]


def test_the_review_and_the_label_page_share_a_tab_without_sharing_their_pages(catalog, new_tab, address):
    label(catalog, "bob", 2)
    tab = new_tab("ann", "projects/1/review")
    ready(tab)
    tab.goto(f"{address}/projects/1/label")
    ready(tab)
    assert tab.locator(".opinions").count() == 0 and tab.locator(".cell").count() == 4
    tab.goto(f"{address}/projects/1/review")
    ready(tab)
    assert tab.locator(".cell .opinions").count() == 4


def test_a_class_of_the_agreement_leads_to_its_images(catalog, new_tab):
    label(catalog, "bob", 1, 1, 1, 3)
    tab = new_tab("ann", "projects/1/agreement")
    tab.focus("th a >> text=Abyssinian")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".image-grid [role=option]")
    assert tab.locator(".image-grid [role=option]").count() == 3


def test_axe_finds_no_violation_and_nothing_overflows_on_a_narrow_phone(catalog, new_tab, axe, address):
    label(catalog, "bob", 1, 2, 2, 3)
    tab = new_tab("ann", "projects/1/agreement", viewport={"width": 360, "height": 740})
    for path in ("agreement", "review", "label", "settings", ""):
        tab.goto(f"{address}/projects/1/{path}".rstrip("/"))
        tab.wait_for_load_state("networkidle")
        check_page(tab, axe, path)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_the_pages_are_dutch_in_a_dutch_browser(catalog, new_tab, address):
    label(catalog, "bob", 1, 2, 2, 3)
    tab = new_tab("ann", "projects/1/agreement", locale="nl-NL", viewport={"width": 360, "height": 740})
    assert tab.inner_text("h1").replace("\N{SOFT HYPHEN}", "") == "Overeenstemming"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert "Beslis over 3 omstreden foto's" in tab.inner_text("main")
    tab.goto(f"{address}/projects/1/review")
    ready(tab)
    assert tab.inner_text("#kind") == "Twee mensen zijn het over deze foto's oneens: jouw label beslist."
