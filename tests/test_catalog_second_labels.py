"""A share of the images is labeled by two people, who don't see each other's answers; others decide."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from catalog_server import Catalog, folder_of
from sqlalchemy import select

from catalog import undoing
from catalog.store import bulk, labels, pages, projects, second_labels
from catalog.store.labels import Answer
from catalog.store.pages import StalePageError
from catalog.store.tables import Event, Image, LabelClass, Model, PageKind, Project, Status, Suggestion
from pipeline.common.errors import UserError

COUNT = 40
CAT, DOG = Answer(Status.LABELED, (1,)), Answer(Status.LABELED, (2,))
UNKNOWN, SKIPPED = Answer(Status.UNKNOWN), Answer(Status.SKIPPED)


@pytest.fixture
def catalog(tmp_path, database_url):
    """A project of which all images are labeled by two people, four on a page."""
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", COUNT), page_size=4, second_share=1.0)
    yield catalog
    with catalog.database.read() as session:
        assert list(labels.differences(session, 1)) == []
    catalog.database.close()


def hand_out(catalog, person, size=None):
    """The token, kind and images of a new page; None if there is none."""
    with catalog.database.write() as session:
        return _seen(pages.hand_out(session, session.get(Project, 1), person, size))


def review(catalog, person="ann", size=None):
    with catalog.database.write() as session:
        return _seen(pages.hand_out_review(session, session.get(Project, 1), person, size))


def undo(catalog, page):
    with catalog.database.write() as session:
        return _seen(pages.undo(session, session.get(pages.Page, page["token"])))


def _seen(page):
    if page is None:
        return None
    ids = [image["id"] for image in page.images]
    return {"token": page.token, "kind": page.kind, "ids": ids, "images": page.images}


def answer(catalog, page, *answers):
    """Submits a page: an answer for all images, or one for each of the first ones."""
    given = dict(zip(page["ids"], answers if len(answers) > 1 else answers * len(page["ids"]), strict=False))
    with catalog.database.write() as session:
        pages.submit(session, session.get(pages.Page, page["token"]), given)


def label(catalog, person, *answers):
    """A page that somebody gets and submits."""
    page = hand_out(catalog, person, len(answers) if len(answers) > 1 else None)
    answer(catalog, page, *answers)
    return page


def state(catalog, page):
    """Status, classes and first person of a page's images."""
    with catalog.database.read() as session:
        images = [session.get(Image, number) for number in page["ids"]]
        return [(image.status, image.classes, image.first_person) for image in images]


def disputed(catalog):
    """A page whose images ann has called cats and bob dogs."""
    label(catalog, "ann", CAT)
    return label(catalog, "bob", DOG)


def expire(catalog):
    with catalog.database.write() as session:
        for image in session.scalars(select(Image).where(Image.leased_until.is_not(None))):
            image.leased_until = 1.0


def test_the_share_of_images_for_two_people_is_drawn_from_their_content(catalog):
    project = Project(second_share=0.25)
    images = [Image(sha256=f"{number * 7919 % 2**32:08x}" * 8) for number in range(0, 2**32, 2**22)]
    chosen = [second_labels.is_chosen(project, image) for image in images]
    assert 0.2 < sum(chosen) / len(images) < 0.3
    assert not any(second_labels.is_chosen(Project(second_share=0.0), image) for image in images)
    assert all(second_labels.is_chosen(Project(second_share=1.0), image) for image in images)


def test_the_draw_depends_on_no_part_of_the_hash_that_decides_about_tests_or_the_order(catalog):
    first, second = "0" * 16, "f" * 16
    assert second_labels.is_chosen(Project(second_share=0.5), Image(sha256=second + first + "0" * 32))
    assert not second_labels.is_chosen(Project(second_share=0.5), Image(sha256=first + second + "0" * 32))


def test_the_first_label_counts_at_once_and_waits_for_another_person(catalog):
    page = label(catalog, "ann", CAT)
    assert state(catalog, page) == [(Status.LABELED, [1], "ann")] * 4


def test_images_that_are_not_chosen_are_labeled_once(catalog):
    with catalog.database.write() as session:
        session.get(Project, 1).second_share = 0.0
    page = label(catalog, "ann", CAT)
    assert state(catalog, page) == [(Status.LABELED, [1], None)] * 4
    assert hand_out(catalog, "bob")["kind"] == PageKind.MANUAL


