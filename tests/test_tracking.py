"""Files are the truth and MLflow the mirror: what it lacks comes back, once, and a model loads from it."""

import io
import os

import mlflow
import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline import tracking

NAME = "sample"


@pytest.fixture
def client(repro):
    """MLflow's own client on the copy's store."""
    tracking._client.cache_clear()
    return tracking._client()


@pytest.fixture(scope="module")
def emptied(repro, run, tmp_path_factory):
    """A client on an empty store into which `sync` was called twice."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    for _ in range(2):
        done = run("python", "-m", "pipeline.tracking", "sync", MLFLOW_TRACKING_URI=store)
        assert done.returncode == 0, done.stdout
    return mlflow.MlflowClient(store, store)


def _runs(client):
    experiment = client.get_experiment_by_name(NAME)
    return client.search_runs([experiment.experiment_id], max_results=1000)


def _judged(client, model):
    """The run of a DVC stage: the one of its model that was evaluated."""
    (run,) = [
        run for run in _runs(client) if run.data.tags.get("model") == model and "evaluation" in run.data.tags
    ]
    return run


def test_a_run_tells_its_data_commit_device_curves_and_figures(client):
    run = _judged(client, "scratch")
    assert run.data.params["model.lr"]
    assert run.data.params["seed"] == "1"
    assert {"commit", "dirty", "device", "content", "machine"} <= set(run.data.tags)
    assert {"best/val/top1", "val/top1", "train/loss", "test/top1", "test/top3", "wall_seconds"} <= set(
        run.data.metrics
    )
    assert len(client.get_metric_history(run.info.run_id, "val/top1")) == 2
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == NAME
    files = {file.path for file in client.list_artifacts(run.info.run_id, "train")}
    assert {"train/config.yaml", "train/confusion.png", "train/mistakes.png"} <= files
    assert {"params.yaml", "dvc.lock"} & {file.path for file in client.list_artifacts(run.info.run_id)}


def test_the_champion_loads_without_unpickling_and_answers(client, house, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr("pickle.load", None)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    # Three ways in: bytes, arrays, and a table longer than a batch.
    for pictures in ([buffer.getvalue()], [array], [array] * 40):
        answer = model.predict(pandas.DataFrame({"image": pictures}))
        assert len(answer) == len(pictures)
        assert list(answer.columns) == ["labels", "probabilities"]
        assert len(answer["labels"][0]) == 5
        assert answer["probabilities"][0] == sorted(answer["probabilities"][0], reverse=True)
        assert 0 < sum(answer["probabilities"][0]) <= 1 + 1e-6
    both = model.predict(pandas.DataFrame({"image": [buffer.getvalue(), array]}))
    assert both["labels"][0] == both["labels"][1]


def test_a_bad_picture_in_a_table_is_named_by_its_row(client):
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    with pytest.raises(Exception, match="row 0: not a picture"):
        model.predict(pandas.DataFrame({"image": [b"no picture"]}))


def test_a_registered_version_says_what_it_is(client):
    version = client.get_model_version_by_alias(NAME, "champion")
    assert "test top-1" in version.description
    assert "drawings" in version.description
    assert {"model_sha256", "data", "commit", "dirty", "promoted"} <= set(version.tags)
    assert client.get_run(version.run_id).data.tags["content"]


def test_sync_brings_runs_versions_and_champion_back_once(emptied):
    runs = [run for run in _runs(emptied) if "evaluation" in run.data.tags]
    assert len(runs) == 2
    assert all(run.data.tags["restored"] == "true" for run in runs)
    assert all(run.info.status == "FINISHED" for run in runs)
    assert len(emptied.search_model_versions(f"name='{NAME}'")) == 2
    assert emptied.get_model_version_by_alias(NAME, "champion").tags["promoted"] == "the first champion"


def test_a_restored_run_tells_what_the_first_one_told(emptied, client):
    def told(store):
        (run,) = [
            run
            for run in _runs(store)
            if run.data.tags.get("model") == "scratch" and "evaluation" in run.data.tags
        ]
        curve = [(point.step, point.value) for point in store.get_metric_history(run.info.run_id, "val/top1")]
        figures = {key: value for key, value in run.data.metrics.items() if key != "wall_seconds"}
        return run.data.params, figures, curve, run.data.tags["content"], run.data.tags["evaluation"]

    assert told(emptied) == told(client)


def test_a_fresh_clone_with_the_cache_trains_nothing_and_gets_its_champion_back(repro, run, house, tmp_path):
    clone = tmp_path / "clone"
    assert run("git", "clone", "-q", str(house), str(clone)).returncode == 0
    assert run("dvc", "cache", "dir", "--local", str(house / ".dvc/cache"), cwd=clone).returncode == 0
    done = run("dvc", "repro", cwd=clone, PYTHONPATH=str(clone))
    assert done.returncode == 0, done.stdout
    assert "Running stage 'report'" in done.stdout
    assert not any(f"Running stage '{stage}" in done.stdout for stage in ("train", "evaluate", "register"))
    done = run("python", "-m", "pipeline.tracking", "sync", cwd=clone, PYTHONPATH=str(clone))
    assert done.returncode == 0, done.stdout
    store = f"sqlite:///{clone / 'mlflow.db'}"
    assert mlflow.MlflowClient(store, store).get_model_version_by_alias(NAME, "champion").version
    report = house / "reports/sample"
    for file in (path for path in report.rglob("*") if path.is_file()):
        assert (clone / "reports/sample" / file.relative_to(report)).read_bytes() == file.read_bytes()


def test_an_unreachable_server_stops_no_training(repro, run, house):
    done = run(
        "python",
        "-m",
        "pipeline.train",
        "model=scratch",
        "data.epochs=1",
        "out=runs/single/offline",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )
    assert done.returncode == 0, done.stdout
    assert "pipeline.tracking sync" in done.stdout
    assert (house / "runs/single/offline/weights.safetensors").is_file()


def test_a_sweep_is_nested_under_one_parent_and_touches_no_dvc_out(repro, run, house, client, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (house / "runs/sample").rglob("*")}
    done = run(
        "python",
        "-m",
        "pipeline.train",
        "--multirun",
        "model=scratch,probe",
        "seed=1,2",
        "data.epochs=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert {path: path.stat().st_mtime_ns for path in (house / "runs/sample").rglob("*")} == before
    assert not list(tmp_path.iterdir())
    sweep = max((house / "runs/sweeps").iterdir())
    assert len(list(sweep.glob("*/weights.safetensors"))) == 4
    (parent,) = [run for run in _runs(client) if run.data.tags.get("sweep") == sweep.name]
    jobs = [run for run in _runs(client) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(jobs) == 4
    assert {run.info.run_name for run in jobs} >= {"model=probe seed=2 data.epochs=1"}


def test_the_page_links_to_the_training_side(client):
    link = tracking.experiment_link(NAME, "http://127.0.0.1:5000")
    assert link.endswith("/runs?workflowType=machine_learning")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
