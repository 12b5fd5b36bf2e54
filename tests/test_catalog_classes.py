"""Classes of a running project are added, renamed and merged; no label and no history is lost."""

import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit, submit_answers
from sqlalchemy import select

from catalog.relabeler import Relabeler
from catalog.store import (
    class_changes,
    classes,
    exported,
    history,
    image_counts,
    labels,
    pages,
    projects,
    relabeling,
    suggestions,
)
from catalog.store.class_changes import Policy
from catalog.store.labels import Answer
from catalog.store.tables import (
    Action,
    Event,
    Help,
    Image,
    LabelClass,
    Model,
    PageKind,
    Relabeling,
    Status,
    Suggestion,
)
from pipeline.common.errors import UserError

CAT, DOG, RABBIT = 1, 2, 3


@pytest.fixture
def catalog(tmp_path, database_url):
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", 12), test_fraction=0.2)
    yield catalog
    catalog.database.close()


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


def images(session):
    return list(session.scalars(select(Image).order_by(Image.id)))


def label(catalog, *answers):
    """Labels the first images with one class each; None means unknown."""
    with catalog.database.write() as session:
        for image, number in zip(images(session), answers, strict=False):
            answer = Answer(Status.UNKNOWN) if number is None else Answer(Status.LABELED, (number,))
            labels.give(session, image, answer, "ann")


def states(catalog, count=12):
    with catalog.database.read() as session:
        return [(str(image.status), image.classes) for image in images(session)][:count]


def pause(catalog, is_paused=True):
    with catalog.database.write() as session:
        projects.pause(session, catalog.project(session), is_paused)


def finish(catalog):
    with catalog.database.read() as session:
        numbers = [row.id for row in relabeling.unfinished(session)]
    for number in numbers:
        relabeling.finish(catalog.database, number)


def add(catalog, *names, policy=Policy.CONTINUE):
    pause(catalog)
    with catalog.database.write() as session:
        classes.add(session, catalog.project(session), names, policy, "eve")
    finish(catalog)


def merge(catalog, found, into, is_finished=True):
    pause(catalog)
    with catalog.database.write() as session:
        both = session.get(LabelClass, found), session.get(LabelClass, into)
        classes.merge(session, catalog.project(session), *both, "eve")
    if is_finished:
        finish(catalog)


def undo(catalog, entry=0):
    with catalog.database.write() as session:
        change = classes.history(session, 1)[entry].change_id
        classes.undo(session, catalog.project(session), change, "eve")
    finish(catalog)


def suggest(catalog, **values):
    """A model suggests the class cat for all images."""
    predicted = {"predicted": [CAT], "confidence": 0.9, "probable": [CAT], "cluster": 0, "distance": 0}
    with catalog.database.write() as session:
        catalog.project(session).model_help = Help.SUGGESTIONS
        counts = {"created_at": 0, "last_event": 0, "labels": 1}
        session.add(Model(id=1, project_id=1, threshold=0.5, message="", **counts))
        session.flush()
        for image in images(session):
            session.add(Suggestion(image_id=image.id, project_id=1, model_id=1, **predicted, **values))


def is_consistent(catalog):
    with catalog.database.read() as session:
        return not list(labels.differences(session, 1)) and not image_counts.wrong(session)


def test_new_classes_keep_the_labels_if_so_chosen(catalog):
    label(catalog, CAT, DOG)
    before = states(catalog)
    add(catalog, "horse", "hamster")
    assert states(catalog) == before
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 1)][3:] == ["horse", "hamster"]
        (entry,) = classes.history(session, 1)
        assert (entry.person, entry.after, entry.policy) == ("eve", ("horse", "hamster"), "continue")
        assert not entry.can_be_undone


def test_labels_are_queued_again_and_filled_in(catalog):
    label(catalog, CAT, None, DOG)
    add(catalog, "horse", policy=Policy.REQUEUE)
    assert states(catalog, 3) == [("waiting", [])] * 3
    pause(catalog, False)
    with catalog.database.write() as session:
        shown = []
        while (page := pages.hand_out(session, catalog.project(session), "ann")).kind == PageKind.RECHECK:
            shown += page.images
        answers = {image["id"]: image["answer"] for image in shown}
    assert answers == {
        1: {"status": "labeled", "classes": [CAT]},
        2: {"status": "unknown", "classes": []},
        3: {"status": "labeled", "classes": [DOG]},
    }
    assert is_consistent(catalog)


