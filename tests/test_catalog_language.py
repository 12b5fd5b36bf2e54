"""The catalog is in English and Dutch: nothing is left untranslated, and each request has a language."""

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import pytest
import requests
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from catalog_server import Catalog, folder_of, open_page, submit

from catalog import account, language, sentences
from catalog.language import LANGUAGES, LOCALE
from catalog.store.tables import Help, Job, Model
from catalog.web.language import is_local, wanted
from pipeline.portable import UnreadableError, read_picture

PACKAGE = LOCALE.parent
DUTCH = language.translation("nl")
KEYWORDS = DEFAULT_KEYWORDS | {"t": None, "tn": (1, 2)}  # as in the Makefile
PLACEHOLDER = re.compile(r"\{\w+\}|%\(\w+\)s|%%|</?\w+[^>]*>")


def extracted():
    """(file, text) of all texts in the code; a text with a plural is a tuple."""
    with open(LOCALE / "babel.cfg") as file:
        methods, options = parse_mapping_cfg(file)
    found = extract_from_dir(PACKAGE, methods, options, KEYWORDS)
    return [(name, message) for name, _, message, *_ in found]


def forms(message):
    return message if isinstance(message, tuple) else (message,)


TRANSLATED = [message for message in DUTCH if message.id]


def test_every_text_of_the_code_is_in_the_translation_and_no_other():
    texts = {message for _, message in extracted()}
    assert {message.id for message in TRANSLATED} == texts
    assert not DUTCH.obsolete


def test_every_text_is_translated_with_the_same_values_and_tags():
    for message in TRANSLATED:
        originals, translations = forms(message.id), forms(message.string)
        assert len(translations) == len(originals) and all(map(str.strip, translations)), message.id
        assert not message.fuzzy, message.id
        for original, translation in zip(originals, translations, strict=True):
            found, expected = (Counter(PLACEHOLDER.findall(text)) for text in (translation, original))
            assert found == expected, message.id
            # Templates put texts into attributes, too.
            assert '"' not in PLACEHOLDER.sub("", translation) or '"' in original, message.id
            assert original[-1] not in ".:?!" or translation[-1] == original[-1], message.id


def test_babel_finds_each_text_of_the_scripts():
    """It overlooks calls within calls, and within template literals."""
    texts = {forms(message)[0] for name, message in extracted() if name.endswith(".js")}
    for file in (PACKAGE / "static").glob("*.js"):
        if file.name == "texts.js":
            continue
        calls = re.findall(r'\btn?\(\s*("(?:[^"\\]|\\.)*")', file.read_text())
        assert {json.loads(call) for call in calls} <= texts, file.name


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    images = folder_of(folder / "images", 12)
    (images / "bad.png").write_bytes(b"")
    catalog = Catalog.create(folder)
    catalog.add_project(images, name="a project", classes=("A", "B", "C"))
    with catalog.database.write() as session:
        catalog.project(session).model_help = Help.SUGGESTIONS  # now, so that none are computed
        message = "trained on 1,234 labels; suggestions are filled in at a confidence of 97.4% and above"
        values = {"labels": 1234, "threshold": 0.974, "message": message, "run_path": "x"}
        session.add(Model(project_id=1, created_at=0, last_event=0, **values))
    return catalog


@pytest.fixture(scope="module")
def address(catalog):
    with catalog.served() as address:
        submit(address, open_page(address), 1)
        yield address


def get(address, path="", **headers):
    return requests.get(f"{address}/{path}", headers={"Accept": "text/html", **headers}, timeout=30)


def test_a_number_chooses_the_plural_in_templates():
    """Jinja takes the first variable of `trans`, which may be a name."""
    for file in (PACKAGE / "templates").iterdir():
        for variables in re.findall(r"{% trans ([^%]*)%}(?:(?!endtrans).)*{% pluralize %}", file.read_text()):
            assert variables.split("=")[0].split(",")[0].strip() == "count", (file.name, variables)


class Texts(HTMLParser):
    """What a page says: its texts, and those of attributes, without code and names."""

    def __init__(self, page):
        super().__init__()
        self.found, self._open = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag in ("pre", "code", "kbd", "option", "th"):
            self._open.append(tag)
        for name, value in attributes:
            if name in ("aria-label", "placeholder", "alt") and value:
                self.found.add(value)

    def handle_endtag(self, tag):
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data):
        if not self._open:
            self.found.add(" ".join(data.split()))


