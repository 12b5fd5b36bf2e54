"""Stored numbers of images follow each change of labels, whoever makes it; so do suggestions that wait."""

import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit
from sqlalchemy import insert, select, update

from catalog import undoing
from catalog.store import bulk, erasing, image_counts, projects, suggestions
from catalog.store.labels import Answer
from catalog.store.tables import Image, ImageCount, Model, Project, Status, Suggestion


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 20), page_size=4, test_fraction=0.3)
    return catalog


def counts(catalog):
    """The stored numbers, which must be those of the images."""
    with catalog.database.read() as session:
        assert image_counts.wrong(session) == 0
        return projects.counts(session, 1)


def test_counts_follow_reading_labeling_and_undoing(catalog):
    assert counts(catalog)[Status.WAITING] == 20
    with catalog.served() as address:
        page = open_page(address)
        submit(address, page, 2).raise_for_status()
        found = counts(catalog)
        labeled = len(page["images"])
        assert (found[Status.LABELED], found[Status.WAITING]) == (labeled, 20 - labeled)
        with catalog.database.read() as session:
            assert image_counts.by_class(session, 1) == {1: 0, 2: labeled, 3: 0}
        requests.post(f"{address}/api/pages/{page['token']}/undo", timeout=30).raise_for_status()
    assert counts(catalog)[Status.WAITING] == 20


def test_counts_follow_actions_on_many_images(catalog):
    with catalog.database.write() as session:
        project = catalog.project(session)
        ids = sorted(session.scalars(select(Image.id).where(~Image.is_test)))
        done = bulk.label(session, project, ids, Answer(Status.LABELED, (1,)), "Ada")
        assert projects.counts(session, 1)[Status.LABELED] == len(ids)  # before the commit, too
    counts(catalog)
    undoing.undo(catalog.database, 1, done.batch, "Ada")
    with catalog.database.write() as session:
        erasing.images(session, catalog.project(session), ids[:3])
    assert counts(catalog)[Status.WAITING] == 17


def test_counts_are_right_after_statements_on_images_that_are_not_loaded(catalog):
    with catalog.database.write() as session:
        session.execute(update(Image).where(Image.id < 6).values(status=Status.LABELED, classes=[3]))
    assert counts(catalog)[Status.LABELED] == 5
    with catalog.database.write() as session:
        session.execute(update(Image).values(page_token="x"))
        assert not session.info  # nothing to count
    with catalog.database.write() as session:
        erasing.project(session, catalog.project(session))
    with catalog.database.read() as session:
        assert not session.scalars(select(ImageCount)).all() and image_counts.wrong(session) == 0


def test_what_is_rolled_back_is_not_counted(catalog):
    with pytest.raises(RuntimeError), catalog.database.write() as session:
        bulk.label(session, catalog.project(session), range(1, 9), Answer(Status.UNKNOWN), "Ada")
        session.flush()
        raise RuntimeError
    assert counts(catalog)[Status.UNKNOWN] == 0
    with catalog.database.write() as session:
        session.get(Image, 1).status = Status.SKIPPED
        part = session.begin_nested()
        session.get(Image, 2).status = Status.SKIPPED
        session.flush()
        part.rollback()
    assert counts(catalog)[Status.SKIPPED] == 1


def test_wrong_counts_are_found_and_set_right(catalog):
    with catalog.database.write() as session:
        session.execute(update(ImageCount).where(ImageCount.images > 0).values(images=7))
    with catalog.database.write() as session:
        assert image_counts.wrong(session) > 0
        image_counts.recount(session)
    assert counts(catalog)[Status.WAITING] == 20


def test_a_suggestion_waits_as_long_as_its_image(catalog):
    with catalog.database.write() as session:
        project = session.get(Project, 1)
        project.model_help = "suggestions"
        model = Model(project_id=1, created_at=0, last_event=0, labels=0, threshold=None, message="")
        session.add(model)
        session.flush()
        ids = sorted(session.scalars(select(Image.id).where(~Image.is_test)))
        given = {"project_id": 1, "model_id": model.id, "cluster": 0, "predicted": None, "probable": []}
        rows = [{**given, "image_id": each, "distance": each, "confidence": each / 100} for each in ids]
        session.execute(insert(Suggestion), rows)

    def waiting(least=0.0):
        with catalog.database.read() as session:
            return suggestions.waiting(session, 1, least)

    assert waiting() == len(ids)
    with catalog.database.write() as session:
        done = bulk.label(session, catalog.project(session), ids[:5], Answer(Status.UNKNOWN), "Ada")
    assert waiting() == len(ids) - 5 and waiting(ids[-2] / 100) == 2
    undoing.undo(catalog.database, 1, done.batch, "Ada")
    assert waiting() == len(ids)


def test_suggested_images_come_in_order_without_those_that_are_open(catalog):
    test_a_suggestion_waits_as_long_as_its_image(catalog)
    with catalog.database.read() as session:
        order = session.scalars(select(Suggestion.image_id).order_by(Suggestion.distance)).all()
    shown = []
    with catalog.served() as address:
        for _ in range(3):
            page = open_page(address)
            if page["kind"] == "cluster":
                shown += [image["id"] for image in page["images"]]
    assert shown and shown == order[: len(shown)]
