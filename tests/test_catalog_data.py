"""The data page finds images by what is known of them, shows their history, and sends labels back."""

import json
import re
from types import SimpleNamespace

import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit, submit_answers
from click.testing import CliRunner
from sqlalchemy import select, text
from sqlalchemy.dialects import sqlite

from catalog import champions, cli, suspects
from catalog.store import derived, erasing, labels, search
from catalog.store.labels import Answer
from catalog.store.search import Order, Search
from catalog.store.tables import Action, Event, Image, Page, PageKind, Project, Status, Suspect
from pipeline.common import tables
from pipeline.common.errors import UserError

COUNT = 30


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", COUNT))
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


def label(
    catalog, number, *classes, person="anna", kind=PageKind.MANUAL, predicted=None, confidence=None, **to
):
    """Gives an image a label as a page of this kind does."""
    with catalog.database.write() as session:
        image = session.get(Image, number)
        page = Page(token=f"{number}-{image.event_id}", project_id=1, kind=kind, person=person, images=[])
        page.keys, page.created_at = [], 0.0
        session.add(page)
        shown = {"predicted": predicted, "confidence": confidence}
        answer = Answer(to.get("status", Status.LABELED), classes)
        labels.record(session, image, answer, page, shown)


def found(address, **parameters):
    answer = requests.get(f"{address}/api/projects/1/images", params=parameters, timeout=30)
    answer.raise_for_status()
    return answer.json()


def ids(address, **parameters):
    return [image["id"] for image in found(address, **parameters)["images"]]


def count(address, **parameters):
    return requests.get(f"{address}/api/projects/1/images/count", params=parameters, timeout=30).json()[
        "count"
    ]


def post(address, path, **body):
    return requests.post(f"{address}/api/projects/1/{path}", json=body, timeout=30)


@pytest.fixture
def labeled(catalog):
    """Images 1 to 7, each with another label, person, kind of page or prediction."""
    label(catalog, 1, 1)
    label(catalog, 2, 2, person="bram", kind=PageKind.PRELABELED, predicted=[1], confidence=0.6)
    label(catalog, 3, 2, person="bram", kind=PageKind.PRELABELED, predicted=[2], confidence=0.95)
    label(catalog, 4, status=Status.UNKNOWN, kind=PageKind.CLUSTER, predicted=[3], confidence=0.3)
    label(catalog, 5, status=Status.SKIPPED)
    label(catalog, 6, status=Status.DISPUTED, kind=PageKind.SECOND)
    label(catalog, 7, 3, kind=PageKind.TEST)
    with catalog.database.write() as session:
        session.get(Image, 7).is_test = True


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"label": 2}, [3, 2]),
        ({"status": "labeled"}, [7, 3, 2, 1]),
        ({"status": "unknown"}, [4]),
        ({"status": "skipped"}, [5]),
        ({"status": "disputed"}, [6]),
        ({"status": "unlabeled"}, [5, *range(COUNT, 7, -1)]),
        ({"status": "waiting"}, [*range(COUNT, 7, -1)]),
        ({"person": "bram"}, [3, 2]),
        ({"person": "nobody"}, []),
        ({"kind": "prelabeled"}, [3, 2]),
        ({"kind": "test"}, [7]),
        ({"least": 50}, [3, 2]),
        ({"most": 60}, [4, 2]),
        ({"least": 31, "most": 90}, [2]),
        ({"differs": "yes"}, [4, 2]),
        ({"test": "only"}, [7]),
        ({"test": "without", "status": "labeled"}, [3, 2, 1]),
        ({"order": "unsure"}, [4, 2, 3]),
        ({"label": 2, "person": "bram", "differs": "yes"}, [2]),
        ({"label": 1, "person": "bram"}, []),
    ],
)
def test_each_filter_finds_its_images_and_no_others(labeled, address, parameters, expected):
    assert ids(address, **parameters) == expected
    assert count(address, **parameters) == len(expected)


def test_a_part_of_the_path_is_found_in_capitals_or_not_and_signs_mean_themselves(catalog, address):
    with catalog.database.write() as session:
        session.get(Image, 1).path = "Garden/100%_sharp.png"
    assert ids(address, text="garden/100%_S") == [1]
    assert ids(address, text="100_%") == []


