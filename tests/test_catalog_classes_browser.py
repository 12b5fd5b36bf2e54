"""In a browser the classes of a project are changed by keyboard, and an open label page notices."""

import pytest
from catalog_server import Catalog, folder_of
from chromium import axe_core, check_page, chromium

from catalog.store import class_changes, classes, labels, projects, relabeling
from catalog.store.class_changes import Policy
from catalog.store.labels import Answer
from catalog.store.tables import Image, LabelClass, Status

UNSEEN_MS = 350  # a page can't be submitted sooner


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
    """Images of which the first two are cats and the third is a dog."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 30))
    with catalog.database.write() as session:
        for number, given in ((1, 1), (2, 1), (3, 2)):
            image = session.get(Image, number)
            labels.give(session, image, Answer(Status.LABELED, (given,)), "ann")
    return catalog


@pytest.fixture
def new_tab(browser, catalog):
    """Opens tabs; a JavaScript error fails the test."""
    problems, contexts = [], []
    with catalog.served() as address:

        def open_tab(path, **options):
            context = browser.new_context(**options)
            context.add_init_script("localStorage.setItem('seen-help:1', 'yes')")
            contexts.append(context)
            tab = context.new_page()
            tab.on("pageerror", lambda error: problems.append(str(error)))
            tab.goto(f"{address}/projects/1/{path}")
            return tab

        yield open_tab
        for context in contexts:
            context.close()
    assert problems == []


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def label_page(new_tab, **options):
    tab = new_tab("label", **options)
    tab.wait_for_selector("html[data-ready=yes]")
    return tab


def finish(catalog):
    with catalog.database.read() as session:
        numbers = [row.id for row in relabeling.unfinished(session)]
    for number in numbers:
        relabeling.finish(catalog.database, number)


def change(catalog, action):
    """Pauses the project, does something with the session and the project, and resumes it."""
    with catalog.database.write() as session:
        project = catalog.project(session)
        projects.pause(session, project, True)
        action(session, project)
    finish(catalog)
    with catalog.database.write() as session:
        projects.pause(session, catalog.project(session), False)


def add_horse(catalog, policy):
    change(catalog, lambda session, project: classes.add(session, project, ("horse",), policy, "eve"))


def merge_cats(session, project):
    both = session.get(LabelClass, 1), session.get(LabelClass, 2)
    classes.merge(session, project, *both, "eve")


def test_classes_are_added_merged_and_brought_back_by_keyboard(catalog, new_tab):
    tab = new_tab("classes")
    tab.get_by_role("button", name="Pause the project").focus()
    press(tab, "Enter")
    tab.get_by_label("New classes, one per line").focus()
    tab.keyboard.type("horse")
    press(tab, "Tab", "ArrowDown", "ArrowDown", "Enter")
    tab.wait_for_selector("text=3 labels of this project are discarded")
    tab.get_by_role("button", name="Discard 3 labels").focus()
    press(tab, "Enter")
    tab.wait_for_selector("text=3 labels discarded")
    tab.wait_for_selector("#progress", state="detached")
    tab.get_by_role("button", name="Undo the change of horse").focus()
    press(tab, "Enter")
    tab.wait_for_selector("text=taken back: the labels are as they were")
    tab.wait_for_selector("#progress", state="detached")
    tab.get_by_label("Merge cat into another class").focus()
    press(tab, "Enter", "Tab", "Tab", "Enter")
    tab.wait_for_selector("text=2 images of cat become dog.")
    tab.get_by_role("button", name="Merge").focus()
    press(tab, "Enter")
    tab.wait_for_selector("text=2 images changed")
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 1)] == ["dog", "rabbit", "horse"]
        assert session.get(Image, 1).classes == [2]


def test_a_class_that_somebody_adds_appears_on_an_open_label_page(catalog, new_tab):
    tab = label_page(new_tab)
    add_horse(catalog, Policy.CONTINUE)
    tab.wait_for_timeout(UNSEEN_MS)
    press(tab, "Control+a", "2", "Enter")
    tab.wait_for_selector("#notice:has-text('The classes of this project have changed.')")
    assert "horse" in tab.inner_text("#classes")
    press(tab, "Control+a")
    tab.keyboard.type("hor")
    assert "horse" in tab.inner_text("#image-0")


def test_answers_on_an_open_page_follow_a_merge(catalog, new_tab):
    tab = label_page(new_tab)
    press(tab, "Control+a", "1")
    assert "cat" in tab.inner_text("#image-0")
    change(catalog, merge_cats)
    tab.reload()
    tab.wait_for_selector("html[data-ready=yes]")
    assert "dog" in tab.inner_text("#image-0")
    assert "cat" not in tab.inner_text("#classes")
    tab.wait_for_timeout(UNSEEN_MS)
    press(tab, "Enter")
    tab.wait_for_selector("#done:has-text('12 of 30 done')")


def test_an_earlier_label_is_filled_in_and_one_key_confirms_the_page(catalog, new_tab):
    add_horse(catalog, Policy.REQUEUE)
    tab = label_page(new_tab)
    assert "labeled before" in tab.inner_text("#kind")
    shown = [tab.inner_text(f"#image-{number}") for number in range(3)]
    assert sorted(shown) == ["cat", "cat", "dog"]
    tab.wait_for_timeout(UNSEEN_MS)
    press(tab, "Enter")
    tab.wait_for_selector("#done:has-text('3 of 30 done')")
    with catalog.database.read() as session:
        assert [session.get(Image, number).classes for number in (1, 2, 3)] == [[1], [1], [2]]


def test_axe_finds_no_violation_and_nothing_overflows_on_a_narrow_phone(catalog, new_tab, axe):
    tab = new_tab("classes", viewport={"width": 360, "height": 740})
    check_page(tab, axe, "running")
    add_horse(catalog, Policy.REQUEUE)
    change(catalog, merge_cats)
    with catalog.database.write() as session:
        long = "a class with a very long name that goes on and on and on " * 3
        class_changes.rename(session, session.get(LabelClass, 3), long.strip(), "eve")
        projects.pause(session, catalog.project(session), True)
    tab.reload()
    for summary in tab.query_selector_all("summary"):
        summary.click()
    check_page(tab, axe, "paused")
    tab.get_by_label("Discard them").check()
    tab.fill("#names", "goat")
    tab.get_by_role("button", name="Add", exact=True).click()
    tab.wait_for_selector("button.danger")
    check_page(tab, axe, "discard")


def test_the_page_is_in_dutch_too(catalog, new_tab):
    with catalog.database.write() as session:
        projects.pause(session, catalog.project(session), True)
    tab = new_tab("classes", locale="nl-NL", viewport={"width": 360, "height": 740})
    text = tab.inner_text("main")
    assert "Wat gebeurt er met de labels?" in text and "Klassen toevoegen" in text
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
