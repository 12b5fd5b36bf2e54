"""The lesson is the same in each language, as a document and as a page of the catalog."""

import re
from urllib.parse import urljoin

import pytest
import requests
from catalog_server import Catalog
from markdown_it import MarkdownIt

from catalog import language
from catalog.language import LANGUAGES
from catalog.web.markdown import as_html
from pipeline.common.paths import ROOT

DOCUMENTS = {
    code: (ROOT / "docs" / name).read_text(encoding="utf-8")
    for code, name in {"en": "lesson.md", "nl": "lesson.nl.md"}.items()
}
NAMES = (
    *("Start a new project", "Webcam", "Hold to record", "Train", "Try it", "Where does it look?"),
    *("What is a model?", "None of these"),
)  # of buttons and answers, which the lesson names


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with Catalog.create(tmp_path_factory.mktemp("lesson")).served() as address:
        yield address


def get(address, path, code):
    return requests.get(f"{address}{path}", headers={"Cookie": f"language={code}"}, timeout=30)


def test_the_documents_have_the_same_structure():
    assert set(DOCUMENTS) == set(LANGUAGES)
    parser = MarkdownIt("commonmark").enable("table")
    structures = {
        code: [(token.type, token.tag, token.level) for token in parser.parse(text)]
        for code, text in DOCUMENTS.items()
    }
    assert structures["en"].count(("heading_open", "h2", 0)) == 7
    assert structures["nl"] == structures["en"]


def test_the_documents_have_the_same_commands_and_minutes():
    for pattern in (r"```sh\n(.*?)```", r"^### \w+ (\d+–\d+)"):
        found = {
            code: re.findall(pattern, text, re.DOTALL | re.MULTILINE) for code, text in DOCUMENTS.items()
        }
        assert found["en"] and found["nl"] == found["en"]


@pytest.mark.parametrize("name", NAMES)
def test_the_documents_name_buttons_as_the_pages_do(name):
    folder = ROOT / "catalog"
    code = [file.read_text() for file in (*folder.glob("templates/teach*"), *folder.glob("static/teach*.js"))]
    assert any(f'"{name}"' in text for text in code)
    assert name in DOCUMENTS["en"]
    with language.using("nl"):
        translated = language.gettext(name)
    assert translated == name or translated in DOCUMENTS["nl"]


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_page_shows_the_document_in_the_language_of_the_request(address, code):
    page = get(address, "/lesson", code).text
    headings = re.findall(r"<h[123]>(.*?)</h[123]>", page)
    assert [text.replace("&quot;", '"') for text in headings] == re.findall(
        r"^#+ (.+)$", DOCUMENTS[code], re.MULTILINE
    )
    assert f'<html lang="{code}"' in page
    assert page.count("<table>") == 2 and "style=" not in page


@pytest.mark.parametrize("code", LANGUAGES)
def test_links_of_the_page_lead_somewhere(address, code):
    page = get(address, "/lesson", code).text
    links = set(re.findall(r'(?:href|src)="([^"#]+)"', page))
    assert {"/teach", "/static/lesson.css"} <= links
    assert {
        link: get(address, urljoin("/lesson", link), code).status_code for link in links
    } == dict.fromkeys(links, 200)
    assert 'href="/lesson"' in get(address, "/teach", code).text


def test_tables_have_no_styles_and_no_html():
    shown = as_html("| a | b |\n|:--|--:|\n| <b>x</b> | ![y](http://example.com/y.png) |")
    assert "<th>a</th>" in shown and "style" not in shown
    assert "<b>" not in shown and "<img" not in shown
