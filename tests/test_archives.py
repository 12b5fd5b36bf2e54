"""Archives: links, bombs, unsafe paths, compression, and file names in any encoding."""

import io
import subprocess
import tarfile
import zipfile

import pandas
import pytest
from archive_files import image_file, packed_labels, write_tar, write_zip
from omegaconf import OmegaConf

from pipeline import pack, split
from pipeline.common import tables
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.sources import archives, pack_messages, photos


def test_a_zip_gives_the_same_pack_as_a_tar(tmp_path):
    files = {
        "b/x_1.jpg": image_file(),
        "c/y_1.jpg": image_file(40, 40),
        "__MACOSX/b/._x_1.jpg": b"",
        "b/.DS_Store": b"",
    }
    one = pack.pack(write_zip(tmp_path / "zip", files), tmp_path / "one", 128)
    other = pack.pack(write_tar(tmp_path / "tar", files), tmp_path / "other", 128)
    assert one == other
    assert one["quarantined"] == 0  # system files are ignored
    assert (tmp_path / "one/pixels.bin").read_bytes() == (tmp_path / "other/pixels.bin").read_bytes()


def test_hidden_images_in_an_archive_are_counted(tmp_path):
    names = ("b/1.jpg", "c/2.jpg", *(f".cats/{number}.jpg" for number in range(5)), "b/._1.jpg", ".notes")
    for write in (write_tar, write_zip):
        hidden = []
        archive = write(tmp_path / "archive", dict.fromkeys(names, image_file()))
        assert pack.pack(archive, tmp_path / "pack", 32, hidden=hidden)["pictures"] == 2
        assert hidden == [*(f".cats/{number}.jpg" for number in range(5)), ".notes"]
    message = photos.hidden_message(hidden[:5])
    assert message.endswith(": 5, .cats/0.jpg, .cats/1.jpg, .cats/2.jpg and 2 more")


@pytest.mark.parametrize("name", ["../escape/x_1.jpg", "/etc/x_1.jpg"])
def test_a_path_outside_the_archive_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="repack without it"):
        pack.pack(write_tar(tmp_path / "archive", {name: image_file()}), tmp_path / "pack", 128)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        member = tarfile.TarInfo("a/b/x_1.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match=r"'a/b/x_1\.jpg' is not a regular file"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def test_a_symlink_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        member = zipfile.ZipInfo("a/b/x_1.jpg")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="not a regular file"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def _tar_with_links(path, *links: tuple[str, str], mode: str = "w"):
    """A tar of `./b/1.jpg` and `./c/1.jpg`, and hard links by name and target."""
    with tarfile.open(path, mode) as archive:
        for name, width in (("./b/1.jpg", 60), ("./c/1.jpg", 50)):
            data, member = image_file(width), tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_hard_link_to_an_earlier_file_is_that_file(tmp_path, mode):
    links = (("./c/2.jpg", "./b/1.jpg"), ("./c/3.jpg", "b/1.jpg"), ("./b/2.jpg", "./c/1.jpg"))
    found = dict(archives.members(_tar_with_links(tmp_path / "archive", *links, mode=mode)))
    first, other = image_file(60), image_file(50)
    assert found == {
        **{"b/1.jpg": first, "c/2.jpg": first, "c/3.jpg": first},
        **{"c/1.jpg": other, "b/2.jpg": other},
    }


@pytest.mark.parametrize("target", ["./b/2.jpg", "../b/1.jpg", "/b/1.jpg", "./b/3.jpg", "./b"])
def test_a_hard_link_to_anything_else_is_refused(tmp_path, target):
    with pytest.raises(UserError, match=r"'\./b/2\.jpg' is not a regular file"):
        list(
            archives.members(
                _tar_with_links(tmp_path / "archive", ("./b/2.jpg", target), ("./b/3.jpg", "./b/1.jpg"))
            )
        )


def test_the_total_size_of_hard_links_is_limited(tmp_path, monkeypatch):
    archive = _tar_with_links(
        tmp_path / "archive", *((f"./c/{number}.jpg", "./b/1.jpg") for number in range(9))
    )
    monkeypatch.setattr(archives, "MAX_RATIO", 0)
    monkeypatch.setattr(archives, "MAX_BYTES", 8 * len(image_file()))
    with pytest.raises(UserError, match="expand to more than"):
        list(archives.members(archive))


def test_a_tar_with_followed_symlinks_is_read(tmp_path):
    (tmp_path / "own/b").mkdir(parents=True)
    (tmp_path / "own/b/1.jpg").write_bytes(image_file())
    (tmp_path / "own/c").symlink_to("b")
    subprocess.run(["tar", "-C", tmp_path / "own", "-chf", tmp_path / "archive", "."], check=True)
    assert {path for path, data in archives.members(tmp_path / "archive") if data == image_file()} == {
        "b/1.jpg",
        "c/1.jpg",
    }


def test_a_bomb_in_an_archive_is_quarantined_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 50_000)
    bomb = bytes(archives.MAX_BYTES + 1)
    files = {"a/b/x_1.jpg": image_file(), "a/c/x_2.jpg": image_file(), "a/b/bomb.png": bomb}
    write_zip(tmp_path / "zip", files)
    write_tar(tmp_path / "tar", files)
    for archive in ("zip", "tar"):
        assert dict(archives.members(tmp_path / archive))["a/b/bomb.png"] is None
        summary = pack.pack(tmp_path / archive, tmp_path / "pack", 128)
        assert (summary["pictures"], summary["quarantined"]) == (2, 1)
        quarantine = pandas.read_csv(tmp_path / "pack/quarantine.csv", index_col="path")["reason"]
        assert quarantine["a/b/bomb.png"].startswith("more than")


