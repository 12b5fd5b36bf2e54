"""The catalog hands each image to one page at a time, and loses no label."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit
from sqlalchemy import select

from catalog import undoing
from catalog.store import labels, pages, projects
from catalog.store.labels import Answer
from catalog.store.tables import Action, Event, Image, LabelClass, Page, Status


@pytest.fixture
def catalog(tmp_path, database_url):
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", 30))
    yield catalog
    catalog.database.close()


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


def ids(page):
    return {image["id"] for image in page["images"]}


def counts(catalog):
    with catalog.database.read() as session:
        return projects.counts(session, 1)


def test_no_image_is_on_two_pages(address):
    first, second = open_page(address), open_page(address)
    assert len(ids(first)) == 9
    assert not ids(first) & ids(second)


def test_a_reloaded_page_shows_the_same_images(address):
    page = open_page(address)
    assert open_page(address, token=page["token"]) == page


def test_a_submitted_label_is_stored_with_its_event(catalog, address):
    page = open_page(address)
    assert submit(address, page, 2).json() == {"saved": 9}
    with catalog.database.read() as session:
        events = list(session.scalars(select(Event)))
        assert {event.image_id for event in events} == ids(page)
        assert {event.after["classes"][0] for event in events} == {2}
        assert all(event.person and event.page_kind == page["kind"] for event in events)
    assert counts(catalog)[Status.LABELED] == 9


def test_a_repeated_submission_counts_once(catalog, address):
    page = open_page(address)
    assert submit(address, page, 1).status_code == submit(address, page, 1).status_code == 200
    with catalog.database.read() as session:
        assert len(list(session.scalars(select(Event)))) == 9


def test_a_page_submitted_twice_with_other_labels_is_a_conflict(address):
    page = open_page(address)
    submit(address, page, 1)
    assert submit(address, page, 2).status_code == 409


def test_an_expired_page_can_still_be_submitted_if_nobody_took_its_images(catalog, address, monkeypatch):
    page = open_page(address)
    expire(catalog)
    assert submit(address, page, 1).status_code == 200


def expire(catalog):
    with catalog.database.write() as session:
        for image in session.scalars(select(Image).where(Image.leased_until.is_not(None))):
            image.leased_until = 1.0


def test_a_stale_page_names_the_images_that_were_taken_and_the_rest_can_be_saved(catalog, address):
    page = open_page(address)
    expire(catalog)
    taken = ids(page) & ids(open_page(address, size=4))
    assert taken
    refused = submit(address, page, 1)
    assert refused.status_code == 409
    assert set(refused.json()["taken"]) == taken
    page["images"] = [image for image in page["images"] if image["id"] not in taken]
    assert submit(address, page, 1).json() == {"saved": 9 - len(taken)}


def test_images_without_an_answer_return_to_the_queue(catalog, address):
    page = open_page(address)
    page["images"] = page["images"][:2]
    submit(address, page, 1)
    assert counts(catalog)[Status.WAITING] == 28
    with catalog.database.read() as session:
        assert not list(session.scalars(select(Image).where(Image.page_token == page["token"])))


def test_skipped_images_come_again_after_all_others(catalog, address):
    page = open_page(address)
    answers = {image["id"]: {"status": "skipped"} for image in page["images"]}
    requests.post(f"{address}/api/pages/{page['token']}/submit", json={"answers": answers}, timeout=30)
    later = []
    while (following := open_page(address)) is not None:
        later += [image["id"] for image in following["images"]]
        submit(address, following, 1)
    assert len(later) == 30
    assert set(later[-9:]) == ids(page)


def test_undo_brings_the_last_page_back_with_its_labels(catalog, address):
    page = open_page(address)
    submit(address, page, 3)
    undone = requests.post(f"{address}/api/pages/{page['token']}/undo", timeout=30).json()["page"]
    assert ids(undone) == ids(page)
    assert all(image["answer"] == {"status": "labeled", "classes": [3]} for image in undone["images"])
    assert counts(catalog)[Status.LABELED] == 0
    assert submit(address, undone, 1).status_code == 200


def test_undo_twice_gives_the_same_page_while_it_is_open(address):
    page = open_page(address)
    submit(address, page, 3)
    url = f"{address}/api/pages/{page['token']}/undo"
    first, second = (requests.post(url, timeout=30).json()["page"] for _ in range(2))
    assert first == second
    assert submit(address, first, 1).status_code == 200
    assert requests.post(url, timeout=30).status_code == 409


def test_a_reload_brings_back_a_page_that_has_lost_an_image(catalog, address):
    page = open_page(address)
    with catalog.database.write() as session:
        session.get(Image, page["images"][0]["id"]).page_token = "another"
    assert ids(open_page(address, token=page["token"])) == ids(page)
    answers = {image["id"]: {"status": "labeled", "classes": [1]} for image in page["images"]}
    answer = requests.post(
        f"{address}/api/pages/{page['token']}/submit", json={"answers": answers}, timeout=30
    )
    assert answer.status_code == 409 and answer.json()["taken"] == [page["images"][0]["id"]]


def test_undo_leaves_labels_that_were_given_since_then(catalog, address):
    page = open_page(address)
    submit(address, page, 3)
    with catalog.database.write() as session:
        image = session.get(Image, page["images"][0]["id"])
        other = Page(token="other", project_id=1, kind="manual", person="b", images=[], keys=[], created_at=0)
        session.add(other)
        session.flush()
        labels.record(session, image, Answer(Status.UNKNOWN), other, {"predicted": None, "confidence": None})
    undone = requests.post(f"{address}/api/pages/{page['token']}/undo", timeout=30).json()["page"]
    assert page["images"][0]["id"] not in ids(undone)
    assert counts(catalog)[Status.UNKNOWN] == 1


def test_current_labels_can_be_rebuilt_from_the_events(catalog, address):
    submit(address, open_page(address), 2)
    with catalog.database.write() as session:
        image = session.scalar(select(Image).where(Image.status == Status.LABELED))
        image.classes, image.status = [], Status.WAITING
    with catalog.database.read() as session:
        assert len(list(labels.differences(session, 1))) == 1
    with catalog.database.write() as session:
        assert labels.rebuild(session, 1) == 1
    assert counts(catalog)[Status.LABELED] == 9


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": "labeled", "classes": [1, 2]}, "one class per image"),
        ({"status": "labeled", "classes": []}, "needs a class"),
        ({"status": "labeled", "classes": [99]}, "no class 99"),
        ({"status": "unknown", "classes": [1]}, "has no class"),
        ({"status": "waiting"}, "leave an image out"),
    ],
)
def test_an_invalid_answer_is_refused_with_the_reason(catalog, address, answer, reason):
    page = open_page(address)
    body = {"answers": {page["images"][0]["id"]: answer}}
    refused = requests.post(f"{address}/api/pages/{page['token']}/submit", json=body, timeout=30)
    assert refused.status_code == 422
    assert reason in refused.json()["detail"]
    assert counts(catalog)[Status.WAITING] == 30


def test_an_image_of_another_page_is_refused(address):
    page, other = open_page(address), open_page(address)
    page["images"] = other["images"]
    assert submit(address, page, 1).status_code == 422


def test_a_paused_project_hands_out_nothing(catalog, address):
    with catalog.database.write() as session:
        catalog.project(session).paused = True
    refused = requests.post(f"{address}/api/projects/1/pages", json={}, timeout=30)
    assert refused.status_code == 422
    assert "paused" in refused.json()["detail"]


def test_eight_people_at_once_label_each_image_once(tmp_path, database_url):
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", 120), page_size=4)
    failures = []

    def label(_) -> int:
        labeled = 0
        try:
            while (page := open_page(address)) is not None:
                answer = submit(address, page, 1)
                answer.raise_for_status()
                labeled += answer.json()["saved"]
        except Exception as error:
            failures.append(error)
        return labeled

    with catalog.served() as address, ThreadPoolExecutor(8) as people:
        assert sum(people.map(label, range(8))) == 120
    assert not failures
    with catalog.database.read() as session:
        events = list(session.scalars(select(Event.image_id)))
    assert len(events) == len(set(events)) == 120


def test_test_images_are_labeled_without_suggestions_and_keep_their_share(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 60), page_size=4, test_fraction=0.2)
    kinds = []
    with catalog.served() as address:
        while (page := open_page(address)) is not None:
            kinds.append(page["kind"])
            with catalog.database.read() as session:
                are_test = {session.get(Image, number).is_test for number in ids(page)}
            assert are_test == {page["kind"] == "test"}
            assert all(image["suggested"] is None for image in page["images"])
            submit(address, page, 1)
    assert 0 < kinds.count("test") < len(kinds) / 2
    assert kinds[0] == "test"


def test_which_images_are_test_follows_from_their_content_alone(tmp_path):
    splits = []
    for name in ("a", "b"):
        catalog = Catalog.create(tmp_path / name)
        images = folder_of(tmp_path / name / "images", 40)
        if name == "b":
            for file in sorted(images.iterdir()):
                file.rename(images / f"x{file.name}")
        catalog.add_project(images, test_fraction=0.2)
        with catalog.database.read() as session:
            splits.append(
                {image.sha256: (image.is_test, image.rank) for image in session.scalars(select(Image))}
            )
    assert splits[0] == splits[1]
    assert {is_test for is_test, _ in splits[0].values()} == {True, False}


def test_writers_wait_for_each_other(catalog):
    entered, left = threading.Event(), []

    def hold() -> None:
        with catalog.database.write() as session:
            catalog.project(session).instructions = "first"
            entered.set()
            threading.Event().wait(0.3)
            left.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    with catalog.database.write() as session:
        assert catalog.project(session).instructions == "first"
        left.append("second")
    thread.join()
    assert left == ["first", "second"]


def test_a_lease_is_renewed_by_the_page(catalog, address):
    page = open_page(address)
    expire(catalog)
    answer = requests.post(f"{address}/api/pages/{page['token']}/keep", timeout=30)
    assert answer.json()["held"]
    with catalog.database.read() as session:
        image = session.get(Image, page["images"][0]["id"])
        assert image.leased_until > time.time() + pages.LEASE_SECONDS - 60


def test_an_action_is_taken_back_where_nobody_has_labeled_since(catalog):
    act = labels.Act.start(Action.GROUP)
    with catalog.database.write() as session:
        images = list(session.scalars(select(Image).limit(3)))
        for image in images:
            labels.give(session, image, Answer(Status.LABELED, (1,)), "ann", act)
        labels.give(session, images[0], Answer(Status.LABELED, (2,)), "bob")
    assert undoing.undo(catalog.database, 1, act.batch, "ann") == (2, 1)
    assert counts(catalog)[Status.LABELED] == 1


def test_a_class_that_was_merged_is_offered_no_more(catalog, address):
    with catalog.database.write() as session:
        session.get(LabelClass, 3).merged_into = 1
    page = open_page(address)
    assert page["keys"] == [1, 2]
    assert submit(address, page, 3).status_code == 200  # from a page that was opened before
    with catalog.database.read() as session:
        labeled = session.scalars(select(Image.classes).where(Image.status == Status.LABELED))
        assert list(labeled) == [[1]] * len(page["images"])
