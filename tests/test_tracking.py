"""MLflow mirrors the files: runs, versions and descriptions, restored once by sync; models load from it."""

import ast
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline import config, tracking, train
from pipeline.artifacts import provenance, seal
from pipeline.artifacts.lineage import settings_of
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import Provenance
from pipeline.tracking import descriptions, naming, store, web_ui

NAME = "sample"
SEVEN = (
    *("seed", "split.seed", "model.batch_size", "pack.max_side"),
    *("model.lr", "runtime.threads", "model.patience"),
)


@pytest.fixture
def client(repro):
    """An MLflow client of the copy's store."""
    store.client.cache_clear()
    return store.client()


@pytest.fixture(scope="module")
def synced(repro, run, tmp_path_factory):
    """A client of a new store that two concurrent `sync` commands have filled."""
    address = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    command = ("python", "-m", "pipeline", "tracking", "sync")
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: run(*command, MLFLOW_TRACKING_URI=address), range(2)):
            assert done.returncode == 0, done.stdout
    return mlflow.MlflowClient(address, address)


def _runs(client):
    experiment = client.get_experiment_by_name(NAME)
    return client.search_runs([experiment.experiment_id], max_results=1000)


def _stage_run(client, model):
    """A DVC stage's run: the only evaluated one of its model."""
    (run,) = [
        run for run in _runs(client) if run.data.tags.get("model") == model and "evaluation" in run.data.tags
    ]
    return run


def test_a_run_records_data_commit_device_curves_and_metrics(client):
    run = _stage_run(client, "scratch")
    assert run.data.params["model.lr"]
    assert run.data.params["seed"] == "1"
    assert {"commit", "dirty", "device", "content", "machine"} <= set(run.data.tags)
    assert {"best/val/top1", "val/top1", "train/loss", "test/top1", "test/top3", "wall_seconds"} <= set(
        run.data.metrics
    )
    assert len(client.get_metric_history(run.info.run_id, "val/top1")) == 2
    (inputs,) = run.inputs.dataset_inputs
    assert inputs.dataset.name == NAME
    files = {file.path for file in client.list_artifacts(run.info.run_id, "train")}
    assert {"train/config.yaml", "train/confusion.png", "train/mistakes.png"} <= files
    assert {"params.yaml", "dvc.lock"} & {file.path for file in client.list_artifacts(run.info.run_id)}


def test_a_run_records_its_config_groups_and_shortens_long_values(client):
    run = _stage_run(client, "scratch")
    assert run.info.run_name == "scratch"  # of a stage
    chosen = {group: run.data.params[group] for group in naming.GROUPS}
    assert chosen == {
        "data": "sample",
        "model": "scratch",
        "augment": "strong",
        "trainer": "cpu",
        "experiment": "none",
    }
    assert re.search(r"RandomResizedCrop.*… sha256 [0-9a-f]{12}$", run.data.params["augment.transforms"])
    assert max(map(len, run.data.params.values())) <= 250


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=probe", "model.input.size=96"], "probe model.input.size=96"),
        (["model=scratch"], "scratch"),
        (
            ["model=scratch", "augment=none", "seed=3", "data.epochs=9"],
            "scratch augment=none data.epochs=9 seed=3",
        ),
        (["experiment=petfaces-probe", "seed=2"], "probe seed=2"),
        (["model=scratch", *(f"{key}=9" for key in SEVEN)], None),
    ],
)
def test_a_single_run_is_named_by_its_overrides(repro, overrides, expected):
    settings = settings_of(config.compose(*overrides))
    found = tracking.run_name(settings, Path("/elsewhere/mine"))
    assert found == expected if expected else re.fullmatch(r"scratch( \S+=\d+){5} and 2 more", found)


def test_a_run_of_a_removed_model_is_named_by_its_settings(repro):
    settings = settings_of(config.compose("model=scratch"))
    settings["model"]["name"] = "gone"
    assert tracking.run_name(settings, Path("/elsewhere/mine")) == "gone seed=1"
    assert tracking.params(settings)["model"] == "gone"
    assert tracking.run_name({"model": {"name": "old"}, "seed": 3}, Path("/x/y")) == "old seed=3"


