"""Suggestions are grouped, trained on people's labels alone, and filled in only where they proved right."""

from types import SimpleNamespace

import numpy as np
import pytest
import requests
from catalog_server import Catalog, open_page, submit
from PIL import Image as PillowImage
from sqlalchemy import select

from catalog import champions
from catalog.champions import Champion
from catalog.feature_store import FeatureStore
from catalog.helper import evidence, features, suggest
from catalog.helper.evidence import Checked
from catalog.helper.grouping import by_prediction, by_similarity
from catalog.helper.heads import MultiLabelHead, SingleLabelHead
from catalog.store import jobs, projects, suggestions
from catalog.store.tables import Event, Help, Image, Job, JobState, PageKind, Suggestion
from pipeline import tracking
from pipeline.common.errors import UserError
from pipeline.tracking.store import client

pytestmark = pytest.mark.integration  # they compute features and train heads

LOG_RUN = suggest._log_run
COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "rabbit": (30, 30, 200)}


class Colours:
    """Stands in for the backbone: an image's feature is its mean colour."""

    def prepare(self, file):
        with PillowImage.open(file) as image:
            return np.asarray(image.convert("RGB").resize((8, 8)))

    def __call__(self, pictures):
        return pictures.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """180 images of three colours."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    for name, colour in COLOURS.items():
        for number in range(60):
            pixels = np.clip(rng.normal(colour, 25, (8, 8, 3)) + rng.normal(0, 12, 3), 0, 255)
            PillowImage.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}-{number}.png")
    return folder


@pytest.fixture
def catalog(images, tmp_path, monkeypatch):
    """A project of images of three colours, each of which is a class."""
    store = FeatureStore(tmp_path / "features")
    monkeypatch.setattr(features, "imagenet_backbone", lambda _: (store, Colours()))
    monkeypatch.setattr(suggest, "_log_run", lambda *_: None)
    catalog = Catalog.create(tmp_path)
    catalog.add_project(images, model_help=Help.SUGGESTIONS, test_fraction=0.1)
    return catalog


def truth(catalog):
    with catalog.database.read() as session:
        ids = {"cat": 1, "dog": 2, "rabbit": 3}
        return {image.id: ids[image.path.split("-")[0]] for image in session.scalars(select(Image))}


def label(address, page, true):
    """Submits the true classes of a page."""
    for class_id in set(true.values()):
        images = [image for image in page["images"] if true[image["id"]] == class_id]
        if images and len(images) == len(page["images"]):
            return submit(address, page, class_id)
    answers = {image["id"]: {"status": "labeled", "classes": [true[image["id"]]]} for image in page["images"]}
    return requests.post(f"{address}/api/pages/{page['token']}/submit", json={"answers": answers}, timeout=30)


def test_labels_of_people_lead_to_suggestions_that_are_right(catalog):
    true, kinds, right = truth(catalog), [], []
    with catalog.served() as address:
        while (page := open_page(address)) is not None:
            kinds.append(page["kind"])
            if page["kind"] == PageKind.PRELABELED:
                right += [image["suggested"] == [true[image["id"]]] for image in page["images"]]
                assert all(0 < image["confidence"] <= 1 for image in page["images"])
            assert label(address, page, true).status_code == 200
            catalog.finish_jobs()
    with catalog.database.read() as session:  # the last ones had no image left to predict
        states = list(session.scalars(select(Job.state).where(Job.kind == jobs.Kind.SUGGEST)))
    assert states and set(states) == {JobState.DONE}
    assert PageKind.CLUSTER in kinds and PageKind.PRELABELED in kinds
    assert len(right) > 30 and np.mean(right) >= 0.9
    with catalog.database.read() as session:
        by_model = [event for event in session.scalars(select(Event)) if event.predicted is not None]
        assert by_model and all(event.model_id and event.confidence is not None for event in by_model)
        query = select(Event).join(Image, Image.id == Event.image_id).where(Image.is_test)
        tests = list(session.scalars(query))
        assert tests and all(event.predicted is None for event in tests)


@pytest.fixture
def mlflow_store(tmp_path, monkeypatch):
    """A store of its own: that of the copied project may be replaced while this process has it open."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(suggest, "_log_run", LOG_RUN)
    client.cache_clear()
    yield
    client.cache_clear()


