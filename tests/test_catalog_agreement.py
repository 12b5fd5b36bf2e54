"""Agreement is measured as published, on the answers that people gave independently of each other."""

import csv
import io
import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from catalog_server import Catalog, folder_of
from conftest import outcome, petfaces
from people import add_person, sign_in

from catalog import agreement
from catalog.agreement import UNKNOWN, Pair
from catalog.store import agreement as answers
from catalog.store.tables import Image, LabelClass, Page, PageKind, Project, Role, Status

COUNT = 24
# The worked examples of Krippendorff (2011), sections A to C: the observers' values of each unit.
BINARY = ([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0])
NOMINAL = ([*"aabbdcccedda"], [*"babbbccceddd"])
MISSING = (
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
)


def reference_alpha(units):
    """Alpha for nominal data from coincidences, by the steps of the paper; any number of observers."""
    coincidences = Counter()
    for values in units:
        for one, other in itertools.permutations(values, 2):
            coincidences[one, other] += Fraction(1, len(values) - 1)
    totals = Counter()
    for (one, _other), count in coincidences.items():
        totals[one] += count
    total = sum(totals.values())
    observed = sum(count for (one, other), count in coincidences.items() if one != other)
    expected = sum(totals[one] * totals[other] for one, other in itertools.permutations(totals, 2))
    return float(1 - (total - 1) * observed / expected)


@pytest.mark.parametrize(("observers", "expected"), [(BINARY, 0.095), (NOMINAL, 0.692), (MISSING, 0.743)])
def test_the_reference_gives_the_published_values(observers, expected):
    units = [[value for value in unit if value is not None] for unit in zip(*observers, strict=True)]
    assert reference_alpha(units) == pytest.approx(expected, abs=0.0006)


def pairs_of(first, second):
    return [Pair(frozenset({a}), frozenset({b})) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize(("observers", "expected"), [(BINARY, 0.095), (NOMINAL, 0.692)])
def test_alpha_of_two_people_is_the_published_value(observers, expected):
    found = agreement.overall(pairs_of(*observers), [], has_several=False)
    assert found.alpha == pytest.approx(expected, abs=0.0006)
    assert found.alpha == pytest.approx(reference_alpha(zip(*observers, strict=True)))


def test_alpha_is_zero_by_chance_one_without_disagreement_and_undefined_without_difference():
    random = np.random.default_rng(0).integers(1, 4, (2, 20_000))
    assert agreement.overall(pairs_of(*random), [], False).alpha == pytest.approx(0, abs=0.02)
    assert agreement.overall(pairs_of([1, 2, 3], [1, 2, 3]), [], False).alpha == 1
    assert agreement.overall(pairs_of([1, 1], [1, 1]), [], False).alpha is None
    assert agreement.overall([], [], False) is None


def test_the_interval_covers_alpha_and_shrinks_with_more_images():
    widths = []
    for images in (100, 10_000):
        random = np.random.default_rng(1)
        first = random.integers(1, 6, images)
        second = np.where(random.random(images) < 0.8, first, random.integers(1, 6, images))
        found = agreement.overall(pairs_of(first, second), [], False)
        low, high = found.interval
        assert low < found.alpha < high and low < 0.8 < high
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.3)


def test_a_class_has_its_share_of_equal_answers_and_what_was_said_instead():
    pairs = [Pair(frozenset({1}), frozenset({1}), image_id=n) for n in range(6)]
    pairs += [Pair(frozenset({1}), frozenset({2}), image_id=10 + n) for n in range(2)]
    pairs += [Pair(frozenset({3}), frozenset({1}), image_id=20), Pair(None, frozenset({1}), image_id=30)]
    pairs += [Pair(None, None, image_id=n) for n in range(40, 43)]
    rows = {row.class_id: row for row in agreement.by_class(pairs, [1, 2, 3, 4], has_several=False)}
    assert set(rows) == {1, 2, 3, UNKNOWN}  # nobody has said 4
    assert rows[1].answers == 16 and rows[1].share == 12 / 16
    assert [(each.other, each.images) for each in rows[1].confusions] == [(2, 2), (UNKNOWN, 1), (3, 1)]
    assert rows[1].confusions[0].example == 11
    assert rows[2].share == 0 and rows[UNKNOWN].share == 6 / 7
    binary = [[1 in (pair.first or ()), 1 in (pair.second or ())] for pair in pairs]
    assert rows[1].alpha == pytest.approx(reference_alpha(binary))


def test_with_several_classes_each_is_a_question_of_its_own():
    pairs = [
        Pair(frozenset({1, 2}), frozenset({1})),
        Pair(frozenset({1}), frozenset({1})),
        Pair(frozenset(), frozenset({2})),
        Pair(frozenset({2}), frozenset({2})),
        Pair(None, frozenset({1})),  # says nothing about a class
    ]
    rows = {row.class_id: row for row in agreement.by_class(pairs, [1, 2], has_several=True)}
    judged = pairs[:4]
    for number in (1, 2):
        binary = [[number in pair.first, number in pair.second] for pair in judged]
        assert rows[number].alpha == pytest.approx(reference_alpha(binary))
    assert rows[1].share == 1 and rows[2].share == 0.5
    found = agreement.overall(pairs, [1, 2], has_several=True)
    assert found.equal == 2 and found.alpha == pytest.approx((rows[1].alpha + rows[2].alpha) / 2)