def test_an_experiment_is_recognised_by_its_values(repro):
    chosen = tracking.params(
        settings_of(config.compose("experiment=petfaces-probe", "trainer=ddp", "seed=4"))
    )
    assert (chosen["experiment"], chosen["trainer"], chosen["data"]) == ("petfaces-probe", "ddp", "petfaces")


def test_different_long_values_give_different_parameters(repro):
    settings = settings_of(config.compose("model=scratch"))
    before = tracking.params(settings)["augment.transforms"]
    settings["augment"]["transforms"][-1]["CoarseDropout"]["p"] = 0.99
    after = tracking.params(settings)
    assert after["augment.transforms"] != before
    assert after["augment"] == "strong"


def test_the_comparison_shows_the_parameters_that_differ():
    probe = {"model.name": "probe", "model": "probe", "seed": "1", "model.head": "probe", "model.lr": "1"}
    scratch = {"model.name": "scratch", "model": "scratch", "seed": "1", "model.head": "random"}
    runs = [probe, probe | {"model.lr": "2"}, probe | {"seed": "2"}, scratch]
    assert web_ui.differing(runs) == ["model", "seed", "model.lr"]
    assert web_ui.differing([probe]) == []
    assert web_ui.differing([probe, probe | {"augment": "none"}]) == []  # the first is of an earlier version
    many = [{"model.name": "probe", **{f"key{key}": str(run * key) for key in range(50)}} for run in range(3)]
    assert len(web_ui.differing(many)) == web_ui.MAX_PARAMS


def test_a_commit_is_restored_after_the_database_is_lost(synced, client, run):
    restored, first = (_stage_run(record, "probe") for record in (synced, client))
    commit = run("git", "rev-parse", "HEAD").stdout.strip()
    for record in (restored, first):
        assert (record.data.tags["commit"], record.data.tags["dirty"]) == (commit, "false")
        assert record.data.tags["mlflow.source.git.commit"] == commit
    assert {file.path for file in synced.list_artifacts(restored.info.run_id)} >= {"train", "provenance"}


def test_a_lost_commit_is_inferred_from_equal_code_or_unknown(repro, project, run, tmp_path):
    folder = shutil.copytree(project / "runs/sample/train/probe", tmp_path / "probe")
    lineage = json.loads((folder / "lineage.json").read_text())
    (folder / "metrics.json").write_text((folder / "metrics.json").read_text() + "\n")  # other metrics
    seal.seal(folder)
    found = Provenance.of(folder)
    assert (found.commit, found.inferred) == (run("git", "rev-parse", "HEAD").stdout.strip(), True)
    assert "this one has the same training code" in descriptions.run(ModelFolder.open(folder), None)
    (folder / "lineage.json").write_text(json.dumps(lineage | {"code": "0" * 64}))
    seal.seal(folder)
    assert Provenance.of(folder).tags() == {"commit": "unknown", "dirty": "unknown"}
    assert "- commit: unknown; seed 1" in descriptions.run(ModelFolder.open(folder), None)


@pytest.mark.parametrize("error", [KeyError(), subprocess.CalledProcessError(128, "git"), TypeError()])
def test_an_unreadable_commit_does_not_stop_the_search(monkeypatch, error):
    def code_of(commit: str) -> str:
        if commit == "odd":
            raise error
        return "code"

    monkeypatch.setattr(provenance, "_git", lambda *_: b"odd\nold\n")
    monkeypatch.setattr(provenance, "_code_hash_at", code_of)
    assert provenance._commit_with_code.__wrapped__("code") == "old"


def test_an_earlier_versions_commit_is_read_from_its_lineage(repro, project, tmp_path):
    folder = shutil.copytree(project / "runs/sample/train/probe", tmp_path / "probe")
    lineage = json.loads((folder / "lineage.json").read_text())
    (folder / "lineage.json").write_text(json.dumps(lineage | {"commit": "c" * 40, "dirty": True}))
    (folder / "changes.diff").write_text("what differed")
    seal.seal(folder)
    trained = ModelFolder.open(folder)
    assert trained.provenance == Provenance("c" * 40, dirty=True, changes=b"what differed")
    assert (
        "`cccccccc` with uncommitted changes (the run keeps them: `train/changes.diff`)"
        in descriptions.run(trained, None)
    )


