"""Programs that write into MLflow at the same moment write each run and version once, and lose nothing."""

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
    """A store with its tables and nothing in them."""
    file = tmp_path_factory.mktemp("new") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}", f"sqlite:///{file}").search_registered_models(max_results=1)
    return file


@pytest.fixture
def client(repro, new_store, tmp_path, monkeypatch):
    """A client on an empty store, which the program uses, too."""
    shutil.copyfile(new_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.client.cache_clear()
    yield store.client()
    store.client.cache_clear()


@pytest.fixture
def folders(house):
    """Of the stage's model `scratch`: train's, evaluate's and the exported one."""
    runs = house / "runs/sample"
    return runs / "train/scratch", runs / "evaluate/scratch", runs / "register/candidates/scratch"


def _together(monkeypatch, method: str, *functions) -> list:
    """Calls functions at the same time, so that whatever one looks up by a method the others look up, too."""
    barrier = threading.Barrier(len(functions))
    original = getattr(mlflow.MlflowClient, method)

    def look(self, *arguments, **options):
        found = original(self, *arguments, **options)
        with suppress(threading.BrokenBarrierError):  # the others wait at a lock
            barrier.wait(1)
        return found

    monkeypatch.setattr(mlflow.MlflowClient, method, look)
    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(function) for function in functions]
        results = [future.exception() or future.result() for future in futures]
    monkeypatch.setattr(mlflow.MlflowClient, method, original)
    return results


def _runs(client, **tags: str) -> list:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    experiment = client.get_experiment_by_name(NAME)
    return client.search_runs([experiment.experiment_id], query)


def test_two_that_look_for_the_same_run_at_once_write_it_once(client, folders, monkeypatch):
    def ensure() -> str:
        return tracking.ensure(*folders[:2])

    one, two = _together(monkeypatch, "search_runs", ensure, ensure)
    assert one == two
    assert [run.info.run_id for run in _runs(client, model="scratch")] == [one]
    assert len(client.get_metric_history(one, "val/top1")) == 2


def test_two_that_look_for_the_same_version_at_once_register_it_once(client, folders, monkeypatch):
    def ensure() -> str:
        return tracking.ensure_version(*folders)

    assert _together(monkeypatch, "search_model_versions", ensure, ensure) == ["1", "1"]
    assert len(client.search_model_versions(f"name='{NAME}'")) == 1
    assert len(_runs(client, model="scratch")) == 1


def test_where_no_lock_holds_the_oldest_run_and_the_first_version_stay(client, folders, monkeypatch):
    """Another machine, on the same server, writes the same between our search and our creation."""
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


def test_a_run_that_was_cut_off_while_it_was_written_is_completed(client, folders, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "log_artifacts", die)
        with pytest.raises(Killed):
            tracking.ensure(folders[0])
    (half,) = _runs(client, model="scratch")
    assert tracking.ensure(folders[0]) == half.info.run_id
    (whole,) = _runs(client, model="scratch")
    assert whole.info.status == "FINISHED"
    assert "content_expected" not in whole.data.tags
    assert len(client.get_metric_history(half.info.run_id, "val/top1")) == 2


def _double(client, folders) -> tuple[str, str]:
    """What programs without a lock left: run and version twice, the second ones with what people added."""
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
    double = client.create_model_version(NAME, version.source, run_id=second, tags=tags)
    client.set_registered_model_alias(NAME, "champion", double.version)
    for key, (number, former) in {"change_000000": (first, None), "change_000001": ("2", first)}.items():
        change = {"when": "2026-01-01T00:00:00Z", "version": number, "former": former, "why": key}
        client.set_registered_model_tag(NAME, key, json.dumps(change))
    return version.run_id, second


def test_sync_merges_what_was_doubled_before(client, folders, house, capsys):
    first, second = _double(client, folders)
    tracking.sync()
    told = capsys.readouterr().err
    assert "merged duplicates in MLflow: 1 run, version 2 of sample (now 1)" in told
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


def test_parents_of_a_sweep_are_merged_with_their_jobs(client, folders):
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
def three(client):
    """A registered model with three versions."""
    run = client.create_run(store.experiment_id(NAME)).info.run_id
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, f"runs:/{run}/model", run_id=run)
    return client


