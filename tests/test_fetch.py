"""fetch brings the promised file or says in one line why not; nothing half done stands in its place."""

import hashlib
import http.server
import threading

import pytest

from pipeline import config, fetch
from pipeline.config import UserError

FILE = b"not really an archive, but fetch does not open it"


@pytest.fixture
def petfaces(monkeypatch, tmp_path):
    """Pet Faces' configuration, downloads in a folder of the test."""
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "downloads")
    cfg = config.compose("data=petfaces")
    cfg.data.source.bytes = len(FILE)
    return cfg


@pytest.fixture
def server(tmp_path):
    """A stand-in for the published address: serves tmp_path/served on loopback."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_mirror_directory_stands_in(petfaces, tmp_path):
    (tmp_path / "petfaces.tar.gz").write_bytes(FILE)
    petfaces.fetch.mirror = str(tmp_path)
    fetch.fetch(petfaces, tmp_path / "out/archive")
    assert (tmp_path / "out/archive").read_bytes() == FILE
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["archive"]


def test_the_environment_names_a_mirror_and_relative_ones_start_at_the_root(
    petfaces, tmp_path, monkeypatch, house
):
    (house.parent / "elsewhere").mkdir()
    (house.parent / "elsewhere/petfaces.tar.gz").write_bytes(FILE)
    monkeypatch.setenv("PETFACES_MIRROR", "../elsewhere")
    monkeypatch.chdir(tmp_path)
    fetch.fetch(petfaces, tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == FILE


def test_a_mirrors_own_checksums_are_enforced(petfaces, tmp_path):
    (tmp_path / "petfaces.tar.gz").write_bytes(FILE)
    petfaces.fetch.mirror = str(tmp_path)
    good = hashlib.sha256(FILE).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{good}  petfaces.tar.gz\n")
    fetch.fetch(petfaces, tmp_path / "archive")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  petfaces.tar.gz\n")
    with pytest.raises(UserError, match="SHA256SUMS promises"):
        fetch.fetch(petfaces, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_mirror_that_differs_from_the_published_file_is_used_and_told(petfaces, tmp_path, capsys):
    (tmp_path / "petfaces.tar.gz").write_bytes(FILE + b"!")
    petfaces.fetch.mirror = str(tmp_path)
    fetch.fetch(petfaces, tmp_path / "archive")
    assert "differs from the published file" in capsys.readouterr().out


def test_a_mirror_without_the_file_is_told(petfaces, tmp_path):
    petfaces.fetch.mirror = str(tmp_path)
    with pytest.raises(UserError, match=r"has no file petfaces\.tar\.gz"):
        fetch.fetch(petfaces, tmp_path / "archive")


def test_the_published_file_is_downloaded_once(petfaces, tmp_path, server):
    folder, address = server
    (folder / "petfaces.tar.gz").write_bytes(FILE)
    petfaces.data.source.urls = [f"{address}/gone.tar.gz", f"{address}/petfaces.tar.gz"]
    fetch.fetch(petfaces, tmp_path / "archive")
    (folder / "petfaces.tar.gz").unlink()
    fetch.fetch(petfaces, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == FILE


def test_a_mirror_address_stands_in_and_its_checksums_are_enforced(petfaces, tmp_path, server):
    folder, address = server
    (folder / "petfaces.tar.gz").write_bytes(FILE)
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  petfaces.tar.gz\n")
    petfaces.fetch.mirror = address
    with pytest.raises(UserError, match="sha256"):
        fetch.fetch(petfaces, tmp_path / "archive")
    (folder / "SHA256SUMS").unlink()
    fetch.fetch(petfaces, tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == FILE


def test_another_size_or_checksum_than_published_is_refused(petfaces, tmp_path, server):
    folder, address = server
    (folder / "petfaces.tar.gz").write_bytes(FILE + b"!")
    petfaces.data.source.urls = [f"{address}/petfaces.tar.gz"]
    with pytest.raises(UserError, match="bytes came"):
        fetch.fetch(petfaces, tmp_path / "archive")
    petfaces.data.source.sha256 = "0" * 64
    with pytest.raises(UserError, match="sha256 is not"):
        fetch.fetch(petfaces, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_no_network_is_told_with_the_way_out(petfaces, tmp_path):
    petfaces.data.source.urls = ["http://127.0.0.1:9/petfaces.tar.gz"]
    with pytest.raises(UserError, match="PETFACES_MIRROR"):
        fetch.fetch(petfaces, tmp_path / "archive")
