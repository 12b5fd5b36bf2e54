"""The map in a browser: seen, pointed at, and labeled from by mouse, finger and keyboard."""

import io

import numpy as np
import pytest
from catalog_server import Catalog, folder_of
from chromium import check_page, chromium
from PIL import Image as PillowImage
from sqlalchemy import select

from catalog.maps import Fit, Map
from catalog.store import labels, suggestions
from catalog.store import maps as stored
from catalog.store.tables import Image, Status

CLASSES = ("cat_Persian", "cat_Siamese", "dog_Beagle")
COUNT = 60  # a third of them at each of three places: left, right, below


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path):
    """A project with a map; the first image of the left group is a test image."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", COUNT), classes=CLASSES)
    with catalog.database.write() as session:
        ids = np.array(session.scalars(select(Image.id).order_by(Image.id)).all())
        session.get(Image, int(ids[0])).is_test = True
        extent = stored.extent(session, 1)
    rng = np.random.default_rng(0)
    places = np.array([(-0.8, -0.5), (0.8, -0.5), (0.0, 0.5)])
    positions = places[np.arange(COUNT) % 3] + rng.uniform(-0.1, 0.1, (COUNT, 2))
    fit = Fit(np.zeros(2), np.zeros((2, 2)), np.zeros((COUNT, 2)), positions, COUNT)
    Map(ids, positions.astype(np.float32), extent.images, extent.newest, fit).save(catalog.library.map(1))
    rows = [
        {
            "image_id": int(number),
            "cluster": 0,
            "distance": 0.0,
            "predicted": [1 + position % 3],
            "confidence": 0.5,
            "probable": [],
        }
        for position, number in enumerate(ids)
        if position
    ]
    suggestions.add_model(catalog.database, 1, 0, 1, None, "", "", rows)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.fixture
def new_tab(browser, address):
    """Opens the map; a JavaScript error or a request to another host fails the test."""
    problems: list[str] = []
    contexts = []

    def open_tab(is_ready=True, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and problems.append(line.text))
        tab.on("request", lambda each: each.url.startswith(address) or problems.append(each.url))
        tab.goto(f"{address}/projects/1/map")
        if is_ready:
            tab.wait_for_selector("html[data-map]")
        return tab

    yield open_tab
    for context in contexts:
        context.close()
    assert [problem for problem in problems if "503" not in problem] == []  # Chromium logs each status


def place(tab, x, y):
    """Where a place of the map is in the window; the whole map is shown with a margin."""
    tab.locator("#overlay").scroll_into_view_if_needed()
    box = tab.locator("#overlay").bounding_box()
    unit = min(box["width"] / 1.8, box["height"] / 1.2) * 0.92
    return box["x"] + box["width"] / 2 + x * unit, box["y"] + box["height"] / 2 + y * unit


def lasso(tab, x, y, width=0.16, height=0.14):
    """Draws a line around a place of the map, so far to each side."""
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -0.9)]
    points = [place(tab, x + width * dx, y + height * dy) for dx, dy in corners]
    tab.mouse.move(*points[0])
    tab.mouse.down()
    for point in points[1:]:
        tab.mouse.move(*point, steps=5)
    tab.mouse.up()
    tab.wait_for_selector("#group[open]")


def expecting(locator):
    """Assertions that wait; playwright may be missing where the tests are collected."""
    from playwright.sync_api import expect

    return expect(locator)


def given(catalog):
    """The class of each labeled image."""
    with catalog.database.read() as session:
        query = select(Image.classes).where(Image.status == Status.LABELED)
        return [classes for (classes,) in session.execute(query)]


def colors_at(tab, x, y):
    """Different colours of the drawn points around a place."""
    left, top = place(tab, x - 0.12, y - 0.12)
    right, bottom = place(tab, x + 0.12, y + 0.12)
    return tab.evaluate(
        """async ([left, top, right, bottom]) => {
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const canvas = document.getElementById("points");
          const copy = document.createElement("canvas");
          [copy.width, copy.height] = [canvas.width, canvas.height];
          const pen = copy.getContext("2d");
          pen.drawImage(canvas, 0, 0);
          const box = canvas.getBoundingClientRect();
          const size = [Math.round(right - left), Math.round(bottom - top)];
          const { data } = pen.getImageData(left - box.left, top - box.top, ...size);
          const found = new Map();
          for (let i = 0; i < data.length; i += 4) {
            const key = String(data.slice(i, i + 3));
            if (data[i + 3] && key !== "255,255,255") found.set(key, (found.get(key) ?? 0) + 1);
          }
          return [...found].sort((a, b) => b[1] - a[1]).map(([key]) => key);
        }""",
        [left, top, right, bottom],
    )


def test_points_are_drawn_and_coloured_by_what_is_chosen(new_tab):
    tab = new_tab()
    assert tab.locator("#legend .name").all_inner_texts() == ["no label"]
    grey = colors_at(tab, -0.8, -0.5)
    assert grey == colors_at(tab, 0.8, -0.5) and len(grey) == 1
    assert colors_at(tab, 0, -0.45) == []
    tab.select_option("#coloring", "predictions")
    names = tab.locator("#legend .name").all_inner_texts()
    assert names[0] == "no prediction" and sorted(names[1:]) == sorted(CLASSES)
    assert colors_at(tab, -0.8, -0.5)[0] != colors_at(tab, 0.8, -0.5)[0]
    assert sorted(tab.locator("#names span:visible").all_inner_texts()) == sorted(CLASSES)
    tab.select_option("#coloring", "progress")
    assert tab.locator("#legend .name").all_inner_texts() == ["no label"]


def test_a_thumbnail_with_label_and_prediction_is_shown_under_the_pointer(new_tab):
    tab = new_tab()
    tab.mouse.move(*place(tab, 0.8, -0.5))
    tab.wait_for_selector("#card:visible")
    assert tab.inner_text("#card-label") == "no label"
    assert tab.inner_text("#card-prediction") == "predicted: cat_Siamese"
    expecting(tab.locator("#card img")).not_to_have_js_property("naturalWidth", 0)
    tab.mouse.move(*place(tab, 0, -0.1))
    tab.wait_for_selector("#card", state="hidden")


def test_what_the_legend_hides_is_neither_drawn_nor_selected(new_tab):
    tab = new_tab()
    tab.select_option("#coloring", "predictions")
    tab.click("#legend-none")
    assert colors_at(tab, 0.8, -0.5) == []
    tab.check("#legend li:has-text('Siamese') input")
    assert colors_at(tab, 0.8, -0.5) != [] and colors_at(tab, 0, 0.5) == []
    tab.keyboard.down("Shift")
    lasso(tab, 0, 0, 0.94, 0.62)
    tab.keyboard.up("Shift")
    assert tab.inner_text("#group-title") == "20 images selected"


def test_a_group_is_selected_checked_labeled_and_undone(catalog, new_tab):
    tab = new_tab()
    tab.keyboard.down("Shift")
    lasso(tab, -0.8, -0.5)
    tab.keyboard.up("Shift")
    assert tab.inner_text("#group-title") == "19 of 20 can be labeled"
    assert "1 test image is left out" in tab.inner_text("#group-note")
    options = tab.locator("#group-grid [role=option]")
    assert options.count() == 19
    assert tab.is_disabled("#give")
    options.nth(2).click()
    options.nth(3).click()
    options.nth(3).click()
    tab.fill("#search", "beag")
    tab.keyboard.press("Enter")
    assert tab.inner_text("#give") == "Label 18 images as dog_Beagle"
    tab.click("#give")
    tab.wait_for_selector("#notice:has-text('18 images labeled as dog_Beagle.')")
    assert given(catalog) == [[3]] * 18
    tab.wait_for_selector("#legend li:has-text('dog_Beagle'):has-text('18')")
    assert len(colors_at(tab, -0.8, -0.5)) > 1
    tab.click("#notice button")
    tab.wait_for_selector("#notice:has-text('18 labels taken back.')")
    expecting(tab.locator("#overlay")).to_be_focused()  # the button that had the focus is gone
    assert given(catalog) == []
    expecting(tab.locator("#legend li")).to_have_count(1)


def test_labels_that_people_gave_stay_unless_the_box_is_unchecked(catalog, new_tab):
    with catalog.database.write() as session:
        for image in session.scalars(select(Image).where(Image.id.in_([2, 5, 8]))):
            labels.give(session, image, labels.Answer(Status.LABELED, (1,)), "Ann")
    tab = new_tab()
    tab.click("#mode-select")
    lasso(tab, 0.8, -0.5)
    assert "Leave 3 images as they are" in tab.inner_text("#keep-row")
    assert tab.locator("#group-grid [role=option]").count() == 17
    tab.uncheck("#keep-labeled")
    assert tab.locator("#group-grid [role=option]").count() == 20
    assert tab.locator("#group-grid [role=option]").nth(0).inner_text() == "cat_Persian"
    tab.check("#keep-labeled")
    tab.click("#classes button:has-text('Siamese')")
    tab.click("#give")
    tab.wait_for_selector("#notice:has-text('17 images labeled')")
    assert sorted(given(catalog)) == [[1]] * 3 + [[2]] * 17


def test_a_large_group_has_several_sheets_and_what_was_taken_out_stays_out(catalog, new_tab):
    tab = new_tab(is_ready=False)
    tab.route(
        "**/map_group.js", lambda route: route.fulfill(response=route.fetch(), body=small_sheets(route))
    )
    tab.reload()
    tab.wait_for_selector("html[data-map]")
    tab.click("#mode-select")
    lasso(tab, 0.8, -0.5)
    options = tab.locator("#group-grid [role=option]")
    assert options.count() == 8 and tab.inner_text("#sheet-number") == "1–8 of 20"
    options.nth(2).click()
    options.nth(4).click(modifiers=["Shift"])
    tab.keyboard.press("PageDown")
    assert tab.inner_text("#sheet-number") == "9–16 of 20"
    assert options.nth(0).get_attribute("aria-label") == "Image 9: cat_Siamese, predicted"
    assert tab.locator("#group-grid [aria-selected=true]").count() == 8
    tab.keyboard.press("PageUp")
    assert tab.locator("#group-grid [aria-selected=false]").count() == 0  # with Shift all up to here are in
    options.nth(2).click()
    tab.keyboard.press("PageDown")
    tab.keyboard.press("PageUp")
    assert options.nth(2).get_attribute("aria-selected") == "false"
    tab.click("#classes button:has-text('Siamese')")
    assert tab.inner_text("#give") == "Label 19 images as cat_Siamese"
    tab.focus("#group-grid")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#group", state="hidden")


def small_sheets(route):
    return route.fetch().text().replace("PER_SHEET = 200", "PER_SHEET = 8")


def test_labels_that_were_given_in_another_tab_meanwhile_stay(catalog, new_tab):
    tab = new_tab()
    with catalog.database.write() as session:
        labels.give(session, session.get(Image, 2), labels.Answer(Status.LABELED, (1,)), "Ann")
    tab.click("#mode-select")
    lasso(tab, 0.8, -0.5)
    assert tab.locator("#group-grid [role=option]").count() == 20  # the tab doesn't know of it
    tab.click("#classes button:has-text('Siamese')")
    tab.click("#give")
    tab.wait_for_selector("#notice:has-text('19 images labeled')")
    assert "1 was labeled meanwhile and left alone" in tab.inner_text("#notice")
    assert sorted(given(catalog)) == [[1]] + [[2]] * 19


def test_the_map_is_looked_for_again_when_the_server_was_away(new_tab):
    tab = new_tab()
    current = tab.evaluate("fetch('/api/projects/1/map').then((answer) => answer.json())")
    work = {"state": "running", "done": 1, "total": 2, "message": "arranging images by similarity"}
    answers = [
        {"json": {**current, "work": work}},
        {"status": 503, "json": {"detail": "the database is busy"}},
        {"json": {**current, "work": {**work, "state": "done"}}},
    ]
    tab.route("**/api/projects/1/map", lambda route: route.fulfill(**answers.pop(0)))
    tab.reload()
    tab.wait_for_selector("#progress:visible")
    tab.wait_for_selector("#notice.bad:has-text('the database is busy')")
    tab.wait_for_selector("#progress", state="hidden")
    tab.wait_for_selector("#notice", state="hidden")
    assert answers == []


def test_a_group_is_labeled_by_keyboard_alone(catalog, new_tab):
    tab = new_tab()
    tab.keyboard.press("Tab")
    while tab.evaluate("document.activeElement.id") != "overlay":
        tab.keyboard.press("Tab")
    for _ in range(12):
        tab.keyboard.press("ArrowDown")
    tab.keyboard.press("+")
    for key in ("ArrowRight", "ArrowUp") * 3:
        tab.keyboard.press(f"Shift+{key}")
    tab.wait_for_selector("#spoken:has-text('dog_Beagle')", state="attached")
    assert "in the frame" in tab.text_content("#spoken")
    for _ in range(8):
        tab.keyboard.press("ArrowUp")
        if "20 images" in spoken(tab):
            break
        tab.keyboard.press("-")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#group[open]")
    count = tab.locator("#group-grid [role=option]").count()
    assert count > 5
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Space")
    assert tab.locator("#group-grid [aria-selected=false]").count() == 1
    tab.keyboard.type("siam")
    tab.keyboard.press("Enter")
    while tab.evaluate("document.activeElement.id") != "give":
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(f"#notice:has-text('{count - 1} images labeled as cat_Siamese')")
    assert given(catalog) == [[2]] * (count - 1)
    expecting(tab.locator("#overlay")).to_be_focused()


def spoken(tab):
    tab.wait_for_timeout(600)
    return tab.text_content("#spoken")


def test_the_map_is_moved_and_zoomed_and_shown_whole_again(new_tab):
    tab = new_tab()
    whole = colors_at(tab, -0.8, -0.5)
    tab.mouse.move(*place(tab, 0, 0))
    tab.mouse.wheel(0, -900)
    assert colors_at(tab, -0.8, -0.5) == []
    tab.click("#fit")
    assert colors_at(tab, -0.8, -0.5) == whole
    tab.mouse.move(*place(tab, 0, 0))
    tab.mouse.down()
    tab.mouse.move(*place(tab, 0, 0.5), steps=4)
    tab.mouse.up()
    assert colors_at(tab, -0.8, -0.5) == [] and colors_at(tab, -0.8, 0) == whole


def test_webgl_draws_the_same_points(new_tab):
    tab = new_tab(is_ready=False)
    tab.route("**/map_drawing.js", lambda route: in_software(route))
    tab.reload()
    tab.wait_for_selector("html[data-map]")
    assert tab.evaluate("document.getElementById('points').getContext('webgl2') !== null")
    shot = tab.locator("#sheet").screenshot()
    assert len(set(np.frombuffer(shot, np.uint8).tolist())) > 10
    assert drawn_share(shot) == pytest.approx(drawn_share(new_tab().locator("#sheet").screenshot()), rel=0.25)


def in_software(route):
    """Lets WebGL draw although it is slow here."""
    response = route.fetch()
    route.fulfill(response=response, body=response.text().replace("/swiftshader|", "/no such renderer|"))


def drawn_share(shot):
    """Share of a screenshot that isn't paper."""
    pixels = np.asarray(PillowImage.open(io.BytesIO(shot)).convert("L"))[4:-4, 4:-4]
    return (pixels < 250).mean()