def test_each_computation_is_a_run_in_mlflow_that_names_the_last_label(catalog, mlflow_store):
    with catalog.served() as address:
        submit(address, open_page(address), 1)
    with catalog.database.write() as session:
        jobs.request(session, 1, jobs.Kind.SUGGEST)
    catalog.finish_jobs()
    with catalog.database.read() as session:
        model = suggestions.newest(session, 1)
        last = suggestions.last_event(session, 1)
    run = client().get_run(model.run_path.rpartition("/")[2])
    assert run.info.status == "FINISHED"
    assert run.data.tags["last_label_event"] == str(last)
    assert {"seconds/features", "seconds/training", "images/labeled"} <= run.data.metrics.keys()


def test_labeling_needs_no_mlflow(catalog, monkeypatch):
    def unreachable(*_, **__):
        raise UserError("the tracking server does not answer")

    monkeypatch.setattr(suggest, "_log_run", LOG_RUN)
    monkeypatch.setattr(tracking, "log_work", unreachable)
    with catalog.database.write() as session:
        jobs.request(session, 1, jobs.Kind.SUGGEST)
    catalog.finish_jobs()
    with catalog.database.read() as session:
        assert jobs.latest(session, 1)["suggest"].state == "done"
        assert suggestions.newest(session, 1).run_path is None


def test_pages_of_similar_images_come_before_any_label(catalog):
    true = truth(catalog)
    with catalog.served() as address:
        pages = [open_page(address) for _ in range(6)]
    clusters = [page for page in pages if page["kind"] == PageKind.CLUSTER]
    assert len(clusters) >= 3
    for page in clusters:
        assert len({true[image["id"]] for image in page["images"]}) == 1


def test_a_suggestion_is_no_label(catalog):
    true = truth(catalog)
    with catalog.served() as address:
        for _ in range(8):
            label(address, open_page(address), true)
            catalog.finish_jobs()
    with catalog.database.read() as session:
        suggested = set(session.scalars(select(Suggestion.image_id).where(Suggestion.confidence > 0)))
        labeled = set(session.scalars(select(Event.image_id)))
        waiting = set(session.scalars(select(Image.id).where(Image.status == "waiting")))
    assert suggested and suggested <= waiting and not suggested & labeled


def test_the_helper_trains_again_after_a_page_of_labels(catalog):
    true = truth(catalog)
    with catalog.database.read() as session:
        first = suggestions.newest(session, 1).id
        assert not suggestions.is_due(session, 1)
    with catalog.served() as address:
        for _ in range(2):
            label(address, open_page(address), true)
    with catalog.database.read() as session:
        assert suggestions.is_due(session, 1)
    catalog.finish_jobs()
    with catalog.database.read() as session:
        newest = suggestions.newest(session, 1)
        assert newest.id > first
        assert newest.last_event == suggestions.last_event(session, 1)