def test_a_sparse_member_of_a_terabyte_is_not_read(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        member = tarfile.TarInfo("a/b/x_1.jpg")
        member.size = 1 << 40
        archive.addfile(member)  # only the header
    with pytest.raises(UserError, match=r"is damaged|no usable picture"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def test_an_encrypted_zip_is_an_error(tmp_path):
    archive = write_zip(tmp_path / "zip", {"b/x_1.jpg": b"secret"})
    data = bytearray(archive.read_bytes())
    for header, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag in both headers
        data[data.index(header) + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted; unpack it and set"):
        pack.pack(archive, tmp_path / "pack", 128)


def test_an_unsupported_zip_compression_is_not_reported_as_damage(tmp_path):
    archive = write_zip(tmp_path / "zip", {"b/x_1.jpg": b"picture"})
    data = bytearray(archive.read_bytes())
    for header, offset in ((b"PK\3\4", 8), (b"PK\1\2", 10)):  # Deflate64, of Windows' Explorer
        data[data.index(header) + offset] = 9
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"unsupported compression .* unpack it and set fetch\.path") as error:
        pack.pack(archive, tmp_path / "pack", 128)
    assert "damaged" not in str(error.value)


def test_non_utf8_names_stay_distinct_and_read_back(tmp_path):
    files = {f"{kind}/{name}": image_file() for kind in "bc" for name in ("K\udce4t.jpg", "K\\xe4t.jpg")}
    pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)
    index = pack_index.read_index(tmp_path / "pack")
    assert list(index["path"]) == [
        rf"{kind}/{name}" for kind in "bc" for name in (r"K\\xe4t.jpg", r"K\xe4t.jpg")
    ]
    choice = OmegaConf.create({"seed": 1, "val": 0.3, "test": 0.3, "distance": 0, "official": True})
    with pytest.raises(UserError, match="fewer different pictures"):  # all are duplicates; the index was read
        split.split(tmp_path / "pack", tmp_path / "split.csv", choice)


def test_a_latin_1_tar_keeps_the_bytes_of_its_names(tmp_path):
    with tarfile.open(tmp_path / "archive", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("b/Kätzchen.jpg", "Hündin/1.jpg", "c/2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(image_file())
            archive.addfile(member, io.BytesIO(image_file()))
    pack.pack(tmp_path / "archive", tmp_path / "pack", 128)
    assert [row["path"] for row in tables.read(tmp_path / "pack/index.csv")] == [
        r"b/K\xe4tzchen.jpg",
        "c/2.jpg",
    ]
    assert tables.read(tmp_path / "pack/quarantine.csv") == [
        {"path": r"H\xfcndin/1.jpg", "reason": "its class's name is not UTF-8"}
    ]


def test_an_overlong_path_is_quarantined(tmp_path):
    found = packed_labels(
        tmp_path, "b/1.jpg", "c/2.jpg", "b/" + "x" * 200_000 + ".jpg", "d/" * 90_000 + "1.jpg"
    )
    assert list(found) == ["b/1.jpg", "c/2.jpg"]
    (first, second) = tables.read(tmp_path / "pack/quarantine.csv")
    assert first["reason"] == second["reason"] == "a path of more than 4,096 characters"
    assert len(pack_messages.describe(tmp_path / "pack")) == 2


def _windows_zip(path, *names: str, system: int = 3):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo("x")
            member.filename = name  # set here, as the constructor changes it
            member.create_system = system
            archive.writestr(member, b"" if name.endswith(("\\", "/")) else image_file())
    return path


def test_backslashes_in_a_windows_zip_separate_folders(tmp_path):
    names = ("cats\\", "cats\\ginger\\1.jpg", "cats\\tabby\\old\\2.jpg")
    _windows_zip(tmp_path / "zip", *names)
    pack.pack(tmp_path / "zip", tmp_path / "pack", 128)
    rows = tables.read(tmp_path / "pack/index.csv")
    assert [(row["path"], row["label"]) for row in rows] == [
        ("cats/ginger/1.jpg", "ginger"),
        ("cats/tabby/old/2.jpg", "tabby"),
    ]
    assert tables.read(tmp_path / "pack/quarantine.csv") == []
    # With both separators, the zip's system decides; on Unix a backslash is part of the name.
    _windows_zip(tmp_path / "mixed", "a/ginger/1.jpg", "a\\tabby\\2.jpg", system=0)
    assert {path for path, _ in archives.members(tmp_path / "mixed")} == {"a/ginger/1.jpg", "a/tabby/2.jpg"}
    _windows_zip(tmp_path / "unix", "a/ginger/1.jpg", "a/AC\\DC/2.jpg")
    assert {path for path, _ in archives.members(tmp_path / "unix")} == {"a/ginger/1.jpg", "a/AC\\DC/2.jpg"}


@pytest.mark.parametrize("name", ["a\\..\\..\\x.jpg", "C:\\pets\\x.jpg", "\\\\host\\share\\x.jpg", "\\x.jpg"])
def test_backslashes_cannot_lead_out_of_a_zip(tmp_path, name):
    with pytest.raises(UserError, match="repack without it"):
        list(archives.members(_windows_zip(tmp_path / "zip", name)))


def test_names_in_a_zip_are_utf8_or_code_page_437(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        for name in ("xxxx/1.jpg", "yyyy/2.jpg"):
            archive.writestr(name, image_file())
    data = (tmp_path / "zip").read_bytes().replace(b"xxxx", "né".encode() + b"e").replace(b"yyyy", b"n\x82ee")
    (tmp_path / "zip").write_bytes(data)  # UTF-8 unmarked, as by macOS, and code page 437
    assert {path for path, _ in archives.members(tmp_path / "zip")} == {"née/1.jpg", "néee/2.jpg"}