def test_promotions_at_the_same_moment_are_all_in_the_history(three, monkeypatch):
    def promote(number: str):
        return lambda: promotion.promote(NAME, number, f"for {number}", by_person=True)

    answers = _together(monkeypatch, "get_registered_model", *map(promote, "123"))
    assert answers == [None] * 3
    history = promotion.history(NAME)
    assert sorted(change.why for change in history) == ["for 1", "for 2", "for 3"]
    assert promotion.champion(NAME)[0] == history[-1].version
    assert [change.former for change in history] == [None, *(change.version for change in history[:-1])]


def test_the_history_is_in_order_within_a_second_and_after_the_first_form_of_its_keys(three):
    old = {"when": "2026-01-01T00:00:00Z", "version": "3", "former": None, "why": "old"}
    for number in (0, 1, 99_999):
        three.set_registered_model_tag(NAME, f"change_{number:06}", json.dumps(old))
    three.set_registered_model_tag(NAME, "change_000002", "{[/notes]")
    three.set_registered_model_tag(NAME, "change_of_plan", "mine")
    wanted = ["1", "2", "1", "3", "2", "1"]
    for number in wanted:
        promotion.promote(NAME, number, "x")
    assert [change.version for change in promotion.history(NAME)] == ["3", "3", "3", *wanted]


def test_a_promotion_of_another_machine_at_the_same_moment_is_told_in_one_line(three, monkeypatch):
    point = mlflow.MlflowClient.set_registered_model_alias

    def overtaken(self, name, alias, number):
        if number == "1":  # their note comes after ours, their alias before
            later = {"when": "2026-01-01T00:00:00Z", "version": "2", "former": "1", "why": "theirs"}
            self.set_registered_model_tag(NAME, f"change_{time.time_ns() + 10**10}_them", json.dumps(later))
        point(self, name, alias, number)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", overtaken)
    with pytest.raises(UserError, match=r"promoted version 2 \(theirs\)"):
        promotion.promote(NAME, "1", "ours")
    assert promotion.champion(NAME)[0] == "2" == promotion.history(NAME)[-1].version


def test_only_who_made_the_present_champion_notes_it(three, monkeypatch, tmp_path):
    monkeypatch.setattr(champion_files, "FOLDER", tmp_path / "champions")
    monkeypatch.setattr(champion_files, "_local_champion", lambda name: tmp_path)
    monkeypatch.setattr(champion_files, "model_hash", lambda folder: "0" * 64)
    for number in "12":
        promotion.promote(NAME, number, f"for {number}", by_person=True)
    champion_files.record(NAME, "2", "for 2")
    champion_files.record(NAME, "1", "for 1")  # of a program that was held up after it had promoted
    (file,) = champion_files.FOLDER.iterdir()
    assert json.loads(file.read_text())["why"] == "for 2"


def test_the_gate_does_not_override_a_champion_that_it_did_not_see(three):
    promotion.promote(NAME, "2", "by a person meanwhile", by_person=True)
    with pytest.raises(tracking.ChampionChangedError, match="version 2 became champion"):
        promotion.promote(NAME, "1", "better than none", instead_of=None)
    assert promotion.champion(NAME)[0] == "2"


def test_a_rollback_passes_over_a_version_that_somebody_deleted(three):
    for number in "123":
        promotion.promote(NAME, number, "x")
    three.delete_model_version(NAME, "2")
    assert promotion.withdraw(NAME, "y") == ("3", "1")


def test_files_follow_a_champion_that_changes_while_they_are_copied(client, house, tmp_path, monkeypatch):
    runs = tmp_path / "sample"
    for stage in ("train", "evaluate"):
        shutil.copytree(house / "runs/sample" / stage, runs / stage)
    copy, changes = shutil.copytree, iter("12")

    def slow(*arguments, **options):
        copied = copy(*arguments, **options)
        target = str(options.get("dst") or arguments[1])
        number = next(changes, None) if target.endswith("champion/train") else None
        if number and promotion.champion(NAME)[0] != number:
            promotion.promote(NAME, number, f"changed to {number}", by_person=True)
        return copied

    exported = house / "runs/sample/register/candidates"
    monkeypatch.setattr(onnx_export, "to_onnx", lambda train, target: copy(exported / train.name, target))
    monkeypatch.setattr(register, "check_export", lambda *_: None)
    monkeypatch.setattr(register.shutil, "copytree", slow)
    decision = register.register(runs, house / "data/sample", ["scratch", "probe"], 0.05)
    number, model = tracking.champion(NAME)
    assert model_hash(runs / "register/champion/train") == model == decision["champion"]["sha256"]
    assert decision["champion"]["reason"] == f"changed to {number}"
