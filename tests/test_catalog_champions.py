"""A champion of the pipeline becomes a model of the catalog, with what it was trained on."""

import hashlib
import re

import pandas
import pytest
import requests
from catalog_server import Catalog, folder_of
from conftest import outcome, petfaces
from sqlalchemy import select

from catalog import champions
from catalog.champions import Champion
from catalog.store import projects, suggestions
from catalog.store.tables import Help, Image, Suggestion
from catalog.web import projects as pages
from pipeline.common.errors import UserError
from pipeline.portable import read_card
from pipeline.sources import archives

FORM = {"name": "new", "task": "single_label", "source": "upload", "model_help": "none"}


@pytest.fixture
def catalog(tmp_path):
    return Catalog.create(tmp_path)


def test_an_adopted_champion_knows_the_files_that_it_was_trained_on(repro, project, catalog):
    champion = champions.adopt(catalog.library, "sample", "single_label", ())
    table = pandas.read_csv(project / "data/sample/split.csv")
    train = set(table["path"][table["split"].isin(["train", "val"])])
    files = dict(archives.members(project / "data/sample/archive"))
    assert champion.trained_on == {hashlib.sha256(files[path]).hexdigest() for path in train}
    assert champion.classes == read_card(project / "runs/sample/register/champion/train").classes
    assert champions.load(catalog.library, champion.name) == champion


def test_after_another_split_all_images_count_as_trained_on(repro, project, catalog, monkeypatch):
    file = project / "data/sample/split.csv"
    before = file.read_text()
    file.write_text(before.replace(",train\n", ",test\n", 1))
    try:
        champion = champions.adopt(catalog.library, "sample", "single_label", ())
    finally:
        file.write_text(before)
    assert len(champion.trained_on) == len(pandas.read_csv(file))


def test_a_champion_predicts_in_a_project_made_of_its_own_classes(repro, project, catalog):
    champion = champions.adopt(catalog.library, "sample", "single_label", ())
    catalog.add_project(
        project / "data/sample/archive",
        classes=tuple(champion.classes),
        champion=champion.name,
        model_help=Help.SUGGESTIONS,
    )
    with catalog.database.read() as session:
        assert suggestions.newest(session, 1).champion == champion.name
        assert len(session.scalars(select(Image)).all()) == len(session.scalars(select(Suggestion)).all())


@pytest.mark.parametrize(
    ("data", "task", "classes", "message"),
    [
        ("nothing", "single_label", [], "there is no champion of nothing"),
        ("../sample", "single_label", [], "there is no champion of ../sample"),
        ("sample", "multi_label", [], "has the task single_label; this project has multi_label"),
        ("sample", "single_label", ["x", "dog_pug"], "knows fewer than two of this project's classes"),
    ],
)
def test_a_champion_that_cannot_be_used_is_an_error(repro, catalog, data, task, classes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        champions.adopt(catalog.library, data, task, classes)


def test_the_command_adopt_lets_a_champion_predict(repro, catalog, tmp_path, capsys):
    catalog.add_project(folder_of(tmp_path / "images", 2), classes=("dog_pug", "cat_Bengal"))
    arguments = ("catalog", "--folder", str(catalog.library.folder), "adopt", "pets")
    petfaces(*arguments, "sample")
    assert re.match(r"sample-\w{12} predicts in pets", capsys.readouterr().out)
    with catalog.database.read() as session:
        assert catalog.project(session).champion.startswith("sample-")
    message = outcome(lambda: petfaces(*arguments, "nothing"))
    assert message == "error: there is no champion of nothing; train and register one: dvc repro"


def test_a_champion_without_its_data_is_an_error(repro, project, catalog):
    file = project / "data/sample/split.csv"
    moved = file.rename(file.with_suffix(".moved"))
    try:
        with pytest.raises(
            UserError, match="it isn't known what the champion was trained on; run: dvc repro"
        ):
            champions.adopt(catalog.library, "sample", "single_label", ())
    finally:
        moved.rename(file)


@pytest.fixture
def offered(monkeypatch):
    """A champion that pages offer without a trained model."""

    class Offered(Champion):
        classes = ["cat", "dog"]

    monkeypatch.setattr(champions, "available", lambda: ["petfaces"])
    monkeypatch.setattr(champions, "adopt", lambda *_: Offered("petfaces-1", None, frozenset()))


def test_a_new_project_can_take_a_champion_and_its_classes(catalog, offered):
    with catalog.served() as address:
        assert "the champion of petfaces" in requests.get(f"{address}/projects/new", timeout=30).text
        requests.post(f"{address}/projects", data=FORM | {"champion": "petfaces"}, timeout=30)
    with catalog.database.read() as session:
        assert [found.name for found in projects.classes(session, 1)] == ["cat", "dog"]
        assert catalog.project(session).champion == "petfaces-1"


def test_the_settings_change_and_remove_the_champion(catalog, offered, tmp_path):
    catalog.add_project(folder_of(tmp_path / "images", 2))
    with catalog.served() as address:
        for chosen, name in (("petfaces", "petfaces-1"), ("", "")):
            form = {"name": "pets", "model_help": "none", "champion": chosen}
            requests.post(f"{address}/projects/1/settings", data=form, timeout=30)
            page = requests.get(f"{address}/projects/1/settings", timeout=30).text
            assert ('value="petfaces" selected' in page) == bool(chosen)
            with catalog.database.read() as session:
                assert catalog.project(session).champion == name


def test_a_champion_that_cannot_be_taken_is_told_on_the_page(catalog, monkeypatch):
    monkeypatch.setattr(pages.champions, "available", list)
    with catalog.served() as address:
        answer = requests.post(f"{address}/projects", data=FORM | {"champion": "petfaces"}, timeout=30)
    assert answer.status_code == 422 and "there is no champion of petfaces" in answer.text
