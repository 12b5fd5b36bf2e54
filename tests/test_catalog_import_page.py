"""In a browser a file of labels is imported by keyboard alone, on a phone too."""

import pytest
from catalog_server import Catalog, folder_of
from chromium import check_page, chromium
from sqlalchemy import select, update

from catalog import importing, undoing
from catalog.store import labels, projects
from catalog.store.tables import Image, ImportState, LabelImport, Status

TABLE = b"path,label\n000.png,cat\n001.png,hamster\n002.png,\nnowhere.png,cat\n"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 4), test_fraction=0.5)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


def opened(browser, address, path="projects/1/import", **options):
    """A tab; errors are collected in `problems`."""
    tab = browser.new_context(**options).new_page()
    tab.problems = []
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("console", lambda line: line.type == "error" and tab.problems.append(line.text))
    tab.goto(f"{address}/{path}")
    return tab


def choose(tab, content=TABLE):
    tab.set_input_files("input[type=file]", {"name": "labels.csv", "mimeType": "text/csv", "buffer": content})
    tab.get_by_role("button", name="Show what it would change").press("Enter")
    tab.wait_for_selector("#apply")


def given(catalog):
    with catalog.database.read() as session:
        names = {found.id: found.name for found in projects.all_classes(session, 1)}
        query = select(Image).where(Image.status == Status.LABELED)
        return {image.path: names[image.classes[0]] for image in session.scalars(query)}


def test_a_file_is_imported_and_taken_back_by_keyboard_alone(catalog, browser, address):
    tab = opened(browser, address)
    choose(tab)
    tab.get_by_role("checkbox", name="hamster").press("Space")
    tab.get_by_role("button", name="Import").press("Enter")
    tab.wait_for_selector("button.undo")
    assert given(catalog) == {"000.png": "cat", "001.png": "hamster"}
    tab.locator("button.undo").press("Enter")
    tab.get_by_text("2 images have their labels from before again.").wait_for()
    assert given(catalog) == {}
    assert tab.problems == []
    tab.context.close()


def test_the_button_says_how_many_labels_the_choices_take_over(catalog, browser, address):
    with catalog.database.write() as session:
        session.execute(update(Image).where(Image.path == "000.png").values(is_test=True))
        session.execute(update(Image).where(Image.path != "000.png").values(is_test=False))
        image = session.scalars(select(Image).where(Image.path == "003.png")).one()
        labels.give(session, image, labels.Answer(Status.LABELED, (2,)), "Ada")
    tab = opened(browser, address)
    choose(tab, b"path,label\n000.png,cat\nfolder/001.png,cat\n002.png,hamster\n003.png,cat\n")
    button = tab.locator("#import")
    expected = [
        ("Label 1 test image", "Import 1 label"),
        ("take the file's everywhere", "Import 2 labels"),
        ("of which only the file name", "Import 1 label"),
        ("take the file's, but only", "Import"),
        ("of which only the file name", "Import 1 label"),
        ("hamster", "Import"),
    ]
    assert button.text_content() == "Import 2 labels"
    for choice, text in expected:
        tab.get_by_label(choice).click()
        assert button.text_content() == text, choice
    button.click()
    tab.wait_for_selector("button.undo")
    assert given(catalog) == {"001.png": "cat", "002.png": "hamster", "003.png": "dog"}
    assert tab.problems == []
    tab.context.close()


def test_an_import_is_taken_back_from_the_list_and_stays_so(catalog, browser, address):
    tab = opened(browser, address)
    choose(tab)
    tab.locator("#import").click()
    tab.wait_for_selector("button.undo")
    tab.goto(f"{address}/projects/1/import")
    tab.get_by_role("button", name="Undo the import of labels.csv").press("Enter")
    tab.get_by_text("1 image has its label from before again.").wait_for()
    assert given(catalog) == {}
    tab.reload()
    assert tab.locator("button.undo").count() == 0
    tab.get_by_role("link", name="labels.csv").click()
    tab.get_by_role("heading", name="This import was taken back").wait_for()
    assert tab.problems == []
    tab.context.close()


def test_cancelling_leaves_everything_as_it_is(catalog, browser, address):
    tab = opened(browser, address)
    choose(tab)
    tab.get_by_role("button", name="Cancel").press("Enter")
    tab.get_by_role("heading", name="Import labels").wait_for()
    assert given(catalog) == {} and tab.problems == []
    tab.context.close()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(browser, address):
    tab = opened(browser, address)
    tab.locator("form.upload").evaluate("form => { form.dataset.most = 5; }")
    file = {"name": "labels.csv", "mimeType": "text/csv", "buffer": TABLE}
    tab.set_input_files("input[type=file]", file)
    tab.get_by_text("labels.csv has more than 5 bytes").wait_for()
    tab.get_by_role("button", name="Show what it would change").click()
    assert tab.url.endswith("/import") and tab.locator("#apply").count() == 0
    tab.context.close()


def test_the_pages_fit_a_phone_and_have_no_mistake_that_axe_finds(catalog, browser, address, axe):
    tab = opened(browser, address, viewport={"width": 360, "height": 780}, bypass_csp=True)

    def check():
        check_page(tab, axe)

    check()
    choose(tab)
    check()
    tab.get_by_role("button", name="Import").click()
    tab.wait_for_selector("button.undo")
    check()
    batch = tab.url.rpartition("/")[2]
    undoing.undo(catalog.database, 1, batch, "Ada")
    tab.reload()
    check()
    with catalog.database.write() as session:
        session.execute(update(LabelImport).values(state=ImportState.STARTED, undone_at=None, undone=0))
    importing.waiting_file(catalog.library, 1, batch).write_bytes(TABLE)
    tab.reload()
    assert tab.get_by_role("button", name="Import the rest").count() == 1
    check()
    tab.goto(f"{address}/projects/1/import")
    assert tab.locator(".imports li").count() == 1
    check()
    tab.goto(f"{address}/projects/1/export")
    for details in tab.locator("details").all():
        details.locator("summary").click()
    check()
    tab.context.close()


def test_the_export_page_leads_with_one_file_and_shows_code_only_to_those_who_ask(browser, address, axe):
    tab = opened(browser, address, "projects/1/export", viewport={"width": 1100, "height": 900})
    colour = "links => links.map(link => getComputedStyle(link).backgroundColor)"
    colours = tab.locator(".downloads a, #main button").evaluate_all(colour)
    assert colours.count(colours[0]) == 1 and len(set(colours[1:])) == 1
    places = tab.locator(".downloads a").evaluate_all("links => links.map(link => link.offsetTop)")
    assert len(set(places)) == 1
    assert [code.is_visible() for code in tab.locator(".downloads pre").all()] == [False] * 3
    tab.context.close()
    tab = opened(
        browser, address, "projects/1/export", viewport={"width": 360, "height": 800}, bypass_csp=True
    )
    for summary in tab.locator("summary").all():
        summary.press("Enter")
    assert [code.is_visible() for code in tab.locator(".downloads pre").all()] == [True] * 3
    check_page(tab, axe)
    tab.context.close()