def test_a_skipped_image_comes_again_with_its_earlier_label_and_so_does_an_undone_page(catalog, address):
    label(catalog, *[CAT] * 12)
    add(catalog, "horse", policy=Policy.REQUEUE)
    pause(catalog, False)
    page = open_page(address, size=25)
    assert page["kind"] == "recheck"
    submit_answers(address, page, {page["images"][0]["id"]: {"status": "skipped"}}).raise_for_status()
    kinds, found = [], []
    while (page := open_page(address, size=25)) is not None:
        kinds.append(page["kind"])
        found += [image["answer"] for image in page["images"]]
    assert set(kinds) == {"recheck"}
    assert found == [{"status": "labeled", "classes": [CAT]}] * 12


def test_an_undone_page_of_images_queued_again_is_filled_in_after_it_was_released(catalog, address):
    label(catalog, *[CAT] * 12)
    add(catalog, "horse", policy=Policy.REQUEUE)
    pause(catalog, False)
    page = open_page(address)
    submit(address, page, DOG).raise_for_status()
    again = requests.post(f"{address}/api/pages/{page['token']}/undo", timeout=30).json()["page"]
    assert again["images"][0]["answer"]["classes"] == [DOG]
    requests.post(f"{address}/api/pages/{again['token']}/release", timeout=30).raise_for_status()
    page = open_page(address)
    assert (page["kind"], page["images"][0]["answer"]["classes"]) == ("recheck", [CAT])


def test_answers_to_images_queued_again_are_no_evidence(catalog, address):
    label(catalog, *[CAT] * 12)
    suggest(catalog, is_waiting=False)
    add(catalog, "horse", policy=Policy.REQUEUE)
    with catalog.database.read() as session:
        assert suggestions.waiting(session, 1) == 0
        assert all(known.classes is None for known in suggestions.known(session, 1)[0])
    pause(catalog, False)
    page = open_page(address, size=25)
    assert page["kind"] == "recheck"
    submit(address, page, CAT).raise_for_status()
    with catalog.database.read() as session:
        assert suggestions.checked(session, 1) == []
        assert {known.weight for known in suggestions.known(session, 1)[0]} == {0}


def test_discarding_takes_all_labels_away_and_undo_brings_them_back(catalog):
    label(catalog, CAT, None, DOG)
    before = states(catalog)
    with catalog.database.read() as session:
        assert classes.labels_of(session, catalog.project(session), Policy.DISCARD) == 3
    add(catalog, "horse", policy=Policy.DISCARD)
    assert states(catalog) == [("waiting", [])] * 12
    with catalog.database.read() as session:
        assert not any(image.is_requeued for image in images(session))
    undo(catalog)
    assert states(catalog) == before
    assert is_consistent(catalog)


@pytest.mark.parametrize("policy", [Policy.REQUEUE, Policy.DISCARD])
def test_undo_leaves_what_was_labeled_again_alone(catalog, policy):
    label(catalog, CAT, CAT)
    add(catalog, "horse", policy=policy)
    label(catalog, DOG)
    undo(catalog)
    assert states(catalog, 2) == [("labeled", [DOG]), ("labeled", [CAT])]
    with catalog.database.write() as session, pytest.raises(UserError, match="already"):
        undone = classes.history(session, 1)[1]
        assert undone.is_undone
        classes.undo(session, catalog.project(session), undone.change_id, "eve")


def test_discarding_forgets_labels_that_were_queued_again(catalog):
    label(catalog, CAT, DOG)
    add(catalog, "horse", policy=Policy.REQUEUE)
    add(catalog, "goat", policy=Policy.DISCARD)
    with catalog.database.read() as session:
        assert not any(image.is_requeued for image in images(session))
    assert is_consistent(catalog)


def test_a_merged_class_is_gone_and_its_images_have_the_other_one(catalog):
    label(catalog, CAT, DOG, CAT)
    merge(catalog, CAT, DOG)
    assert states(catalog, 3) == [("labeled", [DOG])] * 3
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 1)] == ["dog", "rabbit"]
        entries = history.of(session, session.get(Image, 1))
        assert [entry.after.classes for entry in entries] == [("cat",), ("dog",)]
        assert entries[1].origin == Action.MERGE
        assert image_counts.by_class(session, 1)[DOG] == 3
        assert classes.history(session, 1)[0].labels == 2
        assert exported.labels(session, catalog.project(session)).images[0].classes == ("dog",)
    assert is_consistent(catalog)