def test_another_share_changes_nothing_that_is_decided(catalog):
    page = label(catalog, "ann", CAT)
    with catalog.database.write() as session:
        session.get(Project, 1).second_share = 0.0
    assert hand_out(catalog, "bob")["ids"] == page["ids"]
    with catalog.database.write() as session:
        session.get(Project, 1).second_share = 0.0
    unchosen = label(catalog, "cem", CAT)
    with catalog.database.write() as session:
        session.get(Project, 1).second_share = 1.0
    assert state(catalog, unchosen) == [(Status.LABELED, [1], None)] * 4


def test_a_page_full_of_second_labels_comes_before_new_images(catalog):
    first = label(catalog, "ann", CAT)
    second = hand_out(catalog, "bob")
    assert second["kind"] == PageKind.SECOND
    assert sorted(second["ids"]) == sorted(first["ids"])
    assert hand_out(catalog, "cem")["kind"] == PageKind.MANUAL  # somebody has them open


def test_less_than_a_page_of_second_labels_waits_until_nothing_else_is_left(catalog):
    answer(catalog, hand_out(catalog, "ann"), CAT, CAT)
    kinds = []
    while (page := hand_out(catalog, "bob")) is not None:
        kinds.append(page["kind"])
        answer(catalog, page, CAT)
    assert kinds == [PageKind.MANUAL] * 10 + [PageKind.SECOND]


def test_nobody_gets_an_image_for_the_second_time(catalog):
    seen = {"ann": [], "bob": [], "cem": []}
    ended = set()
    while len(ended) < 3:
        for person, ids in seen.items():
            page = hand_out(catalog, person)
            if page is None:
                ended.add(person)
                continue
            ids += page["ids"]
            answer(catalog, page, CAT)
    assert all(len(ids) == len(set(ids)) for ids in seen.values())
    assert sorted(number for ids in seen.values() for number in ids) == sorted([*range(1, COUNT + 1)] * 2)


def test_people_who_label_at_the_same_time_give_each_image_two_labels(catalog):
    def work(person):
        while (page := hand_out(catalog, person)) is not None:
            answer(catalog, page, CAT)

    people = ("ann", "bob", "cem")
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, people))
    for person in people:  # what was open elsewhere when somebody asked
        work(person)
    with catalog.database.read() as session:
        given = list(session.execute(select(Event.image_id, Event.person)).tuples())
        assert sorted(number for number, _ in given) == sorted([*range(1, COUNT + 1)] * 2)
        assert len(set(given)) == 2 * COUNT


def test_one_person_alone_labels_everything_and_then_there_is_no_page(catalog):
    for _ in range(10):
        assert label(catalog, "ann", CAT)["kind"] == PageKind.MANUAL
    assert hand_out(catalog, "ann") is None
    with catalog.database.read() as session:
        assert second_labels.waiting(session, 1) == {"ann": COUNT}


def test_an_equal_second_answer_leaves_the_label_and_is_kept(catalog):
    label(catalog, "ann", CAT, CAT, UNKNOWN, UNKNOWN)
    page = hand_out(catalog, "bob")
    said = {
        number: (CAT if found[0] == Status.LABELED else UNKNOWN)
        for number, found in zip(page["ids"], state(catalog, page), strict=True)
    }
    answer(catalog, page, *said.values())
    assert sorted(state(catalog, page)) == sorted(
        [(Status.LABELED, [1], None)] * 2 + [(Status.UNKNOWN, [], None)] * 2
    )
    with catalog.database.read() as session:
        for event in session.scalars(select(Event).where(Event.page_kind == PageKind.SECOND)):
            assert event.answer == event.after and event.before["first_person"] == "ann"


@pytest.mark.parametrize(("first", "second"), [(CAT, DOG), (CAT, UNKNOWN), (UNKNOWN, CAT)])
def test_different_answers_make_an_image_disputed_and_both_are_kept(catalog, first, second):
    label(catalog, "ann", first)
    page = label(catalog, "bob", second)
    assert state(catalog, page) == [(Status.DISPUTED, [], None)] * 4
    with catalog.database.read() as session:
        event = session.scalars(select(Event).order_by(Event.id.desc())).first()
        assert event.answer == second.as_json()
        assert Answer.of(event.before) == first


def test_answers_are_equal_if_one_class_was_merged_into_the_other(catalog):
    label(catalog, "ann", CAT)
    page = hand_out(catalog, "bob")
    with catalog.database.write() as session:
        session.get(LabelClass, 1).merged_into = 3
        session.get(LabelClass, 3).merged_into = 2
    answer(catalog, page, DOG)
    assert state(catalog, page) == [(Status.LABELED, [2], None)] * 4


