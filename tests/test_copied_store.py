"""MLflow's store of a copied or moved project is told, and made to name the files beside it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import tracking
from pipeline.artifacts.provenance import Provenance
from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.tracking import artifact_roots, store


@pytest.fixture(params=["copied", "moved"])
def original(request, house, tmp_path) -> Path:
    """The project that the store is from, with its files or without."""
    return house if request.param == "copied" else tmp_path / "it was here 'once'"


@pytest.fixture
def copy(repro, house, original, tmp_path, monkeypatch) -> Path:
    """A copy of the store and its files, which the program takes for its own."""
    place = tmp_path / "copy"
    shutil.copytree(house / "mlartifacts", place / "mlartifacts")
    shutil.copyfile(house / "mlflow.db", place / "mlflow.db")
    if original != house:
        with closing(sqlite3.connect(place / "mlflow.db")) as database:
            artifact_roots._replace(
                database, (house / "mlartifacts").as_uri(), (original / "mlartifacts").as_uri()
            )
            database.commit()
    monkeypatch.setattr(paths, "main_checkout", lambda: place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    store.client.cache_clear()
    yield place
    store.client.cache_clear()


def _addresses(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return "\n".join(line for line in database.iterdump() if "mlartifacts" in line)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_it_is_told_in_one_line_and_nothing_is_written_to_the_original(copy, original, house, capsys):
    before = _files(house / "mlartifacts")
    with pytest.raises(UserError) as told:
        store.client()
    assert str(told.value).startswith(f"MLflow's store {copy / 'mlflow.db'} was copied or moved here from")
    assert str(original) in str(told.value) and "tracking sync" in str(told.value)
    card = SimpleNamespace(name="scratch", data="sample")
    run = tracking.Run(card, {"seed": 1}, {}, Provenance(), "x", None, "cpu", "attempt")
    assert run.run_id is None  # a training goes on without it
    assert capsys.readouterr().err.count("was copied or moved here") == 1
    assert _files(house / "mlartifacts") == before


def test_sync_makes_it_name_the_files_beside_it(copy, original, house, tmp_path, capsys):
    before = _files(house / "mlartifacts")
    artifact_roots.rewrite()
    assert "MLflow's store had its artifacts in" in capsys.readouterr().err
    assert (original / "mlartifacts").as_uri() not in _addresses(copy / "mlflow.db")
    assert (original / "mlartifacts").as_uri() in _addresses(copy / "mlflow.db.before-move")
    kept = list(tracking.registered_folders(tmp_path / "look"))
    assert kept and all(each.folder.is_dir() for each in kept)
    run = store.client().create_run(store.experiment_id("sample")).info.run_id
    store.client().log_text(run, "new", "note.txt")
    assert (copy / "mlartifacts" / run / "artifacts/note.txt").is_file()
    assert _files(house / "mlartifacts") == before
    artifact_roots.rewrite()  # once is enough
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("original", ["copied"], indirect=True)
def test_files_that_are_still_with_the_original_have_to_come_first(copy, house):
    champion = store_run(copy)
    shutil.rmtree(copy / "mlartifacts" / champion)
    before = _addresses(copy / "mlflow.db")
    with pytest.raises(UserError, match=rf"1 artifact folders of .* copy them, .*: cp -Rn {house}/mlartifacts/\. "):
        artifact_roots.rewrite()
    assert _addresses(copy / "mlflow.db") == before
    assert not (copy / "mlflow.db.before-move").exists()


@pytest.mark.parametrize("original", ["moved"], indirect=True)
def test_a_store_without_any_of_its_files_is_left_as_it_is(copy):
    shutil.rmtree(copy / "mlartifacts")
    before = _addresses(copy / "mlflow.db")
    with pytest.raises(UserError, match="they are neither there nor in"):
        artifact_roots.rewrite()
    assert _addresses(copy / "mlflow.db") == before


def store_run(copy: Path) -> str:
    """Id of a run that has files."""
    return next(folder.name for folder in (copy / "mlartifacts").iterdir() if folder.name != "models")


def test_only_addresses_that_begin_with_the_folder_are_changed(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (artifact_location)")
        places = ["file:///a/mlartifacts", "file:///a/mlartifacts2", "s3://b/file:///a/mlartifacts/x"]
        database.executemany("INSERT INTO experiments VALUES (?)", [(place,) for place in places])
        artifact_roots._replace(database, "file:///a/mlartifacts", "file:///new/mlartifacts")
        found = [place for (place,) in database.execute("SELECT * FROM experiments")]
    assert found == ["file:///new/mlartifacts", *places[1:]]


def test_the_same_folder_under_another_name_is_no_other_folder(tmp_path, monkeypatch):
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "mlartifacts").mkdir(parents=True)
    link.symlink_to(real)
    with closing(sqlite3.connect(real / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (artifact_location)")
        database.execute("INSERT INTO experiments VALUES (?)", [(link / "mlartifacts").as_uri()])
        database.commit()
    monkeypatch.setattr(paths, "main_checkout", lambda: real)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{real / 'mlflow.db'}")
    artifact_roots.check()
