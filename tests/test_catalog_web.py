"""The catalog's pages: only this machine's browser may use them, and mistakes get one clear line."""

import re

import pytest
import requests
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from catalog_server import Catalog, folder_of
from click.testing import CliRunner

from catalog import cli
from catalog.store import open_database, projects
from catalog.store.tables import Base
from pipeline.common.errors import UserError

FORM = {"name": "cats", "task": "single_label", "source": "folder", "classes": "a\nb\n"}


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


@pytest.mark.parametrize(
    "path",
    [
        *("", "projects/new", "projects/1", "projects/1/label", "projects/1/settings"),
        *("projects/1/quarantine", "projects/1/export", "projects/1/status", "lesson"),
        *("projects/1/data", "projects/1/data/1", "projects/1/import"),
    ],
)
def test_each_page_is_served_with_a_strict_policy(address, path):
    answer = requests.get(f"{address}/{path}", timeout=30)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script>" not in answer.text and "style=" not in answer.text and "onclick" not in answer.text


PROJECT_PAGES = ("data", "map", "agreement", "import", "export", "settings")


@pytest.mark.parametrize("page", ["", *PROJECT_PAGES, "data/1"])
def test_each_page_of_a_project_links_to_the_others_and_marks_itself(address, page):
    text = requests.get(f"{address}/projects/1/{page}".rstrip("/"), timeout=30).text
    links = dict(re.findall(r'<a href="/projects/1/(\w+)"( aria-current="\w+")?>', text))
    assert set(links) >= {"label", *PROJECT_PAGES}
    marked = {name: mark for name, mark in links.items() if mark}
    expected = {"": {}, "data/1": {"data": ' aria-current="true"'}}
    assert marked == expected.get(page, {page: ' aria-current="page"'})


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}],
)
def test_a_post_of_another_site_is_refused(catalog, address, headers):
    answer = requests.post(f"{address}/projects/1/settings", data={"name": "x"}, headers=headers, timeout=30)
    assert answer.status_code == 403
    with catalog.database.read() as session:
        assert catalog.project(session).name == "pets"


def test_a_request_for_another_host_is_refused(address):
    answer = requests.get(address, headers={"Host": "evil.example"}, timeout=30)
    assert answer.status_code == 421


def test_without_accounts_any_address_but_loopback_is_refused(tmp_path):
    with pytest.raises(UserError, match="it has no accounts"):
        CliRunner().invoke(cli.main, ["--folder", str(tmp_path), "--host", "0.0.0.0"], catch_exceptions=False)


def test_a_project_is_created_from_the_form(catalog, address, tmp_path):
    form = {**FORM, "path": str(tmp_path / "images"), "model_help": "none"}
    answer = requests.post(f"{address}/projects", data=form, allow_redirects=False, timeout=30)
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/2")
    catalog.finish_jobs()
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 2)] == ["a", "b"]
        assert sum(projects.counts(session, 2).values()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "the project&#39;s name is empty"),
        ({"name": "pets"}, "there is a project pets already"),
        ({"path": "/nowhere"}, "give the whole path of a folder"),
        ({"classes": "a"}, "give 2 to 1,000 classes"),
        ({"classes": "a\nA"}, "these classes look alike"),
        ({"classes": "a\nb/c"}, "contains a slash"),
        ({"classes": "a\nb|c"}, "separates classes"),
        ({"task": "boxes"}, "the task boxes is unknown"),
    ],
)
def test_a_mistake_in_the_form_is_named_and_nothing_typed_is_lost(address, tmp_path, changes, message):
    form = {**FORM, "path": str(tmp_path / "images"), "instructions": "Look closely", **changes}
    answer = requests.post(f"{address}/projects", data=form, timeout=30)
    assert answer.status_code == 422
    assert message in answer.text
    assert "Look closely" in answer.text


def test_html_in_names_and_instructions_is_shown_as_text(address, tmp_path):
    name = "<b>bold</b>"
    form = {**FORM, "name": name, "path": str(tmp_path / "images"), "instructions": "<script>1</script>"}
    requests.post(f"{address}/projects", data=form, timeout=30)
    for path in ("projects/2", "projects/2/label"):
        text = requests.get(f"{address}/{path}", timeout=30).text
        assert name not in text and "<script>1" not in text


def test_settings_change(catalog, address):
    form = {"name": "animals", "page_size": 4, "min_precision": 95, "paused": "true"}
    requests.post(f"{address}/projects/1/settings", data={**form, "model_help": "none"}, timeout=30)
    with catalog.database.read() as session:
        project = catalog.project(session)
        assert (project.name, project.page_size, project.min_precision, project.paused) == (
            "animals",
            4,
            0.95,
            True,
        )


def test_a_mistake_in_the_settings_loses_nothing_typed(catalog, address):
    form = {"name": "pets", "instructions": "Look twice", "page_size": 5}
    answer = requests.post(f"{address}/projects/1/settings", data=form, timeout=30)
    assert answer.status_code == 422
    assert "Look twice" in answer.text and "images per page" in answer.text


@pytest.mark.parametrize("path", ["~nosuchuser/x", "relative", "/" + "x" * 5000, ""])
def test_a_path_that_cannot_be_is_an_error_of_the_form(address, path):
    answer = requests.post(f"{address}/projects", data={**FORM, "path": path}, timeout=30)
    assert (answer.status_code, "give the whole path" in answer.text) == (422, True)


@pytest.mark.parametrize("kind", ["thumbnail", "large"])
def test_images_are_served_as_jpeg_by_id(address, kind):
    answer = requests.get(f"{address}/images/1/{kind}", timeout=60)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert requests.get(f"{address}/images/99/{kind}", timeout=30).status_code == 404


def test_an_unknown_project_is_a_page_for_people_and_json_for_programs(address):
    page = requests.get(f"{address}/projects/9", headers={"Accept": "text/html"}, timeout=30)
    assert (page.status_code, "there is no such project" in page.text) == (404, True)
    assert requests.get(f"{address}/api/projects/9", timeout=30).json() == {
        "detail": "there is no such project"
    }


def test_the_migrations_make_the_tables_of_the_code(tmp_path, database_url):
    database = open_database(database_url or tmp_path / "catalog.db")
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "catalog.db").write_text("not a database, but long enough to be read as one " * 100)
    with pytest.raises(UserError, match=r"is no database of the catalog .* restore a backup"):
        open_database(tmp_path / "catalog.db")
