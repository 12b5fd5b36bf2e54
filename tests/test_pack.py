"""Every picture is decoded once, used where it is sound and otherwise quarantined with the reason."""

import contextlib
import errno
import io
import itertools
import json
import re
import struct
import subprocess
import tarfile
import zipfile
import zlib

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image, TiffImagePlugin

from pipeline import pack, portable, split
from pipeline.common import errors, tables, text
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.portable import images
from pipeline.sources import archives, layout, pack_messages, photos, synthetic


def _picture(width=60, height=40, mode="RGB", kind="JPEG", **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _archive(path, files: dict[str, bytes]):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _zip(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_unusable_files_are_quarantined_with_the_reason_and_usable_ones_are_not(tmp_path):
    synthetic.write(tmp_path / "archive", synthetic.pictures(per_class=1, seed=1))
    summary = pack.pack(tmp_path / "archive", tmp_path / "pack", 128)
    quarantine = pandas.read_csv(tmp_path / "pack/quarantine.csv", index_col="path")["reason"]
    assert summary["quarantined"] == len(quarantine) == 3
    assert quarantine["sample/dog_beagle/beagle_2.jpg"].startswith("damaged")
    assert quarantine["sample/dog_beagle/beagle_3.jpg"] == "empty file"
    assert quarantine["sample/dog_beagle/beagle_4.jpg"] == "not a picture of a known format"
    index = pandas.read_csv(tmp_path / "pack/index.csv")
    assert len(index) == summary["pictures"] == 35 + 7 + 2  # a face each, the near-duplicates, GIF and CMYK
    assert index["path"].is_monotonic_increasing
    assert set(index["species"]) == {"cat", "dog"}


def test_the_pack_holds_the_pixels_that_the_portable_model_sees(tmp_path):
    data = _picture(300, 200)
    files = {"a/b/x_1.jpg": data, "a/c/y_1.jpg": _picture()}
    pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
    row, _ = pandas.read_csv(tmp_path / "pack/index.csv").to_dict("records")
    assert (row["height"], row["width"], row["label"], row["breed"]) == (85, 128, "b", "x")
    pixels = np.fromfile(tmp_path / "pack/pixels.bin", dtype=np.uint8)[: 85 * 128 * 3].reshape(85, 128, 3)
    assert np.array_equal(pixels, portable.shrink(portable.read_picture(data), 128))


def test_small_pictures_are_not_enlarged():
    assert portable.shrink(portable.read_picture(_picture(60, 40)), 128).shape == (40, 60, 3)


def test_a_turned_photo_is_set_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    assert portable.read_picture(_picture(60, 40, exif=exif)).size == (40, 60)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
        ("P", "GIF"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("RGB", "WEBP"),
    ],
)
def test_every_colour_mode_becomes_rgb(mode, kind):
    image = portable.read_picture(_picture(mode=mode, kind=kind))
    assert image.mode == "RGB"
    assert image.size == (60, 40)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_used(kind):
    red, *others = (Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue"))
    buffer = io.BytesIO()
    red.save(buffer, kind, save_all=True, append_images=others)
    assert Image.open(buffer).n_frames == 3
    image = portable.read_picture(buffer.getvalue())
    assert image.size == (20, 10)
    red, green, blue = image.getpixel((5, 5))
    assert red > 200 and green < 50 and blue < 50


def test_the_content_counts_not_the_name(tmp_path):
    files = {"b/x_1.jpg": _picture(kind="PNG"), "c/y_1.txt": _picture(kind="WEBP")}
    assert pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)["pictures"] == 2


def test_16_bit_grey_keeps_its_picture():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    pixels = np.asarray(portable.read_picture(buffer.getvalue()))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert 120 < pixels[32].mean() < 135


def _as(values: np.ndarray, kind: str = "TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("full", "kind"),
    [
        (1, "f4"),
        (255, "f4"),
        (65535, "f4"),
        (255, "u2"),
        (4095, "u2"),
        (65535, "u2"),
        (255, "i4"),
        (65535, "i4"),
    ],
)
def test_pixels_of_more_bits_are_scaled_by_the_range_that_holds_them(full, kind):
    grey = np.tile(np.arange(256, dtype=np.float64), (4, 1))
    values = grey / 255 * full
    stored = (values if kind == "f4" else np.ceil(values)).astype(kind)
    assert np.array_equal(np.asarray(portable.read_picture(_as(stored)))[:, :, 1], grey)


def _odd(value: float, kind: str) -> np.ndarray:
    values = np.full((4, 5), 200, kind)
    values[2, 2] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        *(_odd(value, "f4") for value in (np.nan, np.inf, -np.inf, -1, 1e9)),
        *(_odd(value, "i4") for value in (-1, 70_000, 2**31 - 1)),
        np.full((4, 5), 3.7, "f4"),
        np.full((4, 5), 3, "u2"),
    ],
)
def test_pixels_whose_range_is_not_known_are_refused_with_the_reason(values):
    with pytest.raises(portable.UnreadableError, match="are of no known range; save it with 8 or 16 bits"):
        portable.read_picture(_as(values))


