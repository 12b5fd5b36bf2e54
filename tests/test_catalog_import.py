"""Labels from files: nothing changes before a person has seen what would, and all of it can be taken back."""

import csv
import io
import json
import os
import re
import time

import pandas
import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit
from conftest import outcome, petfaces
from filelock import FileLock
from sqlalchemy import select, update

from catalog import app, exchange, export, importing, label_studio, undoing
from catalog.store import exported, import_preview, imports, labels, projects
from catalog.store.imports import Choices, Replace
from catalog.store.tables import Action, ClassChange, Event, Image, LabelClass, LabelImport, Status
from catalog.sweep import sweep
from pipeline.common.errors import UserError

CLASSES = ("cat", "dog", "rabbit")


@pytest.fixture
def catalog(tmp_path):
    """A project with 20 images, of which nobody has labeled any; about a third test the models."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 20), page_size=4, test_fraction=0.3)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


def table(*rows, header="path,label"):
    return "\n".join([header, *rows]).encode()


def previewed(catalog, content, project=1):
    with catalog.database.read() as session:
        records = exchange.read(content).records
        return import_preview.preview(session, catalog.project(session, project), records)


def imported(catalog, content, project=1, **choices):
    return importing.apply(
        catalog.database, project, exchange.read(content).records, Choices(**choices), "me"
    )


def given(catalog, project=1):
    """The label of each image that has one, by path; `?` for unknown ones."""
    with catalog.database.read() as session:
        names = {found.id: found.name for found in projects.all_classes(session, project)}
        query = select(Image).where(Image.project_id == project, Image.event_id.is_not(None))
        shown = {
            image.path: "|".join(sorted(names[number] for number in image.classes)) or image.status
            for image in session.scalars(query)
            if image.status != Status.WAITING
        }
        assert list(labels.differences(session, project)) == []
        return shown


def left(catalog):
    """Files of labels that are still there."""
    return [*catalog.library.temporary.iterdir(), *catalog.library.imports(1).glob("*")]


def send(address, content, project=1, name="labels.csv"):
    """Uploads a file; returns the answer, whose address is that of the preview."""
    files = {"file": (name, content)}
    return requests.post(f"{address}/projects/{project}/import", files=files, timeout=60)


def test_a_preview_counts_what_would_change_and_changes_nothing(catalog):
    imported(catalog, table("000.png,cat", "001.png,dog"))
    content = table(
        *("000.png,cat", "001.png,rabbit", "002.png,dog", "003.png,hamster", "004.png,cat|dog"),
        *("nowhere.png,cat", "005.png,", "x,y,z", "006.png,cat", "006.png,cat"),
    )
    before = given(catalog)
    shown = previewed(catalog, content)
    expected = {"equal": 1, "different": 1, "new": 2, "unknown_class": 1, "refused": 3, "unmatched": 1}
    assert dict(shown.counts) == expected
    assert (shown.rows, shown.repeated, shown.imported) == (10, 1, 1)
    assert dict(shown.unknown_classes) == {"hamster": 1}
    assert [(each.ours, each.theirs) for each in shown.examples["different"]] == [("dog", "rabbit")]
    assert given(catalog) == before


@pytest.mark.parametrize(
    ("task", "labeled"), [("single_label", [("cat",), ("dog",)]), ("multi_label", [("cat", "dog"), ()])]
)
def test_each_export_comes_back_as_it_was(catalog, tmp_path, task, labeled):
    first = catalog.add_project(tmp_path / "images", name="first", task=task)
    with catalog.database.write() as session:
        ids = {found.name: found.id for found in projects.classes(session, first)}
        for number, image in enumerate(session.scalars(select(Image).where(Image.project_id == first))):
            answer = labels.Answer(Status.LABELED, tuple(ids[name] for name in labeled[number % 2]))
            labels.give(session, image, labels.Answer(Status.UNKNOWN) if number == 5 else answer, "me")
    with catalog.database.read() as session:
        everything = exported.labels(session, catalog.project(session, first))
    before = given(catalog, first)
    for name, content, complete in (
        ("csv", export.table(everything), True),
        ("tasks", label_studio.tasks(everything), False),
        ("coco", export.coco(everything), False),
    ):
        again = catalog.add_project(tmp_path / "images", name=name, task=task)
        imported(catalog, content.encode(), again)
        expected = dict(before) if complete else {k: v for k, v in before.items() if v != "unknown"}
        if name == "coco":  # an image without annotations may be one that nobody has looked at
            expected = {path: label for path, label in expected.items() if label != "labeled"}
        assert given(catalog, again) == expected


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("000.png", "path"),
        ("sub/a.png", "path"),
        ("/somewhere/images/sub/a.png", "path"),
        ("elsewhere/b.png", "name"),
        ("a.png", None),  # there are two of them
        ("other/c.png", None),
    ],
)
def test_images_are_matched_by_path_or_by_a_name_that_only_one_has(catalog, name, by):
    with catalog.database.write() as session:
        for number, path in enumerate(["sub/a.png", "more/a.png", "b.png"], start=1):
            session.execute(update(Image).where(Image.id == number).values(path=path))
        session.execute(update(Image).where(Image.id == 4).values(path="000.png"))
        session.execute(update(Image).where(Image.id.not_in([1, 2, 3, 4])).values(path="many.png"))
    shown = previewed(catalog, table(f"{name},cat"))
    assert dict(shown.counts) == ({"new": 1} if by else {"unmatched": 1})
    assert dict(shown.by) == ({by: 1} if by else {})


def test_a_row_that_tells_the_content_is_not_matched_by_its_path(catalog):
    content = table(f"000.png,{'0' * 64},cat", header="path,sha256,label")
    assert dict(previewed(catalog, content).counts) == {"unmatched": 1}


def test_rows_that_contradict_each_other_are_refused(catalog):
    content = table("000.png,cat", "images/000.png,dog", "001.png,cat")
    assert dict(previewed(catalog, content).counts) == {"refused": 2, "new": 1}
    imported(catalog, content)
    assert given(catalog) == {"001.png": "cat"}


def test_labels_that_differ_are_kept_unless_a_person_chooses_otherwise(catalog, address):
    imported(catalog, table("000.png,cat"))
    page = open_page(address)
    submit(address, page, 1).raise_for_status()
    with catalog.database.read() as session:
        path = session.get(Image, page["images"][0]["id"]).path
    by_people = path if path != "000.png" else session.get(Image, page["images"][1]["id"]).path
    content = table("000.png,dog", f"{by_people},dog")
    done = imported(catalog, content)
    assert (done.kept, done.replaced) == (2, 0)
    done = imported(catalog, content, replace=Replace.IMPORTED)
    assert (done.kept, done.replaced) == (1, 1)
    assert (given(catalog)["000.png"], given(catalog)[by_people]) == ("dog", "cat")
    assert imported(catalog, content, replace=Replace.ALL).replaced == 1
    assert given(catalog)[by_people] == "dog"


def test_unknown_classes_are_added_only_if_they_are_chosen(catalog):
    content = table("000.png,hamster", "001.png,budgie", "002.png,DOG")
    done = imported(catalog, content, new_classes=frozenset({"hamster"}))
    assert (done.added, done.new, done.skipped) == (["hamster"], 2, 1)
    assert given(catalog) == {"000.png": "hamster", "002.png": "dog"}
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 1)] == [*CLASSES, "hamster"]
        (change,) = session.scalars(select(ClassChange))
        assert (change.kind, change.after, change.person) == ("added", "hamster", "me")


@pytest.mark.parametrize("name", ["a/b", "x" * 300, "\u202egod"])
def test_a_class_that_no_project_can_have_is_offered_with_the_reason(catalog, name):
    rows = [{"data": {"image": "000.png"}, "annotations": [annotation(name)]}]
    shown = previewed(catalog, json.dumps(rows).encode())
    with catalog.database.read() as session:
        project = catalog.project(session)
        assert list(import_preview.unusable_classes(session, project, shown.unknown_classes)) == [name]
    with pytest.raises(UserError, match="the class"):
        imported(catalog, json.dumps(rows).encode(), new_classes=frozenset({name}))
    assert given(catalog) == {}


def test_of_very_many_unknown_classes_the_most_frequent_are_offered(catalog, address):
    rows = [f"{number:03}.png,class {number // 2}" for number in range(20)]
    shown = previewed(catalog, table(*rows, *(f"{number}.png,other" for number in range(5))))
    assert len(shown.unknown_classes) == 10 and not shown.more_classes
    several = catalog.add_project(
        catalog.library.folder.parent / "images", name="several", task="multi_label"
    )
    rows = [f"000.png,{'|'.join(map(str, range(900)))}", "001.png,7"]
    answer = send(address, table(*rows), several)
    assert answer.status_code == 200 and "700 rarer classes" in answer.text
    assert answer.text.count('name="new_class"') == 200


def annotation(*names, **values):
    result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(names)}}
    return {"result": [result], **values}


def test_a_class_that_was_merged_is_the_one_that_took_over(catalog):
    with catalog.database.write() as session:
        session.execute(update(LabelClass).where(LabelClass.name == "rabbit").values(merged_into=2))
    imported(catalog, table("000.png,rabbit"))
    assert given(catalog) == {"000.png": "dog"}


def test_test_images_can_be_left_out(catalog):
    content = table(*(f"{number:03}.png,cat" for number in range(20)))
    shown = previewed(catalog, content)
    assert 0 < shown.tests < 20
    done = imported(catalog, content, with_tests=False)
    assert (done.tests, done.new) == (shown.tests, 20 - shown.tests)
    assert imported(catalog, content).new == shown.tests


def test_images_that_are_open_on_a_page_are_left_alone(catalog, address):
    page = open_page(address)
    content = table(*(f"{number:03}.png,cat" for number in range(20)))
    done = imported(catalog, content)
    assert (done.held, done.new) == (len(page["images"]), 20 - len(page["images"]))
    submit(address, page, 2).raise_for_status()


def test_an_import_is_one_action_that_can_be_undone(catalog, address):
    imported(catalog, table("000.png,cat"))
    done = imported(catalog, table("000.png,dog", "001.png,dog", "002.png,dog"), replace=Replace.ALL)
    imported(catalog, table("002.png,rabbit"), replace=Replace.ALL)
    url = f"{address}/api/projects/1/undo/{done.batch}"
    assert requests.post(url, timeout=30).json() == {"undone": 2, "kept": 1}
    assert given(catalog) == {"000.png": "cat", "002.png": "rabbit"}
    with catalog.database.read() as session:
        events = session.scalars(select(Event).where(Event.batch == done.batch)).all()
        assert {event.action for event in events} == {Action.IMPORT}
    assert requests.post(f"{address}/api/projects/1/undo/nothing", timeout=30).status_code == 404


def test_a_file_is_uploaded_shown_and_imported_once(catalog, address):
    shown = send(address, table("000.png,cat", "001.png,hamster"))
    assert shown.status_code == 200 and "Nothing has changed yet" in shown.text
    assert given(catalog) == {}
    form = {"new_class": "hamster", "with_tests": "true"}
    done = requests.post(shown.url, data=form, timeout=30)
    assert "2 labels imported" in done.text and done.url == shown.url
    assert given(catalog) == {"000.png": "cat", "001.png": "hamster"}
    again = requests.post(shown.url, data=form, timeout=30)
    assert (again.status_code, "was imported before" in again.text) == (422, True)
    assert "2 labels imported" in requests.get(shown.url, timeout=30).text
    with catalog.database.read() as session:
        assert len(session.scalars(select(Event)).all()) == 2


def test_a_waiting_file_belongs_to_its_project_and_person_and_can_be_cancelled(catalog, address, tmp_path):
    catalog.add_project(tmp_path / "images", name="other")
    shown = send(address, table("000.png,cat"))
    batch = shown.url.rpartition("/")[2]
    assert requests.get(f"{address}/projects/2/import/{batch}", timeout=30).status_code == 404
    with catalog.database.read() as session:
        assert importing.find(session, 1, batch, "somebody else") is None
        for strange in ("..", "../../catalog", "x" * 24, "\0" * 24):
            assert importing.find(session, 1, strange, "me") is None
    for strange in ("x" * 24, "%2e%2e%2fimages", "%00"):
        assert requests.get(f"{address}/projects/1/import/{strange}", timeout=30).status_code == 404
    requests.post(f"{shown.url}/cancel", timeout=30).raise_for_status()
    assert requests.get(shown.url, timeout=30).status_code == 404
    assert left(catalog) == []


def test_a_class_that_the_file_does_not_have_cannot_be_added_with_it(catalog, address):
    shown = send(address, table("000.png,cat"))
    answer = requests.post(shown.url, data={"new_class": "zebra"}, timeout=30)
    assert (answer.status_code, "has no new class zebra" in answer.text) == (422, True)


def test_a_file_that_cannot_be_read_is_an_error_of_the_form(catalog, address):
    answer = send(address, b"nothing here", name="<b>x</b>.csv")
    assert answer.status_code == 422
    assert "the first line must name the columns" in answer.text and "<b>x" not in answer.text
    assert left(catalog) == []


def test_a_file_of_labels_may_be_larger_than_other_requests(catalog, monkeypatch):
    monkeypatch.setattr(app, "MAX_REQUEST", 2000)
    content = table(*(f"{'x' * 200}{number}.png,cat" for number in range(100)))
    with catalog.served() as address:
        assert "100 rows" in send(address, content).text
        form = {"name": "pets", "instructions": "x" * 3000}
        answer = requests.post(f"{address}/projects/1/settings", data=form, timeout=30)
        assert answer.status_code == 413


def test_html_in_names_is_shown_as_text(address):
    shown = send(address, table("<script>1</script>.png,<b>x</b>", "000.png,<i>y</i>"))
    assert shown.status_code == 200
    assert not any(text in shown.text for text in ("<script>1", "<b>x", "<i>y"))
    assert "&lt;i&gt;y" in shown.text


def test_a_file_of_another_program_is_never_opened_by_its_names(catalog):
    rows = [
        {
            "data": {"image": "/data/local-files/?d=../../../../etc/passwd"},
            "annotations": [annotation("cat")],
        },
        {"data": {"image": "file:///etc/passwd"}, "annotations": [annotation("cat")]},
        {"data": {"image": "http://[::1/x.png"}, "annotations": [annotation("cat")]},
    ]
    assert dict(previewed(catalog, json.dumps(rows).encode()).counts) == {"unmatched": 3}


def test_names_that_a_spreadsheet_would_run_come_back_as_they_were(catalog, tmp_path):
    project = catalog.add_project(tmp_path / "images", name="formulas", classes=("=1+1", "-b", "@c"))
    with catalog.database.write() as session:
        session.execute(update(Image).where(Image.project_id == project).values(path="=cmd.png"))
        image = session.scalars(select(Image).where(Image.project_id == project)).first()
        ids = [found.id for found in projects.classes(session, project)]
        labels.give(session, image, labels.Answer(Status.LABELED, (ids[0],)), "me")
    with catalog.database.read() as session:
        content = export.table(exported.labels(session, catalog.project(session, project)))
    (row,) = csv.DictReader(io.StringIO(content))
    assert (row["path"], row["labels"]) == ("'=cmd.png", "'=1+1")
    assert dict(previewed(catalog, content.encode(), project).counts) == {"equal": 1}
    assert exchange.read(content.encode()).records[0].classes == ("=1+1",)


def test_the_command_shows_first_and_imports_with_yes(catalog, tmp_path, capsys, monkeypatch):
    file = tmp_path / "labels.csv"
    file.write_bytes(table("000.png,cat", "001.png,hamster", "nowhere.png,cat"))
    folder = ("catalog", "--folder", str(catalog.library.folder))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    outcome(lambda: petfaces(*folder, "import", "pets", str(file)))
    assert given(catalog) == {}
    petfaces(*folder, "import", "pets", str(file), "--yes", "--add-classes")
    output = capsys.readouterr().out
    assert "hamster (1)" in output and "nowhere.png: this project has no such image" in output
    assert "2 labeled, 1 rows left out" in output
    assert given(catalog) == {"000.png": "cat", "001.png": "hamster"}
    petfaces(*folder, "undo-import", "pets", output.split()[-1])
    assert given(catalog) == {}
    assert "has no such import" in outcome(lambda: petfaces(*folder, "undo-import", "pets", "x"))


def test_tasks_for_label_studio_can_have_other_addresses_and_the_images_that_wait(catalog, address):
    imported(catalog, table("000.png,cat"))
    url = f"{address}/projects/1/export/label-studio.json"
    values = {"prefix": "https://images.example/a b/", "own_paths": "true", "with_waiting": "true"}
    tasks = requests.get(url, values, timeout=30).json()
    assert len(tasks) == 20
    (labeled,) = [task for task in tasks if "annotations" in task]
    assert labeled["data"]["image"] == "https://images.example/a b/000.png"
    assert requests.get(url, timeout=30).content == requests.get(url, timeout=30).content
    assert len(requests.get(url, timeout=30).json()) == 1
    configuration = requests.get(f"{address}/projects/1/export/label-studio.xml", timeout=30).text
    assert '<Choice value="cat"/>' in configuration and 'choice="single"' in configuration


def test_a_missing_file_of_labels_is_an_error(catalog, tmp_path):
    folder = ("catalog", "--folder", str(catalog.library.folder))
    message = outcome(lambda: petfaces(*folder, "import", "pets", str(tmp_path / "nowhere.csv")))
    assert message == f"error: {tmp_path / 'nowhere.csv'} is not there; name a file of labels"


class FullDiskError(Exception):
    """Ends an import as a full disk would."""


def cut_off_after(monkeypatch, transactions):
    """Lets each import fail after so many transactions of 10 images."""
    give, calls = imports.give, iter(range(1000))

    def failing(*arguments):
        if next(calls) >= transactions:
            raise FullDiskError
        give(*arguments)

    monkeypatch.setattr(importing, "TRANSACTION", 10)
    monkeypatch.setattr(imports, "give", failing)
    return lambda: monkeypatch.setattr(imports, "give", give)


ALL = table(*(f"{number:03}.png,cat" for number in range(20)))


def test_an_import_that_fails_halfway_goes_on_and_is_taken_back_as_one(catalog, address, monkeypatch):
    mend = cut_off_after(monkeypatch, 1)
    shown = send(address, ALL)
    form = {"with_tests": "true", "with_names": "true"}
    answer = requests.post(shown.url, data=form, timeout=30)
    assert "The import was cut off: 10 labels are in" in answer.text and len(given(catalog)) == 10
    assert "not finished: 10 labels are in" in requests.get(f"{address}/projects/1/import", timeout=30).text
    mend()
    done = requests.post(f"{shown.url}/rest", timeout=30)
    assert "20 labels imported" in done.text and len(given(catalog)) == 20
    batch = shown.url.rpartition("/")[2]
    url = f"{address}/api/projects/1/undo/{batch}"
    assert requests.post(url, timeout=30).json() == {"undone": 20, "kept": 0}
    assert given(catalog) == {} and left(catalog) == []


def test_an_import_that_fails_halfway_can_be_taken_back_at_once(catalog, address, monkeypatch):
    mend = cut_off_after(monkeypatch, 1)
    shown = send(address, ALL)
    answer = requests.post(shown.url, data={"with_tests": "true"}, timeout=30)
    mend()
    url = re.search('data-url="([^"]*)"', answer.text)[1]
    assert requests.post(f"{address}{url}", timeout=30).json() == {"undone": 10, "kept": 0}
    answer = requests.post(f"{shown.url}/rest", timeout=30)
    assert (answer.status_code, "was taken back" in answer.text) == (422, True)
    assert given(catalog) == {}


def test_an_import_that_was_killed_is_not_taken_for_one_that_runs(catalog, address, monkeypatch):
    shown = send(address, ALL)
    batch = shown.url.rpartition("/")[2]
    file = importing.waiting_file(catalog.library, 1, batch)
    with FileLock(f"{file}.lock"):
        answer = requests.post(shown.url, timeout=30)
        assert (answer.status_code, "is being imported already" in answer.text) == (422, True)
    assert "20 labels imported" in requests.post(shown.url, data={"with_tests": "true"}, timeout=30).text


def test_an_import_stops_when_it_is_taken_back(catalog, monkeypatch):
    give = imports.give

    def giving(*arguments):
        give(*arguments)
        monkeypatch.setattr(imports, "give", give)

    def undo(_seconds):
        with catalog.database.read() as session:
            batch = session.scalars(select(Event.batch)).first()
        assert undoing.undo(catalog.database, 1, batch, "you") == (10, 0)

    monkeypatch.setattr(importing, "TRANSACTION", 10)
    monkeypatch.setattr(imports, "give", giving)
    monkeypatch.setattr(importing.time, "sleep", undo)
    with pytest.raises(importing.CutOffError, match="taken back"):
        imported(catalog, ALL)
    assert given(catalog) == {}


def test_imports_can_be_taken_back_later_and_files_wait_for_days(catalog, address):
    done = send(address, table("000.png,cat"))
    requests.post(done.url, data={"with_tests": "true"}, timeout=30)
    waits = send(address, table("001.png,cat"))
    for path in (*left(catalog), *catalog.library.imports(1).glob("*")):
        os.utime(path, times=(time.time() - 6 * 86400,) * 2)
    with catalog.database.write() as session:
        session.execute(update(LabelImport).values(at=time.time() - 6 * 86400))
    sweep(catalog.database, catalog.library)
    page = requests.get(f"{address}/projects/1/import", timeout=30).text
    assert all(url.removeprefix(address) in page for url in (done.url, waits.url))
    assert 'class="undo"' in requests.get(done.url, timeout=30).text
    assert "Nothing has changed yet" in requests.get(waits.url, timeout=30).text
    with catalog.database.write() as session:
        session.execute(update(LabelImport).values(at=time.time() - 8 * 86400))
    sweep(catalog.database, catalog.library)
    assert requests.get(waits.url, timeout=30).status_code == 404 and left(catalog) == []
    assert 'class="undo"' in requests.get(done.url, timeout=30).text


def test_an_import_that_was_taken_back_says_so_and_can_take_back_the_rest(catalog, address):
    shown = send(address, table("000.png,cat", "001.png,cat"))
    requests.post(shown.url, data={"with_tests": "true"}, timeout=30)
    with catalog.database.write() as session:
        image = session.scalars(select(Image).where(Image.path == "000.png")).one()
        image.page_token, image.leased_until = "somebody's", time.time() + 60
    url = f"{address}/api/projects/1/undo/{shown.url.rpartition('/')[2]}"
    assert requests.post(url, timeout=30).json() == {"undone": 1, "kept": 1}
    page = requests.get(shown.url, timeout=30).text
    assert "This import was taken back" in page and "2 labels imported" not in page and "the rest" in page
    with catalog.database.write() as session:
        image = session.scalars(select(Image).where(Image.path == "000.png")).one()
        image.page_token = image.leased_until = None
    assert requests.post(url, timeout=30).json() == {"undone": 2, "kept": 0}
    assert requests.post(url, timeout=30).json() == {"undone": 2, "kept": 0}
    assert "data-url" not in requests.get(shown.url, timeout=30).text and given(catalog) == {}


def test_a_command_that_is_cut_off_names_the_one_that_takes_it_back(catalog, tmp_path, monkeypatch):
    file = tmp_path / "labels.csv"
    file.write_bytes(ALL)
    mend = cut_off_after(monkeypatch, 1)
    folder = ("catalog", "--folder", str(catalog.library.folder))
    message = outcome(lambda: petfaces(*folder, "import", "pets", str(file), "--yes"))
    mend()
    assert "labels that are in: 10" in message
    petfaces(*message.split("petfaces ")[1].replace("catalog", " ".join(folder), 1).split())
    assert given(catalog) == {}


def test_spellings_of_one_unknown_class_are_offered_once_and_are_one_class(catalog, address):
    content = table("000.png,Parrot", "001.png,parrot", "002.png,parrot", "003.png,PARROT", "003.png,parrot")
    shown = previewed(catalog, content)
    assert dict(shown.unknown_classes) == {"parrot": 4} and shown.counts["refused"] == 0
    assert sorted(shown.spellings["parrot"]) == ["PARROT", "Parrot", "parrot"]
    page = send(address, content)
    assert page.text.count('name="new_class"') == 1 and "disabled" not in page.text
    done = requests.post(page.url, data={"new_class": "parrot", "with_tests": "true"}, timeout=30)
    assert "4 labels imported" in done.text
    assert set(given(catalog).values()) == {"parrot"}


def test_images_of_which_only_the_file_name_matches_can_be_left_out(catalog, address):
    content = table("elsewhere/000.png,cat", "001.png,cat")
    with catalog.database.write() as session:
        session.execute(update(Image).values(path="folder/" + Image.path))
        session.execute(update(Image).where(Image.id == 2).values(path="001.png"))
    assert previewed(catalog, content).named == 1
    shown = send(address, content)
    assert "Label 1 image too of which only the file name matches" in shown.text
    done = requests.post(shown.url, data={"with_tests": "true"}, timeout=30)
    assert "1 label imported" in done.text and list(given(catalog)) == ["001.png"]


def test_a_preview_is_in_the_language_of_its_reader(catalog, address):
    with catalog.database.write() as session:
        image = session.scalars(select(Image).where(Image.path == "000.png")).one()
        labels.give(session, image, labels.Answer(Status.UNKNOWN), "me")
    content = table("000.png,cat,", "001.png,a/b,", "002.png,,unknown", header="path,label,status")
    shown = send(address, content)
    dutch = requests.get(shown.url, headers={"Accept-Language": "nl"}, timeout=30).text
    assert "<s>onbekend</s>" in dutch and "<strong>onbekend</strong>" in dutch
    assert "klassen worden mappen" in dutch or "een schuine streep" in dutch
    assert "unknown" not in re.sub("<[^>]*>", "", dutch) and "contains" not in dutch


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("shelter north/IMG_0200.png", "C:\\photos\\shelter north\\IMG_0200.png"),
        ("caf\u00e9/b.png", "cafe\u0301/b.png"),
        ("cafe\u0301/b.png", "caf\u00e9/b.png"),
        ("caf\u00e9/b.png", "D:\\cafe\u0301\\b.png"),
        ("a\\b.png", "a\\b.png"),
    ],
)
def test_paths_of_windows_and_macos_are_matched(catalog, stored, written):
    with catalog.database.write() as session:
        session.execute(update(Image).values(path="many/" + stored.rpartition("/")[2]))
        session.execute(update(Image).where(Image.id == 1).values(path=stored))
    assert dict(previewed(catalog, table(f"{written},cat")).by) == {"path": 1}
    imported(catalog, table(f"{written},cat"))
    assert given(catalog) == {stored: "cat"}


def test_of_paths_that_differ_in_unicode_forms_the_one_that_is_written_so_is_meant(catalog):
    with catalog.database.write() as session:
        for number, path in enumerate(["caf\u00e9.png", "cafe\u0301.png"], start=1):
            session.execute(update(Image).where(Image.id == number).values(path=path))
    imported(catalog, table("caf\u00e9.png,cat", "cafe\u0301.png,dog"))
    assert given(catalog) == {"caf\u00e9.png": "cat", "cafe\u0301.png": "dog"}


def test_a_spreadsheet_neither_splits_nor_misreads_the_exported_table(catalog, address):
    with catalog.database.write() as session:
        session.execute(update(Image).where(Image.id == 1).values(path="Ch\u00e2teau;=1+1.png"))
        labels.give(session, session.get(Image, 1), labels.Answer(Status.LABELED, (1,)), "me")
    content = requests.get(f"{address}/projects/1/export/labels.csv", timeout=30).content
    assert content.startswith(b"\xef\xbb\xbf") and '\n"Ch\u00e2teau;=1+1.png"' in content.decode()
    assert pandas.read_csv(io.BytesIO(content)).columns[0] == "path"
    assert dict(previewed(catalog, content).counts) == {"equal": 1}


def test_the_error_of_an_import_that_is_gone_leads_to_the_imports(address):
    page = requests.get(f"{address}/projects/1/import/x", headers={"Accept": "text/html"}, timeout=30)
    assert page.status_code == 404 and 'href="/projects/1/import"' in page.text


def test_a_file_that_waits_can_be_imported_although_somebody_tried_to_undo_it(catalog, address):
    shown = send(address, table("000.png,cat"))
    batch = shown.url.rpartition("/")[2]
    assert requests.post(f"{address}/api/projects/1/undo/{batch}", timeout=30).status_code == 404
    done = requests.post(shown.url, data={"with_tests": "true"}, timeout=30)
    assert "1 label imported" in done.text and given(catalog) == {"000.png": "cat"}


def test_cancelling_a_file_that_was_imported_meanwhile_changes_and_leaves_nothing(catalog, address):
    shown = send(address, table("000.png,cat"))
    requests.post(shown.url, data={"with_tests": "true"}, timeout=30).raise_for_status()
    cancelled = requests.post(f"{shown.url}/cancel", timeout=30)  # from the browser's memory of the preview
    assert (cancelled.status_code, "labels of this file are in" in cancelled.text) == (422, True)
    assert given(catalog) == {"000.png": "cat"}
    assert [path for path in catalog.library.imports(1).iterdir() if path.suffix != ".lock"] == []