def test_undo_of_a_merge_brings_class_and_labels_back(catalog):
    label(catalog, CAT, DOG, CAT)
    before = states(catalog)
    merge(catalog, CAT, DOG)
    undo(catalog)
    assert states(catalog) == before
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 1)] == ["cat", "dog", "rabbit"]
    assert is_consistent(catalog)


def test_an_image_with_both_classes_has_the_other_one_once(tmp_path, database_url):
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", 3), task="multi_label")
    with catalog.database.write() as session:
        for image, given in zip(images(session), [(CAT, DOG), (CAT, RABBIT), (RABBIT,)], strict=True):
            labels.give(session, image, Answer(Status.LABELED, given), "ann")
    before = states(catalog)
    merge(catalog, CAT, DOG)
    assert [given for _status, given in states(catalog)] == [[DOG], [DOG, RABBIT], [RABBIT]]
    undo(catalog)
    assert states(catalog) == before
    catalog.database.close()


def test_a_chain_of_merges_leads_to_the_last_class(catalog, address):
    add(catalog, "horse")
    pause(catalog, False)
    page = open_page(address)
    merge(catalog, CAT, DOG)
    merge(catalog, DOG, RABBIT)
    assert submit(address, page, CAT).status_code == 200
    assert [given for _status, given in states(catalog) if given] == [[RABBIT]] * len(page["images"])
    with catalog.database.write() as session, pytest.raises(UserError, match="dog was merged itself"):
        change = classes.history(session, 1)[1].change_id
        classes.undo(session, catalog.project(session), change, "eve")


def test_an_open_page_that_answers_with_a_merged_class_loses_nothing(catalog, address):
    page = open_page(address)
    merge(catalog, CAT, DOG)
    assert submit(address, page, CAT).json() == {"saved": len(page["images"])}
    assert submit(address, page, CAT).status_code == 200  # the same request again
    assert ("labeled", [DOG]) in states(catalog) and ("labeled", [CAT]) not in states(catalog)
    again = requests.post(f"{address}/api/pages/{page['token']}/undo", timeout=30).json()["page"]
    assert again["images"][0]["answer"]["classes"] == [DOG]


def test_a_label_that_is_taken_back_after_a_merge_is_that_of_the_other_class(catalog):
    label(catalog, CAT)
    add(catalog, "horse", policy=Policy.DISCARD)
    merge(catalog, CAT, DOG)
    undo(catalog, 1)
    assert states(catalog, 1) == [("labeled", [DOG])]


def test_a_label_that_waited_for_a_second_person_waits_again_after_undo(catalog):
    with catalog.database.write() as session:
        first = Answer(Status.LABELED, (CAT,), first_person="ann")
        labels.give(session, session.get(Image, 1), first, "ann")
    add(catalog, "horse", policy=Policy.REQUEUE)
    with catalog.database.read() as session:
        image = session.get(Image, 1)
        assert image.first_person is None
        assert image.earlier == {"status": "labeled", "classes": [CAT]}
    undo(catalog)
    merge(catalog, CAT, DOG)
    with catalog.database.read() as session:
        image = session.get(Image, 1)
        assert (image.first_person, image.classes) == ("ann", [DOG])
    assert is_consistent(catalog)


def test_who_decides_a_dispute_sees_the_class_that_took_over(catalog):
    with catalog.database.write() as session:
        project = catalog.project(session)
        project.second_share = 1.0
        page = pages.hand_out(session, project, "ann", 1)
        pages.submit(session, page, {page.images[0]["id"]: Answer(Status.LABELED, (CAT,))})
        session.flush()
        page = pages.hand_out(session, project, "bob", 1)
        assert page.kind == PageKind.SECOND
        pages.submit(session, page, {page.images[0]["id"]: Answer(Status.LABELED, (RABBIT,))})
    merge(catalog, CAT, DOG)
    pause(catalog, False)
    with catalog.served() as address:
        answer = requests.post(f"{address}/api/projects/1/review", json={}, timeout=30)
        answer.raise_for_status()
        (image,) = answer.json()["page"]["images"]
    assert [each["classes"] for each in image["opinions"]] == [[DOG], [RABBIT]]