def test_a_failed_training_is_shown_and_labeling_goes_on(catalog, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(suggest, "suggest", fail)
    with catalog.database.write() as session:
        jobs.request(session, 1, jobs.Kind.SUGGEST)
    catalog.finish_jobs()
    with catalog.database.read() as session:
        job = jobs.latest(session, 1)["suggest"]
    assert (job.state, job.message) == ("failed", "RuntimeError: no memory left")
    with catalog.served() as address:
        assert submit(address, open_page(address), 1).status_code == 200


NOBODY = np.array([])


def test_the_threshold_is_the_lowest_with_the_precision():
    sure = [Checked(0.9, True)] * 100
    assert evidence.threshold(sure + [Checked(0.5, False)] * 100, NOBODY, 0.9) == 0.9
    assert evidence.threshold(sure + [Checked(0.5, True)] * 100, NOBODY, 0.9) == 0.5
    assert evidence.threshold([Checked(0.9, False)] * 100, NOBODY, 0.9) is None


def test_too_little_evidence_gives_no_threshold():
    checked = [Checked(0.99, True)] * (evidence.MIN_CHECKED - 1)
    assert evidence.threshold(checked, NOBODY, 0.9) is None


def test_easy_images_that_are_labeled_already_do_not_lower_the_threshold():
    """Of the images that wait, the predictions must be right, not of all that people have checked."""
    easy, hard = [Checked(0.99, True)] * 400, [Checked(0.6, True), Checked(0.6, False)] * 20
    waiting = np.full(100, 0.6)
    assert evidence.threshold(easy + hard, np.full(100, 0.99), 0.9) < 0.99
    assert evidence.threshold(easy + hard, waiting, 0.9) == 0.99


def test_a_model_is_better_only_if_the_difference_is_significant():
    ones, right = np.ones(100), np.arange(100) < 80
    assert evidence.is_better(np.arange(100) < 90, right, ones)
    assert not evidence.is_better(np.arange(100) < 82, right, ones)
    assert not evidence.is_better(right, np.arange(100) < 90, ones)
    assert not evidence.is_better(np.ones(39, bool), np.zeros(39, bool), np.ones(39))


def test_labels_of_rarely_checked_images_weigh_more():
    first, second = np.arange(100) < 70, np.arange(100) >= 60  # right on 70 and on 40
    assert evidence.is_better(first, second, np.ones(100))
    assert not evidence.is_better(first, second, np.where(np.arange(100) < 60, 1, 8))


def test_the_lower_bound_grows_with_the_evidence():
    lower = [evidence.lower_bound(9 * count // 10, count) for count in (40, 100, 1000)]
    assert max(lower) < 0.9 and lower == sorted(lower)


class ColourChampion:
    """Stands in for a champion: it names the colour, or always the first class if it is useless."""

    def __init__(self, useless=False):
        classes = ["dog", "cat", "rabbit", "horse"]
        self.card = SimpleNamespace(classes=classes, task="single_label", several=False)
        self._useless = useless

    def prepare(self, file):
        red, green, blue = np.array(Colours().prepare(file), float).mean(axis=(0, 1))
        scores = np.array([green, red, blue, 0]) if not self._useless else np.array([200, 0, 0, 0])
        return (scores**4 / (scores**4).sum()).astype(np.float32)

    def __call__(self, probabilities):
        return probabilities


def adopt(catalog, monkeypatch, tmp_path, network, trained_on=()):
    """Makes `network` the champion of the project."""
    champion = Champion("labels-1", tmp_path / "champion", frozenset(trained_on))
    store = FeatureStore(tmp_path / "champion-features")
    monkeypatch.setattr(champions, "load", lambda *_: champion)
    monkeypatch.setattr(features, "of_champion", lambda *_: (store, network))
    with catalog.database.write() as session:
        projects.use_champion(session, catalog.project(session), champion.name)
    catalog.finish_jobs()


def test_a_champion_predicts_before_there_is_any_label(catalog, monkeypatch, tmp_path):
    adopt(catalog, monkeypatch, tmp_path, ColourChampion())
    true = truth(catalog)
    with catalog.database.read() as session:
        assert suggestions.newest(session, 1).champion == "labels-1"
        predicted = {each.image_id: each.predicted for each in session.scalars(select(Suggestion))}
        tests = set(session.scalars(select(Image.id).where(Image.is_test)))
    assert predicted.keys() == true.keys() - tests
    assert all(classes == [true[image_id]] for image_id, classes in predicted.items())


def test_a_champion_fills_in_labels_once_people_agree_with_it(catalog, monkeypatch, tmp_path):
    adopt(catalog, monkeypatch, tmp_path, ColourChampion())
    true, kinds = truth(catalog), []
    with catalog.served() as address:
        for _ in range(12):
            page = open_page(address)
            kinds.append(page["kind"])
            label(address, page, true)
            catalog.finish_jobs()
    assert kinds.index(PageKind.PRELABELED) >= 5
    with catalog.database.read() as session:
        assert suggestions.newest(session, 1).champion == "labels-1"


def test_images_that_a_champion_was_trained_on_are_no_evidence_for_it(catalog, monkeypatch, tmp_path):
    with catalog.database.read() as session:
        everything = list(session.scalars(select(Image.sha256)))
    adopt(catalog, monkeypatch, tmp_path, ColourChampion(), everything)
    true = truth(catalog)
    with catalog.served() as address:
        for _ in range(8):
            label(address, open_page(address), true)
            catalog.finish_jobs()
    with catalog.database.read() as session:
        model = suggestions.newest(session, 1)
    assert model.threshold is None
    assert model.message.endswith(f"0 of {evidence.MIN_CHECKED} predictions checked by people so far")


def test_a_champion_keeps_predicting_while_no_head_is_clearly_better(catalog, monkeypatch, tmp_path):
    adopt(catalog, monkeypatch, tmp_path, ColourChampion())
    true, by = truth(catalog), set()
    with catalog.served() as address:
        while (page := open_page(address)) is not None:
            label(address, page, true)
            catalog.finish_jobs()
            with catalog.database.read() as session:
                by.add(suggestions.newest(session, 1).champion)
    assert by == {"labels-1"}


def test_an_image_that_nobody_could_name_is_evidence_against_a_champion(catalog, monkeypatch, tmp_path):
    adopt(catalog, monkeypatch, tmp_path, ColourChampion())
    with catalog.served() as address:
        for _ in range(8):
            page = open_page(address)
            answers = {image["id"]: {"status": "unknown"} for image in page["images"]}
            url = f"{address}/api/pages/{page['token']}/submit"
            assert requests.post(url, json={"answers": answers}, timeout=30).status_code == 200
            catalog.finish_jobs()
    with catalog.database.read() as session:
        model = suggestions.newest(session, 1)
    assert model.threshold is None and "not yet shown to be right 90%" in model.message


def test_a_head_that_is_right_more_often_replaces_the_champion(catalog, monkeypatch, tmp_path):
    adopt(catalog, monkeypatch, tmp_path, ColourChampion(useless=True))
    true, by = truth(catalog), []
    with catalog.served() as address:
        while (page := open_page(address)) is not None:
            label(address, page, true)
            catalog.finish_jobs()
            with catalog.database.read() as session:
                by.append(suggestions.newest(session, 1).champion)
    assert by[0] == "labels-1" and by[-1] == ""
    assert by == sorted(by, reverse=True)  # it doesn't come back


@pytest.mark.parametrize("learned", [[], [0, 5]])
def test_groups_hold_each_waiting_image_once(learned):
    x = np.random.default_rng(0).normal(size=(50, 8))
    waiting = np.setdiff1d(np.arange(50), learned)
    groups = by_similarity(x, waiting, np.array(learned, int), size=9)
    assert sorted(np.concatenate(groups)) == list(range(len(waiting)))
    assert all(len(group) <= 9 for group in groups)


def test_groups_by_prediction_have_one_class_and_the_certain_come_first():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4) / 4, 100)
    groups = by_prediction(probabilities, size=9)
    assert sorted(np.concatenate(groups)) == list(range(100))
    for group in groups:
        assert len(set(probabilities[group].argmax(1))) == 1
        assert (np.diff(probabilities[group].max(1)) >= 0).all()
    sums = [probabilities[group].max(1).sum() for group in groups]
    assert sums == sorted(sums, reverse=True)


def test_a_head_learns_with_one_image_of_a_class():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(center, 0.3, (count, 6)) for center, count in ((0, 1), (2, 20), (4, 20))])
    y = np.repeat([0, 1, 3], (1, 20, 20))
    probabilities = SingleLabelHead(x, y, classes=5).probabilities(x)
    assert (probabilities.argmax(1) == y).mean() > 0.95
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities[:, [2, 4]] < 1e-6).all()