def test_skipped_and_returned_second_labels_count_for_nothing_and_come_again_last(catalog):
    label(catalog, "ann", CAT)
    page = hand_out(catalog, "bob")
    answer(catalog, page, SKIPPED, SKIPPED)
    assert state(catalog, page) == [(Status.LABELED, [1], "ann")] * 4
    assert hand_out(catalog, "cem")["kind"] == PageKind.SECOND
    expire(catalog)
    kinds = []
    while (following := hand_out(catalog, "bob", 2)) is not None and len(kinds) < 30:
        kinds.append((following["kind"], set(following["ids"]) <= set(page["ids"][:2])))
        answer(catalog, following, CAT)
    assert kinds[0] == (PageKind.SECOND, False)
    assert kinds[-1] == (PageKind.SECOND, True)
    assert len(kinds) == 20


def test_a_second_label_shows_and_changes_nothing_that_the_model_has_said(catalog):
    with catalog.database.write() as session:
        session.get(Project, 1).model_help = "groups"
        session.add(Model(project_id=1, created_at=0, last_event=0, labels=9, threshold=None, message=""))
        session.flush()
        rows = {"project_id": 1, "model_id": 1, "cluster": 0, "predicted": [2], "confidence": 0.7}
        for number in range(1, COUNT + 1):
            session.add(Suggestion(image_id=number, distance=number, probable=[2], **rows))
    label(catalog, "ann", CAT)
    page = label(catalog, "bob", CAT)
    assert all(image["answer"] is None for image in page["images"])
    with catalog.database.read() as session:
        found = [session.get(Event, session.get(Image, number).event_id) for number in page["ids"]]
        assert [(e.predicted, e.confidence, e.model_id) for e in found] == [([2], 0.7, 1)] * 4
        assert session.get(Image, page["ids"][0]).differs


def test_two_people_at_once_never_have_the_same_second_label(catalog):
    for _ in range(2):
        answer(catalog, hand_out(catalog, "ann"), CAT)
    bob, cem = hand_out(catalog, "bob"), hand_out(catalog, "cem")
    assert bob["kind"] == cem["kind"] == PageKind.SECOND
    assert not set(bob["ids"]) & set(cem["ids"])


def test_an_expired_second_page_is_stale_once_somebody_else_has_answered(catalog):
    label(catalog, "ann", CAT)
    late = hand_out(catalog, "bob")
    expire(catalog)
    assert label(catalog, "cem", DOG)["kind"] == PageKind.SECOND
    with pytest.raises(StalePageError):
        answer(catalog, late, CAT)


def test_a_second_page_is_stale_once_the_first_label_is_gone(catalog):
    with catalog.database.write() as session:
        done = bulk.label(session, session.get(Project, 1), [1, 2, 3, 4], CAT, "ann")
    with catalog.database.write() as session:
        for image in session.scalars(select(Image).where(Image.id <= 4)):
            labels.give(session, image, Answer(Status.LABELED, (1,), first_person="ann"), "ann")
    late = hand_out(catalog, "bob")
    expire(catalog)
    with catalog.database.write() as session:
        bulk.reject(session, session.get(Project, 1), late["ids"], "blurred", "ann")
        for image in session.scalars(select(Image).where(Image.id <= 4)):
            image.page_token = late["token"]
    with pytest.raises(StalePageError):
        answer(catalog, late, CAT)
    assert done.changed == 4


def test_undoing_the_first_label_takes_it_out_of_the_queue_for_second_ones(catalog):
    page = label(catalog, "ann", CAT)
    again = undo(catalog, page)
    assert state(catalog, page) == [(Status.WAITING, [], None)] * 4
    answer(catalog, again, DOG)
    assert state(catalog, page) == [(Status.LABELED, [2], "ann")] * 4


def test_a_first_label_stays_while_somebody_has_its_image_open_or_has_answered(catalog):
    page = label(catalog, "ann", CAT)
    second = hand_out(catalog, "bob")
    assert undo(catalog, page) is None
    answer(catalog, second, CAT)
    assert undo(catalog, page) is None


@pytest.mark.parametrize("said", [CAT, DOG])
def test_undoing_a_second_label_lets_the_image_wait_for_it_again(catalog, said):
    label(catalog, "ann", CAT)
    page = label(catalog, "bob", said)
    again = undo(catalog, page)
    assert again["kind"] == PageKind.SECOND
    assert [image["answer"] for image in again["images"]] == [said.as_json()] * 4
    assert state(catalog, page) == [(Status.LABELED, [1], "ann")] * 4
    with catalog.database.read() as session:
        taken_back = set(session.scalars(select(Event.takes_back).where(Event.takes_back.is_not(None))))
        second = session.scalars(select(Event.id).where(Event.page_kind == PageKind.SECOND))
        assert taken_back == set(second)
    answer(catalog, again, DOG)
    assert state(catalog, page) == [(Status.DISPUTED, [], None)] * 4


