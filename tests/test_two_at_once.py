"""Programs that write to MLflow at the same time write each run and version once and lose nothing."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import mlflow
import pytest

from pipeline import register, tracking
from pipeline.artifacts import onnx_export
from pipeline.artifacts.seal import model_hash
from pipeline.common.errors import UserError
from pipeline.tracking import champion_files, duplicates, promotion, store

NAME = "sample"


@pytest.fixture(scope="module")
def new_store(tmp_path_factory):
    """A store with empty tables."""
    file = tmp_path_factory.mktemp("new") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}").search_registered_models(max_results=1)
    return file


@pytest.fixture
def client(repro, new_store, tmp_path, monkeypatch):
    """A client of an empty store, which the program uses too."""
    shutil.copyfile(new_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.client.cache_clear()
    yield store.client()
    store.client.cache_clear()


@pytest.fixture
def folders(project):
    """The train, evaluate and export folders of the stage's model `scratch`."""
    runs = project / "runs/sample"
    return runs / "train/scratch", runs / "evaluate/scratch", runs / "register/candidates/scratch"


def _concurrently(monkeypatch, method: str, *functions) -> list:
    """Calls functions at the same time; each waits for the others once `method` has returned."""
    barrier = threading.Barrier(len(functions))
    original = getattr(mlflow.MlflowClient, method)

    def synced(self, *arguments, **options):
        result = original(self, *arguments, **options)
        with suppress(threading.BrokenBarrierError):  # the others are blocked by a lock
            barrier.wait(1)
        return result

    monkeypatch.setattr(mlflow.MlflowClient, method, synced)
    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(function) for function in functions]
        results = [future.exception() or future.result() for future in futures]
    monkeypatch.setattr(mlflow.MlflowClient, method, original)
    return results


def _runs(client, **tags: str) -> list:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    experiment = client.get_experiment_by_name(NAME)
    return client.search_runs([experiment.experiment_id], query)


def test_the_same_run_is_written_once_by_two_at_once(client, folders, monkeypatch):
    def ensure() -> str:
        return tracking.ensure(*folders[:2])

    one, two = _concurrently(monkeypatch, "search_runs", ensure, ensure)
    assert one == two
    assert [run.info.run_id for run in _runs(client, model="scratch")] == [one]
    assert len(client.get_metric_history(one, "val/top1")) == 2


def test_the_same_version_is_registered_once_by_two_at_once(client, folders, monkeypatch):
    def ensure() -> str:
        return tracking.ensure_version(*folders)

    assert _concurrently(monkeypatch, "search_model_versions", ensure, ensure) == ["1", "1"]
    assert len(client.search_model_versions(f"name='{NAME}'")) == 1
    assert len(_runs(client, model="scratch")) == 1


def test_without_a_shared_lock_the_oldest_run_and_version_are_kept(client, folders, monkeypatch):
    """Another machine on the same server writes the same between our search and our write."""
    create_run, create_version = mlflow.MlflowClient.create_run, mlflow.MlflowClient.create_model_version
    others = []

    def create_second(self, experiment, start_time=None, tags=None, **options):
        if tags and "restored" in tags and not others:
            others.append(create_run(self, experiment, start_time=1, tags=tags, **options).info.run_id)
        return create_run(self, experiment, start_time=start_time, tags=tags, **options)

    def version_second(self, name, source, **options):
        create_version(self, name, source, **options)
        return create_version(self, name, source, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create_second)
    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", version_second)
    assert tracking.ensure_version(*folders) == "1"
    assert [run.info.run_id for run in _runs(client, model="scratch")] == others
    assert "content" in client.get_run(others[0]).data.tags
    assert [int(version.version) for version in client.search_model_versions(f"name='{NAME}'")] == [1]


def test_a_partially_written_run_is_completed(client, folders, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "log_artifacts", kill)
        with pytest.raises(Killed):
            tracking.ensure(folders[0])
    (partial,) = _runs(client, model="scratch")
    assert tracking.ensure(folders[0]) == partial.info.run_id
    (complete,) = _runs(client, model="scratch")
    assert complete.info.status == "FINISHED"
    assert "content_expected" not in complete.data.tags
    assert len(client.get_metric_history(partial.info.run_id, "val/top1")) == 2