def test_a_class_whose_number_begins_like_another_is_another_one(catalog):
    assert derived.containing(1) not in derived.class_key([11, 21])
    assert derived.containing(21) in derived.class_key([11, 21])
    assert len(derived.class_key(range(10_000, 11_000))) <= derived.MAX_KEY


def test_an_image_of_several_classes_is_found_by_each(tmp_path, catalog):
    catalog.add_project(folder_of(tmp_path / "several", 3), name="several", task="multi_label")
    label(catalog, COUNT + 1, 4, 6)
    label(catalog, COUNT + 2, 6)
    with catalog.database.read() as session:
        both = [search.ids(session, 2, Search(class_id=number)) for number in (4, 5, 6)]
    assert both == [[COUNT + 1], [], [COUNT + 2, COUNT + 1]]


@pytest.mark.parametrize("order", ["newest", "random", "unsure"])
def test_pages_follow_each_other_without_gaps_or_repeats_forwards_and_backwards(catalog, address, order):
    for number in range(1, COUNT + 1):
        label(catalog, number, 1, predicted=[1], confidence=0.5 + number % 3 / 10)  # equal values too
    whole = ids(address, order=order)
    assert sorted(whole) == list(range(1, COUNT + 1))
    shown, page = [], found(address, order=order, size=7)
    assert page["previous"] is None
    while True:
        shown += [image["id"] for image in page["images"]]
        if page["next"] is None:
            break
        page = found(address, order=order, size=7, after=page["next"])
    assert shown == whole
    back = found(address, order=order, size=7, before=page["previous"])
    assert [image["id"] for image in back["images"]] == whole[21:28]
    first = found(address, order=order, size=7, before=back["previous"])
    first = found(address, order=order, size=7, before=first["previous"])
    first = found(address, order=order, size=7, before=first["previous"])
    assert [image["id"] for image in first["images"]] == whole[:7]
    assert first["previous"] is None


def test_labels_that_change_meanwhile_hide_no_other_image_from_the_pages_to_come(catalog, address):
    for number in range(1, COUNT + 1):
        label(catalog, number, 1)
    page = found(address, size=10)
    for number in (COUNT, COUNT - 15, 1):  # shown before, on the next page, and on the last one
        label(catalog, number, 2)
    rest = ids(address, after=page["next"])
    assert rest == [number for number in range(COUNT - 10, 0, -1) if number not in (COUNT - 15, 1)]


def test_more_images_than_are_counted_are_called_many(catalog, address, monkeypatch):
    monkeypatch.setattr(search, "COUNTED", 20)
    assert count(address) is None
    answer = requests.get(f"{address}/api/projects/1/images/ids", timeout=30).json()
    assert (len(answer["ids"]), answer["is_all"]) == (20, False)


@pytest.mark.parametrize("order", list(Order))
def test_a_search_reads_one_index_and_sorts_nothing(catalog, order):
    full = Search((Status.LABELED,), 1, "anna", "manual", 0.1, 0.9, True, False, order=order)
    with catalog.database.read() as session:
        for wanted in (Search(order=order), full):
            columns = search._key(order)
            descending = [column.desc() if order == Order.NEWEST else column for column in columns]
            query = search._matching(1, wanted, columns).order_by(*descending).limit(60)
            sql = str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
            plan = [
                row[3]
                for row in session.execute(text(f"EXPLAIN QUERY PLAN {sql.replace(':', chr(92) + ':')}"))
            ]
            assert not any("SCAN" in step or "TEMP" in step for step in plan), plan
            if order != Order.SUSPECTS:
                assert len(plan) == 1 and re.search(r"USING COVERING INDEX image_by_\w+", plan[0]), plan