def test_a_run_and_its_experiment_have_descriptions(client, project):
    run = _stage_run(client, "scratch")
    note = run.data.tags["mlflow.note.content"]
    assert f"scratch: test top-1 {run.data.metrics['test/top1']:.1%} (" in note
    assert f"validation top-1 {run.data.metrics['best/val/top1']:.1%}" in note
    assert run.data.tags["commit"][:8] in note
    assert str(project) not in note
    experiment = client.get_experiment_by_name(NAME)
    assert "`best/val/top1`" in experiment.tags["mlflow.note.content"]


def test_a_description_edited_by_a_user_is_kept(client, project):
    run = _stage_run(client, "probe")
    client.set_tag(run.info.run_id, "mlflow.note.content", "the one with my photos")
    client.set_tag(run.info.run_id, "evaluation", "another")
    tracking.ensure(project / "runs/sample/train/probe", project / "runs/sample/evaluate/probe")
    assert client.get_run(run.info.run_id).data.tags["mlflow.note.content"] == "the one with my photos"


def test_the_champion_loads_without_pickle_and_predicts(client, project, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr("pickle.load", None)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    # Bytes, arrays, and a table longer than a batch.
    for images in ([buffer.getvalue()], [array], [array] * 40):
        answer = model.predict(pandas.DataFrame({"image": images}))
        assert len(answer) == len(images)
        assert list(answer.columns) == ["labels", "probabilities", "unsure"]
        assert len(answer["labels"][0]) == 5
        assert answer["probabilities"][0] == sorted(answer["probabilities"][0], reverse=True)
        assert 0 < sum(answer["probabilities"][0]) <= 1 + 1e-6
    both = model.predict(pandas.DataFrame({"image": [buffer.getvalue(), array]}))
    assert both["labels"][0] == both["labels"][1]


def test_a_bad_image_in_a_table_is_an_error_with_its_row(client):
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    with pytest.raises(Exception, match="row 0: not a picture"):
        model.predict(pandas.DataFrame({"image": [b"no picture"]}))


def test_a_registered_version_has_a_description_and_tags(client, project):
    version = client.get_model_version_by_alias(NAME, "champion")
    run = client.get_run(version.run_id)
    evaluated = json.loads(
        (project / f"runs/sample/evaluate/{version.tags['model']}/metrics.json").read_text()
    )
    assert f"{version.tags['model']}: test top-1 {evaluated['test/top1']:.1%} (" in version.description
    assert f"{evaluated['test/top1/low']:.1%}–{evaluated['test/top1/high']:.1%}" in version.description
    assert f"content `{version.tags['data'][:12]}`" in version.description
    assert f"commit: `{version.tags['commit'][:8]}`" in version.description
    assert f"(#/experiments/{run.info.experiment_id}/runs/{version.run_id}?" in version.description
    assert "drawings" in version.description
    assert str(project) not in version.description
    assert {"model_sha256", "data", "commit", "dirty", "promoted"} <= set(version.tags)
    assert run.data.tags["content"]


def test_sync_restores_runs_versions_and_champion_once(synced, project):
    runs = [run for run in _runs(synced) if "evaluation" in run.data.tags]
    assert len(runs) == 2
    assert all(run.data.tags["restored"] == "true" for run in runs)
    assert all(run.info.status == "FINISHED" for run in runs)
    assert len(synced.search_model_versions(f"name='{NAME}'")) == 2
    decision = json.loads((project / "runs/sample/register/decision.json").read_text())
    promoted = synced.get_model_version_by_alias(NAME, "champion").tags["promoted"]
    assert promoted == decision["champion"]["reason"]


def test_a_restored_run_equals_the_first_one(synced, client):
    def record(client):
        (run,) = [
            run
            for run in _runs(client)
            if run.data.tags.get("model") == "scratch" and "evaluation" in run.data.tags
        ]
        curve = [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, "val/top1")
        ]
        figures = {key: value for key, value in run.data.metrics.items() if key != "wall_seconds"}
        note = run.data.tags["mlflow.note.content"].partition("- written from its files")[0]
        return run.data.params, figures, curve, note, run.data.tags["content"], run.data.tags["evaluation"]

    assert record(synced) == record(client)


