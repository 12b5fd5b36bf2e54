"""The MLflow store of a copied or moved project is reported, and `sync` points it to its own artifacts."""

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
def original(request, project, tmp_path) -> Path:
    """The project that the store comes from: it still exists (copied) or not (moved)."""
    return project if request.param == "copied" else tmp_path / "it was here 'once'"


@pytest.fixture
def copy(repro, project, original, tmp_path, monkeypatch) -> Path:
    """A copy of the store and its artifacts, which the program uses as its own."""
    folder = tmp_path / "copy"
    shutil.copytree(project / "mlartifacts", folder / "mlartifacts")
    shutil.copyfile(project / "mlflow.db", folder / "mlflow.db")
    if original != project:
        with closing(sqlite3.connect(folder / "mlflow.db")) as database:
            artifact_roots._replace(
                database, (project / "mlartifacts").as_uri(), (original / "mlartifacts").as_uri()
            )
            database.commit()
    monkeypatch.setattr(paths, "main_checkout", lambda: folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    store.client.cache_clear()
    yield folder
    store.client.cache_clear()


def _artifact_uris(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return "\n".join(line for line in database.iterdump() if "mlartifacts" in line)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_a_copied_store_is_a_one_line_error_and_the_original_is_unchanged(copy, original, project, capsys):
    before = _files(project / "mlartifacts")
    with pytest.raises(UserError) as error:
        store.client()
    assert str(error.value).startswith(f"MLflow's store {copy / 'mlflow.db'} was copied or moved here from")
    assert str(original) in str(error.value) and "tracking sync" in str(error.value)
    card = SimpleNamespace(name="scratch", data="sample")
    run = tracking.Run(card, {"seed": 1}, {}, Provenance(), "x", None, "cpu", "attempt")
    assert run.run_id is None  # training continues without MLflow
    assert capsys.readouterr().err.count("was copied or moved here") == 1
    assert _files(project / "mlartifacts") == before


def test_sync_points_a_copied_store_to_its_own_artifacts(copy, original, project, tmp_path, capsys):
    before = _files(project / "mlartifacts")
    artifact_roots.rewrite()
    assert "MLflow's store had its artifacts in" in capsys.readouterr().err
    assert (original / "mlartifacts").as_uri() not in _artifact_uris(copy / "mlflow.db")
    assert (original / "mlartifacts").as_uri() in _artifact_uris(copy / "mlflow.db.before-move")
    registered = list(tracking.registered_folders(tmp_path / "look"))
    assert registered and all(each.folder.is_dir() for each in registered)
    run = store.client().create_run(store.experiment_id("sample")).info.run_id
    store.client().log_text(run, "new", "note.txt")
    assert (copy / "mlartifacts" / run / "artifacts/note.txt").is_file()
    assert _files(project / "mlartifacts") == before
    artifact_roots.rewrite()  # a second call changes nothing
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("original", ["copied"], indirect=True)
def test_artifacts_must_be_copied_before_the_store_is_rewritten(copy, project):
    run_id = _run_with_artifacts(copy)
    shutil.rmtree(copy / "mlartifacts" / run_id)
    before = _artifact_uris(copy / "mlflow.db")
    with pytest.raises(
        UserError, match=rf"1 artifact folders of .* copy them, .*: cp -Rn {project}/mlartifacts/\. "
    ):
        artifact_roots.rewrite()
    assert _artifact_uris(copy / "mlflow.db") == before
    assert not (copy / "mlflow.db.before-move").exists()


@pytest.mark.parametrize("original", ["moved"], indirect=True)
def test_a_store_without_its_artifacts_is_unchanged(copy):
    shutil.rmtree(copy / "mlartifacts")
    before = _artifact_uris(copy / "mlflow.db")
    with pytest.raises(UserError, match="they are neither there nor in"):
        artifact_roots.rewrite()
    assert _artifact_uris(copy / "mlflow.db") == before


def _run_with_artifacts(copy: Path) -> str:
    """Id of a run that has artifacts."""
    return next(folder.name for folder in (copy / "mlartifacts").iterdir() if folder.name != "models")


def test_only_uris_below_the_folder_are_rewritten(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (artifact_location)")
        uris = ["file:///a/mlartifacts", "file:///a/mlartifacts2", "s3://b/file:///a/mlartifacts/x"]
        database.executemany("INSERT INTO experiments VALUES (?)", [(uri,) for uri in uris])
        artifact_roots._replace(database, "file:///a/mlartifacts", "file:///new/mlartifacts")
        found = [uri for (uri,) in database.execute("SELECT * FROM experiments")]
    assert found == ["file:///new/mlartifacts", *uris[1:]]


def test_a_symlink_to_the_project_is_not_a_moved_store(tmp_path, monkeypatch):
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
