"""In a browser the catalog is used by keyboard alone, fits a phone, and loads nothing from elsewhere."""

import pytest
from catalog_server import Catalog, folder_of
from chromium import check_page, chromium
from sqlalchemy import select

from catalog.store import projects, suggestions
from catalog.store.tables import Event, Help, Image, Page, Status

UNSEEN_MS = 350  # a page can't be submitted sooner
CLASSES = tuple(f"pet_{name}" for name in ("Abyssinian", "Beagle", "Bengal", "Birman", "Bombay", "Boxer"))
CLASSES += tuple(f"cat_{name}" for name in ("Persian", "Ragdoll", "Siamese", "Sphynx"))


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 30), classes=CLASSES)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.fixture
def new_tab(browser, address):
    """Opens tabs; a JavaScript error or a request to another host fails the test."""
    problems: list[str] = []
    contexts = []

    def open_tab(path: str = "", context=None, **options):
        if context is None:
            context = browser.new_context(**options)
            for project in (1, 2):
                context.add_init_script(f"localStorage.setItem('seen-help:{project}', 'yes')")
            contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and problems.append(line.text))
        tab.on("request", lambda each: each.url.startswith(address) or problems.append(each.url))
        tab.goto(f"{address}/{path}")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert [problem for problem in problems if "409" not in problem] == []  # Chromium logs each status


def label_tab(new_tab, **options):
    tab = new_tab("projects/1/label", **options)
    tab.wait_for_selector("html[data-ready=yes]")
    tab.wait_for_timeout(UNSEEN_MS)
    return tab


def given(catalog):
    with catalog.database.read() as session:
        names = {found.id: found.name for found in projects.classes(session, 1)}
        labeled = session.scalars(select(Image).where(Image.status == Status.LABELED).order_by(Image.rank))
        return [names[number] for image in labeled for number in image.classes]


def labeled(tab, count):
    """Waits until so many images of the page have a label."""
    from playwright.sync_api import expect

    expect(tab.locator(".cell.labeled")).to_have_count(count)


def submitted(tab):
    """Presses Enter and waits for the next page."""
    with tab.expect_response(lambda answer: answer.url.endswith("/pages") and answer.ok):
        tab.keyboard.press("Enter")
    labeled(tab, 0)
    tab.wait_for_timeout(UNSEEN_MS)


def test_a_page_is_labeled_by_keyboard_alone(catalog, new_tab):
    tab = label_tab(new_tab)
    for key in "123123123":
        tab.keyboard.press(key)
    submitted(tab)
    assert given(catalog) == [CLASSES[int(key) - 1] for key in "123123123"]


def test_letters_find_any_class_and_what_is_typed_on_is_ignored(catalog, new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.type("siamese")  # "si" is enough
    tab.keyboard.type("be")
    tab.keyboard.press("Enter")  # the first of Beagle and Bengal
    for _ in range(7):
        tab.keyboard.press("1")
    submitted(tab)
    assert given(catalog)[:2] == ["cat_Siamese", "pet_Beagle"]
    assert len(given(catalog)) == 9


def test_selected_images_get_one_class_together(catalog, new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.press("Control+a")
    tab.keyboard.press("4")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Space")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Space")
    tab.keyboard.press("2")
    submitted(tab)
    names = given(catalog)
    assert (names.count(CLASSES[3]), names.count(CLASSES[1])) == (7, 2)


def test_unknown_skip_and_taking_a_label_away(catalog, new_tab):
    tab = label_tab(new_tab)
    for key in ("0", "-", "1"):
        tab.keyboard.press(key)
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Backspace")
    tab.keyboard.press("Enter")
    assert "7 images have no label" in tab.inner_text("#notice")
    submitted(tab)
    with catalog.database.read() as session:
        found = projects.counts(session, 1)
    assert (found[Status.UNKNOWN], found[Status.SKIPPED], found[Status.LABELED]) == (1, 1, 0)


def test_undo_reopens_the_last_page_with_its_labels(catalog, new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.press("Control+a")
    tab.keyboard.press("2")
    submitted(tab)
    tab.keyboard.press("Control+z")
    labeled(tab, 9)
    tab.wait_for_timeout(UNSEEN_MS)
    assert given(catalog) == []
    tab.keyboard.press("5")
    submitted(tab)
    assert sorted(set(given(catalog))) == sorted({CLASSES[1], CLASSES[4]})


def test_undo_takes_back_the_last_key_before_any_page(catalog, new_tab):
    tab = label_tab(new_tab)
    for key in "123":
        tab.keyboard.press(key)
    tab.keyboard.press("Control+z")
    labeled(tab, 2)
    assert given(catalog) == []


def test_a_reload_keeps_labels_and_what_can_be_undone(catalog, new_tab):
    tab = label_tab(new_tab)
    for key in "123":
        tab.keyboard.press(key)
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]")
    labeled(tab, 3)
    tab.keyboard.press("Control+z")
    labeled(tab, 2)


def test_a_suggestion_that_was_taken_away_stays_away_after_a_reload(catalog, new_tab):
    add_model(catalog, predicted=[4], confidence=0.97)
    tab = label_tab(new_tab)
    labeled(tab, 9)
    tab.keyboard.press("Backspace")
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]")
    labeled(tab, 8)


