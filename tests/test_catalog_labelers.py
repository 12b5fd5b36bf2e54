"""Many people label at once: no label is lost or given twice, and nobody meets a locked database."""

import postgresql
import pytest
from catalog_server import Catalog, folder_of
from chromium import chromium

from benchmarks.labelers import run
from catalog.store import projects
from catalog.store.tables import Status


@pytest.mark.slow  # test_catalog_labeling has eight people in one process
def test_twenty_people_who_label_at_once_lose_nothing(tmp_path, database_url):
    result = run(20, 10_000, tmp_path, database_url)
    assert dict(result.errors) == {}
    assert len(result.given) == 10_000
    assert (result.lost, result.doubled, result.differences) == (0, 0, 0)


@pytest.mark.integration
def test_the_label_page_keeps_its_answers_while_the_database_is_away_and_then_saves_them(tmp_path):
    with postgresql.own_server() as server, chromium() as browser:
        catalog = Catalog.create(tmp_path, server.create())
        catalog.add_project(folder_of(tmp_path / "images", 9))
        with catalog.served() as address:
            tab = browser.new_page()
            tab.add_init_script("localStorage.setItem('seen-help:1', 'yes')")
            tab.goto(f"{address}/projects/1/label")
            tab.wait_for_selector("html[data-ready=yes]")
            tab.keyboard.press("Control+a")
            tab.keyboard.press("2")
            server.kill()
            tab.wait_for_timeout(350)  # an Enter right after the page has appeared is ignored
            tab.keyboard.press("Enter")
            tab.wait_for_selector("#notice:has-text('trying again')")
            assert tab.locator(".cell.labeled").count() == 9
            server.start()
            tab.wait_for_selector("text=All images are labeled.")
        with catalog.database.read() as session:
            assert projects.counts(session, 1)[Status.LABELED] == 9
        catalog.database.close()
