"""The map shows similar images together, stays as it is when images join, and labels groups in one action."""

import json

import numpy as np
import pytest
import requests
from catalog_server import Catalog, picture
from PIL import Image as PillowImage
from sqlalchemy import select

from catalog import maps
from catalog.feature_store import FeatureStore
from catalog.helper import features, mapping
from catalog.store import jobs, labels, projects, suggestions
from catalog.store import maps as stored
from catalog.store.tables import Action, Event, Image, Job, JobState, Page, Status
from catalog.sweep import sweep
from pipeline.common.errors import UserError

COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "rabbit": (30, 30, 200)}


class Colours:
    """Stands in for the backbone: an image's feature is its small picture."""

    def prepare(self, file):
        with PillowImage.open(file) as image:
            return np.asarray(image.convert("RGB").resize((4, 4)))

    def __call__(self, pictures):
        return pictures.reshape(len(pictures), -1).astype(np.float32)


def paint(folder, names, numbers, seed=0):
    """Writes images in the colours of the names."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for name in names:
        for number in numbers:
            pixels = np.clip(rng.normal(COLOURS[name], 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            PillowImage.fromarray(pixels).save(folder / f"{name}-{number}.png")


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """A project of 60 images of three colours."""
    store = FeatureStore(tmp_path / "features")
    monkeypatch.setattr(features, "imagenet_backbone", lambda _: (store, Colours()))
    monkeypatch.setattr(mapping, "ITERATIONS", (100, 200))
    paint(tmp_path / "images", COLOURS, range(20))
    catalog = Catalog.create(tmp_path)
    catalog.add_project(tmp_path / "images", test_fraction=0.1)
    return catalog


@pytest.fixture
def address(catalog):
    with catalog.served() as address:
        yield f"{address}/api/projects/1"


def draw(catalog, kind=jobs.Kind.MAP):
    """Does a job, and returns the map."""
    with catalog.database.write() as session:
        jobs.request(session, 1, kind)
    catalog.finish_jobs()
    return maps.load(catalog.library.map(1), with_fit=True)


def job(catalog):
    with catalog.database.read() as session:
        found = jobs.newest(session, 1, jobs.Kind.MAP)
        return found.state, found.message


def names_of(catalog):
    """The colour of each image by id."""
    with catalog.database.read() as session:
        query = select(Image.id, Image.path)
        return {number: path.split("/")[-1].split("-")[0] for number, path in session.execute(query)}


def coloring(address, version, what, kind="<u2"):
    """What each image is shown as, by its place on the map."""
    content = requests.get(f"{address}/map/{version}/{what}", timeout=30).content
    length = int.from_bytes(content[:4], "little")
    values = json.loads(content[4 : 4 + length])
    return [values[code] for code in np.frombuffer(content[4 + length :], kind)]


def test_similar_images_lie_together_and_the_same_images_give_the_same_map(catalog):
    first = draw(catalog)
    names = names_of(catalog)
    own = np.array([names[number] for number in first.ids.tolist()])
    apart = np.linalg.norm(first.positions[:, None] - first.positions[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (own[apart.argmin(axis=1)] == own).mean() > 0.9
    assert np.abs(first.positions).max() == pytest.approx(1, abs=1e-5)
    assert job(catalog) == (JobState.DONE, "a map of 60 images")
    catalog.library.map(1).unlink()
    assert draw(catalog).version == first.version


def test_principal_components_are_shown_before_the_map_is_arranged(catalog, monkeypatch):
    seen = []

    def arrange(components, report):
        seen.append(maps.load(catalog.library.map(1)))
        return ARRANGE(components, report)

    ARRANGE = mapping.arrange
    monkeypatch.setattr(mapping, "arrange", arrange)
    arranged = draw(catalog)
    assert len(seen[0].ids) == 60 and seen[0].fit is None
    assert seen[0].version != arranged.version and arranged.fit is not None


def test_an_interrupted_map_is_arranged_the_next_time(catalog, monkeypatch):
    def fails(*_):
        raise UserError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "arrange", fails)
        assert draw(catalog).fit is None
    assert job(catalog) == (JobState.FAILED, "no power")
    assert draw(catalog).fit is not None


def test_images_that_join_move_no_other_and_lie_among_their_like(catalog, tmp_path):
    before = draw(catalog)
    paint(tmp_path / "images", ["dog"], range(100, 108), seed=1)
    after = draw(catalog, jobs.Kind.READ)
    after = draw(catalog)
    assert np.array_equal(after.ids[:60], before.ids) and len(after.ids) == 68
    assert np.array_equal(after.positions[:60], before.positions)
    assert (after.placed, after.version != before.version) == (8, True)
    names = names_of(catalog)
    dogs = np.array([names[number] == "dog" for number in before.ids.tolist()])
    apart = np.linalg.norm(after.positions[60:, None] - after.positions[None, :60], axis=2)
    assert dogs[apart.argmin(axis=1)].all()


def test_a_placed_image_lies_where_it_does_when_others_are_placed_with_it(catalog):
    fit = draw(catalog).fit
    placing = mapping.Placing(fit.components, fit.positions)
    others = fit.components[:6] + 1e-3
    assert np.allclose(placing(others)[:2], placing(others[:2]), atol=1e-6)


def test_a_map_that_has_grown_by_a_third_is_arranged_anew(catalog, tmp_path):
    draw(catalog)
    paint(tmp_path / "images", COLOURS, range(100, 107), seed=1)
    draw(catalog, jobs.Kind.READ)
    after = draw(catalog)
    assert (len(after.ids), len(after.fit.positions), after.placed) == (81, 81, 0)


def test_images_beyond_the_sample_are_placed(catalog, monkeypatch):
    monkeypatch.setattr(mapping, "SAMPLE", 40)
    monkeypatch.setattr(mapping, "CHUNK", 7)
    found = draw(catalog)
    assert (len(found.ids), len(found.fit.positions)) == (60, 40)
    assert np.isfinite(found.positions).all() and np.abs(found.positions).max() <= 1.0001


def test_images_without_a_file_are_left_out(catalog):
    with catalog.database.read() as session:
        lost = session.scalars(select(Image).limit(3)).all()
    for image in lost:
        catalog.library.image(image.sha256, image.suffix).unlink()
    found = draw(catalog)
    assert not {image.id for image in lost} & set(found.ids.tolist()) and len(found.ids) == 57


def test_too_few_images_are_said_in_one_sentence(tmp_path, monkeypatch):
    catalog = Catalog.create(tmp_path)
    paint(tmp_path / "few", ["cat"], range(4))
    catalog.add_project(tmp_path / "few")
    assert draw(catalog) is None
    assert job(catalog)[1] == "a map needs at least 10 images that can be read; there are 4"
    with catalog.served() as address:
        state = requests.post(f"{address}/api/projects/1/map", json={}, timeout=30).json()
    assert state["message"] == "a map needs at least 10 images that can be read; there are 4"


def test_the_page_has_a_strict_policy_and_is_linked_from_the_project(catalog):
    with catalog.served() as address:
        answer = requests.get(f"{address}/projects/1/map", timeout=30)
        assert 'href="/projects/1/map"' in requests.get(f"{address}/projects/1", timeout=30).text
        assert requests.get(f"{address}/projects/9/map", timeout=30).status_code == 404
    assert answer.status_code == 200 and "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script>" not in answer.text and "style=" not in answer.text and "onclick" not in answer.text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a zip"])
def test_a_damaged_map_is_drawn_anew(catalog, address, content):
    version = draw(catalog).version
    catalog.library.map(1).write_bytes(content)
    assert requests.get(f"{address}/map", timeout=30).json()["version"] == ""
    assert draw(catalog).version == version


def map_jobs(catalog) -> set[int]:
    with catalog.database.read() as session:
        return set(session.scalars(select(Job.id).where(Job.kind == "map")))


def test_the_page_asks_once_for_a_map_and_for_a_new_one_when_images_join(catalog, address, tmp_path):
    for _ in range(2):
        state = requests.post(f"{address}/map", json={}, timeout=30).json()
        assert (state["version"], state["work"]["state"]) == ("", "waiting")
    first = map_jobs(catalog)
    catalog.finish_jobs()
    state = requests.post(f"{address}/map", json={}, timeout=30).json()
    assert (state["points"], state["is_current"], state["is_arranged"]) == (60, True, True)
    assert map_jobs(catalog) == first and len(first) == 1
    paint(tmp_path / "images", ["cat"], [500], seed=1)
    draw(catalog, jobs.Kind.READ)
    state = requests.post(f"{address}/map", json={}, timeout=30).json()
    assert (state["is_current"], state["work"]["state"]) == (False, "waiting")
    assert len(map_jobs(catalog) - first) == 1
    catalog.finish_jobs()
    requests.post(f"{address}/map", json={"anew": True}, timeout=30)
    catalog.finish_jobs()
    assert maps.load(catalog.library.map(1)).placed == 0


def test_positions_come_as_arrays_of_one_version(catalog, address):
    found = draw(catalog)
    answer = requests.get(f"{address}/map/{found.version}/points", timeout=30)
    assert "immutable" in answer.headers["cache-control"]
    ids = np.frombuffer(answer.content[: 60 * 8], "<f8")
    assert np.array_equal(ids, found.ids)
    assert np.array_equal(np.frombuffer(answer.content[480:], "<f4").reshape(-1, 2), found.positions)
    assert requests.get(f"{address}/map/older/points", timeout=30).status_code == 404
    assert requests.get(f"{address}/map/older/labels", timeout=30).status_code == 404


def test_colours_are_those_of_labels_predictions_and_people_and_tests_have_no_prediction(catalog, address):
    found = draw(catalog)
    with catalog.database.write() as session:
        images = {image.id: image for image in session.scalars(select(Image))}
        labeled, unknown, waiting, bare = [number for number in images if not images[number].is_test][:4]
        test = next(number for number, image in images.items() if image.is_test)
        labels.give(session, images[labeled], labels.Answer(Status.LABELED, (2,)), "Ann")
        session.get(Event, images[labeled].event_id).predicted = [3]
        labels.give(session, images[unknown], labels.Answer(Status.UNKNOWN), "Bob")
        labels.give(session, images[test], labels.Answer(Status.LABELED, (1,)), "Bob")
        session.get(Event, images[test].event_id).predicted = [3]
    rows = [
        {"image_id": number, "cluster": 0, "distance": 0.0, "confidence": 0.5, "probable": [], "predicted": p}
        for number, p in ((waiting, [1]), (bare, None))
    ]
    suggestions.add_model(catalog.database, 1, 0, 1, None, "", "", rows)
    at = {number: position for position, number in enumerate(found.ids.tolist())}
    shown = coloring(address, found.version, "labels")
    assert shown[at[labeled]] == {"status": "labeled", "classes": [2], "is_test": False}
    assert shown[at[unknown]] == {"status": "unknown", "classes": [], "is_test": False}
    assert shown[at[test]] == {"status": "labeled", "classes": [1], "is_test": True}
    assert sum(each["status"] == "waiting" for each in shown) == 57
    predicted = coloring(address, found.version, "predictions")
    assert (predicted[at[labeled]], predicted[at[waiting]]) == ({"classes": [3]}, {"classes": [1]})
    assert sum(each is not None for each in predicted) == 2
    people = coloring(address, found.version, "people")
    assert (people[at[labeled]], people[at[unknown]]) == ({"person": "Ann"}, {"person": "Bob"})
    assert sum(each is not None for each in people) == 3


def test_a_group_is_labeled_in_one_action_and_undone(catalog, address):
    with catalog.database.write() as session:
        everything = session.scalars(select(Image).order_by(Image.id)).all()
        tests = [image.id for image in everything if image.is_test]
        first, second, *rest = [image for image in everything if not image.is_test]
        labels.give(session, first, labels.Answer(Status.LABELED, (1,)), "Ann")
        page = Page(token="x", project_id=1, kind="manual", person="a", images=[], keys=[], created_at=0)
        session.add(page)
        second.page_token, second.leased_until = "x", 1e12
        ids = [image.id for image in everything]
        count = len(rest)
    assert tests
    answer = requests.post(f"{address}/map/label", json={"ids": ids, "classes": [2]}, timeout=30).json()
    assert (answer["changed"], answer["held"], answer["tests"]) == (count + 1, 1, len(tests))
    with catalog.database.read() as session:
        assert projects.counts(session, 1)[Status.LABELED] == count + 1
        events = session.scalars(select(Event).where(Event.batch == answer["batch"])).all()
        assert {event.action for event in events} == {Action.GROUP} and len(events) == count + 1
    with catalog.database.write() as session:
        labels.give(session, session.get(Image, ids[-1]), labels.Answer(Status.UNKNOWN), "Bob")
    is_test = ids[-1] in tests
    undone = requests.post(f"{address}/undo/{answer['batch']}", timeout=30).json()
    assert undone == {"undone": count + is_test, "kept": 1 - is_test}
    with catalog.database.read() as session:
        kept = session.scalars(select(Image).where(Image.status == Status.LABELED)).all()
        assert [(image.classes, image.is_test) for image in kept] == [([1], False)]
        assert list(labels.differences(session, 1)) == []
    assert requests.post(f"{address}/undo/nothing", timeout=30).status_code == 404


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"ids": [1], "classes": [99]}, "there is no class 99"),
        ({"ids": [1], "classes": [1, 2]}, "one class per image"),
        ({"ids": [1], "classes": []}, "one class per image"),
        ({"ids": [], "classes": [1]}, "ids"),
        ({"ids": list(range(10_001)), "classes": [1]}, "ids"),
    ],
)
def test_a_group_that_cannot_be_labeled_is_refused(catalog, address, body, message):
    answer = requests.post(f"{address}/map/label", json=body, timeout=30)
    assert answer.status_code == 422 and message in answer.json()["detail"]
    with catalog.database.read() as session:
        assert session.scalar(select(Event).limit(1)) is None


def test_a_group_that_was_labeled_meanwhile_keeps_its_labels(catalog, address):
    version = draw(catalog).version
    seen = int(requests.get(f"{address}/map/{version}/labels", timeout=30).headers["Last-Event"])
    with catalog.database.write() as session:
        images = session.scalars(select(Image).where(~Image.is_test).limit(3)).all()
        labels.give(session, images[0], labels.Answer(Status.LABELED, (1,)), "Ann")
        ids = [image.id for image in images]
    body = {"ids": ids, "seen": seen, "classes": [2]}
    done = requests.post(f"{address}/map/label", json=body, timeout=30).json()
    assert (done["changed"], done["newer"]) == (2, 1)
    with catalog.database.read() as session:
        assert [session.get(Image, number).classes for number in ids] == [[1], [2], [2]]


def test_each_of_very_many_combinations_of_labels_has_its_colour(catalog, address, monkeypatch):
    from catalog.web import maps as pages

    version = draw(catalog).version
    with catalog.database.write() as session:
        for number, image in enumerate(session.scalars(select(Image)).all()):
            labels.give(session, image, labels.Answer(Status.LABELED, (1 + number % 3,)), "Ann")
    whole = coloring(address, version, "labels")
    monkeypatch.setattr(pages, "MAX_CODES", 3)
    assert coloring(address, version, "labels", kind="<u4") == whole


def test_a_map_stays_until_all_are_arranged_again(catalog, address, monkeypatch):
    before = draw(catalog)
    ask = {"json": {"anew": True}, "timeout": 30}
    assert requests.post(f"{address}/map", **ask).json()["version"] == before.version

    def fails(*_):
        assert maps.load(catalog.library.map(1)).version == before.version
        raise UserError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "arrange", fails)
        catalog.finish_jobs()
    assert job(catalog) == (JobState.FAILED, "no power")
    assert maps.load(catalog.library.map(1)).version == before.version
    arranged = []
    arrange = mapping.arrange

    def asks_again(components, report):
        arranged.append(len(components))
        if len(arranged) == 1:
            requests.post(f"{address}/map", **ask)  # while the map is being arranged
        return arrange(components, report)

    monkeypatch.setattr(mapping, "arrange", asks_again)
    requests.post(f"{address}/map", json={}, timeout=30)  # Try again
    catalog.finish_jobs()
    assert arranged == [60, 60]
    assert requests.post(f"{address}/map", json={}, timeout=30).json()["work"]["state"] == "done"


def test_admins_label_groups_of_a_paused_project_whose_map_is_not_drawn(catalog, address):
    with catalog.database.write() as session:
        catalog.project(session).paused = True
        ids = list(session.scalars(select(Image.id).where(~Image.is_test).limit(1)))
    answer = requests.post(f"{address}/map/label", json={"ids": ids, "classes": [1]}, timeout=30)
    assert answer.json()["changed"] == 1
    state = requests.post(f"{address}/map", json={}, timeout=30).json()
    assert "is paused" in state["message"] and state["work"] is None


def test_several_classes_are_given_to_a_group(catalog, tmp_path):
    (tmp_path / "several").mkdir()
    for number in range(3):
        (tmp_path / "several" / f"{number}.png").write_bytes(picture(number))
    catalog.add_project(tmp_path / "several", name="several", task="multi_label", classes=("a", "b", "c"))
    with catalog.database.read() as session:
        ids = list(session.scalars(select(Image.id).where(Image.project_id == 2)))
        classes = [found.id for found in projects.classes(session, 2)]
    with catalog.served() as address:
        body = {"ids": ids, "classes": classes[:2]}
        requests.post(f"{address}/api/projects/2/map/label", json=body, timeout=30).raise_for_status()
    with catalog.database.read() as session:
        values = [group.value for group in stored.labels(session, 2)]
    assert values == [{"status": "labeled", "classes": classes[:2], "is_test": False}]


def test_the_map_of_a_deleted_project_is_deleted(catalog, monkeypatch):
    draw(catalog)
    gone = catalog.library.map(9)
    catalog.library.map(1).rename(gone)
    draw(catalog)
    part = catalog.library.map(1).with_name(".1.npz.0.part")
    part.touch()
    monkeypatch.setattr("catalog.sweep.time.time", lambda: 1e12)
    sweep(catalog.database, catalog.library)
    assert not gone.exists() and not part.exists() and catalog.library.map(1).is_file()
    catalog.library.erase_project(1)
    assert not catalog.library.map(1).exists()