def test_suggestions_of_a_merged_class_are_never_offered(catalog):
    suggest(catalog)
    merge(catalog, CAT, DOG)
    pause(catalog, False)
    with catalog.database.write() as session:
        pages.hand_out(session, catalog.project(session), "ann")  # a test page
        page = pages.hand_out(session, catalog.project(session), "ann")
        assert page.kind in (PageKind.PRELABELED, PageKind.CLUSTER)
        assert {tuple(image["predicted"]) for image in page.images} == {(DOG,)}
        assert CAT not in page.keys


def test_a_renamed_class_keeps_its_labels_and_exports_have_the_new_name(catalog):
    label(catalog, CAT)
    with catalog.database.write() as session:
        class_changes.rename(session, session.get(LabelClass, CAT), "kitten", "eve")
    assert states(catalog, 1) == [("labeled", [CAT])]
    with catalog.database.read() as session:
        (entry,) = classes.history(session, 1)
        assert (entry.before, entry.after, entry.person) == ("cat", ("kitten",), "eve")
        assert exported.labels(session, catalog.project(session)).images[0].classes == ("kitten",)


@pytest.mark.parametrize("name", ["", "Dog", "dog", "a|b", "a/b", "x" * 201])
def test_a_name_that_a_class_cannot_have_is_refused(catalog, name):
    with catalog.database.write() as session, pytest.raises(UserError):
        class_changes.rename(session, session.get(LabelClass, CAT), name, "eve")


def test_the_name_of_a_merged_class_is_not_given_again(catalog):
    merge(catalog, CAT, DOG)
    with catalog.database.write() as session, pytest.raises(UserError, match="cat was merged into dog"):
        class_changes.rename(session, session.get(LabelClass, DOG), "Cat", "eve")


@pytest.mark.parametrize("policy", [Policy.REQUEUE, Policy.DISCARD, None])
def test_what_was_cut_off_goes_on_and_the_project_stays_paused_until_then(catalog, monkeypatch, policy):
    """Without a policy, a merge."""
    monkeypatch.setattr(relabeling, "STEP", 2)
    monkeypatch.setattr(relabeling, "PAUSE", 0)
    label(catalog, *[CAT] * 7)
    pause(catalog)
    if policy:
        with catalog.database.write() as session:
            classes.add(session, catalog.project(session), ("horse",), policy, "eve")
    else:
        merge(catalog, CAT, DOG, is_finished=False)
    asked = iter([False, False, True])
    relabeling.finish(catalog.database, 1, lambda: next(asked))
    done = states(catalog, 7)
    assert done.count(("labeled", [CAT])) == 3
    with pytest.raises(UserError, match="still being changed"):
        pause(catalog, False)
    with catalog.database.read() as session:
        # An export meanwhile has no label of a class that is gone.
        assert {
            name
            for image in exported.labels(session, catalog.project(session)).images
            for name in image.classes
        } == {"cat" if policy else "dog"}
    restarted = Relabeler(catalog.database)
    restarted.start()
    try:
        for _ in range(100):
            with catalog.database.read() as session:
                if not relabeling.unfinished(session):
                    break
            restarted._stopped.wait(0.05)
    finally:
        restarted.stop()
    assert ("labeled", [CAT]) not in states(catalog)
    with catalog.database.read() as session:
        row = session.get(Relabeling, 1)
        assert (row.changed, row.total) == (7, 7)
        assert len(labels.events_of(session, 1, row.batch)) == 7
    pause(catalog, False)
    assert is_consistent(catalog)


def test_the_page_of_a_project_shows_that_labels_are_being_changed(catalog, monkeypatch):
    monkeypatch.setattr(relabeling, "finish", lambda *_arguments: None)
    label(catalog, CAT)
    merge(catalog, CAT, DOG, is_finished=False)
    with catalog.served() as address:
        for path in ("projects/1", "projects/1/classes"):
            assert "abels are being changed" in requests.get(f"{address}/{path}", timeout=30).text
        form = {"name": "pets", "model_help": "none"}
        answer = requests.post(f"{address}/projects/1/settings", data=form, timeout=30)
        assert (answer.status_code, "still being changed" in answer.text) == (422, True)