def test_a_clone_with_the_cache_restores_the_champion_without_training(repro, run, project, tmp_path):
    clone = tmp_path / "clone"
    assert run("git", "clone", "-q", str(project), str(clone)).returncode == 0
    shutil.copytree(project / "champions", clone / "champions", dirs_exist_ok=True)  # which are committed
    assert run("dvc", "cache", "dir", "--local", str(project / ".dvc/cache"), cwd=clone).returncode == 0
    done = run("dvc", "repro", cwd=clone, PYTHONPATH=str(clone))
    assert done.returncode == 0, done.stdout
    assert "Running stage 'report'" in done.stdout
    assert not any(f"Running stage '{stage}" in done.stdout for stage in ("train", "evaluate", "register"))
    done = run("python", "-m", "pipeline", "tracking", "sync", cwd=clone, PYTHONPATH=str(clone))
    assert done.returncode == 0, done.stdout
    store = f"sqlite:///{clone / 'mlflow.db'}"
    assert mlflow.MlflowClient(store, store).get_model_version_by_alias(NAME, "champion").version
    report = project / "reports/sample"
    for file in (path for path in report.rglob("*") if path.is_file()):
        assert (clone / "reports/sample" / file.relative_to(report)).read_bytes() == file.read_bytes()


def test_a_training_with_an_unusable_store_warns_once_and_finishes(repro, run, project, tmp_path):
    (tmp_path / "letter.db").write_text("no database " * 100)
    for number, address in enumerate(["http://127.0.0.1:9", f"sqlite:///{tmp_path}/letter.db"]):
        done = run(
            "python",
            "-m",
            "pipeline.train",
            "model=scratch",
            "data.epochs=1",
            f"out=runs/single/offline{number}",
            MLFLOW_TRACKING_URI=address,
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        )
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("warning: ") == 1
        assert "petfaces tracking sync" in done.stdout
        assert (project / f"runs/single/offline{number}/weights.safetensors").is_file()