def test_a_held_enter_submits_one_page(catalog, new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.press("Control+a")
    tab.keyboard.press("1")
    tab.keyboard.down("Enter")
    for _ in range(5):
        tab.keyboard.down("Enter")  # repeats
    labeled(tab, 0)
    tab.keyboard.up("Enter")
    assert len(given(catalog)) == 9


def test_after_a_click_enter_submits_and_does_not_press_the_button_again(catalog, new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.press("Control+a")
    tab.keyboard.press("1")
    tab.click("#unknown")
    submitted(tab)
    with catalog.database.read() as session:
        found = projects.counts(session, 1)
    assert (found[Status.UNKNOWN], found[Status.LABELED]) == (1, 8)


def test_a_page_with_suggestions_is_corrected_with_the_keyboard(catalog, new_tab):
    add_model(catalog, predicted=[4], confidence=0.97)
    tab = label_tab(new_tab)
    assert "Suggested labels" in tab.inner_text("#kind")
    labeled(tab, 9)
    tab.keyboard.press("2")  # the first is the least certain
    with tab.expect_response(lambda answer: answer.url.endswith("/submit") and answer.ok):
        tab.keyboard.press("Enter")
    names = given(catalog)
    assert (names.count(CLASSES[3]), names.count(CLASSES[1])) == (8, 1)


def test_similar_images_get_one_class_with_one_key(catalog, new_tab):
    add_model(catalog, predicted=None, confidence=0.0)
    tab = label_tab(new_tab)
    assert "Similar images, all selected" in tab.inner_text("#kind")
    tab.keyboard.press("3")
    submitted(tab)
    assert given(catalog) == [CLASSES[2]] * 9


def test_several_classes_are_given_and_an_untouched_page_asks_first(tmp_path, catalog, new_tab):
    catalog.add_project(
        folder_of(tmp_path / "several", 30), name="several", task="multi_label", classes=CLASSES
    )
    tab = new_tab("projects/2/label")
    tab.wait_for_selector("html[data-ready=yes]")
    tab.wait_for_timeout(UNSEEN_MS)
    tab.keyboard.press("Enter")
    assert "none of the classes" in tab.inner_text("#notice")
    tab.keyboard.press("1")
    tab.keyboard.press("2")
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(2 * UNSEEN_MS)
    with catalog.database.read() as session:
        events = session.scalars(select(Event).where(Event.project_id == 2))
        counts = sorted(len(event.after["classes"]) for event in events)
    assert counts == [0] * 8 + [2]


def add_model(catalog, predicted, confidence):
    """Stores suggestions for all images, as the helper does."""
    with catalog.database.write() as session:
        catalog.project(session).model_help = Help.SUGGESTIONS
        numbers = list(session.scalars(select(Image.id)))
        # One submitted page, so that the next one isn't due to be shown without suggestions.
        page = Page(token="x", project_id=1, kind="manual", person="a", images=[], keys=[], created_at=0)
        page.submitted_at = 1
        session.add(page)
    rows = [
        {
            "image_id": number,
            "cluster": position // 9,
            "distance": float(position % 9),
            "predicted": predicted,
            "confidence": confidence,
            "probable": predicted or [],
        }
        for position, number in enumerate(numbers)
    ]
    threshold = None if predicted is None else 0.9
    suggestions.add_model(catalog.database, 1, 0, 50, threshold, "a model", "", rows)


def test_labels_that_were_not_submitted_survive_a_reload(new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.press("3")
    first = tab.get_attribute(".cell img", "src")
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]")
    assert tab.get_attribute(".cell img", "src") == first
    assert tab.inner_text(".cell .label >> nth=0") == CLASSES[2]


def test_two_tabs_of_one_person_show_different_images(new_tab):
    first = label_tab(new_tab)
    second = label_tab(new_tab, context=first.context)
    shown = [
        {image.get_attribute("src") for image in tab.locator(".cell img").all()} for tab in (first, second)
    ]
    assert len(shown[0]) == len(shown[1]) == 9
    assert not shown[0] & shown[1]


def test_a_stale_page_offers_to_save_the_rest(catalog, new_tab):
    tab = label_tab(new_tab)
    tab.keyboard.press("Control+a")
    tab.keyboard.press("1")
    with catalog.database.write() as session:
        taken = session.scalar(select(Image).where(Image.page_token.is_not(None)))
        taken.page_token = None
    tab.keyboard.press("Enter")
    tab.click("text=Save the other 8")
    labeled(tab, 0)
    assert len(given(catalog)) == 8


def test_a_project_is_made_and_its_images_are_uploaded_in_the_browser(catalog, new_tab, tmp_path):
    tab = new_tab("projects/new")
    tab.fill("#name", "uploaded")
    tab.check("input[value=upload]")
    tab.fill("#classes", "cat\ndog")
    tab.check("input[name=model_help][value=none]")
    tab.click("text=Create project")
    tab.wait_for_url("**/projects/2")
    tab.set_input_files("input[type=file]", sorted((tmp_path / "images").iterdir())[:7])
    tab.wait_for_selector("text=7 of 7 images uploaded")
    catalog.finish_jobs()
    with catalog.database.read() as session:
        assert sum(projects.counts(session, 2).values()) == 7


PAGES = (
    *("", "projects/new", "projects/1", "projects/1/label", "projects/1/settings", "projects/1/export"),
    "lesson",
)


def test_axe_finds_no_violation_and_nothing_overflows_on_a_phone(new_tab, axe):
    tab = new_tab(viewport={"width": 390, "height": 800})
    for path in PAGES:
        tab.goto(f"{tab.url.split('/projects')[0].rstrip('/')}/{path}")
        tab.wait_for_load_state("networkidle")
        check_page(tab, axe, path)


def test_the_label_page_works_in_dutch_on_a_phone(catalog, new_tab):
    tab = label_tab(new_tab, locale="nl-NL", viewport={"width": 375, "height": 740})
    assert tab.get_attribute("html", "lang") == "nl"
    assert tab.inner_text("#kind") == "Foto's in willekeurige volgorde."
    assert tab.inner_text("#done") == "0 van 30 klaar"
    tab.keyboard.press("1")
    tab.keyboard.press("0")
    assert tab.get_attribute("#image-1", "aria-label") == "Foto 2: onbekend"
    tab.click("#submit")
    assert tab.inner_text("#notice").startswith("7 foto's hebben geen label. Sla nog eens op")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    submitted(tab)
    assert given(catalog) == [CLASSES[0]]
    stale = {"detail": "", "taken": [1, 2], "is_saved": False}
    tab.route("**/submit", lambda route: route.fulfill(status=409, json=stale))
    tab.keyboard.press("Control+a")
    tab.keyboard.press("1")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("text=2 foto's zijn intussen ergens anders gelabeld.")


def test_no_page_overflows_on_a_phone_in_dutch_and_the_keyboard_switches_the_language(new_tab):
    tab = new_tab(locale="nl-NL", viewport={"width": 375, "height": 740})
    address = tab.url.rstrip("/")
    for path in PAGES:
        tab.goto(f"{address}/{path}")
        tab.wait_for_load_state("networkidle")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375, path
    tab.focus("text=English")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("html[lang=en]")
    assert tab.url == f"{address}/{PAGES[-1]}"
    assert tab.inner_text("h1") == "A lesson of 20 minutes: teach a model by example"


def test_a_hundred_images_are_labeled_by_keyboard(tmp_path, new_tab, catalog, address):
    catalog.add_project(folder_of(tmp_path / "more", 130), name="more", classes=CLASSES)
    tab = new_tab("projects/2/label")
    tab.wait_for_selector("html[data-ready=yes]")
    tab.wait_for_timeout(UNSEEN_MS)
    for number in range(100):
        tab.keyboard.press(str(1 + number % 9))
        if number % 9 == 8:
            submitted(tab)
    with catalog.database.read() as session:
        assert len(list(session.scalars(select(Event).where(Event.project_id == 2)))) == 99
