"""No output, record or page has the password of an address."""

import json
import sys

import pytest
from conftest import ended
from omegaconf import OmegaConf

from pipeline import config, fetch, tracking
from pipeline import stage as stages
from pipeline.artifacts import lineage
from pipeline.artifacts.provenance import Provenance
from pipeline.common.errors import UserError
from pipeline.maintenance import champion
from pipeline.stage import stage
from pipeline.tracking import live, store, web_ui

SECRET = "s3cr3t"
SERVER = f"http://ann:{SECRET}@127.0.0.1:9"


@pytest.fixture
def server(monkeypatch):
    """A server that does not answer."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store.client.cache_clear()
    yield
    store.client.cache_clear()


def test_the_list_of_versions_has_none(server, monkeypatch, capsys):
    for name in ("versions", "history"):
        monkeypatch.setattr(tracking, name, lambda _: [])
    champion.show("sample")
    said = capsys.readouterr().out
    assert "ann:***@" in said and SECRET not in said


def test_a_training_without_its_server_has_none(server, capsys):
    card = {"name": "scratch", "data": "sample"}
    tracking.Run(card, {"seed": 1}, {}, Provenance(), "x", None, "cpu", "attempt")
    said = capsys.readouterr().err
    assert "ann:***@" in said and SECRET not in said


def test_a_broken_off_run_keeps_none(monkeypatch):
    kept = []
    monkeypatch.setattr(live.Run, "_try", lambda self, action, patient=False: action())
    run = live.Run({}, {}, {}, Provenance(), "x", None, "cpu", "attempt")
    monkeypatch.setattr(run, "_fail", lambda reason, status: kept.append(reason))
    run.fail(OSError(f"no way to {SERVER}"))
    run.fail(UserError(f"no way to {SERVER}"))
    assert len(kept) == 2 and SECRET not in "".join(kept)


SIGNED = ("token", "a=b&X-Amz-Signature", "X-Amz-Security-Token", "sig", "access_token")


@pytest.mark.parametrize("end", ["", "/", *(f"?{name}={SECRET}" for name in SIGNED)])
def test_a_mirror_that_can_not_be_reached_has_none(tmp_path, capsys, end):
    cfg = OmegaConf.create(
        {
            "data": {
                "name": "mine",
                "source": {
                    "kind": "archive",
                    "files": [{"name": "x.tar", "urls": [SERVER + end], "bytes": 1, "hash": None}],
                },
            },
            "fetch": {"mirror": None},
        }
    )
    for mirror in (None, SERVER + end):
        cfg.fetch.mirror = mirror
        with pytest.raises(UserError) as told:
            fetch.fetch(cfg, tmp_path / "archive")
        assert SECRET not in str(told.value)
        assert "127.0.0.1" in str(told.value)
    assert SECRET not in capsys.readouterr().err


def test_a_mirror_that_answers_has_none(tmp_path, monkeypatch, capsys):
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"x")
    monkeypatch.setattr("pipeline.sources.download.retrieve", lambda *_: [archive])
    source = {"kind": "archive", "files": [{"name": "x.tar"}]}
    cfg = {"data": {"name": "mine", "source": source}, "fetch": {"mirror": SERVER}}
    fetch.fetch(OmegaConf.create(cfg), tmp_path / "archive")
    said = capsys.readouterr().out
    assert "mine from http://ann:***@127.0.0.1:9" in said and SECRET not in said


def test_the_recorded_settings_have_none():
    cfg = config.compose("data=petfaces", "model=scratch", f"data.source.files.0.urls=['{SERVER}/x.tar']")
    assert SECRET not in json.dumps(lineage.settings_of(cfg))
    assert "http://ann:***@127.0.0.1:9/x.tar" in json.dumps(lineage.settings_of(cfg))


def test_a_sweep_records_none(monkeypatch):
    words = ["--multirun", "seed=1,2", f"fetch.mirror={SERVER}"]
    with pytest.raises(UserError, match=r"fetch.mirror=http://ann:\*\*\*@.*PETFACES_MIRROR"):
        stages._reject_recorded_password(words)
    stages._reject_recorded_password(words[1:])  # a single run records no command
    monkeypatch.setattr(sys, "argv", ["pipeline.train", *words])
    assert "PETFACES_MIRROR" in ended(stage(lambda cfg: None))


def test_the_page_of_a_database_is_started_without_it_on_the_command_line(monkeypatch):
    address = f"postgresql://ann:{SECRET}@127.0.0.1/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(web_ui, "client", lambda: None)
    monkeypatch.setattr(web_ui, "_listens", lambda port: False)

    def start(command, env, **_):
        assert SECRET not in " ".join(command)
        assert env["MLFLOW_BACKEND_STORE_URI"] == address
        raise KeyboardInterrupt

    monkeypatch.setattr(web_ui.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        web_ui.ui()