def _duplicate(client, folders) -> tuple[str, str]:
    """A run and a version written twice, the second ones with users' additions."""
    first = tracking.ensure_version(*folders)
    version = client.get_model_version(NAME, first)
    run = client.get_run(version.run_id)
    tags = {key: value for key, value in run.data.tags.items() if key != "evaluation"}
    note = tags["mlflow.note.content"] + "the one with my photos\n"
    second = client.create_run(
        run.info.experiment_id, tags=tags | {"mlflow.note.content": note, "mine": "yes"}
    ).info.run_id
    client.log_metric(second, "wall_seconds", 12.0)
    tags = version.tags | {"tested_against_abc": "won", "promoted": "by me"}
    copy = client.create_model_version(NAME, version.source, run_id=second, tags=tags)
    client.set_registered_model_alias(NAME, "champion", copy.version)
    for key, (number, former) in {"change_000000": (first, None), "change_000001": ("2", first)}.items():
        change = {"when": "2026-01-01T00:00:00Z", "version": number, "former": former, "why": key}
        client.set_registered_model_tag(NAME, key, json.dumps(change))
    return version.run_id, second


def test_sync_merges_duplicate_runs_and_versions(client, folders, project, capsys):
    first, second = _duplicate(client, folders)
    tracking.sync()
    messages = capsys.readouterr().err
    assert "merged duplicates in MLflow: 1 run, version 2 of sample (now 1)" in messages
    (run,) = _runs(client, content=client.get_run(first).data.tags["content"])
    assert run.info.run_id == first
    assert run.data.tags["mine"] == "yes"
    assert run.data.tags["mlflow.note.content"].endswith("\nthe one with my photos\n")
    assert run.data.metrics["wall_seconds"] == 12.0
    assert client.get_run(second).info.lifecycle_stage == "deleted"
    (version,) = client.search_model_versions(f"name='{NAME}' and tags.model='scratch'")
    assert int(version.version) == 1 and version.tags["tested_against_abc"] == "won"
    assert promotion.champion(NAME)[0] == "1"
    assert [change.why for change in tracking.history(NAME)] == ["change_000000"]
    assert duplicates.merge() == ""


def test_the_data_set_of_a_merged_run_is_kept(client, folders):
    run = client.get_run(tracking.ensure(folders[0]))
    earlier = client.create_run(
        run.info.experiment_id, start_time=run.info.start_time - 1, tags={**run.data.tags, "evaluation": "x"}
    )
    assert duplicates.merge() == "1 run"
    (kept,) = _runs(client, content=run.data.tags["content"])
    assert kept.info.run_id == earlier.info.run_id
    assert kept.inputs.dataset_inputs == run.inputs.dataset_inputs


def test_duplicate_parents_of_a_sweep_are_merged_with_their_jobs(client, folders):
    experiment = store.experiment_id(NAME)
    parents = [client.create_run(experiment, tags={"sweep": "s"}).info.run_id for _ in range(2)]
    contents = ("a", "b"), ("b", "c")
    for parent, jobs in zip(parents, contents, strict=True):
        for job in jobs:
            client.create_run(experiment, tags={"mlflow.parentRunId": parent, "content": job})
    assert duplicates.merge() == "2 runs"
    (parent,) = _runs(client, sweep="s")
    jobs = _runs(client, **{"mlflow.parentRunId": parent.info.run_id})
    assert sorted(job.data.tags["content"] for job in jobs) == ["a", "b", "c"]
    assert parent.data.tags["jobs"] == "3"


@pytest.fixture
def three_versions(client):
    """A registered model with three versions."""
    run = client.create_run(store.experiment_id(NAME)).info.run_id
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, f"runs:/{run}/model", run_id=run)
    return client


def test_concurrent_promotions_are_all_in_the_history(three_versions, monkeypatch):
    def promote(number: str):
        return lambda: promotion.promote(NAME, number, f"for {number}", by_person=True)

    answers = _concurrently(monkeypatch, "get_registered_model", *map(promote, "123"))
    assert answers == [None] * 3
    history = promotion.history(NAME)
    assert sorted(change.why for change in history) == ["for 1", "for 2", "for 3"]
    assert promotion.champion(NAME)[0] == history[-1].version
    assert [change.former for change in history] == [None, *(change.version for change in history[:-1])]