@pytest.mark.parametrize(
    "parameters",
    [
        {"status": "gone"},
        {"label": "cat"},
        {"least": "1e3"},
        {"most": "101"},
        {"order": "size"},
        {"kind": "x"},
        {"after": "here"},
        {"differs": "no"},
        {"text": "a\0b"},
        {"person": "\0"},
    ],
)
def test_an_address_that_means_nothing_gets_one_line(address, parameters):
    answer = requests.get(f"{address}/api/projects/1/images", params=parameters, timeout=30)
    assert answer.status_code == 422
    assert "\n" not in answer.json()["detail"]


def test_images_of_other_projects_are_neither_found_nor_changed(tmp_path, catalog, address):
    catalog.add_project(folder_of(tmp_path / "others", 3), name="others")
    label(catalog, COUNT + 1, 4)
    assert max(ids(address)) == COUNT
    assert post(address, "reject", ids=[COUNT + 1], reason="no").json()["changed"] == 0
    for path in (f"api/projects/1/images/{COUNT + 1}", f"projects/1/data/{COUNT + 1}"):
        assert requests.get(f"{address}/{path}", timeout=30).status_code == 404
    assert post(address, "label", ids=[1], classes=[4]).status_code == 422


def test_a_rejected_image_comes_back_with_the_reason_and_without_its_label(catalog, address):
    page = open_page(address)
    submit(address, page, 2)
    number = page["images"][0]["id"]
    done = post(address, "reject", ids=[number], reason=" the ears are  hidden ").json()
    assert (done["changed"], done["held"], done["tests"]) == (1, 0, 0)
    assert ids(address, kind="reject") == [number]
    again = open_page(address, size=25)
    (image,) = [each for each in again["images"] if each["id"] == number]
    assert (image["reason"], image["answer"], image["suggested"]) == ("the ears are  hidden", None, None)
    assert all(each["reason"] is None for each in again["images"] if each["id"] != number)
    submit_answers(address, again, {number: {"status": "skipped"}})
    assert reason_of(address, number) == "the ears are  hidden"  # it still waits for a label
    label(catalog, number, 3)
    with catalog.database.write() as session:
        image = session.get(Image, number)
        act = labels.Act.start(Action.REQUEUE)
        labels.give(session, image, Answer(Status.WAITING), "anna", act)
    assert reason_of(address, number) is None


def reason_of(address, number):
    return next(image["reason"] for image in found(address)["images"] if image["id"] == number)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_nothing_is_rejected_without_a_reason(labeled, address, reason):
    answer = post(address, "reject", ids=[1], reason=reason)
    assert answer.status_code == 422 and "reason" in answer.json()["detail"]
    assert ids(address, label=1) == [1]


def test_a_group_gets_one_label_and_undo_brings_the_old_ones_back(labeled, catalog, address):
    done = post(address, "label", ids=[1, 2, 3, 8], classes=[3]).json()
    assert done["changed"] == 4
    assert ids(address, kind="group") == [8, 3, 2, 1]
    label(catalog, 3, 1)  # by somebody else meanwhile
    assert post(address, f"undo/{done['batch']}").json() == {"undone": 3, "kept": 1}
    with catalog.database.read() as session:
        states = [(image.status, image.classes) for image in (session.get(Image, n) for n in (1, 2, 3, 8))]
    assert states == [("labeled", [1]), ("labeled", [2]), ("labeled", [1]), ("waiting", [])]
    assert post(address, "undo/unknown").status_code == 404


def test_images_that_are_open_elsewhere_and_test_images_are_left_alone(labeled, catalog, address):
    page = open_page(address)
    held = page["images"][0]["id"]
    done = post(address, "label", ids=[1, 7, held], classes=[2]).json()
    assert (done["changed"], done["held"], done["tests"]) == (1, 1, 1)
    done = post(address, "reject", ids=[7], reason="blurred").json()
    assert (done["changed"], done["tests"]) == (1, 0)  # it comes back on a test page
    with catalog.database.write() as session:
        image = session.get(Image, 7)
        image.page_token, image.leased_until = page["token"], 1e12
    assert post(address, f"undo/{done['batch']}").json() == {"undone": 0, "kept": 1}