def test_two_people_are_one_pair_whoever_was_first():
    pairs = [Pair(frozenset({1}), frozenset({1}), ("ann", "bob"))] * 2
    pairs += [Pair(frozenset({1}), frozenset({2}), ("bob", "ann")), Pair(None, None, ("ann", "cem"))]
    rows = agreement.by_people(pairs, [1, 2], False)
    assert [(people, found.images, found.equal) for people, found in rows] == [
        (("ann", "bob"), 3, 2),
        (("ann", "cem"), 1, 1),
    ]


@pytest.fixture
def catalog(tmp_path, database_url):
    catalog = Catalog.create(tmp_path, database_url)
    images = folder_of(tmp_path / "images", COUNT)
    catalog.add_project(images, page_size=6, second_share=1.0)
    for name, role in (("ann", Role.ADMIN), ("bob", Role.LABELER), ("cem", Role.LABELER)):
        add_person(catalog, name, role)
    yield catalog
    catalog.database.close()


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield address


class Browser:
    """What a person does over HTTP."""

    def __init__(self, address, name):
        self.address, self._session = address, sign_in(address, name)

    def get(self, path, status=200):
        answer = self._session.get(f"{self.address}/{path}", headers={"Accept": "text/html"}, timeout=30)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path, status=200, **body):
        answer = self._session.post(f"{self.address}/api/{path}", json=body, timeout=30)
        assert answer.status_code == status, answer.text
        return answer.json()

    def open(self, queue="pages"):
        return self.post(f"projects/1/{queue}")

    def submit(self, page, *classes, status=200):
        """Gives the first images these classes; 0 is unknown."""
        given = {
            image["id"]: {"status": "labeled", "classes": [number]} if number else {"status": "unknown"}
            for image, number in zip(page["images"], classes, strict=False)
        }
        return self.post(f"pages/{page['token']}/submit", status, answers=given)


@pytest.fixture
def people(address):
    return {name: Browser(address, name) for name in ("ann", "bob", "cem")}


@pytest.fixture
def labeled(people):
    """Six images that ann has called cats, and bob twice cats, three times dogs and once unknown."""
    page = people["ann"].open()["page"]
    people["ann"].submit(page, *[1] * 6)
    second = people["bob"].open()["page"]
    assert second["kind"] == "second"
    people["bob"].submit(second, 1, 1, 2, 2, 2, 0)
    return second


def stored(catalog):
    with catalog.database.read() as session:
        return answers.pairs(session, session.get(Project, 1))


def test_a_second_page_shows_neither_the_first_label_nor_who_has_given_it(people):
    people["ann"].submit(people["ann"].open()["page"], *[1] * 6)
    second = people["bob"].open()["page"]
    assert second["kind"] == "second" and "ann" not in str(second)
    for image in second["images"]:
        assert not image["opinions"]
        assert image["answer"] is image["suggested"] is image["confidence"] is image["reason"] is None


def test_both_answers_are_found_with_their_people(catalog, labeled):
    found = stored(catalog)
    assert {pair.people for pair in found} == {("ann", "bob")}
    assert [pair.first for pair in found] == [frozenset({1})] * 6
    said = [frozenset({1})] * 2 + [frozenset({2})] * 3 + [None]
    by_image = {pair.image_id: pair.second for pair in found}
    assert [by_image[image["id"]] for image in labeled["images"]] == said


def test_answers_that_were_taken_back_do_not_count(catalog, labeled, people):
    again = people["bob"].post(f"pages/{labeled['token']}/undo")["page"]
    assert stored(catalog) == []
    people["bob"].submit(again, *[1] * 6)
    assert [pair.second for pair in stored(catalog)] == [frozenset({1})] * 6


def test_a_decision_changes_no_answer(catalog, labeled, people):
    before = stored(catalog)
    people["ann"].submit(people["ann"].open("review")["page"], *[2] * 4)
    assert stored(catalog) == before


def test_verify_finds_and_repairs_who_was_first(catalog, people, capsys):
    page = people["ann"].open()["page"]
    people["ann"].submit(page, *[1] * 6)
    number = page["images"][0]["id"]
    with catalog.database.write() as session:
        session.get(Image, number).first_person = "eve"
    folder, url = str(catalog.library.folder), catalog.library.database_url
    command = ("catalog", "--folder", folder, "--database", url, "verify")
    assert outcome(lambda: petfaces(*command)) not in (0, None)
    petfaces(*command, "--repair")
    with catalog.database.read() as session:
        assert session.get(Image, number).first_person == "ann"


def test_merged_classes_are_one(catalog, labeled):
    with catalog.database.write() as session:
        session.get(LabelClass, 1).merged_into = 2
    assert sum(pair.first == pair.second for pair in stored(catalog)) == 5