_PHOTOMETRIC = {1: 1, 3: 2, 4: 5}  # by samples: grey from black, RGB, CMYK


def _tiff(values: np.ndarray, photometric: int | None = -1, planes: bool = False, packed: bool = False):
    """A TIFF of height × width × samples; -1 is what the samples are, None leaves the tag out."""
    height, width, samples = values.shape
    parts = [part.tobytes() for part in (np.moveaxis(values, 2, 0) if planes else [values])]
    parts = [zlib.compress(part) for part in parts] if packed else parts
    order, mark = (">", b"MM\0*") if values.dtype.str[0] == ">" else ("<", b"II*\0")
    tags = {256: width, 257: height, 277: samples, 278: height, 284: 1 + planes, 259: 8 if packed else 1}
    tags[258] = (values.dtype.itemsize * 8,) * samples
    tags[339] = ({"u": 1, "i": 2, "f": 3}[values.dtype.kind],) * samples
    tags[273] = tuple(
        sum(map(len, parts[:number])) for number in range(len(parts))
    )  # Pillow adds where they begin
    tags[279] = tuple(map(len, parts))
    if photometric is not None:
        tags[262] = _PHOTOMETRIC[samples] if photometric == -1 else photometric
    directory = TiffImagePlugin.ImageFileDirectory_v2(mark + bytes(4))
    directory.update(tags)
    return mark + struct.pack(order + "I", 8) + directory.tobytes(8) + b"".join(parts)


def _png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits; height × width × 2, 3 or 4 samples, the last of 2 and 4 the transparency."""
    height, width, samples = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, 0)}
    parts |= {b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _ramp(kind: str, full: float, samples: int = 1) -> np.ndarray:
    """From 0 to `full` over 16 × 16 pixels, the same in all samples."""
    return np.repeat(np.linspace(0, full, 256).reshape(16, 16, 1), samples, axis=2).astype(kind)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "full"), [("<u2", 65535), ("<u2", 4095), ("<f4", 1), ("<f4", 255), (">f4", 1)]
)
def test_where_0_is_white_it_is_read_as_white(kind, full, packed):
    grey = np.asarray(portable.read_picture(_tiff(_ramp(kind, full), 0, packed=packed)))
    assert np.abs(grey[:, :, 0] - (255.0 - np.arange(256).reshape(16, 16))).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        *(_tiff(_ramp(kind, 200), None) for kind in ("<u1", "<u2", "<f4")),
        *(_tiff(_ramp("<i1", full), packed=packed) for full in (-128, 127) for packed in (False, True)),
    ],
)
def test_a_tiff_whose_values_mean_nothing_certain_is_refused(data):
    with pytest.raises(portable.UnreadableError, match=r"0 is black or white|have a sign"):
        portable.read_picture(data)


@pytest.mark.parametrize("kind", ["<u1", ">u1", "<u2", ">u2", "<f4", ">f4"])
@pytest.mark.parametrize("photometric", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("packed", [False, True])
def test_separate_planes_are_read_as_the_same_values_together_or_refused(kind, photometric, packed):
    values = _ramp(kind, 1 if "f" in kind else 250, {2: 3, 5: 4, 8: 3}.get(photometric, 1))
    values = values if "2" not in kind else values * 257
    try:
        found = portable.read_picture(_tiff(values, photometric, planes=True, packed=packed))
    except portable.UnreadableError:
        return
    together = portable.read_picture(_tiff(values, photometric))
    assert np.array_equal(np.asarray(found), np.asarray(together))


@pytest.mark.parametrize("full", [3, 255, 4095])
def test_colours_of_few_bits_stored_in_16_are_refused_with_the_reason(full):
    pictures = [_png(_ramp("<u2", full, samples)) for samples in (2, 3, 4)]
    opaque = _ramp("<u2", full, 4)
    opaque[:, :, 3] = 65535
    pictures += [_png(opaque), _png(opaque[:, :, 2:])]
    for kind, samples, packed in itertools.product(("<u2", ">u2"), (3, 4), (False, True)):  # 4 are CMYK
        pictures.append(_tiff(_ramp(kind, full, samples), packed=packed))
    for data in pictures:
        with pytest.raises(portable.UnreadableError, match="of 16 bits are all below a sixteenth"):
            portable.read_picture(data)


def test_colours_that_use_16_bits_are_read_and_black_is_black():
    expected = np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2)
    for write in (_png, _tiff):
        assert np.array_equal(np.asarray(portable.read_picture(write(_ramp("<u2", 65535, 3)))), expected)
        assert not np.asarray(portable.read_picture(write(_ramp("<u2", 0, 3)))).any()
    shape = _ramp("<u2", 65535, 4)  # black, seen through a transparency that rises
    shape[:, :, :3] = 0
    for values in (shape, shape[:, :, 2:]):
        assert np.array_equal(np.asarray(portable.read_picture(_png(values))), 255 - expected)


def test_lab_becomes_rgb():
    buffer = io.BytesIO()
    Image.new("LAB", (4, 4), (128, 128, 128)).save(buffer, "TIFF")
    pixel = np.asarray(portable.read_picture(buffer.getvalue()))[1, 1].astype(int)
    assert np.abs(pixel - 119).max() <= 2  # half of L, no colour


def test_black_stays_black_in_every_depth():
    for kind in ("f4", "u2", "i4"):
        assert not np.asarray(portable.read_picture(_as(np.zeros((4, 5), kind)))).any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright_once(kind, orientation):
    image = Image.new("RGB", (64, 32), "white")
    image.paste("black", (0, 0, 32, 16))
    # What the camera stored, which its orientation turns back.
    stored = (
        image
        if orientation == 1
        else image.transpose(images._TRANSPOSES[{6: 8, 8: 6}.get(orientation, orientation)])
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, kind, exif=exif)
    upright = np.asarray(portable.read_picture(buffer.getvalue()))[:, :, 0]
    assert upright.shape == (32, 64)
    assert np.abs(upright.astype(int) - np.asarray(image)[:, :, 0]).max() < 60


def _exif(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """Orientation 6, and beside it an entry that nobody can read."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", tag, kind, count, 38)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + value


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (0x011A, 10, 1, struct.pack("<ii", -1, 0)),  # X resolution -1/0
        (0x011A, 5, 1, struct.pack("<II", 0, 0)),
        (0x829A, 10, 2**31, b""),
        (0x8769, 4, 1, b"\xff\xff\xff\x7f"),  # the directory of EXIF, nowhere
        (0x010F, 2, 9, b"\xff\xfe\xfd"),
        (0xEEEE, 99, 7, b"1234567"),
    ],
)
def test_only_the_orientation_of_exif_matters(tag, kind, count, value):
    data = _picture(60, 40, exif=_exif(tag, kind, count, value))
    assert portable.read_picture(data).size == (40, 60)