@pytest.mark.parametrize(
    ("action", "body"), [("label", {"classes": [3]}), ("reject", {"reason": "blurred"}), ("confirm", {})]
)
def test_what_was_labeled_after_a_page_was_shown_is_left_alone_and_counted(
    labeled, catalog, address, action, body
):
    seen = found(address)["seen"]
    label(catalog, 2, 1, person="chris")  # in another tab meanwhile
    done = post(address, action, ids=[1, 2, 3], seen=seen, **body).json()
    assert (done["changed"], done["newer"]) == (2, 1)
    with catalog.database.read() as session:
        assert session.get(Image, 2).labeled_by == "chris"
    done = post(address, action, ids=[2], seen=found(address)["seen"], **body).json()
    assert (done["changed"], done["newer"]) == (1, 0)


def test_the_label_of_a_test_image_can_be_confirmed(labeled, address):
    done = post(address, "confirm", ids=[7]).json()
    assert (done["changed"], done["tests"]) == (1, 0)
    assert ids(address, kind="confirm") == [7]


def test_the_same_classes_in_another_order_are_the_same_label(tmp_path, catalog, address):
    catalog.add_project(folder_of(tmp_path / "several", 3), name="several", task="multi_label")
    body = {"ids": [COUNT + 1], "classes": [4, 6]}
    requests.post(f"{address}/api/projects/2/label", json=body, timeout=30).raise_for_status()
    body["classes"] = [6, 4]
    assert requests.post(f"{address}/api/projects/2/label", json=body, timeout=30).json()["changed"] == 0


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**30])
def test_a_number_that_no_image_can_have_changes_nothing_and_is_named(labeled, address, monkeypatch, number):
    from catalog.store import bulk

    monkeypatch.setattr(bulk, "STEP", 2)
    for action, body in (
        ("reject", {"reason": "no"}),
        ("label", {"classes": [3]}),
        ("map/label", {"classes": [3]}),
    ):
        answer = post(address, action, ids=[1, 2, 3, number], **body)
        assert answer.status_code == 422 and "ids" in answer.json()["detail"]
    assert ids(address, label=1) == [1]


@pytest.mark.parametrize(("language", "line"), [("en", "file is missing"), ("nl", "file ontbreekt")])
def test_a_request_that_is_wrong_gets_a_line_in_the_language_of_the_page(address, language, line):
    headers = {"Accept": "text/html", "Accept-Language": language}
    answer = requests.post(f"{address}/projects/1/import", headers=headers, timeout=30)
    assert answer.status_code == 422 and line in answer.text and "Field required" not in answer.text
    answer = requests.get(f"{address}/projects/1/data/abc", headers=headers, timeout=30)
    assert answer.status_code == 404 and "valid integer" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"ids": [1], "classes": []},
        {"ids": [1], "classes": [1, 2]},
        {"ids": [1], "classes": [99]},
        {"ids": [1], "status": "skipped"},
        {"ids": [], "classes": [1]},
    ],
)
def test_a_label_that_the_project_can_t_have_is_refused(labeled, address, body):
    assert post(address, "label", **body).status_code == 422
    assert ids(address, label=1) == [1]


def test_an_action_on_many_images_is_one_batch_in_several_transactions(catalog, address, monkeypatch):
    from catalog.store import bulk

    monkeypatch.setattr(bulk, "STEP", 7)
    done = post(address, "label", ids=list(range(1, COUNT + 1)), classes=[1]).json()
    assert done["changed"] == COUNT
    assert post(address, f"undo/{done['batch']}").json() == {"undone": COUNT, "kept": 0}
    assert count(address, status="waiting") == COUNT


def test_an_action_that_is_cut_off_says_how_far_it_came_and_is_taken_back(catalog, address, monkeypatch):
    from catalog.store import bulk, failures

    monkeypatch.setattr(bulk, "STEP", 7)
    give = bulk._give

    def is_away(session, project, ids, *rest, **options):
        if 15 in ids:
            raise failures.busy()
        return give(session, project, ids, *rest, **options)

    monkeypatch.setattr(bulk, "_give", is_away)
    done = post(address, "label", ids=list(range(1, COUNT + 1)), classes=[1]).json()
    assert (done["changed"], done["missed"]) == (14, COUNT - 14)
    assert post(address, f"undo/{done['batch']}").json() == {"undone": 14, "kept": 0}
    assert post(address, "label", ids=[15], classes=[1]).status_code == 503


