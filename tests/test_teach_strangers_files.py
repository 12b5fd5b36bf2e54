"""A file that is no saved project, or a hostile one, ends in one clear sentence, and soon."""

import io
import zipfile

import pytest
from catalog_server import Catalog
from saving import changed, open_file, refusal, saved
from teaching import Lesson, publish_backbone

from catalog.teach import saved_files, saved_project

pytestmark = pytest.mark.integration  # each catalog decodes images in processes of its own


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog.create(tmp_path)
    publish_backbone(catalog.library.backbone)
    return catalog


@pytest.fixture
def lesson(catalog):
    with catalog.served() as address:
        yield Lesson(catalog, address).start("red", "green").show(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda details, _: details.update(format=2), "newer version"),
        (lambda details, _: details.update(name=5), "damaged"),
        (lambda details, _: details.update(name="a\nb"), "name"),
        (lambda details, _: details.update(classes=details["classes"] * 60), "at most"),
        (lambda details, _: details.update(images=[{}] * 100_001), "at most"),
        (lambda details, _: details.update(images={}), "damaged"),
        (lambda details, _: details["images"][0].update(file="../../etc/passwd"), "damaged"),
        (lambda details, _: details["classes"].append({"name": "../x", "is_enabled": True}), "slash"),
        (lambda details, _: details["classes"].append({"name": "x", "is_enabled": "yes"}), "damaged"),
        (lambda details, _: details.pop("images"), "damaged"),
        (lambda details, _: details["images"].append(dict(details["images"][0])), "twice"),
        (lambda details, _: details["images"][0].update(class_index=7), "damaged"),
        (lambda details, _: details["images"][0].update(burst=["x"]), "damaged"),
        (lambda details, _: details["images"][0].update(extra=1), "damaged"),
    ],
)
def test_a_strangers_file_ends_in_one_clear_line(lesson, change, message):
    file = changed(saved(lesson), change)
    assert message in refusal(lesson, file)


def zipped(files: dict[str, bytes], change=lambda members: None) -> bytes:
    """A zip of these files, whose list of members was changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        change(archive.infolist())
    return buffer.getvalue()


def encrypt(members: list[zipfile.ZipInfo]) -> None:
    members[-1].flag_bits |= 1


def link(members: list[zipfile.ZipInfo]) -> None:
    members[-1].external_attr = 0o120777 << 16


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no zip", "saved.zip is no zip file; choose one that this page has saved"),
        ("cut off", "saved.zip is no zip file; choose one that this page has saved"),
        ("list", "saved.zip can&#39;t be opened: it is damaged; save the project again"),
        (
            "details",
            "project.json is damaged (its bytes are not those that were saved); save the project again",
        ),
        ("encrypted", "saved.zip can&#39;t be opened: it is encrypted; save the project again"),
        (
            "outside",
            "saved.zip can&#39;t be opened: it has a link, or a file outside of it; save the project",
        ),
        ("drive", "saved.zip can&#39;t be opened: it has a link, or a file outside of it; save the project"),
        ("link", "saved.zip can&#39;t be opened: it has a link, or a file outside of it; save the project"),
        ("lzma", "saved.zip can&#39;t be opened: it is packed in a way that isn&#39;t read here; save the"),
        ("another", "saved.zip has no project.json; choose a project that this page has saved"),
        ("values", "a project has at most 100,000 images and 100 classes"),
        ("large", "a project has at most 100,000 images and 100 classes"),
        ("nested", "project.json is damaged (maximum recursion"),
    ],
)
def test_a_zip_that_cannot_be_read_ends_in_one_sentence(lesson, kind, message):
    data = saved(lesson)
    position = data.rindex(b"PK\x01\x02") if kind == "list" else 200
    broken = data[:position] + bytes(20) + data[position + 20 :]
    lzma = io.BytesIO()
    with zipfile.ZipFile(lzma, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("project.json", "{}")
    files = {
        "no zip": b"some text",
        "cut off": data[:-100],
        "list": broken,
        "details": broken,
        "encrypted": zipped({"project.json": b"{}", "other": b""}, encrypt),
        "outside": zipped({"project.json": b"{}", "images\\..\\..\\x.png": b""}),
        "drive": zipped({"project.json": b"{}", "C:/x.png": b""}),
        "link": zipped({"project.json": b"{}", "images/x.png": b"/etc/passwd"}, link),
        "lzma": lzma.getvalue(),
        "another": zipped({"README": b""}),
        "values": zipped({"project.json": b'{"images": [' + b"{}," * 10_000_000 + b"{}]}"}),
        "large": zipped({"project.json": bytes(saved_project.MAX_DETAILS + 1)}),
        "nested": zipped({"project.json": b"[" * 1_000_000}),
    }
    assert message in refusal(lesson, files[kind])


def test_a_long_list_of_files_is_not_read(lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_files, "MAX_DIRECTORY", 70_000)
    assert "saved.zip can&#39;t be opened: it is damaged" in refusal(
        lesson, zipped({"project.json": b"{}", **{f"{number}": b"" for number in range(1500)}})
    )


def test_only_the_files_of_its_images_are_unpacked(lesson, tmp_path, monkeypatch):
    (tmp_path / "folder/images").mkdir(parents=True)
    data = changed(saved(lesson), lambda _, files: files.update({"other": bytes(1000), "images/x.png": b"x"}))
    (tmp_path / "saved.zip").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        archive.extractall(tmp_path / "folder")
    read = []
    for kind in (saved_files._Zip, saved_files._Folder):
        monkeypatch.setattr(kind, "read", _noted(kind.read, read))
    for source in (tmp_path / "saved.zip", tmp_path / "folder"):
        read.clear()
        assert open_file(lesson, source).images == 8
        assert len(read) == 9
        assert not {"other", "images/x.png"} & set(read)


def _noted(read, files: list[str]):
    def noting(self, file: str, *most: int) -> bytes | None:
        files.append(file)
        return read(self, file, *most)

    return noting


def test_a_project_with_too_many_bytes_is_refused(lesson, monkeypatch):
    monkeypatch.setattr(saved_project, "MAX_TOTAL", 20_000)
    assert "the images of saved.zip have more than" in refusal(lesson, saved(lesson))