def test_transparent_parts_become_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    assert np.asarray(portable.read_picture(buffer.getvalue())).min() == 255


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    with pytest.raises(portable.UnreadableError, match="pixels"):
        portable.read_picture(buffer.getvalue())


@pytest.mark.parametrize("name", ["../escape/x_1.jpg", "/etc/x_1.jpg"])
def test_a_member_outside_the_archive_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="repack without it"):
        pack.pack(_archive(tmp_path / "archive", {name: _picture()}), tmp_path / "pack", 128)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        member = tarfile.TarInfo("a/b/x_1.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match=r"'a/b/x_1\.jpg' is not a regular file"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def _linked(path, *links: tuple[str, str], mode: str = "w"):
    """A tar of `./b/1.jpg` and `./c/1.jpg`, and hard links by name and target."""
    with tarfile.open(path, mode) as archive:
        for name, width in (("./b/1.jpg", 60), ("./c/1.jpg", 50)):
            data, member = _picture(width), tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_hard_link_to_a_file_before_it_is_that_file_again(tmp_path, mode):
    links = (("./c/2.jpg", "./b/1.jpg"), ("./c/3.jpg", "b/1.jpg"), ("./b/2.jpg", "./c/1.jpg"))
    found = dict(archives.members(_linked(tmp_path / "archive", *links, mode=mode)))
    first, other = _picture(60), _picture(50)
    assert found == {
        **{"b/1.jpg": first, "c/2.jpg": first, "c/3.jpg": first},
        **{"c/1.jpg": other, "b/2.jpg": other},
    }


@pytest.mark.parametrize("target", ["./b/2.jpg", "../b/1.jpg", "/b/1.jpg", "./b/3.jpg", "./b"])
def test_a_hard_link_to_what_no_file_before_it_is_called_is_refused(tmp_path, target):
    with pytest.raises(UserError, match=r"'\./b/2\.jpg' is not a regular file"):
        list(
            archives.members(_linked(tmp_path / "archive", ("./b/2.jpg", target), ("./b/3.jpg", "./b/1.jpg")))
        )


def test_hard_links_stand_for_a_bounded_number_of_bytes(tmp_path, monkeypatch):
    archive = _linked(tmp_path / "archive", *((f"./c/{number}.jpg", "./b/1.jpg") for number in range(9)))
    monkeypatch.setattr(archives, "MAX_RATIO", 0)
    monkeypatch.setattr(archives, "MAX_BYTES", 8 * len(_picture()))
    with pytest.raises(UserError, match="expand to more than"):
        list(archives.members(archive))


def test_a_tar_that_follows_links_is_read_whole(tmp_path):
    (tmp_path / "own/b").mkdir(parents=True)
    (tmp_path / "own/b/1.jpg").write_bytes(_picture())
    (tmp_path / "own/c").symlink_to("b")
    subprocess.run(["tar", "-C", tmp_path / "own", "-chf", tmp_path / "archive", "."], check=True)
    assert {path for path, data in archives.members(tmp_path / "archive") if data == _picture()} == {
        "b/1.jpg",
        "c/1.jpg",
    }


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        member = zipfile.ZipInfo("a/b/x_1.jpg")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="not a regular file"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def test_a_bomb_in_an_archive_is_quarantined_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 50_000)
    bomb = bytes(archives.MAX_BYTES + 1)
    files = {"a/b/x_1.jpg": _picture(), "a/c/x_2.jpg": _picture(), "a/b/bomb.png": bomb}
    _zip(tmp_path / "zip", files)
    _archive(tmp_path / "tar", files)
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
        archive.addfile(member)  # the header alone
    with pytest.raises(UserError, match=r"is damaged|no usable picture"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def test_a_zip_is_read_as_a_tar_is(tmp_path):
    files = {
        "b/x_1.jpg": _picture(),
        "c/y_1.jpg": _picture(40, 40),
        "__MACOSX/b/._x_1.jpg": b"",
        "b/.DS_Store": b"",
    }
    one = pack.pack(_zip(tmp_path / "zip", files), tmp_path / "one", 128)
    other = pack.pack(_archive(tmp_path / "tar", files), tmp_path / "other", 128)
    assert one == other
    assert one["quarantined"] == 0  # what systems leave beside pictures is no picture
    assert (tmp_path / "one/pixels.bin").read_bytes() == (tmp_path / "other/pixels.bin").read_bytes()


def test_hidden_pictures_of_an_archive_are_told_with_their_number(tmp_path):
    names = ("b/1.jpg", "c/2.jpg", *(f".cats/{number}.jpg" for number in range(5)), "b/._1.jpg", ".notes")
    for write in (_archive, _zip):
        hidden = []
        archive = write(tmp_path / "archive", dict.fromkeys(names, _picture()))
        assert pack.pack(archive, tmp_path / "pack", 32, hidden=hidden)["pictures"] == 2
        assert hidden == [*(f".cats/{number}.jpg" for number in range(5)), ".notes"]
    told = photos.hidden_message(hidden[:5])
    assert told.endswith(": 5, .cats/0.jpg, .cats/1.jpg, .cats/2.jpg and 2 more")


def test_a_zip_with_a_password_is_told(tmp_path):
    archive = _zip(tmp_path / "zip", {"b/x_1.jpg": b"secret"})
    data = bytearray(archive.read_bytes())
    for header, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag in both headers
        data[data.index(header) + place] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted; unpack it and set"):
        pack.pack(archive, tmp_path / "pack", 128)


def test_a_zip_that_is_compressed_in_a_way_of_other_programs_is_told_and_not_called_damaged(tmp_path):
    archive = _zip(tmp_path / "zip", {"b/x_1.jpg": b"picture"})
    data = bytearray(archive.read_bytes())
    for header, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):  # Deflate64, of Windows' Explorer
        data[data.index(header) + place] = 9
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"unsupported compression .* unpack it and set fetch\.path") as error:
        pack.pack(archive, tmp_path / "pack", 128)
    assert "damaged" not in str(error.value)


