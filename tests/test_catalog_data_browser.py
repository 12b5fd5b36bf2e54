"""In a browser the data page is used by keyboard or touch, and its address says what it shows."""

import pytest
from catalog_server import Catalog, folder_of
from chromium import check_page, chromium
from sqlalchemy import select

from catalog.store import bulk, pages, search, suspects
from catalog.store.labels import Answer
from catalog.store.search import Search
from catalog.store.tables import Event, Image, Project, Status

COUNT = 130  # three pages of results


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path):
    """Images of which the first 100 are labeled as cats; the model has said dog for the first of them."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", COUNT))
    with catalog.database.write() as session:
        project = session.get(Project, 1)
        bulk.label(session, project, range(1, 101), Answer(Status.LABELED, (1,)), "anna")
        page = pages.hand_out(session, project, "bram", 1)
        page.images = [{**page.images[0], "predicted": [2], "confidence": 0.8}]
        session.flush()
        pages.submit(session, page, {page.images[0]["id"]: Answer(Status.LABELED, (1,))})
        session.flush()
        last = session.scalar(select(Event.id).order_by(Event.id.desc()).limit(1))
        doubt = suspects.Doubt(session.get(Image, 5).sha256, ("cat",), ("rabbit",), 0.1, 0.9)
        suspects.replace(session, project, [doubt], last)
    return catalog


@pytest.fixture
def new_tab(browser, catalog):
    """Opens tabs; a JavaScript error or a request to another host fails the test."""
    problems, contexts = [], []
    with catalog.served() as address:

        def open_tab(path="projects/1/data", **options):
            context = browser.new_context(**options)
            context.add_init_script("localStorage.setItem('seen-help:1', 'yes')")
            contexts.append(context)
            tab = context.new_page()
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.on("console", lambda line: line.type == "error" and problems.append(line.text))
            tab.on("request", lambda each: each.url.startswith(address) or problems.append(each.url))
            tab.goto(f"{address}/{path}")
            tab.wait_for_selector("html[data-ready=yes]")
            return tab

        yield open_tab
        for context in contexts:
            context.close()
    assert problems == []


def images(catalog, **wanted):
    with catalog.database.read() as session:
        return search.ids(session, 1, Search(**wanted))


def shown(tab):
    return [int(each.get_attribute("data-id")) for each in tab.locator(".image-grid [role=option]").all()]


def test_images_are_selected_sent_back_with_a_reason_and_undone_by_keyboard_alone(catalog, new_tab):
    tab = new_tab("projects/1/data?label=1")
    tab.focus(".image-grid")
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Space")
    chosen = sorted(int(each.get_attribute("data-id")) for each in tab.locator("[aria-selected=true]").all())
    assert len(chosen) == 2
    tab.keyboard.press("r")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # without a reason the dialog stays
    assert tab.is_visible("#reject")
    tab.focus("#reason")
    tab.keyboard.type("cut off")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=2 images sent back.")
    assert sorted(images(catalog, origin="reject")) == chosen
    assert not set(chosen) & set(shown(tab))
    tab.focus("#notice button")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=2 labels are back as they were.")
    assert images(catalog, origin="reject") == []
    assert set(chosen) <= set(images(catalog, class_id=1))


def test_all_that_match_get_one_label_with_their_number_said_before(catalog, new_tab):
    tab = new_tab("projects/1/data?label=1")
    tab.click("text=Select all 101")
    tab.wait_for_selector("text=101 selected")
    tab.click("text=Label as…")
    tab.fill("#find-class", "rab")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    tab.click("#label button[value=yes]")
    tab.wait_for_selector("text=101 images labeled.")
    assert len(images(catalog, class_id=3)) == 101
    assert tab.inner_text("#count") == "No image matches."


def test_filters_are_in_the_address_and_the_back_button_takes_them_back(new_tab):
    tab = new_tab()
    assert tab.inner_text("#count") == f"{COUNT} images"
    first = shown(tab)
    tab.click("#pages [rel=next]")
    tab.wait_for_selector("html[data-ready=yes]")
    assert len(shown(tab)) == 60 and not set(first) & set(shown(tab))
    tab.check("text=The model disagreed")
    tab.click("#filters .button")
    tab.wait_for_selector("text=model: dog")
    assert tab.url.endswith("/data?differs=yes")
    tab.go_back()
    tab.wait_for_selector("#pages [rel=prev]")
    assert "after=" in tab.url
    tab.click("#pages [rel=prev]")
    tab.wait_for_selector("html[data-ready=yes]")
    assert shown(tab) == first


def test_a_suspect_is_looked_at_large_confirmed_and_the_arrows_go_on(catalog, new_tab):
    tab = new_tab("projects/1/data?order=suspects")
    assert "suspect: rabbit?" in tab.inner_text(".image-grid")
    tab.focus(".image-grid")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=The last audit says rabbit")
    tab.click("text=Label is right")
    tab.wait_for_selector("text=1 label confirmed.")
    assert tab.locator(".history li").count() == 2
    assert images(catalog, order="suspects") == []
    tab.keyboard.press("Escape")
    tab.wait_for_selector("text=No image matches.")
    tab.goto(tab.url.split("?")[0] + f"/{images(catalog)[1]}?order=newest")
    tab.wait_for_selector("html[data-ready=yes]")
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_url(f"**/data/{images(catalog)[0]}?**")


def test_a_rejected_image_shows_its_reason_on_the_label_page(catalog, new_tab):
    with catalog.database.write() as session:
        bulk.reject(session, session.get(Project, 1), range(1, 101), "<i>ears</i> hidden", "anna")
    tab = new_tab("projects/1/label")
    assert tab.locator(".cell .reason >> nth=0").inner_text() == "Sent back: <i>ears</i> hidden"
    assert "Sent back" in tab.locator(".cell:has(.reason) >> nth=0").get_attribute("aria-label")
    assert tab.locator(".cell.labeled").count() == 0


@pytest.mark.parametrize("width", [390, 1300])
def test_axe_finds_no_violation_and_nothing_overflows(catalog, new_tab, axe, width):
    tab = new_tab(viewport={"width": width, "height": 800})

    def check(what):
        check_page(tab, axe, what)

    check("grid")
    tab.click("summary")
    tab.click(".image-grid [role=option] >> nth=2")
    check("selection")
    tab.click("text=Label as…")
    tab.wait_for_selector("#choices li")
    check("classes")
    tab.click("#label button[value=no]")
    tab.click("text=Send back…")
    check("reason")
    tab.click("#reject button[value=no]")
    tab.click("text=History")
    tab.wait_for_selector(".history")
    check("image")


def test_selecting_on_a_phone_moves_no_image(new_tab):
    tab = new_tab(viewport={"width": 390, "height": 800}, has_touch=True)
    option = tab.locator(".image-grid [role=option] >> nth=0")
    before = option.bounding_box()
    option.tap()
    tab.wait_for_selector("text=1 selected")
    assert option.bounding_box()["y"] - before["y"] == pytest.approx(-tab.evaluate("scrollY"), abs=1)