def test_a_map_without_images_says_why(tmp_path, browser):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    with catalog.served() as address:
        tab = browser.new_page()
        tab.goto(f"{address}/projects/1/map")
        tab.wait_for_selector(
            "#empty:has-text('a map needs at least 10 images that can be read; there are 3')"
        )
        tab.close()


def test_images_that_joined_can_be_arranged_anew(catalog, new_tab):
    with np.load(catalog.library.map(1)) as stored_map:
        content = dict(stored_map)
    content["fit_images"] = np.array(COUNT - 8)
    np.savez(catalog.library.map(1), **content)
    tab = new_tab()
    tab.wait_for_selector("#growth:has-text('8 images have joined since the map was arranged.')")
    with tab.expect_response(lambda answer: answer.request.method == "POST" and answer.ok):
        tab.click("#anew")
    tab.wait_for_selector("#progress:has-text('The map is being computed')")


def test_axe_finds_no_violation_and_a_group_is_labeled_on_a_phone(catalog, new_tab, axe):
    tab = new_tab(viewport={"width": 390, "height": 800})
    tab.select_option("#coloring", "predictions")
    for step in ("map", "group"):
        if step == "group":
            tab.click("#mode-select")
            lasso(tab, 0, 0.5)
        check_page(tab, axe, step)
    tab.click("#classes button:has-text('Persian')")
    tab.click("#give")
    tab.wait_for_selector("#notice:has-text('images labeled as cat_Persian')")
    assert given(catalog) == [[1]] * 20