def test_class_folders_or_breeds_are_the_classes():
    path = "petfaces/dog_american/american_bulldog_12.jpg"
    assert layout.labels(path, "folder") == {
        "path": path,
        "label": "dog_american",
        "species": "dog",
        "breed": "american_bulldog",
        "official": "",
    }
    assert layout.labels(path, "breed")["label"] == "dog_american_bulldog"
    assert layout.labels("pets/mine/tom_1.jpg", "breed")["label"] == "tom"


def test_folders_above_class_folders_tell_the_official_split(tmp_path):
    names = ("train/cat/1", "valid/cat/2", "Test/cat/3", "train/dog/4", "other/dog/5", "test/6")
    files = {f"pets/{name}.jpg": _picture() for name in names}
    pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
    index = pandas.read_csv(tmp_path / "pack/index.csv", keep_default_na=False, index_col="path")
    assert dict(zip(index.index.str.split("/").str[-1], index["official"], strict=True)) == {
        "1.jpg": "train",
        "2.jpg": "val",
        "3.jpg": "test",
        "4.jpg": "train",
        "5.jpg": "",
    }
    assert "pets/test/6.jpg,in no class folder" in (tmp_path / "pack/quarantine.csv").read_text()


def test_a_class_called_train_is_a_class_where_no_split_is_told(tmp_path):
    files = {"train/1.jpg": _picture(), "car/2.jpg": _picture()}
    assert pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)["classes"] == 2