SAME = {
    "Status",
    "English",
    "Nederlands",
    "a project",
    "letters",
    "COCO",
    "CSV",
    "coco.json",
    "labels.csv",
    "folders.zip",
    "In Python",
    "Data",
    "Label Studio",
    "label-studio.json",
}
PAGES = (
    *("", "projects/new", "projects/1", "projects/1/label", "projects/1/settings", "projects/1/export"),
    *("projects/1/data", "projects/1/data/1", "projects/1/map", "projects/1/import", "projects/1/classes"),
    *("projects/1/review", "projects/1/agreement", "people", "teach"),
)


@pytest.mark.parametrize(
    "path", [*PAGES, "projects/1/status", "projects/1/quarantine", "projects/9", "nowhere"]
)
def test_a_dutch_page_has_no_english_text(address, path):
    english = get(address, path)
    dutch = get(address, path, **{"Accept-Language": "nl"})
    assert dutch.status_code == english.status_code
    same = Texts(english.text).found & Texts(dutch.text).found - SAME
    names = re.compile(rf"\S+\.png|bad\.png.*|{re.escape(account.name())}")
    assert {text for text in same if re.search("[a-z]{2}", text) and not names.fullmatch(text)} == set()
    assert path.endswith("status") or '<html lang="nl" data-texts="/texts/nl.json?' in dutch.text


def test_the_pages_of_an_import_have_no_english_text(address):
    """Their addresses are only known once a file has come: the preview, the result, what was undone."""
    rows = "001.png,A\n002.png,New\n002.png,new\nx/003.png,B\nnowhere.png,B\n004.png,\n"
    files = {"file": ("labels.txt", f"path,label\n{rows}")}
    shown = requests.post(f"{address}/projects/1/import", files=files, timeout=30)
    names = re.compile(rf"(\d+ labels|labels\.txt|\S+\.png.*|New|New, new|.*{re.escape(account.name())}.*)")

    def check():
        for url in (shown.url, f"{address}/projects/1/import"):
            english, dutch = (get(*url.rsplit("/", 1), **{"Accept-Language": each}) for each in ("en", "nl"))
            assert (english.status_code, dutch.status_code) == (200, 200)
            same = Texts(english.text).found & Texts(dutch.text).found - SAME
            assert {
                text for text in same if re.search("[a-z]{2}", text) and not names.fullmatch(text)
            } == set()

    check()
    requests.post(shown.url, data={"with_names": "on"}, timeout=30).raise_for_status()
    check()
    batch = shown.url.rpartition("/")[2]
    requests.post(f"{address}/api/projects/1/undo/{batch}", timeout=30).raise_for_status()
    check()


def test_sentences_and_numbers_are_in_the_language_of_the_page(address):
    page = get(address, "projects/1", Cookie="language=nl").text
    assert "Getraind met 1.234 labels; suggesties worden ingevuld vanaf een zekerheid van 97,4\xa0%." in page
    assert "13 bestanden: 12 nieuwe foto&#39;s, 1 onbruikbaar" in page
    assert "leeg bestand" in get(address, "projects/1/quarantine", Cookie="language=nl").text


def test_errors_are_in_the_language_of_the_request(address):
    form = {"name": "", "task": "single_label", "source": "upload", "classes": "a\nb"}
    headers = {"Cookie": "language=nl"}
    answer = requests.post(f"{address}/projects", data=form, headers=headers, timeout=30)
    assert "de naam van het project is leeg" in answer.text
    page = open_page(address)
    answers = {page["images"][0]["id"]: {"status": "labeled", "classes": [1, 2]}}
    url = f"{address}/api/pages/{page['token']}/submit"
    answer = requests.post(url, json={"answers": answers}, headers=headers, timeout=30)
    assert answer.json() == {"detail": "dit project heeft één klasse per foto"}


