"""What a user deleted in MLflow is restored, or reported with the command that restores it."""

import shutil

import mlflow
import pytest
from conftest import petfaces
from mlflow.entities import ViewType
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from pipeline import tracking
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.tracking import promotion, store

NAME = "sample"


@pytest.fixture
def client(repro, project, tmp_path, monkeypatch):
    """A client of a copy of the store, which the program uses, too."""
    shutil.copyfile(project / "mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.client.cache_clear()
    yield store.client()
    store.client.cache_clear()


@pytest.fixture
def folders(project):
    """The train and evaluate folders of the model `scratch`."""
    return project / "runs/sample/train/scratch", project / "runs/sample/evaluate/scratch"


def test_a_deleted_experiment_is_an_error_with_the_command_that_restores_it(client):
    experiment = store.experiment_id(NAME)
    client.delete_experiment(experiment)
    with pytest.raises(store.DeletedError) as error:
        tracking.sync()
    assert str(error.value).count("the experiment sample was deleted") == 1
    assert str(error.value).endswith(f"mlflow experiments restore --experiment-id {experiment}")
    assert "try again" not in str(error.value)
    client.restore_experiment(experiment)
    tracking.sync()


def test_the_leaderboard_prints_despite_a_deleted_experiment(client, capsys):
    client.delete_experiment(store.experiment_id(NAME))
    petfaces("leaderboard")
    captured = capsys.readouterr()
    assert "scratch" in captured.out and "Champion of sample" in captured.out
    (line,) = [line for line in captured.err.splitlines() if line.startswith("warning: ")]
    assert "restore --experiment-id" in line


@pytest.mark.parametrize("uri", ["sqlite:///{folder}/letter.db", "http://127.0.0.1:9"])
def test_the_leaderboard_prints_without_a_usable_store(repro, tmp_path, monkeypatch, capsys, uri):
    (tmp_path / "letter.db").write_text("no database " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store.client.cache_clear()
    petfaces("leaderboard")
    captured = capsys.readouterr()
    assert "Champion of sample" in captured.out
    assert captured.err.count("warning: ") == 1
    store.client.cache_clear()


def test_a_deleted_run_is_restored_if_a_version_needs_it_else_replaced(client, folders):
    tracking.sync()  # merges the runs of equal trainings that tests in other files have made
    run_id = tracking.ensure(*folders)
    client.delete_run(run_id)
    assert tracking.ensure(*folders) == run_id
    for version in client.search_model_versions(f"run_id='{run_id}'"):
        client.delete_model_version(NAME, version.version)
    client.delete_run(run_id)
    assert tracking.ensure(*folders) != run_id


def test_a_run_deleted_during_training_is_replaced_by_one_with_all_rows(client, folders, capsys):
    trained = ModelFolder.open(folders[0])
    described = (
        trained.card,
        trained.settings,
        trained.lineage,
        trained.provenance,
        "mine",
        None,
        "cpu",
        "an attempt",
    )
    run = tracking.Run(*described)
    rows = [{"step": step, "val/top1": step / 10} for step in range(3)]
    run.push(rows[:1])
    client.delete_run(run.run_id)
    run.push(rows[:2])
    first = run.run_id
    run.push(rows)
    (found,) = client.search_runs([store.experiment_id(NAME)], "tags.attempt = 'an attempt'")
    assert found.info.run_id == run.run_id == first
    assert [point.step for point in client.get_metric_history(first, "val/top1")] == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_training_continues_while_its_experiment_is_deleted(client, folders, capsys):
    trained = ModelFolder.open(folders[0])
    client.delete_experiment(store.experiment_id(NAME))
    run = tracking.Run(
        trained.card, trained.settings, trained.lineage, trained.provenance, "mine", None, "cpu", "an attempt"
    )
    run.push([{"step": 0, "val/top1": 0.5}])
    assert "restore --experiment-id" in capsys.readouterr().err


def test_a_sweeps_deleted_parent_run_is_restored(client):
    from pipeline.tracking import runs

    experiment = store.experiment_id(NAME)
    parent = runs._parent(experiment, "swept")
    client.delete_run(parent)
    assert runs._parent(experiment, "swept") == parent
    assert client.get_run(parent).info.lifecycle_stage == "active"


def test_a_deleted_version_and_a_deleted_model_are_registered_again(client, folders, project):
    exported = project / "runs/sample/register/candidates/scratch"
    first = tracking.ensure_version(*folders, exported)
    client.delete_model_version(NAME, first)
    second = tracking.ensure_version(*folders, exported)
    assert second != first
    client.delete_registered_model(NAME)
    tracking.sync()
    assert promotion.champion(NAME)
    assert len(client.search_model_versions(f"name='{NAME}'")) == 2


def test_a_version_whose_run_is_gone_stays_listed(client, monkeypatch):
    def gone(*_):
        raise mlflow.exceptions.MlflowException("not found", error_code=RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr(mlflow.MlflowClient, "get_run", gone)
    assert [row["test"] for row in tracking.versions(NAME)] == ["", ""]
    with pytest.raises(store.UserError, match="has no training run"):
        tracking.find_version(f"models:/{NAME}/1")


def test_sync_leaves_unrelated_deleted_runs_alone(client, folders):
    experiment = store.experiment_id(NAME)
    other = client.create_run(experiment).info.run_id
    client.delete_run(other)
    tracking.sync()
    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert other in {run.info.run_id for run in deleted}