@pytest.mark.parametrize("several", [False, True])
def test_a_head_is_graded_by_images_that_it_was_not_trained_on(several):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 400)), rng.integers(0, 2, 90)  # nothing to learn, so only memory helps
    head = MultiLabelHead(x, np.eye(2, dtype=int)[y]) if several else SingleLabelHead(x, y, classes=2)
    memorised, held_out = head.probabilities(x).argmax(1) == y, head.cross_validated().argmax(1) == y
    assert memorised.mean() > 0.8 and held_out.mean() < 0.65


@pytest.mark.parametrize("several", [False, True])
def test_a_head_predicts_for_no_images(several):
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2
    head = MultiLabelHead(x, np.eye(2, dtype=int)[y]) if several else SingleLabelHead(x, y, classes=2)
    assert head.probabilities(x[:0]).shape == (0, 2)


def test_a_head_for_several_classes_knows_constant_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = np.stack([x[:, 0] > 0, np.ones(60), np.zeros(60)], axis=1).astype(int)
    probabilities = MultiLabelHead(x, y).probabilities(x)
    assert ((probabilities >= 0.5) == y).mean() > 0.95


def test_features_are_computed_once_and_read_again(tmp_path):
    store = FeatureStore(tmp_path)
    store.add(["a", "b"], np.eye(2, 4))
    store.add(["c"], np.ones((1, 4)))
    again = FeatureStore(tmp_path)
    assert "a" in again and "d" not in again
    assert np.array_equal(again.get(["c", "a"]), np.stack([np.ones(4), np.eye(2, 4)[0]]))