def test_labels_that_are_given_meanwhile_stay(catalog):
    label(catalog, CAT, CAT)
    pause(catalog)
    with catalog.database.write() as session:
        classes.add(session, catalog.project(session), ("horse",), Policy.DISCARD, "eve")
    label(catalog, DOG)
    finish(catalog)
    assert states(catalog, 2) == [("labeled", [DOG]), ("waiting", [])]


def test_classes_of_a_running_project_are_neither_added_nor_merged(catalog):
    with catalog.database.write() as session, pytest.raises(UserError, match="pause"):
        classes.add(session, catalog.project(session), ("horse",), Policy.CONTINUE, "eve")
    with catalog.database.write() as session, pytest.raises(UserError, match="pause"):
        both = session.get(LabelClass, CAT), session.get(LabelClass, DOG)
        classes.merge(session, catalog.project(session), *both, "eve")


def test_two_classes_stay(catalog):
    merge(catalog, CAT, DOG)
    with pytest.raises(UserError, match="two classes"):
        merge(catalog, DOG, RABBIT)
    with catalog.database.read() as session:
        assert len(session.scalars(select(Event)).all()) == 0


def post(address, path, **form):
    headers = {"Accept": "text/html"}
    return requests.post(f"{address}/projects/1/classes{path}", data=form, headers=headers, timeout=30)


def wait_until_done(address):
    for _ in range(200):
        url = f"{address}/projects/1/classes/progress"
        if requests.get(url, timeout=30).json()["is_done"]:
            return
    raise AssertionError("labels are still being changed")


def test_discarding_asks_first_and_names_the_number_of_labels(catalog, address):
    label(catalog, CAT, DOG)
    assert post(address, "/pause", is_paused="true").ok
    asked = post(address, "", names="horse", policy="discard")
    assert "2 labels of this project are discarded" in asked.text
    assert states(catalog, 1) == [("labeled", [CAT])]
    assert post(address, "", names="horse", policy="discard", is_confirmed="true").ok
    wait_until_done(address)
    assert states(catalog, 2) == [("waiting", [])] * 2
    page = requests.get(f"{address}/projects/1/classes", timeout=30).text
    assert "2 labels discarded" in page and "horse" in page
    with catalog.database.read() as session:
        change = classes.history(session, 1)[0].change_id
    assert post(address, f"/undo/{change}").ok
    wait_until_done(address)
    assert states(catalog, 2) == [("labeled", [CAT]), ("labeled", [DOG])]


def test_merging_asks_first_and_names_the_number_of_images(catalog, address):
    label(catalog, CAT, CAT, DOG)
    post(address, "/pause", is_paused="true")
    asked = post(address, f"/{CAT}/merge", into=DOG)
    assert "2 images of" in asked.text and states(catalog, 1) == [("labeled", [CAT])]
    assert post(address, f"/{CAT}/merge", into=DOG, is_confirmed="true").ok
    wait_until_done(address)
    assert states(catalog, 3) == [("labeled", [DOG])] * 3
    assert post(address, f"/{CAT}/rename", name="x").status_code == 404
    assert post(address, f"/{DOG}/rename", name="hound").ok
    assert "hound" in requests.get(f"{address}/projects/1/classes", timeout=30).text


def test_a_mistake_is_one_line_and_what_was_typed_stays(catalog, address):
    answer = post(address, "", names="horse\nCAT", policy="requeue")
    assert answer.status_code == 422 and "pause the project first" in answer.text
    post(address, "/pause", is_paused="true")
    answer = post(address, "", names="horse\nCAT", policy="requeue")
    assert answer.status_code == 422
    assert "look alike" in answer.text and "horse\nCAT" in answer.text
    assert 'value="requeue" checked' in answer.text


def test_a_page_tells_that_the_classes_have_changed(catalog, address):
    def request(path, **body):
        return requests.post(f"{address}/api/{path}", json=body, timeout=30).json()

    known = requests.get(f"{address}/api/projects/1", timeout=30).json()
    page = request("projects/1/pages")
    assert page["classes_version"] == known["classes_version"]
    merge(catalog, CAT, DOG)
    assert request(f"pages/{page['page']['token']}/keep")["classes_version"] > known["classes_version"]
    assert requests.get(f"{address}/api/projects/1", timeout=30).json()["merged"] == {str(CAT): DOG}