def test_the_history_is_in_order_with_old_and_new_keys(three_versions):
    old = {"when": "2026-01-01T00:00:00Z", "version": "3", "former": None, "why": "old"}
    for number in (0, 1, 99_999):
        three_versions.set_registered_model_tag(NAME, f"change_{number:06}", json.dumps(old))
    three_versions.set_registered_model_tag(NAME, "change_000002", "{[/notes]")
    three_versions.set_registered_model_tag(NAME, "change_of_plan", "mine")
    numbers = ["1", "2", "1", "3", "2", "1"]
    for number in numbers:
        promotion.promote(NAME, number, "x")
    assert [change.version for change in promotion.history(NAME)] == ["3", "3", "3", *numbers]


def test_a_concurrent_promotion_from_another_machine_is_an_error(three_versions, monkeypatch):
    set_alias = mlflow.MlflowClient.set_registered_model_alias

    def set_alias_late(self, name, alias, number):
        if number == "1":  # their change is recorded after ours, their alias set before
            change = {"when": "2026-01-01T00:00:00Z", "version": "2", "former": "1", "why": "theirs"}
            self.set_registered_model_tag(NAME, f"change_{time.time_ns() + 10**10}_them", json.dumps(change))
        set_alias(self, name, alias, number)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", set_alias_late)
    with pytest.raises(UserError, match=r"promoted version 2 \(theirs\)"):
        promotion.promote(NAME, "1", "ours")
    assert promotion.champion(NAME)[0] == "2" == promotion.history(NAME)[-1].version


def test_only_the_current_champion_is_recorded_in_the_files(three_versions, monkeypatch, tmp_path):
    monkeypatch.setattr(champion_files, "FOLDER", tmp_path / "champions")
    monkeypatch.setattr(champion_files, "_local_champion", lambda name: tmp_path)
    monkeypatch.setattr(champion_files, "model_hash", lambda folder: "0" * 64)
    for number in "12":
        promotion.promote(NAME, number, f"for {number}", by_person=True)
    champion_files.record(NAME, "2", "for 2")
    champion_files.record(NAME, "1", "for 1")  # by a program that was delayed after promoting
    (file,) = champion_files.FOLDER.iterdir()
    assert json.loads(file.read_text())["why"] == "for 2"


def test_register_does_not_replace_a_champion_it_was_not_compared_with(three_versions):
    promotion.promote(NAME, "2", "by a person meanwhile", by_person=True)
    with pytest.raises(tracking.ChampionChangedError, match="version 2 became champion"):
        promotion.promote(NAME, "1", "better than none", instead_of=None)
    assert promotion.champion(NAME)[0] == "2"


def test_a_rollback_skips_a_deleted_version(three_versions):
    for number in "123":
        promotion.promote(NAME, number, "x")
    three_versions.delete_model_version(NAME, "2")
    assert promotion.withdraw(NAME, "y") == ("3", "1")


def test_files_match_a_champion_that_changes_while_they_are_copied(client, project, tmp_path, monkeypatch):
    runs = tmp_path / "sample"
    for stage in ("train", "evaluate"):
        shutil.copytree(project / "runs/sample" / stage, runs / stage)
    copy, changes = shutil.copytree, iter("12")

    def copy_and_promote(*arguments, **options):
        result = copy(*arguments, **options)
        target = str(options.get("dst") or arguments[1])
        number = next(changes, None) if target.endswith("champion/train") else None
        if number and promotion.champion(NAME)[0] != number:
            promotion.promote(NAME, number, f"changed to {number}", by_person=True)
        return result

    exported = project / "runs/sample/register/candidates"
    monkeypatch.setattr(onnx_export, "to_onnx", lambda train, target: copy(exported / train.name, target))
    monkeypatch.setattr(register, "check_export", lambda *_: None)
    monkeypatch.setattr(register.shutil, "copytree", copy_and_promote)
    decision = register.register(runs, project / "data/sample", ["scratch", "probe"], 0.05)
    number, model = tracking.champion(NAME)
    assert model_hash(runs / "register/champion/train") == model == decision["champion"]["sha256"]
    assert decision["champion"]["reason"] == f"changed to {number}"
