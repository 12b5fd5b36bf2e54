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
    assert [problem for problem in problems if "503" not in problem] == []  # Chromium logs each status


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


def scrolled(tab):
    """Scrolls down, and returns an image in the middle of the window that isn't near the highlighted one."""
    tab.evaluate("scrollTo(0, 900)")
    tab.wait_for_function("scrollY > 500")
    for option in tab.locator(".image-grid [role=option]").all():
        box = option.bounding_box()
        if box["y"] > 300 and box["y"] + box["height"] < 700:
            return option
    raise AssertionError("no image is in the middle")


def test_the_first_click_after_scrolling_selects_the_image_that_is_there(new_tab):
    tab = new_tab(viewport={"width": 1300, "height": 800})
    assert tab.evaluate("document.activeElement === document.body")
    option = scrolled(tab)
    before = tab.evaluate("scrollY")
    option.click()
    tab.wait_for_selector("text=1 selected")
    assert option.get_attribute("aria-selected") == "true"
    assert tab.evaluate("scrollY") == before
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    assert tab.locator(".image-grid .cursor").bounding_box()["y"] + 50 < 800  # arrows bring it into view


def test_what_an_action_has_done_is_seen_where_the_person_is_on_the_page(new_tab):
    tab = new_tab(viewport={"width": 1300, "height": 800})
    scrolled(tab).click()
    tab.click("text=Label as…")
    tab.fill("#find-class", "rab")
    tab.keyboard.press("Enter")
    tab.click("#label-yes")
    tab.wait_for_selector("text=1 image labeled.")
    tab.evaluate("scrollTo(0, 900)")
    box = tab.locator("#notice button").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 800


def test_all_that_match_stay_selected_while_the_focus_moves(catalog, new_tab):
    tab = new_tab("projects/1/data?label=1")
    tab.click("text=Select all 101")
    tab.wait_for_selector("text=101 selected")
    tab.focus(".image-grid")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Shift+Tab")
    assert "101 selected" in tab.inner_text("#actions")
    tab.keyboard.press("Space")  # takes this one out
    assert "100 selected" in tab.inner_text("#actions")
    tab.keyboard.press("r")
    tab.fill("#reason", "blurred")
    tab.click("#reject button[value=yes]")
    tab.wait_for_selector("text=100 images sent back.")
    assert len(images(catalog, class_id=1)) == 1


def test_labels_that_somebody_else_has_changed_meanwhile_are_not_overwritten(catalog, new_tab):
    tab = new_tab("projects/1/data?label=1")
    number = shown(tab)[0]
    with catalog.database.write() as session:
        bulk.label(session, session.get(Project, 1), [number], Answer(Status.LABELED, (2,)), "bram")
    tab.click("text=Select page")
    tab.click("text=Labels are right")
    tab.wait_for_selector("text=59 labels confirmed. 1 was labeled meanwhile and left alone")
    with catalog.database.read() as session:
        assert session.get(Image, number).classes == [2]
        assert session.get(Image, number).labeled_by == "bram"


def test_a_reason_is_kept_until_it_was_sent_and_spaces_are_none(catalog, new_tab):
    tab = new_tab("projects/1/data?label=1")
    tab.focus(".image-grid")
    tab.keyboard.press("r")
    tab.fill("#reason", "   ")
    tab.click("#reject button[value=yes]")
    assert tab.is_visible("#reject") and tab.evaluate("!document.getElementById('reason').validity.valid")
    tab.fill("#reason", "cut off")
    answer = {"status": 503, "json": {"detail": "the database is busy"}}
    tab.route("**/reject", lambda route: route.fulfill(**answer), times=1)
    tab.click("#reject button[value=yes]")
    tab.wait_for_selector("#notice.bad:has-text('the database is busy')")
    tab.keyboard.press("r")
    assert tab.input_value("#reason") == "cut off"
    tab.click("#reject button[value=yes]")
    tab.wait_for_selector("#notice.good:has-text('1 image sent back.')")
    tab.keyboard.press("r")
    assert tab.input_value("#reason") == ""


def test_no_class_chosen_labels_nothing_and_unknown_is_found_by_its_name(catalog, new_tab):
    tab = new_tab("projects/1/data?label=1")
    tab.focus(".image-grid")
    tab.keyboard.press("l")
    tab.wait_for_selector("#choices li")
    tab.keyboard.press("Enter")
    assert tab.is_visible("#label") and tab.is_disabled("#label-yes")
    tab.keyboard.type("walrus")
    tab.wait_for_selector("text=No class is called that.")
    tab.fill("#find-class", "unkn")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=1 image labeled.")
    assert len(images(catalog, statuses=(Status.UNKNOWN,))) == 1


def focused(tab):
    return tab.evaluate("document.activeElement.className || document.activeElement.tagName")


def test_the_focus_stays_on_the_page_after_actions_and_on_the_way_back(new_tab):
    tab = new_tab("projects/1/data?label=1")
    tab.click("#pages [rel=next]")
    tab.wait_for_selector("html[data-ready=yes]")
    number = shown(tab)[4]
    tab.click(f"[data-id='{number}']")
    tab.click("text=History")
    tab.wait_for_selector(".history")
    tab.wait_for_selector("html[data-ready=yes]")
    tab.keyboard.press("Escape")
    tab.wait_for_selector(".image-grid:focus")
    assert tab.get_attribute(".image-grid .cursor", "data-id") == str(number) and "after=" in tab.url
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".history")
    tab.focus("text=Label is right")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=1 label confirmed.")
    assert focused(tab) == "H1"
    tab.focus("#notice button")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=1 label is back as it was.")
    assert focused(tab) == "H1"
    tab.keyboard.press("Escape")
    tab.wait_for_selector(".image-grid:focus")  # the image is the last one labeled now, on the first page


def test_the_order_of_tab_is_that_of_the_page(new_tab):
    tab = new_tab(viewport={"width": 1100, "height": 800})
    tab.focus("text=The model disagreed")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "More"
    more = tab.locator("#filters summary").bounding_box()
    tab.keyboard.press("Tab")
    button = (
        tab.evaluate("document.activeElement.textContent"),
        tab.locator("#filters .button").bounding_box(),
    )
    assert button[0] == "Search" and (button[1]["y"] > more["y"] or button[1]["x"] > more["x"])


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
