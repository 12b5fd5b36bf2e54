"""What a pack holds: pixels, hashes, quarantined files; errors leave the old pack unchanged."""

import contextlib
import errno
import io
import json
import re
import tarfile

import numpy as np
import pandas
import pytest
from archive_files import image_file, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import pack, portable
from pipeline.common import errors, tables, text
from pipeline.common.errors import UserError
from pipeline.sources import archives, pack_messages, synthetic


def test_unusable_files_are_quarantined_with_the_reason(tmp_path):
    synthetic.write(tmp_path / "archive", synthetic.pictures(per_class=1, seed=1))
    summary = pack.pack(tmp_path / "archive", tmp_path / "pack", 128)
    quarantine = pandas.read_csv(tmp_path / "pack/quarantine.csv", index_col="path")["reason"]
    assert summary["quarantined"] == len(quarantine) == 3
    assert quarantine["sample/dog_beagle/beagle_2.jpg"].startswith("damaged")
    assert quarantine["sample/dog_beagle/beagle_3.jpg"] == "empty file"
    assert quarantine["sample/dog_beagle/beagle_4.jpg"] == "not a picture of a known format"
    index = pandas.read_csv(tmp_path / "pack/index.csv")
    assert len(index) == summary["pictures"] == 35 + 7 + 2  # 35 classes, near-duplicates, GIF and CMYK
    assert index["path"].is_monotonic_increasing
    assert set(index["species"]) == {"cat", "dog"}


def test_the_pack_holds_the_pixels_of_prediction(tmp_path):
    data = image_file(300, 200)
    files = {"a/b/x_1.jpg": data, "a/c/y_1.jpg": image_file()}
    pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)
    row, _ = pandas.read_csv(tmp_path / "pack/index.csv").to_dict("records")
    assert (row["height"], row["width"], row["label"], row["breed"]) == (85, 128, "b", "x")
    pixels = np.fromfile(tmp_path / "pack/pixels.bin", dtype=np.uint8)[: 85 * 128 * 3].reshape(85, 128, 3)
    assert np.array_equal(pixels, portable.shrink(portable.read_picture(data), 128))


def test_image_formats_are_recognised_by_content(tmp_path):
    files = {"b/x_1.jpg": image_file(kind="PNG"), "c/y_1.txt": image_file(kind="WEBP")}
    assert pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)["pictures"] == 2


def test_the_datas_hash_depends_on_images_and_labels_only(tmp_path):
    first, second = image_file(60, 40), image_file(40, 60)

    def content(files):
        pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128)
        return json.loads((tmp_path / "pack/pack.json").read_text())["content"]

    one = content({"a/cat/x_1.jpg": first, "a/dog/y_1.jpg": second})
    assert content({"z/dog/q_7.jpg": second, "z/cat/p_8.jpg": first}) == one
    assert content({"a/cat/x_1.jpg": second, "a/dog/y_1.jpg": first}) != one


def test_a_repeated_path_is_used_once(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        for name in ("b/x_1.jpg", "b/x_1.jpg", "c/y_1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(image_file())
            archive.addfile(member, io.BytesIO(image_file()))
    assert pack.pack(tmp_path / "archive", tmp_path / "pack", 128)["pictures"] == 2
    assert "comes twice" in (tmp_path / "pack/quarantine.csv").read_text()


def test_an_archive_without_images_or_two_classes_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no usable picture"):
        pack.pack(write_tar(tmp_path / "none", {"a/readme.txt": b"hello"}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match=r"'x_1\.jpg' is in no class folder"):
        pack.pack(write_tar(tmp_path / "flat", {"x_1.jpg": image_file()}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match="one class only, 'b'"):
        pack.pack(write_tar(tmp_path / "one", {"b/x_1.jpg": image_file()}), tmp_path / "pack", 128)
    with pytest.raises(UserError, match=r"'b' \(1 × its class's name has control characters left out\)"):
        files = {"b/x_1.jpg": image_file(), "a\x1b/x_2.jpg": image_file(50, 60)}
        pack.pack(write_tar(tmp_path / "escape", files), tmp_path / "pack", 128)
    with pytest.raises(UserError, match="contains no files"):
        pack.pack(write_tar(tmp_path / "empty", {}), tmp_path / "pack", 128)


def test_a_truncated_archive_is_an_error_and_the_old_pack_is_kept(tmp_path):
    archive = write_tar(tmp_path / "archive", {f"a/{n % 2}/x_{n}.jpg": image_file() for n in range(9)})
    pack.pack(archive, tmp_path / "pack", 128)
    before = (tmp_path / "pack/pack.json").read_bytes()
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match="is damaged"):
        pack.pack(archive, tmp_path / "pack", 128)
    assert (tmp_path / "pack/pack.json").read_bytes() == before


def _fill_disk(monkeypatch) -> None:
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")  # a failed write names no file

    monkeypatch.setattr(pack.pack_index, "content_hash", fail)


def test_a_full_disk_is_an_error_and_the_old_pack_is_kept(tmp_path, monkeypatch):
    first = write_tar(tmp_path / "first", {f"a/{n % 2}/x_{n}.jpg": image_file() for n in range(4)})
    second = write_tar(tmp_path / "second", {f"a/{n % 2}/x_{n}.jpg": image_file(40, 40) for n in range(4)})
    folder = tmp_path / "pack"
    pack.pack(first, folder, 128)
    before = portable.sums(folder)
    with monkeypatch.context() as patched:
        _fill_disk(patched)
        message = rf"^{re.escape(str(folder))} can't be .*\(No space left on device\); free disk space"
        with pytest.raises(UserError, match=message), errors.os_errors_as_user_errors():
            pack.pack(second, folder, 128)
    assert portable.damaged(folder) == [] and portable.sums(folder) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["first", "pack", "second"]
    pack.pack(second, folder, 128)
    assert portable.damaged(folder) == [] and portable.sums(folder) != before


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
def test_any_tree_of_paths_is_packed_or_an_error(tmp_path, monkeypatch, paths, classes):
    def decoded(task):
        result = {"path": task[0], "pixels": b"rgb", "height": 1, "width": 1}
        return result | {"sha256": "0" * 64, "phash": "0" * 64}

    monkeypatch.setattr(pack, "decode", decoded)
    archive = write_tar(tmp_path / "archive", dict.fromkeys(paths, b"x"))
    with contextlib.suppress(UserError):
        pack.pack(archive, tmp_path / "pack", 8, classes)
        index, quarantine = (tables.read(tmp_path / f"pack/{name}.csv") for name in ("index", "quarantine"))
        seen = [path for path, _ in archives.members(archive)]
        assert sorted(row["path"] for row in (*index, *quarantine)) == sorted(map(text.path, seen))
        assert len({row["label"] for row in index}) > 1
        assert not any(text.class_name_problem(row["label"]) for row in index)
        assert all("\n" not in line for line in pack_messages.describe(tmp_path / "pack"))