def test_a_path_that_comes_twice_is_used_once_and_told(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        for name in ("b/x_1.jpg", "b/x_1.jpg", "c/y_1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(_picture())
            archive.addfile(member, io.BytesIO(_picture()))
    assert pack.pack(tmp_path / "archive", tmp_path / "pack", 128)["pictures"] == 2
    assert "comes twice" in (tmp_path / "pack/quarantine.csv").read_text()


def test_a_truncated_archive_is_named_and_the_old_pack_stays(tmp_path):
    archive = _archive(tmp_path / "archive", {f"a/{n % 2}/x_{n}.jpg": _picture() for n in range(9)})
    pack.pack(archive, tmp_path / "pack", 128)
    before = (tmp_path / "pack/pack.json").read_bytes()
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match="is damaged"):
        pack.pack(archive, tmp_path / "pack", 128)
    assert (tmp_path / "pack/pack.json").read_bytes() == before


def _full(monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write tells it: without a name

    monkeypatch.setattr(pack.pack_index, "content_hash", full)


def test_a_disk_that_is_full_is_told_with_the_place_and_leaves_the_old_pack_alone(tmp_path, monkeypatch):
    first = _archive(tmp_path / "first", {f"a/{n % 2}/x_{n}.jpg": _picture() for n in range(4)})
    second = _archive(tmp_path / "second", {f"a/{n % 2}/x_{n}.jpg": _picture(40, 40) for n in range(4)})
    folder = tmp_path / "pack"
    pack.pack(first, folder, 128)
    before = portable.sums(folder)
    with monkeypatch.context() as patched:
        _full(patched)
        told = rf"^{re.escape(str(folder))} can't be .*\(No space left on device\); free disk space"
        with pytest.raises(UserError, match=told), errors.os_errors_as_user_errors():
            pack.pack(second, folder, 128)
    assert portable.damaged(folder) == [] and portable.sums(folder) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first", "pack", "second"]
    pack.pack(second, folder, 128)
    assert portable.damaged(folder) == [] and portable.sums(folder) != before


def test_an_archive_without_pictures_or_class_folders_is_told(tmp_path):
    with pytest.raises(UserError, match="no usable picture"):
        pack.pack(_archive(tmp_path / "none", {"a/readme.txt": b"hello"}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match=r"'x_1\.jpg' is in no class folder"):
        pack.pack(_archive(tmp_path / "flat", {"x_1.jpg": _picture()}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match="one class only, 'b'"):
        pack.pack(_archive(tmp_path / "one", {"b/x_1.jpg": _picture()}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match=r"'b' \(1 × its class's name has control characters left out\)"):
        files = {"b/x_1.jpg": _picture(), "a\x1b/x_2.jpg": _picture(50, 60)}
        pack.pack(_archive(tmp_path / "escape", files), tmp_path / "pack", 128)
    with pytest.raises(UserError, match="contains no files"):
        pack.pack(_archive(tmp_path / "empty", {}), tmp_path / "pack", 128)


def test_the_datas_hash_knows_pictures_and_labels_but_not_paths_or_order(tmp_path):
    first, second = _picture(60, 40), _picture(40, 60)

    def content(files):
        pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
        return json.loads((tmp_path / "pack/pack.json").read_text())["content"]

    one = content({"a/cat/x_1.jpg": first, "a/dog/y_1.jpg": second})
    assert content({"z/dog/q_7.jpg": second, "z/cat/p_8.jpg": first}) == one
    assert content({"a/cat/x_1.jpg": second, "a/dog/y_1.jpg": first}) != one


# ---------------------------------------------------------------- which folder is the class


def _labels(tmp_path, *paths: str, classes: str = "folder") -> dict[str, str]:
    """Label of each path of an archive; what is quarantined is not in it."""
    files = {path: _picture() for path in paths}
    pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128, classes)
    return {row["path"]: row["label"] for row in tables.read(tmp_path / "pack/index.csv")}


def test_folders_below_a_class_folder_belong_to_it(tmp_path):
    found = _labels(tmp_path, "cat/2023/1.jpg", "cat/2024/a/2.jpg", "dog/2023/3.jpg", "dog/4.jpg")
    assert list(found.values()) == ["cat", "cat", "dog", "dog"]


def test_folders_that_all_pictures_share_are_no_classes_whatever_lies_beside_them(tmp_path):
    found = _labels(tmp_path, "my/pets/cat/x/1.jpg", "my/pets/dog/2.jpg", "3.jpg", "my/pets/4.jpg")
    assert found == {"my/pets/cat/x/1.jpg": "cat", "my/pets/dog/2.jpg": "dog"}
    reasons = {row["path"]: row["reason"] for row in tables.read(tmp_path / "pack/quarantine.csv")}
    assert reasons == dict.fromkeys(("3.jpg", "my/pets/4.jpg"), "in no class folder")


def test_deeper_folders_belong_to_the_class_in_a_split_too(tmp_path):
    found = _labels(tmp_path, "p/train/cat/2023/1.jpg", "p/train/dog/2.jpg", "p/test/cat/2024/3.jpg")
    assert list(found.values()) == ["cat", "cat", "dog"]
    official = [row["official"] for row in tables.read(tmp_path / "pack/index.csv")]
    assert official == ["test", "train", "train"]


def test_a_vehicle_called_train_may_have_folders_of_its_own_and_is_told(tmp_path):
    assert set(_labels(tmp_path, "train/2023/1.jpg", "car/2023/2.jpg").values()) == {"train", "car"}
    assert any("train is treated as a class" in line for line in pack_messages.describe(tmp_path / "pack"))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train/train", "test/test"),
        ("train/train/train", "test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_pets", "Pets-Test"),
        ("pets/training_set", "pets/test_set"),
        ("Training Data", "validation-data"),
        ("trainset", "testset"),
        ("train2017/train_images", "val2017"),
        ("train_val", "test1"),
    ],
)
def test_a_split_is_known_by_its_name_among_others_and_may_be_repeated(tmp_path, train, test):
    found = _labels(tmp_path, f"{train}/cat/old/1.jpg", f"{train}/dog/2.jpg", f"{test}/cat/3.jpg")
    assert sorted(found.values()) == ["cat", "cat", "dog"]
    official = {row["path"]: row["official"] for row in tables.read(tmp_path / "pack/index.csv")}
    assert official[f"{train}/dog/2.jpg"] == "train"
    assert official[f"{test}/cat/3.jpg"] in ("val", "test")


def test_pictures_to_predict_beside_the_splits_are_no_class(tmp_path):
    folders = ("seg_train/seg_train/cat", "seg_test/seg_test/dog", "seg_pred/seg_pred", "seg_pred")
    found = _labels(tmp_path, *(f"{folder}/1.jpg" for folder in folders))
    assert sorted(found.values()) == ["cat", "dog"]
    reasons = {row["path"]: row["reason"] for row in tables.read(tmp_path / "pack/quarantine.csv")}
    assert reasons == dict.fromkeys(("seg_pred/seg_pred/1.jpg", "seg_pred/1.jpg"), "in no class folder")


@pytest.mark.parametrize(
    "paths",
    [
        ("steam_train/old/1", "crash_test/2"),
        ("steam_train/old/1", "bullet_train/old/2", "car/3"),
        ("train/train/1", "train/car/2", "test/train/3"),  # a vehicle in a split
        ("cat/train/1", "dog/test/2"),
        ("photos/a/1", "images/b/2", "data/3"),
        ("test1/1", "test2/2"),
    ],
)
def test_classes_are_not_mistaken_for_splits(tmp_path, paths):
    found = _labels(tmp_path, *(f"{path}.jpg" for path in paths))
    at = 1 if paths[0].startswith("train/") else 0
    assert set(found.values()) == {path.split("/")[at] for path in paths}


@pytest.mark.parametrize(
    "paths",
    [
        ("train/1", "test/2"),
        ("train/train/1", "test/test/2"),
        ("seg_train/1", "seg_test/2"),
        ("train_cat/1", "train_dog/2", "test_cat/3", "test_dog/4"),
    ],
)
def test_splits_without_class_folders_end_in_the_tree_that_was_found(tmp_path, paths):
    with pytest.raises(UserError, match=r"no class folders: .* are names of splits.*\n  ") as told:
        _labels(tmp_path, *(f"{path}.jpg" for path in paths))
    assert f"  {paths[0].split('/')[0]}/  1" in str(told.value).splitlines()


def test_breeds_in_one_folder_are_classes_by_their_files_names(tmp_path):
    found = _labels(tmp_path, "pets/dog_x/tom_1.jpg", "pets/ann_2.jpg", classes="breed")
    assert list(found.values()) == ["ann", "dog_tom"]


def test_one_class_alone_ends_in_the_tree_that_was_found(tmp_path):
    files = {f"all/cat/{year}/{number}.jpg": _picture() for year in (2023, 2024) for number in range(3)}
    deep = {f"train/{path}": data for path, data in files.items()} | {"test/all/x.jpg": _picture()}
    with pytest.raises(UserError) as told:
        pack.pack(_archive(tmp_path / "archive", deep), tmp_path / "pack", 128)
    assert str(told.value).splitlines()[1:] == [
        "  test/  1",
        "    all/  1",
        "  train/  6",
        "    all/  6",
        "      cat/  6",
    ]


def test_a_class_of_which_no_picture_can_be_read_leaves_the_others_folders_no_classes(tmp_path):
    files = {f"cat/{year}/{number}.jpg": _picture() for year in (2023, 2024) for number in range(3)}
    files |= {"dog/2023/1.HEIC": b"a format that is not read", "dog/2023/2.jpg": b""}
    with pytest.raises(UserError, match=r"one class only, 'cat'.* left out") as told:
        pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
    assert "  dog/  2" in str(told.value).splitlines()


def test_the_tree_of_an_error_is_short_and_steers_no_terminal(tmp_path):
    files = {f"train/one/\x1b[31m{number}/x.jpg": _picture(8, 8) for number in range(60)}
    files |= {"test/one/x.jpg": _picture(8, 8)}
    with pytest.raises(UserError) as told:
        pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
    assert "\x1b" not in str(told.value)
    assert len(str(told.value).splitlines()) == pack_messages.MAX_FOLDERS + 2
    assert "more folders" in str(told.value)


def test_pack_names_the_classes_with_their_counts_and_how_many_more(tmp_path):
    _labels(tmp_path, *(f"c{number:02}/{copy}.jpg" for number in range(11) for copy in range(2)))
    first, *_ = pack_messages.describe(tmp_path / "pack")
    assert first.startswith("the classes are c00 (2), c01 (2), ")
    assert first.endswith(f" and {11 - pack_messages.MAX_CLASSES} more")


def test_class_names_that_look_the_same_are_told(tmp_path):
    names = ("caf\u00e9", "cafe\u0301", "Tabby", "tabby ", "ｔａｂｂｙ", "dog")
    found = _labels(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert set(found.values()) == set(names)  # told, not merged
    warnings = [line for line in pack_messages.describe(tmp_path / "pack") if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert any(r"'cafe\u0301' (1) and 'caf\xe9' (1) look alike" in line for line in warnings)
    assert any("'Tabby' (1) and 'tabby ' (1)" in line and "are 3 classes" in line for line in warnings)


HOSTILE_NAMES = ("a\nb", "\x1b[31mred", "x\u202eevil", "K\udce4tzchen", "y" * 201, " ")


def test_what_can_not_be_a_class_name_is_quarantined_with_the_reason(tmp_path):
    found = _labels(tmp_path, *(f"{name}/1.jpg" for name in (*HOSTILE_NAMES, "[b] <i>", "=1+1", "None")))
    assert set(found.values()) == {"[b] <i>", "=1+1", "None"}
    reasons = [row["reason"] for row in tables.read(tmp_path / "pack/quarantine.csv")]
    assert len(reasons) == len(HOSTILE_NAMES)
    assert all(reason.startswith("its class's name ") for reason in reasons)
    assert set(pack_index.read_index(tmp_path / "pack")["label"]) == set(found.values())


# ---------------------------------------------------------------- names of files


def test_names_that_are_not_utf8_keep_apart_and_read_back(tmp_path):
    files = {f"{kind}/{name}": _picture() for kind in "bc" for name in ("K\udce4t.jpg", "K\\xe4t.jpg")}
    pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
    index = pack_index.read_index(tmp_path / "pack")
    assert list(index["path"]) == [
        rf"{kind}/{name}" for kind in "bc" for name in (r"K\\xe4t.jpg", r"K\xe4t.jpg")
    ]
    choice = OmegaConf.create({"seed": 1, "val": 0.3, "test": 0.3, "distance": 0, "official": True})
    with pytest.raises(UserError, match="fewer different pictures"):  # they are all alike; it was read
        split.split(tmp_path / "pack", tmp_path / "split.csv", choice)


def test_a_tar_from_an_old_disk_has_its_bytes_as_names(tmp_path):
    with tarfile.open(tmp_path / "archive", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("b/Kätzchen.jpg", "Hündin/1.jpg", "c/2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(_picture())
            archive.addfile(member, io.BytesIO(_picture()))
    pack.pack(tmp_path / "archive", tmp_path / "pack", 128)
    assert [row["path"] for row in tables.read(tmp_path / "pack/index.csv")] == [
        r"b/K\xe4tzchen.jpg",
        "c/2.jpg",
    ]
    assert tables.read(tmp_path / "pack/quarantine.csv") == [
        {"path": r"H\xfcndin/1.jpg", "reason": "its class's name is not UTF-8"}
    ]


def test_a_path_longer_than_any_file_system_has_is_quarantined(tmp_path):
    found = _labels(tmp_path, "b/1.jpg", "c/2.jpg", "b/" + "x" * 200_000 + ".jpg", "d/" * 90_000 + "1.jpg")
    assert list(found) == ["b/1.jpg", "c/2.jpg"]
    (first, second) = tables.read(tmp_path / "pack/quarantine.csv")
    assert first["reason"] == second["reason"] == "a path of more than 4,096 characters"
    assert len(pack_messages.describe(tmp_path / "pack")) == 2


def _windows_zip(path, *names: str, system: int = 3):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            member = zipfile.ZipInfo("x")
            member.filename = name  # set afterwards: the constructor would mend it
            member.create_system = system
            archive.writestr(member, b"" if name.endswith(("\\", "/")) else _picture())
    return path


def test_a_zip_made_on_windows_has_its_folders(tmp_path):
    names = ("cats\\", "cats\\ginger\\1.jpg", "cats\\tabby\\old\\2.jpg")
    _windows_zip(tmp_path / "zip", *names)
    pack.pack(tmp_path / "zip", tmp_path / "pack", 128)
    rows = tables.read(tmp_path / "pack/index.csv")
    assert [(row["path"], row["label"]) for row in rows] == [
        ("cats/ginger/1.jpg", "ginger"),
        ("cats/tabby/old/2.jpg", "tabby"),
    ]
    assert tables.read(tmp_path / "pack/quarantine.csv") == []
    # Mixed, it is Windows' own mark that decides; elsewhere a backslash is a letter.
    _windows_zip(tmp_path / "mixed", "a/ginger/1.jpg", "a\\tabby\\2.jpg", system=0)
    assert {path for path, _ in archives.members(tmp_path / "mixed")} == {"a/ginger/1.jpg", "a/tabby/2.jpg"}
    _windows_zip(tmp_path / "unix", "a/ginger/1.jpg", "a/AC\\DC/2.jpg")
    assert {path for path, _ in archives.members(tmp_path / "unix")} == {"a/ginger/1.jpg", "a/AC\\DC/2.jpg"}


@pytest.mark.parametrize("name", ["a\\..\\..\\x.jpg", "C:\\pets\\x.jpg", "\\\\host\\share\\x.jpg", "\\x.jpg"])
def test_backslashes_lead_out_of_no_zip(tmp_path, name):
    with pytest.raises(UserError, match="repack without it"):
        list(archives.members(_windows_zip(tmp_path / "zip", name)))


def test_a_zips_names_are_utf8_marked_or_not(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        for name in ("xxxx/1.jpg", "yyyy/2.jpg"):
            archive.writestr(name, _picture())
    data = (tmp_path / "zip").read_bytes().replace(b"xxxx", "né".encode() + b"e").replace(b"yyyy", b"n\x82ee")
    (tmp_path / "zip").write_bytes(data)  # macOS' way, and DOS' code page 437
    assert {path for path, _ in archives.members(tmp_path / "zip")} == {"née/1.jpg", "néee/2.jpg"}


# ---------------------------------------------------------------- generated trees

_PART = st.one_of(
    st.sampled_from(
        [
            "cat",
            "dog",
            "train",
            "Test",
            "val",
            "a_train",
            "test_a",
            "2023",
            "a",
            "...",
            "..",
            ".",
            "=1",
            "'=",
            "n\\o",
        ]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6),
    st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), min_size=1, max_size=2),
)
_TREES = st.lists(st.lists(_PART, min_size=1, max_size=5).map("/".join), max_size=7)


@pytest.mark.integration
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=_TREES, classes=st.sampled_from(["folder", "breed"]))
def test_any_tree_of_paths_is_packed_or_told(tmp_path, monkeypatch, paths, classes):
    def decoded(task):
        known = {"path": task[0], "pixels": b"rgb", "height": 1, "width": 1}
        return known | {"sha256": "0" * 64, "phash": "0" * 64}

    monkeypatch.setattr(pack, "decode", decoded)
    archive = _archive(tmp_path / "archive", dict.fromkeys(paths, b"x"))
    with contextlib.suppress(UserError):
        pack.pack(archive, tmp_path / "pack", 8, classes)
        index, left_out = (tables.read(tmp_path / f"pack/{name}.csv") for name in ("index", "quarantine"))
        seen = [path for path, _ in archives.members(archive)]
        assert sorted(row["path"] for row in (*index, *left_out)) == sorted(map(text.path, seen))
        assert len({row["label"] for row in index}) > 1
        assert not any(text.class_name_problem(row["label"]) for row in index)
        assert all("\n" not in line for line in pack_messages.describe(tmp_path / "pack"))
