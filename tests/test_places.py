"""A store can't make this project ask a stranger's server, or write outside its own folder."""

from types import SimpleNamespace

import pytest

from pipeline.common.errors import UserError
from pipeline.tracking import artifact_locations, promotion, runs


@pytest.fixture
def says(monkeypatch, tmp_path):
    """Makes a SQLite store, or a server, say where the files of a run and of a model lie."""

    def change(place: str, store: str | None = None) -> None:
        info = SimpleNamespace(artifact_uri=place)
        asked = SimpleNamespace(
            get_run=lambda run_id: SimpleNamespace(info=info),
            get_logged_model=lambda model: SimpleNamespace(artifact_location=place),
            get_registered_model=lambda name: SimpleNamespace(tags=place),
        )
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store or f"sqlite:///{tmp_path / 'mlflow.db'}")
        for module in (artifact_locations, promotion):
            monkeypatch.setattr(module, "client", lambda: asked)

    return change


@pytest.mark.parametrize(
    "place",
    [
        "http://evil/api/2.0/mlflow-artifacts/artifacts/x",
        "https://ann:pass@evil/x",
        "mlflow-artifacts://evil:80/x",
        "http://127.0.0.1:5000@evil/x",
        "http://[evil",
    ],
)
@pytest.mark.parametrize("store", [None, "http://127.0.0.1:5000"])
def test_no_other_server_is_asked(says, place, store):
    says(place, store)
    for which in ({"run_id": "1"}, {"model": "m-1"}):
        with pytest.raises(UserError, match="outside the store's own locations") as error:
            artifact_locations.check(**which)
        assert "pass" not in str(error.value)
    version = SimpleNamespace(name="x", version="1", source=place, storage_location=None, run_id="1")
    with pytest.raises(UserError, match="outside the store's own locations"):
        artifact_locations.check_version(version)


@pytest.mark.parametrize(
    "place", ["mlflow-artifacts:/1/x/artifacts", "http://127.0.0.1:5000/x", "s3://bucket/x"]
)
def test_the_tracking_servers_own_places_are_used(says, place):
    for user in ("", "ann:pass@"):
        says(place, f"http://{user}127.0.0.1:5000")
        artifact_locations.check("1", "m-1", writing=True)


def test_of_a_sqlite_store_nothing_is_written_outside_the_folders_that_mlflow_keeps_for_an_id(says, tmp_path):
    elsewhere = tmp_path / "elsewhere/1/artifacts"  # of an experiment with a folder of its own
    for place in (f"{tmp_path}/mlartifacts/1/x", f"file://{tmp_path}/mlartifacts/1/x", elsewhere.as_uri()):
        says(place)
        artifact_locations.check("1", writing=True)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "link/1").mkdir(parents=True)
    (tmp_path / "link/1/artifacts").symlink_to(tmp_path / ".ssh")
    for place in (
        f"file://{tmp_path}/.ssh",
        "/home/ann/.ssh",
        f"{tmp_path}/mlartifacts/../.ssh",
        f"{tmp_path}/link/1/artifacts",
        f"{tmp_path}/elsewhere/1/artifacts/..",
        f"{tmp_path}/elsewhere/2/artifacts",
    ):
        says(place)
        artifact_locations.check("1")  # reading a file is no harm: what is read is checked
        with pytest.raises(UserError, match="outside the store's own locations"):
            artifact_locations.check("1", writing=True)


def test_a_run_is_not_written_where_a_stranger_would_have_it(says, tmp_path, monkeypatch):
    asked = SimpleNamespace(
        get_run=lambda run_id: SimpleNamespace(
            info=SimpleNamespace(artifact_uri=f"{tmp_path}/.ssh"), data=SimpleNamespace(metrics={}, tags={})
        ),
        log_batch=lambda *_, **__: None,
        log_artifacts=lambda *_: pytest.fail("written"),
    )
    says(f"{tmp_path}/.ssh")
    monkeypatch.setattr(runs, "client", lambda: asked)
    with pytest.raises(UserError, match="outside the store's own locations"):
        runs.complete("1", SimpleNamespace(metrics={}, folder=tmp_path), {})


def test_a_history_that_anybody_can_write_holds_changes_only(says):
    good = '{"when": "2026-01-01T00:00:00Z", "version": "2", "former": null, "why": "x"}'
    says(
        {
            "change_1": "[" * 4900,
            "change_2": good.replace('"2"', "[2]"),
            "change_3": good.replace("null", "[2]"),
            "change_4": good.replace('"x"', "5"),
            "change_5": "3",
            "change_00000000000000000006_ab": good,
            "change_99999999999999999999": good,
        }
    )
    assert list(promotion.changes("x")) == ["change_00000000000000000006_ab"]
