"""fetch writes the right archive or fails with a one-line error; it leaves no incomplete file."""

import errno
import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pipeline import config, fetch, pack
from pipeline.common import tables
from pipeline.common.errors import UserError
from pipeline.sources import archives, download, oxford, photos

FILE = b"not really an archive, but fetch does not open it" * 40_000  # 2 MB: several chunks


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with range requests; cuts answers off at given offsets."""

    protocol_version = "HTTP/1.0"

    def __init__(self, *arguments, gets: list, broken: dict, **options):
        self.gets, self.broken = gets, broken
        super().__init__(*arguments, **options)

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        file = self.translate_path(self.path)
        try:
            with open(file, "rb") as stream:
                data = stream.read()
        except OSError:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.gets.append((self.path, wanted))
        etag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        start = 0
        if wanted and self.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", etag)
        self.end_headers()
        offsets = self.broken.get(self.path.strip("/"), [])
        self.wfile.write(data[start : offsets.pop(0)] if offsets else data[start:])


class _Server:
    """A local server in place of published URLs and mirrors.

    Attributes:
        folder: the folder it serves.
        address: its URL.
        gets: (path, Range header) of every GET.
        broken: path → offsets at which its next answers are cut off.
    """

    def __init__(self, folder):
        self.folder, self.gets, self.broken = folder, [], {}
        handler = functools.partial(_Handler, directory=str(folder), gets=self.gets, broken=self.broken)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    with _Server(tmp_path / "served") as running:
        yield running


@pytest.fixture
def petfaces(monkeypatch, tmp_path):
    """The configuration of data=petfaces without a rebuild; downloads go to a folder of the test."""
    monkeypatch.setattr(download, "DOWNLOADS", tmp_path / "downloads")
    cfg = config.compose("data=petfaces")
    cfg.data.source.files[0].bytes = len(FILE)
    cfg.data.source.rebuild = None
    return cfg


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- mirrors


def test_a_mirror_may_be_a_directory(petfaces, tmp_path):
    (tmp_path / "petfaces.tar.gz").write_bytes(FILE)
    petfaces.fetch.mirror = str(tmp_path)
    fetch.fetch(petfaces, tmp_path / "out/archive")
    assert (tmp_path / "out/archive").read_bytes() == FILE
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["archive"]


def test_a_relative_mirror_in_the_environment_starts_at_the_root(petfaces, tmp_path, monkeypatch, project):
    (project.parent / "elsewhere").mkdir()
    (project.parent / "elsewhere/petfaces.tar.gz").write_bytes(FILE)
    monkeypatch.setenv("PETFACES_MIRROR", "../elsewhere")
    monkeypatch.chdir(tmp_path)
    fetch.fetch(petfaces, tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == FILE


def test_a_mirrors_checksums_are_enforced(petfaces, tmp_path):
    (tmp_path / "petfaces.tar.gz").write_bytes(FILE)
    petfaces.fetch.mirror = str(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{_sha256(FILE)}  petfaces.tar.gz\n")
    fetch.fetch(petfaces, tmp_path / "archive")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  petfaces.tar.gz\n")
    with pytest.raises(UserError, match="does not match its checksum in"):
        fetch.fetch(petfaces, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_mirror_that_differs_from_the_published_file_is_used_with_a_warning(petfaces, tmp_path, capsys):
    (tmp_path / "petfaces.tar.gz").write_bytes(FILE + b"!")
    petfaces.fetch.mirror = str(tmp_path)
    fetch.fetch(petfaces, tmp_path / "archive")
    warning = f"differs from the published file ({len(FILE) + 1:,} bytes, not {len(FILE):,})"
    assert warning in capsys.readouterr().err


def test_a_mirror_without_the_file_is_an_error(petfaces, tmp_path, server):
    for mirror in (str(tmp_path), server.address):
        petfaces.fetch.mirror = mirror
        with pytest.raises(UserError, match=r"has no file petfaces\.tar\.gz|petfaces\.tar\.gz answers 404"):
            fetch.fetch(petfaces, tmp_path / "archive")


def test_a_mirror_may_be_a_url_and_its_checksums_are_enforced(petfaces, tmp_path, server):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE)
    (server.folder / "SHA256SUMS").write_text(f"{'0' * 64}  petfaces.tar.gz\n")
    petfaces.fetch.mirror = server.address
    with pytest.raises(UserError, match="the sha256 of the download is not 0000"):
        fetch.fetch(petfaces, tmp_path / "archive")
    (server.folder / "SHA256SUMS").unlink()
    fetch.fetch(petfaces, tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == FILE


# ---------------------------------------------------------------- published URLs


def test_the_published_file_is_downloaded_once_from_the_first_url_that_has_it(petfaces, tmp_path, server):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE)
    file = petfaces.data.source.files[0]
    file.urls = [f"{server.address}/gone.tar.gz", f"{server.address}/petfaces.tar.gz"]
    file.hash = f"sha256:{_sha256(FILE)}"
    fetch.fetch(petfaces, tmp_path / "archive")
    (server.folder / "petfaces.tar.gz").unlink()
    file.urls = file.urls[1:]
    fetch.fetch(petfaces, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == FILE


def test_an_interrupted_download_resumes(petfaces, tmp_path, server, capsys):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE)
    server.broken["petfaces.tar.gz"] = [700_000, 1_500_000]
    petfaces.data.source.files[0].urls = [f"{server.address}/petfaces.tar.gz"]
    fetch.fetch(petfaces, tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == FILE
    starts = [int((wanted or "bytes=0-").removeprefix("bytes=").rstrip("-")) for _, wanted in server.gets]
    # Each attempt keeps the complete chunks.
    assert starts == [0, *(at // download.CHUNK * download.CHUNK for at in (700_000, 1_500_000))]
    assert f"broke off at {starts[1]:,} bytes" in capsys.readouterr().err


def test_the_next_call_resumes_an_interrupted_download(tmp_path, server, monkeypatch):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE)
    url = f"{server.address}/petfaces.tar.gz"
    server.broken["petfaces.tar.gz"] = [900_000]
    monkeypatch.setattr(download, "DOWNLOADS", tmp_path / "downloads")
    monkeypatch.setattr(download, "ATTEMPTS", 0)  # fails at the first interruption
    with pytest.raises(UserError, match="can't be fetched"):
        download._download(url, None)
    assert download._download(url, f"sha256:{_sha256(FILE)}").read_bytes() == FILE
    assert server.gets[-1][1] == f"bytes={900_000 // download.CHUNK * download.CHUNK}-"


def test_a_file_that_changed_meanwhile_is_downloaded_from_the_start(tmp_path, server, monkeypatch):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE)
    url = f"{server.address}/petfaces.tar.gz"
    server.broken["petfaces.tar.gz"] = [900_000]
    monkeypatch.setattr(download, "DOWNLOADS", tmp_path / "downloads")
    monkeypatch.setattr(download, "ATTEMPTS", 0)
    with pytest.raises(UserError):
        download._download(url, None)
    (server.folder / "petfaces.tar.gz").write_bytes(FILE[::-1])
    assert download._download(url, None).read_bytes() == FILE[::-1]


def test_a_download_without_progress_fails(tmp_path, server, monkeypatch):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE)
    server.broken["petfaces.tar.gz"] = [900_000] * 100  # never a byte further
    monkeypatch.setattr(download, "DOWNLOADS", tmp_path / "downloads")
    with pytest.raises(UserError, match="can't be fetched"):
        download._download(f"{server.address}/petfaces.tar.gz", None)


def test_another_size_or_checksum_than_the_published_one_is_refused(petfaces, tmp_path, server):
    (server.folder / "petfaces.tar.gz").write_bytes(FILE + b"!")
    file = petfaces.data.source.files[0]
    file.urls = [f"{server.address}/petfaces.tar.gz"]
    with pytest.raises(UserError, match="provides another file than the published one"):
        fetch.fetch(petfaces, tmp_path / "archive")
    file.hash = f"md5:{'0' * 32}"
    with pytest.raises(UserError, match="the md5 of the download is not 0000"):
        fetch.fetch(petfaces, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_without_a_network_the_error_suggests_a_mirror(petfaces, tmp_path):
    petfaces.data.source.files[0].urls = ["http://127.0.0.1:9/petfaces.tar.gz"]
    with pytest.raises(UserError, match=r"can't be fetched .* PETFACES_MIRROR"):
        fetch.fetch(petfaces, tmp_path / "archive")


# ---------------------------------------------------------------- Oxford-IIIT Pet


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _photo(colour: str) -> bytes:
    """300 × 200 pixels, grey, with a head of 120 × 100 at (50, 40)."""
    image = Image.new("RGB", (300, 200), "grey")
    image.paste(colour, (50, 40, 170, 140))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _box(left: int, top: int, right: int, bottom: int) -> bytes:
    return (
        f"<annotation><object><name>cat</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>"
    ).encode()


@pytest.fixture
def pets(tmp_path):
    """A mirror with a tiny Oxford-IIIT Pet: four listed photos, three boxes."""
    folder = tmp_path / "mirror/oxford-iiit-pet"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "images.tar.gz", "w:gz") as images:
        for name in ("Abyssinian_1", "american_bulldog_2", "american_pit_bull_terrier_3", "pug_4", "pug_99"):
            _add(images, f"images/{name}.jpg", _photo("red"))
        _add(images, "images/Abyssinian_101.mat", b"not a photo")
    with tarfile.open(folder / "annotations.tar.gz", "w:gz") as annotations:
        _add(
            annotations,
            "annotations/trainval.txt",
            b"#head\nAbyssinian_1 1 1 1\namerican_bulldog_2 2 2 1\n",
        )
        _add(annotations, "annotations/test.txt", b"american_pit_bull_terrier_3 3 2 2\npug_4 4 2 3\n")
        _add(annotations, "annotations/xmls/Abyssinian_1.xml", _box(50, 40, 170, 140))
        _add(annotations, "annotations/xmls/american_bulldog_2.xml", _box(50, 40, 170, 140))
        _add(
            annotations, "annotations/xmls/american_pit_bull_terrier_3.xml", _box(50, 40, 114, 140)
        )  # 64 wide
        _add(annotations, "annotations/xmls/._pug_4.xml", b"\0not xml")
    return tmp_path / "mirror"


def _names(archive) -> set[str]:
    with tarfile.open(archive) as opened:
        return set(opened.getnames())


def test_oxford_photos_are_in_class_folders_below_their_official_split(pets, tmp_path):
    cfg = config.compose("data=oxford", f"fetch.mirror={pets}")
    fetch.fetch(cfg, tmp_path / "archive")
    assert _names(tmp_path / "archive") == {
        "oxford/trainval/cat_Abyssinian/Abyssinian_1.jpg",
        "oxford/trainval/dog_american_bulldog/american_bulldog_2.jpg",
        "oxford/test/dog_american_pit_bull_terrier/american_pit_bull_terrier_3.jpg",
        "oxford/test/dog_pug/pug_4.jpg",
    }


def test_petfaces_is_rebuilt_from_oxford_photos_if_its_archive_is_gone(pets, tmp_path, capsys):
    cfg = config.compose("data=petfaces", f"fetch.mirror={pets}")
    fetch.fetch(cfg, tmp_path / "archive")
    assert _names(tmp_path / "archive") == {
        "petfaces/cat_Abyssinian/Abyssinian_1.jpg",
        "petfaces/dog_american/american_bulldog_2.jpg",
    }
    stderr = capsys.readouterr().err
    assert "has no file petfaces.tar.gz" in stderr
    assert "rebuilding it from oxford's photos" in stderr
    assert "cropped 2 faces" in stderr
    with tarfile.open(tmp_path / "archive") as archive:
        face = Image.open(archive.extractfile("petfaces/cat_Abyssinian/Abyssinian_1.jpg")).convert("RGB")
    assert face.size == (120, 100)
    red, green, _ = face.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert red > 240 and green < 15  # only the head


@pytest.mark.parametrize(
    ("box", "is_face"),
    [
        ((0, 0, 65, 65), True),
        ((0, 0, 64, 90), False),  # both sides over 64
        ((0, 0, 140, 100), True),
        ((0, 0, 141, 100), False),  # at most 1.40 wide
        ((0, 0, 100, 142), True),
        ((0, 0, 100, 143), False),  # at most 1.42 tall
    ],
)
def test_petfaces_selects_faces_by_size_and_aspect_ratio(box, is_face):
    assert oxford._is_face(box) is is_face


def test_a_missing_archive_and_missing_photos_are_a_one_line_error(tmp_path):
    cfg = config.compose("data=petfaces", f"fetch.mirror={tmp_path}")
    with pytest.raises(UserError, match=r"petfaces\.tar\.gz.*nor can it be rebuilt.*images\.tar\.gz") as info:
        fetch.fetch(cfg, tmp_path / "archive")
    assert "\n" not in str(info.value)


def test_invalid_annotations_are_an_error(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        _add(archive, "readme.txt", b"hello")
    with pytest.raises(UserError, match="is it Oxford-IIIT Pet's"):
        oxford.annotations(tmp_path / "a.tar.gz")
    (tmp_path / "b.tar.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        oxford.annotations(tmp_path / "b.tar.gz")


# ---------------------------------------------------------------- a user's own images


@pytest.fixture
def own(tmp_path):
    """A user's two class folders, with files that systems leave there."""
    for name in ("cats/1.jpg", "cats/2.png", "dogs/more/3.jpg", ".git/config", "cats/.DS_Store"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(name.encode())
    return tmp_path / "own"


def _fetch_folder(path, target):
    fetch.fetch(config.compose("data=folder", f"fetch.path={path}"), target)


def test_a_users_folder_becomes_the_same_archive_each_time(own, tmp_path):
    _fetch_folder(own, tmp_path / "archive")
    _fetch_folder(own, tmp_path / "again")
    assert _names(tmp_path / "archive") == {"cats/1.jpg", "cats/2.png", "dogs/more/3.jpg"}
    assert (tmp_path / "archive").read_bytes() == (tmp_path / "again").read_bytes()


def test_hidden_images_are_counted_in_a_warning(own, tmp_path, capsys):
    for name in (".cats/1.jpg", ".cats/more/2.png", ".cats/notes.txt", "dogs/.3.HEIC", "dogs/._4.jpg"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    _fetch_folder(own, tmp_path / "archive")
    ending = "dot): 3, .cats/1.jpg, .cats/more/2.png, dogs/.3.HEIC"
    assert [line for line in capsys.readouterr().err.splitlines() if line.endswith(ending)]
    assert _names(tmp_path / "archive") == {"cats/1.jpg", "cats/2.png", "dogs/more/3.jpg"}


def _packed(own, tmp_path) -> tuple[dict[str, str], dict[str, str]]:
    """Labels of packed images, and reasons of quarantined files, by path."""
    _fetch_folder(own, tmp_path / "archive")
    pack.pack(tmp_path / "archive", tmp_path / "pack", 32)
    index, quarantine = (tables.read(tmp_path / f"pack/{name}.csv") for name in ("index", "quarantine"))
    return {row["path"]: row["label"] for row in index}, {row["path"]: row["reason"] for row in quarantine}


@pytest.fixture
def linked(tmp_path):
    """Two class folders, and a symlink to a third elsewhere."""
    for number, name in enumerate(("own/ginger", "own/tabby", "elsewhere/black/old")):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / name / "1.png")
    (tmp_path / "own/black").symlink_to(tmp_path / "elsewhere/black")
    return tmp_path / "own"


def test_a_class_folder_may_be_a_symlink(linked, tmp_path, capsys):
    labels, quarantine = _packed(linked, tmp_path)
    assert labels == {"black/old/1.png": "black", "ginger/1.png": "ginger", "tabby/1.png": "tabby"}
    assert quarantine == {}
    assert "DVC does not notice changes behind them" in capsys.readouterr().err


def test_symlink_loops_are_quarantined(linked, tmp_path):
    (linked / "tabby/up").symlink_to("..")
    (linked / "tabby/self").symlink_to("self")
    (tmp_path / "elsewhere/black/old/home").symlink_to(linked)
    (linked / "tabby/twice").symlink_to(tmp_path / "elsewhere/black/old")  # the same files twice are no loop
    labels, quarantine = _packed(linked, tmp_path)
    assert len(labels) == 4 and labels["tabby/twice/1.png"] == "tabby"
    loops = ("black/old/home", "tabby/twice/home", "tabby/up")
    assert {path: quarantine[path] for path in loops} == dict.fromkeys(loops, photos.LOOP)
    assert "symbolic links" in quarantine["tabby/self"]


def test_unreadable_files_are_quarantined_without_blocking(linked, tmp_path, capsys, monkeypatch):
    (linked / "tabby/gone.jpg").symlink_to("/mnt/unplugged/gone.jpg")
    (linked / "lost").symlink_to("/mnt/unplugged/lost")
    os.mkfifo(linked / "tabby/pipe.jpg")
    (linked / "tabby/socket.jpg").symlink_to("/dev/null")
    (linked / "tabby/mine.jpg").touch()
    (linked / "closed").mkdir()
    read, listed = Path.read_bytes, Path.iterdir

    def deny(file):  # chmod does not stop root, as in a container
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(Path, "read_bytes", lambda file: (deny if file.name == "mine.jpg" else read)(file))
    monkeypatch.setattr(Path, "iterdir", lambda file: (deny if file.name == "closed" else listed)(file))
    labels, quarantine = _packed(linked, tmp_path)
    assert len(labels) == 3
    assert quarantine == {
        "closed": "can't be read (Permission denied)",
        "lost": "a broken link",
        "tabby/gone.jpg": "a broken link",
        "tabby/mine.jpg": "can't be read (Permission denied)",
        "tabby/pipe.jpg": "no plain file: a pipe, a socket or a device",
        "tabby/socket.jpg": "no plain file: a pipe, a socket or a device",
    }
    assert "closed (can't be read (Permission denied)) and 5 more" in capsys.readouterr().err


def test_a_file_name_that_is_not_utf8_is_packed(linked, tmp_path):
    Image.new("RGB", (9, 9)).save(os.fsdecode(os.fsencode(linked / "tabby") + b"/K\xe4t.png"))
    labels, _ = _packed(linked, tmp_path)
    assert labels["tabby/K\\xe4t.png"] == "tabby"


def test_a_file_that_is_too_large_is_not_copied(linked, tmp_path, monkeypatch):
    (linked / "tabby/film.mp4").write_bytes(bytes(100_000))
    monkeypatch.setattr(archives, "MAX_BYTES", 50_000)
    _, quarantine = _packed(linked, tmp_path)
    assert quarantine["tabby/film.mp4"].startswith("more than")
    assert (tmp_path / "archive").stat().st_size < 50_000


def test_a_users_archive_is_copied_unchanged(own, tmp_path):
    with zipfile.ZipFile(tmp_path / "own.zip", "w") as archive:
        archive.write(own / "cats/1.jpg", "cats/1.jpg")
    _fetch_folder(tmp_path / "own.zip", tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == (tmp_path / "own.zip").read_bytes()


def test_a_wrong_path_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    for name, message in (
        ("nowhere", "does not exist"),
        ("empty", "is empty; add one folder of pictures per class"),
        ("text", "neither a directory nor a tar or zip"),
    ):
        with pytest.raises(UserError, match=message):
            _fetch_folder(tmp_path / name, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_the_photos_folder_is_empty_and_git_ignores_its_contents(project, run, tmp_path):
    with pytest.raises(UserError, match="photos is empty"):
        _fetch_folder("photos", tmp_path / "archive")
    face = project / "photos/cats/1.jpg"
    face.parent.mkdir()
    try:
        face.write_bytes(b"mine")
        assert run("git", "status", "--porcelain", "photos").stdout == ""
    finally:
        face.unlink()
        face.parent.rmdir()