def test_undo_brings_back_second_labels_that_were_skipped(catalog):
    label(catalog, "ann", CAT)
    page = hand_out(catalog, "bob")
    answer(catalog, page, SKIPPED)
    again = undo(catalog, page)
    assert sorted(again["ids"]) == sorted(page["ids"])
    answer(catalog, again, CAT)
    assert state(catalog, page) == [(Status.LABELED, [1], None)] * 4


def test_the_review_shows_both_answers_with_their_people_and_its_decision_is_the_label(catalog):
    page = disputed(catalog)
    decided = review(catalog)
    assert decided["kind"] == PageKind.REVIEW and sorted(decided["ids"]) == sorted(page["ids"])
    for image in decided["images"]:
        assert image["opinions"] == [
            {"person": "ann", "status": "labeled", "classes": [1]},
            {"person": "bob", "status": "labeled", "classes": [2]},
        ]
    answer(catalog, decided, DOG)
    assert state(catalog, page) == [(Status.LABELED, [2], None)] * 4
    assert review(catalog) is None


def test_the_review_shows_answers_of_merged_classes_as_present_ones(catalog):
    disputed(catalog)
    with catalog.database.write() as session:
        session.get(LabelClass, 1).merged_into = 3
    said = [[opinion["classes"] for opinion in image["opinions"]] for image in review(catalog)["images"]]
    assert said == [[[3], [2]]] * 4


def test_a_dispute_that_is_skipped_stays_and_comes_last(catalog):
    page = disputed(catalog)
    decided = review(catalog)
    answer(catalog, decided, SKIPPED, DOG)
    assert [found[0] for found in state(catalog, decided)].count(Status.DISPUTED) == 3
    following = review(catalog)
    assert decided["ids"][0] not in following["ids"]
    answer(catalog, following, DOG)
    assert review(catalog)["ids"] == decided["ids"][:1]
    assert len(page["ids"]) == 4


def test_undoing_a_decision_brings_the_dispute_back_with_its_answers(catalog):
    page = disputed(catalog)
    decided = review(catalog)
    answer(catalog, decided, CAT)
    again = undo(catalog, decided)
    assert again["kind"] == PageKind.REVIEW
    assert state(catalog, page) == [(Status.DISPUTED, [], None)] * 4
    assert all(image["answer"] == CAT.as_json() and len(image["opinions"]) == 2 for image in again["images"])


def test_a_dispute_that_was_labeled_elsewhere_cannot_be_decided_any_more(catalog):
    disputed(catalog)
    late = review(catalog)
    expire(catalog)
    with catalog.database.write() as session:
        bulk.label(session, session.get(Project, 1), late["ids"], CAT, "ann")
    with pytest.raises(StalePageError):
        answer(catalog, late, DOG)


@pytest.mark.parametrize("action", ["reject", "label", "confirm"])
def test_an_action_on_many_labels_ends_the_wait_for_a_second_one_and_its_undo_restores_it(catalog, action):
    page = label(catalog, "ann", CAT)
    with catalog.database.write() as session:
        project = session.get(Project, 1)
        done = {
            "reject": lambda: bulk.reject(session, project, page["ids"], "blurred", "eva"),
            "label": lambda: bulk.label(session, project, page["ids"], DOG, "eva"),
            "confirm": lambda: bulk.confirm(session, project, page["ids"], "eva"),
        }[action]()
    assert {found[2] for found in state(catalog, page)} == {None}
    undoing.undo(catalog.database, 1, done.batch, "eva")
    assert state(catalog, page) == [(Status.LABELED, [1], "ann")] * 4


def test_a_wrong_first_person_is_found_and_repaired_from_the_events(catalog):
    page = label(catalog, "ann", CAT)
    with catalog.database.write() as session:
        session.get(Image, page["ids"][0]).first_person = None
    with catalog.database.write() as session:
        assert labels.rebuild(session, 1) == 1
    assert state(catalog, page) == [(Status.LABELED, [1], "ann")] * 4


def test_a_share_beyond_all_images_is_refused(catalog):
    with pytest.raises(UserError), catalog.database.write() as session:
        project = session.get(Project, 1)
        projects.change(session, project, name="pets", second_share=1.01)
