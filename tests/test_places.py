"""An MLflow store can't make this project contact another server or write outside the store's folders."""

from types import SimpleNamespace

import pytest

from pipeline.common.errors import UserError
from pipeline.tracking import artifact_locations, promotion, runs


@pytest.fixture
def fake_store(monkeypatch, tmp_path):
    """Makes a SQLite store or a server return a location for a run's and a model's files."""

    def change(uri: str, store: str | None = None) -> None:
        info = SimpleNamespace(artifact_uri=uri)
        fake_client = SimpleNamespace(
            get_run=lambda run_id: SimpleNamespace(info=info),
            get_logged_model=lambda model: SimpleNamespace(artifact_location=uri),
            get_registered_model=lambda name: SimpleNamespace(tags=uri),
        )
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store or f"sqlite:///{tmp_path / 'mlflow.db'}")
        for module in (artifact_locations, promotion):
            monkeypatch.setattr(module, "client", lambda: fake_client)

    return change


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil/api/2.0/mlflow-artifacts/artifacts/x",
        "https://ann:pass@evil/x",
        "mlflow-artifacts://evil:80/x",
        "http://127.0.0.1:5000@evil/x",
        "http://[evil",
    ],
)
@pytest.mark.parametrize("store", [None, "http://127.0.0.1:5000"])
def test_another_servers_address_is_refused(fake_store, uri, store):
    fake_store(uri, store)
    for target in ({"run_id": "1"}, {"model": "m-1"}):
        with pytest.raises(UserError, match="outside the store's own locations") as error:
            artifact_locations.check(**target)
        assert "pass" not in str(error.value)
    version = SimpleNamespace(name="x", version="1", source=uri, storage_location=None, run_id="1")
    with pytest.raises(UserError, match="outside the store's own locations"):
        artifact_locations.check_version(version)


@pytest.mark.parametrize(
    "uri", ["mlflow-artifacts:/1/x/artifacts", "http://127.0.0.1:5000/x", "s3://bucket/x"]
)
def test_the_tracking_servers_own_locations_are_used(fake_store, uri):
    for user in ("", "ann:pass@"):
        fake_store(uri, f"http://{user}127.0.0.1:5000")
        artifact_locations.check("1", "m-1", writing=True)


def test_a_sqlite_store_is_written_only_in_folders_named_by_an_id(fake_store, tmp_path):
    own_location = tmp_path / "elsewhere/1/artifacts"  # an experiment's own artifact location
    for uri in (f"{tmp_path}/mlartifacts/1/x", f"file://{tmp_path}/mlartifacts/1/x", own_location.as_uri()):
        fake_store(uri)
        artifact_locations.check("1", writing=True)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "link/1").mkdir(parents=True)
    (tmp_path / "link/1/artifacts").symlink_to(tmp_path / ".ssh")
    for uri in (
        f"file://{tmp_path}/.ssh",
        "/home/ann/.ssh",
        f"{tmp_path}/mlartifacts/../.ssh",
        f"{tmp_path}/link/1/artifacts",
        f"{tmp_path}/elsewhere/1/artifacts/..",
        f"{tmp_path}/elsewhere/2/artifacts",
    ):
        fake_store(uri)
        artifact_locations.check("1")  # reading is harmless: contents are checked
        with pytest.raises(UserError, match="outside the store's own locations"):
            artifact_locations.check("1", writing=True)


def test_a_run_is_not_written_outside_the_stores_locations(fake_store, tmp_path, monkeypatch):
    fake_client = SimpleNamespace(
        get_run=lambda run_id: SimpleNamespace(
            info=SimpleNamespace(artifact_uri=f"{tmp_path}/.ssh"), data=SimpleNamespace(metrics={}, tags={})
        ),
        log_batch=lambda *_, **__: None,
        log_artifacts=lambda *_: pytest.fail("written"),
    )
    fake_store(f"{tmp_path}/.ssh")
    monkeypatch.setattr(runs, "client", lambda: fake_client)
    with pytest.raises(UserError, match="outside the store's own locations"):
        runs.complete("1", SimpleNamespace(metrics={}, folder=tmp_path), {})


def test_invalid_tags_are_left_out_of_the_history(fake_store):
    valid = '{"when": "2026-01-01T00:00:00Z", "version": "2", "former": null, "why": "x"}'
    fake_store(
        {
            "change_1": "[" * 4900,
            "change_2": valid.replace('"2"', "[2]"),
            "change_3": valid.replace("null", "[2]"),
            "change_4": valid.replace('"x"', "5"),
            "change_5": "3",
            "change_00000000000000000006_ab": valid,
            "change_99999999999999999999": valid,
        }
    )
    assert list(promotion.changes("x")) == ["change_00000000000000000006_ab"]