def test_the_history_tells_who_said_what_and_what_the_model_had_predicted(labeled, catalog, address):
    label(catalog, 2, 3, person="chris")
    post(address, "reject", ids=[2], reason="<b>too dark</b>")
    history = requests.get(f"{address}/api/projects/1/images/2", timeout=30).json()["history"]
    assert [entry["person"] for entry in history][:2] == ["bram", "chris"]
    first, second, third = history
    assert (first["predicted"], first["confidence"], first["was_shown"], first["differs"]) == (
        ["cat"],
        0.6,
        True,
        True,
    )
    assert (second["before"]["classes"], second["after"]["classes"]) == (["dog"], ["rabbit"])
    assert (third["origin"], third["reason"], third["after"]["status"]) == (
        "reject",
        "<b>too dark</b>",
        "waiting",
    )
    page = requests.get(f"{address}/projects/1/data/2", timeout=30).text
    assert "&lt;b&gt;too dark" in page and "<b>too" not in page
    assert page.index("too dark") < page.index("chris") < page.index("bram")  # the newest first
    assert "The model had predicted cat" in page and "It was filled in." in page


def test_the_page_of_an_image_leads_to_its_neighbours_in_the_results(labeled, address):
    page = requests.get(f"{address}/projects/1/data/2?status=labeled", timeout=30).text
    assert re.search(r'rel="prev" href="/projects/1/data/3\?status=labeled&amp;at=', page)
    following = (
        re.search(r'rel="next" href="(/projects/1/data/1\?[^"]+)"', page).group(1).replace("&amp;", "&")
    )
    post(address, "reject", ids=[1], reason="no")
    page = requests.get(
        f"{address}{following}", timeout=30
    ).text  # it has left the results, its place has not
    assert re.search(r'rel="prev" href="/projects/1/data/2\?', page)
    assert 'rel="next"' not in page


def test_what_is_searched_by_is_repaired_from_the_events(labeled, catalog):
    with catalog.database.write() as session:
        assert list(labels.differences(session, 1)) == []
        image = session.get(Image, 2)
        image.class_key, image.labeled_by, image.differs, image.confidence = ",1,", "eve", False, 0.1
        session.get(Image, 9).origin = "manual"
    with catalog.database.write() as session:
        assert labels.rebuild(session, 1) == 2
        image = session.get(Image, 2)
        values = (image.class_key, image.labeled_by, image.differs, image.confidence)
        assert values == (",2,", "bram", True, 0.6)
        assert list(labels.differences(session, 1)) == []