def test_a_sweep_is_nested_under_one_parent_and_changes_no_dvc_out(repro, run, project, client, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (project / "runs/sample").rglob("*")}
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
    assert {path: path.stat().st_mtime_ns for path in (project / "runs/sample").rglob("*")} == before
    assert not list(tmp_path.iterdir())
    sweep = max(path for path in (project / "runs/sweeps").iterdir() if path.name[0].isdigit())
    assert len(list(sweep.glob("*/weights.safetensors"))) == 4
    (parent,) = [run for run in _runs(client) if run.data.tags.get("sweep") == sweep.name]
    jobs = [run for run in _runs(client) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(jobs) == 4
    assert {run.info.run_name for run in jobs} >= {"model=probe seed=2 data.epochs=1"}
    assert parent.info.run_name == "sweep model=scratch,probe seed=1,2 data.epochs=1"
    best = max(jobs, key=lambda run: run.data.metrics["best/val/top1"])
    assert parent.data.metrics["best/val/top1"] == best.data.metrics["best/val/top1"]
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("4 of 4 jobs finished.")
    assert all(f"/runs/{job.info.run_id}?" in note for job in jobs)
    assert "[model=probe seed=2](#/experiments/" in note
    assert f"**{best.data.metrics['best/val/top1']:.1%}**" in note

    # The files alone give the same parent.
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run("python", "-m", "pipeline", "tracking", "sync", MLFLOW_TRACKING_URI=address).returncode == 0
    (restored,) = [
        run
        for run in _runs(mlflow.MlflowClient(address, address))
        if run.data.tags.get("sweep") == sweep.name
    ]
    assert restored.data.tags["jobs"] == "4"
    assert restored.info.run_name == parent.info.run_name
    assert restored.data.metrics == parent.data.metrics


def test_a_failed_run_records_the_reason(repro, run, project, client):
    done = run("python", "-m", "pipeline.train", "trainer.accelerator=mps", "seed=77")
    assert done.returncode == 1
    (failed,) = [run for run in _runs(client) if run.data.params.get("seed") == "77"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["mlflow.note.content"].startswith("Broke off: trainer:")
    assert str(project) not in failed.data.tags["mlflow.note.content"]


def test_sync_skips_files_of_an_older_format_with_a_warning(client, project, capsys):
    file = project / "runs/sample/register/decision.json"
    original = file.read_text()
    old, bare = project / "runs/single/old", project / "runs/single/bare"
    old.mkdir(parents=True)
    try:
        file.write_text('{"challenger": "probe", "champion": {"reason": "the first champion"}}')
        (old / "lineage.json").write_text("{}")
        seal.seal(old)
        shutil.copytree(old, bare)
        (bare / "SHA256SUMS").unlink()
        tracking.sync()
    finally:
        file.write_text(original)
        for folder in (old, bare):
            shutil.rmtree(folder, ignore_errors=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 3
    assert lines[0].startswith("warning: skipped: runs/single/old/model.json is missing")
    assert lines[1].startswith("warning: skipped: runs/single/bare has no SHA256SUMS (written by an older")
    assert lines[2].startswith("warning: skipped: runs/sample/register/decision.json was written by an older")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("{project}/data/sample has no pack", "data/sample has no pack"),
        ("no such file: {home}/photos", "no such file: ~/photos"),
    ],
)
def test_descriptions_hold_no_path_of_this_machine(project, message, shown):
    assert descriptions.without_paths(message.format(project=project, home=Path.home())) == shown


def test_a_long_sweep_has_a_short_name(client):
    jobs = [(f"model=probe lr={number}", f"id{number}", number / 100, "FINISHED") for number in range(50)]
    name, note = descriptions.sweep("1", jobs, "top-1")
    assert name == "sweep lr=0…49(50) model=probe"
    assert "Best on validation: top-1 **49.0%** with [lr=49](#/experiments/1/runs/id49?" in note
    assert "and 30 more, down to 0.0%" in note


def test_the_page_links_to_runs_and_versions(client):
    links = dict(tracking.links("http://127.0.0.1:5000"))
    experiment = client.get_experiment_by_name(NAME)
    runs = (
        f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    )
    assert links["sample: runs"] == f"{runs}&viewStateShareKey=comparison"
    assert links["sample: versions"] == "http://127.0.0.1:5000/#/models/sample?workflowType=machine_learning"
    view = json.loads(client.get_experiment_by_name(NAME).tags["mlflow.sharedViewState.comparison"])
    assert "metrics.`test/top1`" in json.loads(view["state"])["selectedColumns"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    key = "mlflow.sharedViewState.comparison"  # tags are untrusted
    for tag in ("{", "3", "[]", '["a"]', "null"):
        client.set_experiment_tag(experiment.experiment_id, key, tag)
        assert tracking.links("http://127.0.0.1:5000")
        assert "state" in json.loads(client.get_experiment_by_name(NAME).tags[key])


def test_mlflow_logs_system_metrics_if_enabled(repro, tmp_path, monkeypatch, client):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    train.train(config.compose("model=scratch", "seed=79", f"out={tmp_path / 'watched'}"), "watched")
    (watched,) = [each for each in _runs(client) if each.info.run_name == "watched"]
    assert watched.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert watched.info.status == "FINISHED"
    assert not [each for each in threading.enumerate() if each.name == "SystemMetricsMonitor"]


@pytest.mark.slow
def test_mlflow_serves_the_champion(repro, project, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    page = (project / "docs/take-along.md").read_text()
    command, code = (
        re.search(r"^(mlflow models serve .*)$", page, re.M)[1],
        page[page.index("import base64, ") :],
    )
    server = subprocess.Popen(
        shlex.split(command.replace("5001", str(port))),
        cwd=project,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project / 'mlflow.db'}"},
        start_new_session=True,
    )
    try:
        for _ in range(60):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping") as answer:
                assert answer.status == 200
                break
            time.sleep(1)
        Image.new("RGB", (90, 60), (200, 120, 40)).save(tmp_path / "PHOTO.jpg")
        lines = code.partition("```")[0].replace("5001", str(port)).replace("PHOTO", str(tmp_path / "PHOTO"))
        done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
        (row,) = ast.literal_eval(done.stdout)["predictions"]
        assert row.keys() == {"labels", "probabilities", "unsure"}
        assert set(row["labels"]) <= set(ModelFolder(project / "runs/sample/train/scratch").card.classes)
        assert len(row["labels"]) == 5
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
