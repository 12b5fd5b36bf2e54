"""``petfaces catalog``: exports, training on the labels, the check of the labels, the demo."""

import io
import json
import subprocess
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
import requests
from catalog_server import Catalog, folder_of
from conftest import outcome, petfaces
from sqlalchemy import select, update

from catalog import champions, cli
from catalog.champions import Champion
from catalog.library import Library
from catalog.store import address, open_database
from catalog.store.tables import Image, LabelClass, Project


@pytest.fixture
def catalog(tmp_path):
    """A project `pets` with 30 labeled images of three classes."""
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 30), page_size=25, test_fraction=0.3)
    catalog.label_all(30)
    return catalog


@pytest.fixture
def command(catalog):
    """Runs a subcommand on the catalog."""
    return lambda *arguments: petfaces("catalog", "--folder", str(catalog.library.folder), *arguments)


def test_export_writes_a_snapshot_and_says_how_to_train_on_it(command, tmp_path, capsys):
    command("export", "pets", "--out", str(tmp_path / "out"))
    output = capsys.readouterr().out
    assert "30 labels; left out: 0 unknown images, 0 of classes with too few images" in output
    assert f"data=labels with fetch.path={tmp_path / 'out/snapshot.tar'}" in output
    with tarfile.open(tmp_path / "out/snapshot.tar") as archive:
        assert len(archive.getnames()) == 30


def test_an_unknown_project_is_an_error_that_names_the_others(command):
    message = outcome(lambda: command("export", "pests"))
    assert message == "error: there is no project pests; there are: pets"


@pytest.mark.parametrize(("task", "data"), [("single_label", "labels"), ("multi_label", "labels_multi")])
def test_retrain_runs_dvc_on_a_snapshot_and_adopts_the_champion(command, catalog, monkeypatch, task, data):
    ran, adopted = [], []
    with catalog.database.write() as session:
        session.execute(update(Project).values(task=task))

    def adopt(_, *arguments):
        adopted.append(arguments)
        return Champion("labels-1", None, frozenset())

    monkeypatch.setattr(champions, "adopt", adopt)
    monkeypatch.setattr(
        cli.subprocess, "run", lambda command, **_: ran.append(command) or SimpleNamespace(returncode=0)
    )
    monkeypatch.setattr(cli, "ROOT", catalog.library.folder)
    command("retrain", "pets")
    setting = ["-S", f"data={data}", "-S", "fetch.path=labels/snapshot.tar"]
    assert ran == [["dvc", "exp", "run", *setting]]
    assert (catalog.library.folder / "labels/snapshot.tar").is_file()
    assert adopted == [(data, task, ["cat", "dog", "rabbit"])]
    with catalog.database.read() as session:
        assert catalog.project(session).champion == "labels-1"


def test_a_failed_training_is_an_error_and_changes_no_project(command, catalog, monkeypatch):
    failed = subprocess.CompletedProcess([], 255)
    monkeypatch.setattr(cli.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(cli, "ROOT", catalog.library.folder)
    assert outcome(lambda: command("retrain", "pets")) == (
        "error: dvc ended with status 255; see the messages above"
    )
    with catalog.database.read() as session:
        assert catalog.project(session).champion == ""


def test_verify_finds_and_repairs_labels_that_differ_from_the_events(command, catalog, capsys):
    command("verify")
    assert "pets: 0 labels differ" in capsys.readouterr().out
    with catalog.database.write() as session:
        session.scalars(select(Image)).first().status = "waiting"
    message = outcome(lambda: command("verify"))
    assert message == (
        "error: labels differ from the events; petfaces catalog verify --repair sets them right"
    )
    command("verify", "--repair")
    command("verify")
    assert "pets: 0 labels differ" in capsys.readouterr().out.splitlines()[-1]


def test_without_accounts_the_catalog_listens_on_loopback_only(command):
    message = outcome(lambda: command("--host", "0.0.0.0"))
    assert message == (
        "error: --host 0.0.0.0 lets others reach the catalog, and it has no accounts; "
        "add yours first: petfaces catalog user add NAME"
    )


@pytest.mark.parametrize(
    "name",
    ["https://a.example.org", "a.example.org:443", "a.example.org/", "*.example.org", "", "a b", "a?b"],
)
def test_a_host_that_no_browser_could_name_is_an_error(command, name):
    assert "give a host's name without scheme" in outcome(lambda: command("--allow-host", name))


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:pa@ss@127.0.0.1:1/x", "postgresql://u:pa@s/s@127.0.0.1:1/x"],
)
def test_no_part_of_a_password_with_an_at_sign_is_taken_for_a_host(tmp_path, url):
    line = outcome(lambda: petfaces("catalog", "--folder", str(tmp_path), "--database", url, "verify"))
    assert line == (
        "error: the database's URL has a second @; write an @ of its password as %40, and a / as %2F"
    )


def test_messages_show_known_parameters_of_a_database_only(tmp_path):
    url = address.url_of(
        "postgresql://u@127.0.0.1/x?passwort=secret&pass=secret&service=a&sslpassword=secret"
    )
    assert address.shown(url).endswith("@127.0.0.1/x?service=a")
    assert url.query["sslpassword"] == "secret"


@pytest.mark.parametrize("url", ["catalog", "mysql://localhost/x"])
def test_the_url_in_an_error_message_can_be_copied(tmp_path, url):
    line = outcome(lambda: petfaces("catalog", "--folder", str(tmp_path), "--database", url, "verify"))
    example = line.split()[-1]
    assert address.url_of(example).query == {"user": "petfaces"} and "*" not in example


@pytest.mark.parametrize(
    "name", ["catalog.example.org", "CATALOG", "host_1.local", "192.0.2.1", "2001:db8::1"]
)
def test_names_and_addresses_of_hosts_may_be_allowed(command, name):
    assert f"--allow-host {name} lets others reach the catalog" in outcome(
        lambda: command("--allow-host", name)
    )


def test_a_port_that_is_taken_is_an_error(command, catalog):
    with catalog.served() as address:
        port = address.rpartition(":")[2]
        assert f"--port {port}: Address already in use; name another" in outcome(
            lambda: petfaces("catalog", "--folder", str(catalog.library.folder), "--port", port)
        )


def test_the_demo_is_a_project_of_the_samples_classes_without_labels(repro, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "serve", lambda *_: None)
    for _ in range(2):  # the second start finds the project
        petfaces("catalog", "--folder", str(tmp_path / "demo"), "demo")
    library = Library(tmp_path / "demo")
    catalog = Catalog(library, open_database(library.database))
    catalog.finish_jobs()
    with catalog.database.read() as session:
        assert [project.name for project in session.scalars(select(Project))] == [cli.DEMO]
        assert len(session.scalars(select(LabelClass)).all()) == 35
        assert {image.status for image in session.scalars(select(Image))} == {"waiting"}


def test_the_export_page_offers_each_format(catalog):
    with catalog.served() as address:
        page = requests.get(f"{address}/projects/1/export", timeout=30).text
        assert "30 labeled images" in page
        answers = {}
        for name in ("coco.json", "labels.csv", "folders.zip"):
            assert f"/projects/1/export/{name}" in page
            answers[name] = requests.get(f"{address}/projects/1/export/{name}", timeout=30)
            assert answers[name].headers["content-disposition"].startswith("attachment")
    assert len(json.loads(answers["coco.json"].content)["annotations"]) == 30
    assert answers["labels.csv"].text.count("\n") == 31
    with zipfile.ZipFile(io.BytesIO(answers["folders.zip"].content)) as archive:
        assert len(archive.namelist()) == 30
    assert not list(catalog.library.folder.glob("*.zip"))