def test_the_page_shows_the_figures(labeled, people):
    text = " ".join(people["ann"].get("projects/1/agreement").split())
    assert "<dt>equal answers</dt><dd>33.3" in text
    assert "ann · bob" in text
    assert 'href="/projects/1/data?label=1&amp;kind=second">cat</a>' in text
    assert "Decide about 4 disputed images" in text
    assert "Decide about 4 disputed images" in people["ann"].get("projects/1/status")


def test_without_two_answers_the_page_says_what_to_do(catalog, people):
    assert "In this project 100" in people["ann"].get("projects/1/agreement")
    with catalog.database.write() as session:
        session.get(Project, 1).second_share = 0.0
    assert "In the settings you choose" in people["ann"].get("projects/1/agreement")


def test_all_pairs_come_as_csv(labeled, people):
    rows = list(csv.DictReader(io.StringIO(people["ann"].get("projects/1/agreement.csv"))))
    assert [row["sha256"] for row in rows] == sorted(row["sha256"] for row in rows)
    assert {(row["first_person"], row["second_person"]) for row in rows} == {("ann", "bob")}
    assert sorted((row["equal"], row["second_status"], row["second_classes"]) for row in rows) == [
        *[("no", "labeled", "dog")] * 3,
        ("no", "unknown", ""),
        *[("yes", "labeled", "cat")] * 2,
    ]
    assert {row["label_status"] for row in rows if row["equal"] == "no"} == {"disputed"}


def test_a_review_shows_both_answers_and_decides(catalog, labeled, people):
    page = people["ann"].open("review")["page"]
    assert page["kind"] == "review" and len(page["images"]) == 4
    said = {opinion["person"]: opinion for opinion in page["images"][0]["opinions"]}
    assert said["ann"]["classes"] == [1] and "bob" in said
    assert people["ann"].post("projects/1/review", token=page["token"])["page"] == page  # after a reload
    people["ann"].submit(page, *[2] * 4)
    with catalog.database.read() as session:
        decided = [session.get(Image, image["id"]) for image in page["images"]]
        assert {(image.status, *image.classes, image.origin) for image in decided} == {
            (Status.LABELED, 2, PageKind.REVIEW)
        }
    end = people["ann"].open("review")
    assert end["page"] is None and end["message"] == "No image is disputed." and not end["may_come"]


def test_the_label_page_does_not_take_over_a_page_of_the_review(labeled, people):
    page = people["ann"].open("review")["page"]
    other = people["ann"].post("projects/1/pages", token=page["token"])["page"]
    assert other["kind"] == "manual"
    assert people["ann"].post("projects/1/review", token=other["token"])["page"] is None


def test_labelers_reach_neither_the_review_nor_the_agreement(catalog, labeled, people):
    for path in ("review", "agreement", "agreement.csv"):
        people["bob"].get(f"projects/1/{path}", status=403)
    people["bob"].post("projects/1/review", status=403)
    page = people["ann"].open("review")["page"]
    with catalog.database.write() as session:  # as if an admin had become a labeler meanwhile
        session.get(Page, page["token"]).person = "bob"
    people["bob"].submit(page, *[1] * 4, status=404)


def test_whoever_is_alone_is_told_how_many_labels_wait_for_another_person(people):
    for _number in range(COUNT // 6):
        people["ann"].submit(people["ann"].open()["page"], *[1] * 6)
    end = people["ann"].open()
    assert end["page"] is None and not end["may_come"]
    assert end["message"] == (
        f"All images are labeled. {COUNT} of your labels wait for the label of another person."
    )
    held = people["bob"].open()["page"]
    assert held["kind"] == "second"
    for _number in range(COUNT // 6 - 1):
        people["cem"].submit(people["cem"].open()["page"], *[1] * 6)
    end = people["cem"].open()  # bob may give his back
    assert end["page"] is None and end["may_come"]


def test_the_share_is_set_in_the_settings(catalog, people, address):
    browser = people["ann"]
    assert 'name="second_percent" type="number" min="0" max="100" step="any" value="100"' in browser.get(
        "projects/1/settings"
    )
    form = {"name": "pets", "second_percent": 12.5, "page_size": 6}
    headers = {"Accept": "text/html"}
    url = f"{address}/projects/1/settings"
    assert browser._session.post(url, data=form, headers=headers, timeout=30).ok
    with catalog.database.read() as session:
        assert session.get(Project, 1).second_share == 0.125
    refused = browser._session.post(url, data={**form, "second_percent": 101}, headers=headers, timeout=30)
    assert refused.status_code == 422 and "from 0 to 100" in refused.text


def test_exports_leave_disputed_images_out_and_have_those_that_wait_for_a_second_label(labeled, people):
    people["ann"].submit(people["ann"].open()["page"], *[3] * 6)
    rows = list(csv.DictReader(io.StringIO(people["ann"].get("projects/1/export/labels.csv"))))
    assert sorted(row["labels"] for row in rows) == ["cat"] * 2 + ["rabbit"] * 6