@pytest.mark.parametrize(
    ("cookie", "accepted", "expected"),
    [
        ("", "", "en"),
        ("", "nl", "nl"),
        ("", "nl-BE,nl;q=0.9,en;q=0.8", "nl"),
        ("", "fr,en;q=0.5,nl;q=0.7", "nl"),
        ("", "en,nl;q=0.9", "en"),
        ("", "nl;q=0, de", "en"),
        ("", "nl;q=x,*;;", "en"),
        ("language=nl", "en", "nl"),
        ("language=en", "nl", "en"),
        ("language=xx", "nl", "nl"),
        ("other=1; language=../../etc", "", "en"),
    ],
)
def test_the_language_is_chosen_by_cookie_then_browser(cookie, accepted, expected):
    assert wanted({"cookie": cookie, "accept-language": accepted}) == expected


def test_requests_at_once_keep_their_languages(address):
    wanted_ones = ["en", "nl"] * 20
    with ThreadPoolExecutor(8) as pool:
        pages = pool.map(lambda each: get(address, "projects/1", Cookie=f"language={each}").text, wanted_ones)
    assert [re.search('lang="(..)"', page)[1] for page in pages] == wanted_ones


def switch(address, **form):
    return requests.post(f"{address}/language", data=form, allow_redirects=False, timeout=30)


def test_the_switch_shows_the_same_page_in_the_other_language(address):
    page = get(address, "projects/1/label?x=a%26b").text
    back = re.search('name="back" value="([^"]*)"', page)[1].replace("&amp;", "&")
    answer = switch(address, language="nl", back=back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects/1/label?x=a%26b")
    assert "language=nl" in answer.headers["set-cookie"]
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert switch(address, language="xx").status_code == 422


@pytest.mark.parametrize(
    "back",
    [
        "http://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "evil",
        "",
        "javascript:1",
    ],
)
def test_the_switch_leads_nowhere_else(address, back):
    assert not is_local(back)
    assert switch(address, language="nl", back=back).headers["location"] == "/"


def test_after_a_mistake_in_a_form_the_switch_leads_to_the_form(address):
    headers = {"Referer": f"{address}/projects/new"}
    page = requests.post(f"{address}/projects", data={"name": ""}, headers=headers, timeout=30).text
    assert 'name="back" value="/projects/new"' in page


def test_scripts_get_their_texts(address):
    path = re.search('data-texts="/([^"]*)"', get(address, Cookie="language=nl").text)[1]
    answer = get(address, path)
    assert "immutable" in answer.headers["cache-control"]
    texts = answer.json()
    assert texts["Undo it"] == "Ongedaan maken"
    assert texts["{count} image has no label."] == [
        "{count} foto heeft geen label.",
        "{count} foto's hebben geen label.",
    ]
    assert "data-texts" not in get(address).text
    assert get(address, "texts/xx.json").status_code == 404


def test_stored_sentences_are_recognised():
    made = sentences.RESULT.format(files="1,234", added="1,200", bad="34") + "; skipped files: 3 (3 .txt)"
    assert sentences.shown(made) == made
    with language.using("nl"):
        assert sentences.shown(made).startswith(
            "1.234 bestanden: 1.200 nieuwe foto's, 34 onbruikbaar; overgesl"
        )
        assert sentences.shown("RuntimeError: no memory left") == "RuntimeError: no memory left"
        assert sentences.shown("") == ""
        for message in TRANSLATED:
            if "catalog/sentences.py" in dict(message.locations):
                filled = re.sub(r"\{\w+\}", "x", message.id)
                assert sentences.shown(filled) == re.sub(r"\{\w+\}", "x", message.string)


@pytest.mark.parametrize(
    ("data", "dutch"), [(b"", "leeg bestand"), (b"x", "geen foto in een bekend formaat")]
)
def test_sentences_of_the_pipeline_are_as_it_writes_them(data, dutch):
    with pytest.raises(UnreadableError) as caught:
        read_picture(data)
    with language.using("nl"):
        assert sentences.shown(str(caught.value)) == dutch


def test_every_job_message_of_a_project_is_translated(catalog):
    with catalog.database.read() as session, language.using("nl"):
        for job in session.query(Job):
            assert not job.message or sentences.shown(job.message) != job.message


def test_numbers():
    assert (language.number(1234.5), language.percent(0.125)) == ("1,234.5", "12.5\xa0%")
    with language.using("nl"):
        assert (language.number(1234.5), language.percent(0.125)) == ("1.234,5", "12,5\xa0%")
    assert set(LANGUAGES) == {"en", "nl"}