def test_the_migration_fills_what_is_searched_by_from_the_events_of_before(labeled, catalog, tmp_path):
    from alembic import command
    from alembic.config import Config

    from catalog.store import database
    from catalog.store.address import url_of
    from catalog.store.engine import create

    engine = create(url_of(tmp_path / "catalog/catalog.db"), foreign_keys=False)
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with engine.begin() as connection:
        names = ("image_person", "image_by_time", "image_by_confidence", "image_by_rank")
        for name in names:
            connection.execute(text(f"DROP INDEX {name}"))
        for name in ("class_key", "labeled_by", "labeled_at", "origin", "confidence", "differs"):
            connection.execute(text(f"ALTER TABLE image DROP COLUMN {name}"))
        connection.execute(text("DROP TABLE suspect"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.stamp(config, "0005c")
        command.upgrade(config, "0005d")
        connection.commit()
    with catalog.database.read() as session:
        assert list(labels.differences(session, 1)) == []
        assert session.get(Image, 2).labeled_by == "bram"


def audit(root, catalog, *doubts, project="pets", task="labels", last_event=None):
    """Writes what a training leaves: the summary of its snapshot, and the audit's table."""
    with catalog.database.read() as session:
        last = session.scalars(select(Event.id).order_by(Event.id.desc())).first()
        hashes = {number: session.get(Image, number).sha256 for number, *_ in doubts}
    rows = [
        {
            "path": f"train/{label}/{hashes[number]}.png",
            "label": label,
            "suggested": suggested,
            "own_probability": str(own),
            "suggested_probability": "0.9",
        }
        for number, label, suggested, own in doubts
    ]
    (root / "data" / task).mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    columns = ("path", "label", "suggested", "own_probability", "suggested_probability")
    tables.write(root / "data" / task / "audit.csv", rows, columns)
    summary = {"project": project, "last_event": last if last_event is None else last_event}
    (root / "labels/snapshot.json").write_text(json.dumps(summary))


def test_suspects_come_in_the_order_of_the_audit_until_they_are_labeled_again(
    labeled, catalog, address, tmp_path
):
    audit(tmp_path, catalog, (2, "dog", "cat", 0.2), (1, "cat", "rabbit", 0.1), (3, "dog", "cat", 0.3))
    assert suspects.take_over(catalog.database, "pets", "labels", tmp_path) == 3
    assert ids(address, order="suspects") == [1, 2, 3]
    assert found(address, order="suspects")["images"][0]["suspected"] == ["rabbit"]
    assert "The last audit says rabbit (90" in requests.get(f"{address}/projects/1/data/1", timeout=30).text
    label(catalog, 1, 1)  # the same label again: somebody has looked
    done = post(address, "reject", ids=[2], reason="look again").json()
    confirmed = post(address, "confirm", ids=[3, 8]).json()
    assert confirmed["changed"] == 1  # an image without a label has none to confirm
    assert ids(address, order="suspects") == []
    for batch in (done["batch"], confirmed["batch"]):
        post(address, f"undo/{batch}")
    assert ids(address, order="suspects") == [2, 3]
    assert ids(address, order="suspects", person="bram") == []  # who has undone it has labeled it last


def test_test_images_later_labels_and_other_labels_are_no_suspects(labeled, catalog, tmp_path):
    doubts = [
        (7, "rabbit", "cat", 0.1),
        (1, "dog", "cat", 0.1),
        (2, "dog", "horse", 0.1),
        (3, "dog", "cat", 0.1),
    ]
    audit(tmp_path, catalog, *doubts, last_event=2)
    assert suspects.take_over(catalog.database, "pets", "labels", tmp_path) == 0


@pytest.mark.parametrize("has_audit", [True, False])
def test_a_training_brings_its_suspects_along(labeled, catalog, tmp_path, monkeypatch, has_audit):
    for number in range(8, 20):
        label(catalog, number, 1 + number % 2)

    def train(*_arguments, **_options):
        if has_audit:
            audit(tmp_path, catalog, (1, "cat", "dog", 0.1), (10, "cat", "dog", 0.2))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(cli.subprocess, "run", train)
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    monkeypatch.setattr(champions, "adopt", lambda *_: champions.Champion("labels-1", None, frozenset()))
    arguments = ["--folder", str(catalog.library.folder), "retrain", "pets"]
    done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert (
        "2 labels to look at again" if has_audit else "the label suspects stay as they were"
    ) in done.output
    with catalog.database.read() as session:
        assert search.ids(session, 1, Search(order=Order.SUSPECTS)) == ([1, 10] if has_audit else [])


def test_an_audit_of_another_project_is_refused_and_a_new_one_replaces_the_last(labeled, catalog, tmp_path):
    with pytest.raises(UserError, match="retrain"):
        suspects.take_over(catalog.database, "pets", "labels", tmp_path)
    audit(tmp_path, catalog, (1, "cat", "dog", 0.1))
    suspects.take_over(catalog.database, "pets", "labels", tmp_path)
    audit(tmp_path, catalog, (2, "dog", "cat", 0.1))
    suspects.take_over(catalog.database, "pets", "labels", tmp_path)
    audit(tmp_path, catalog, (3, "dog", "cat", 0.1), project="others")
    with pytest.raises(UserError, match="others"):
        suspects.take_over(catalog.database, "pets", "labels", tmp_path)
    with catalog.database.write() as session:
        assert list(session.scalars(select(Suspect.image_id))) == [2]
        erasing.project(session, session.get(Project, 1))
        assert list(session.scalars(select(Suspect))) == []
