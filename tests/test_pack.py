"""Every picture is decoded once, used where it is sound and otherwise quarantined with the reason."""

import io
import json
import tarfile

import numpy as np
import pandas
import pytest
from PIL import Image

from pipeline import pack, portable, sample
from pipeline.config import UserError


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


def test_unusable_files_are_quarantined_with_the_reason_and_usable_ones_are_not(tmp_path):
    sample.write_archive(tmp_path / "archive", per_class=1, seed=1)
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
    pack.pack(_archive(tmp_path / "archive", {"a/b/x_1.jpg": data}), tmp_path / "pack", 128)
    (row,) = pandas.read_csv(tmp_path / "pack/index.csv").to_dict("records")
    assert (row["height"], row["width"], row["label"], row["breed"]) == (85, 128, "b", "x")
    pixels = np.fromfile(tmp_path / "pack/pixels.bin", dtype=np.uint8).reshape(85, 128, 3)
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


def test_16_bit_grey_keeps_its_picture():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    pixels = np.asarray(portable.read_picture(buffer.getvalue()))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert 120 < pixels[32].mean() < 135


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
    with pytest.raises(UserError, match="refused"):
        pack.pack(_archive(tmp_path / "archive", {name: _picture()}), tmp_path / "pack", 128)


def test_links_and_devices_are_refused(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        member = tarfile.TarInfo("a/b/x_1.jpg")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match="no plain file"):
        pack.pack(tmp_path / "archive", tmp_path / "pack", 128)


def test_a_truncated_archive_is_named_and_the_old_pack_stays(tmp_path):
    archive = _archive(tmp_path / "archive", {f"a/b/x_{n}.jpg": _picture() for n in range(9)})
    pack.pack(archive, tmp_path / "pack", 128)
    before = (tmp_path / "pack/pack.json").read_bytes()
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match="is damaged"):
        pack.pack(archive, tmp_path / "pack", 128)
    assert (tmp_path / "pack/pack.json").read_bytes() == before


def test_an_archive_without_pictures_or_class_folders_is_told(tmp_path):
    with pytest.raises(UserError, match="no usable picture"):
        pack.pack(_archive(tmp_path / "none", {"a/readme.txt": b"hello"}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match="no class folder"):
        pack.pack(_archive(tmp_path / "flat", {"x_1.jpg": _picture()}), tmp_path / "pack", 128)


def test_the_datas_hash_knows_pictures_and_labels_but_not_paths_or_order(tmp_path):
    first, second = _picture(60, 40), _picture(40, 60)

    def content(files):
        pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 128)
        return json.loads((tmp_path / "pack/pack.json").read_text())["content"]

    one = content({"a/cat/x_1.jpg": first, "a/dog/y_1.jpg": second})
    assert content({"z/dog/q_7.jpg": second, "z/cat/p_8.jpg": first}) == one
    assert content({"a/cat/x_1.jpg": second, "a/dog/y_1.jpg": first}) != one
