"""No output, record or page shows the password in an address."""

import json
import sys

import pytest
from conftest import outcome
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


def test_the_list_of_versions_shows_no_password(server, monkeypatch, capsys):
    for name in ("versions", "history"):
        monkeypatch.setattr(tracking, name, lambda _: [])
    champion.show("sample")
    output = capsys.readouterr().out
    assert "ann:***@" in output and SECRET not in output


def test_a_warning_about_the_server_shows_no_password(server, capsys):
    card = {"name": "scratch", "data": "sample"}
    tracking.Run(card, {"seed": 1}, {}, Provenance(), "x", None, "cpu", "attempt")
    messages = capsys.readouterr().err
    assert "ann:***@" in messages and SECRET not in messages


def test_a_failed_run_records_no_password(monkeypatch):
    reasons = []
    monkeypatch.setattr(live.Run, "_try", lambda self, action, patient=False: action())
    run = live.Run({}, {}, {}, Provenance(), "x", None, "cpu", "attempt")
    monkeypatch.setattr(run, "_fail", lambda reason, status: reasons.append(reason))
    run.fail(OSError(f"no way to {SERVER}"))
    run.fail(UserError(f"no way to {SERVER}"))
    assert len(reasons) == 2 and SECRET not in "".join(reasons)


SIGNED = ("token", "a=b&X-Amz-Signature", "X-Amz-Security-Token", "sig", "access_token")


@pytest.mark.parametrize("suffix", ["", "/", *(f"?{name}={SECRET}" for name in SIGNED)])
def test_an_unreachable_mirror_is_reported_without_its_password(tmp_path, capsys, suffix):
    cfg = OmegaConf.create(
        {
            "data": {
                "name": "mine",
                "source": {
                    "kind": "archive",
                    "files": [{"name": "x.tar", "urls": [SERVER + suffix], "bytes": 1, "hash": None}],
                },
            },
            "fetch": {"mirror": None},
        }
    )
    for mirror in (None, SERVER + suffix):
        cfg.fetch.mirror = mirror
        with pytest.raises(UserError) as error:
            fetch.fetch(cfg, tmp_path / "archive")
        assert SECRET not in str(error.value)
        assert "127.0.0.1" in str(error.value)
    assert SECRET not in capsys.readouterr().err


def test_a_mirror_in_use_is_printed_without_its_password(tmp_path, monkeypatch, capsys):
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"x")
    monkeypatch.setattr("pipeline.sources.download.retrieve", lambda *_: [archive])
    source = {"kind": "archive", "files": [{"name": "x.tar"}]}
    cfg = {"data": {"name": "mine", "source": source}, "fetch": {"mirror": SERVER}}
    fetch.fetch(OmegaConf.create(cfg), tmp_path / "archive")
    output = capsys.readouterr().out
    assert "mine from http://ann:***@127.0.0.1:9" in output and SECRET not in output


def test_recorded_settings_hold_no_password():
    cfg = config.compose("data=petfaces", "model=scratch", f"data.source.files.0.urls=['{SERVER}/x.tar']")
    assert SECRET not in json.dumps(lineage.settings_of(cfg))
    assert "http://ann:***@127.0.0.1:9/x.tar" in json.dumps(lineage.settings_of(cfg))


def test_a_sweep_refuses_to_record_a_password(monkeypatch):
    overrides = ["--multirun", "seed=1,2", f"fetch.mirror={SERVER}"]
    with pytest.raises(UserError, match=r"fetch.mirror=http://ann:\*\*\*@.*PETFACES_MIRROR"):
        stages._reject_recorded_password(overrides)
    stages._reject_recorded_password(overrides[1:])  # a single run records no command
    monkeypatch.setattr(sys, "argv", ["pipeline.train", *overrides])
    assert "PETFACES_MIRROR" in outcome(stage(lambda cfg: None))


def test_mlflows_page_gets_the_password_in_the_environment(monkeypatch):
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
