"""Whatever bytes come, the readers of archives and pictures answer, or say in one line why not."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import archives, portable
from pipeline.config import UserError

EXAMPLES = 300  # of each test here; ten thousand of each were tried once
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _encoded(kind: str, mode: str, **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PICTURES = [
    _encoded("JPEG", "RGB"),
    _encoded("JPEG", "CMYK"),
    _encoded("JPEG", "L", progressive=True),
    _encoded("PNG", "RGBA"),
    _encoded("PNG", "P"),
    _encoded("PNG", "I;16"),
    _encoded("GIF", "P"),
    _encoded("WEBP", "RGB"),
    _encoded("BMP", "RGB"),
    _encoded("TIFF", "RGB"),
    _encoded("TIFF", "CMYK", compression="tiff_lzw"),
]


def _tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name in ("a/cat/1.jpg", "a/dog/" + "long" * 40 + ".jpg", "a/dog/ü.png"):
            member = tarfile.TarInfo(name)
            member.size = len(PICTURES[0])
            archive.addfile(member, io.BytesIO(PICTURES[0]))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat/1.jpg", "dog/2.jpg"):
            archive.writestr(name, PICTURES[0] * 3)
    return buffer.getvalue()


ARCHIVES = [_tar("w"), _tar("w:gz"), _tar("w:bz2"), _tar("w:xz"), _zip()]

changes = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "end"]), st.floats(0, 1), st.binary(max_size=9)),
    min_size=1,
    max_size=6,
)


def _damage(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Bytes of a sound file with some replaced, cut out, put in, or the end cut off."""
    for kind, place, new in edits:
        at = int(place * len(data))
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at] + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at]
    return data


def _read_picture(data: bytes) -> None:
    try:
        image = portable.read_picture(data)
    except portable.UnreadableError as reason:
        assert str(reason) and "\n" not in str(reason)
    else:
        assert image.mode == "RGB"
        assert portable.shrink(image, 32).dtype == np.uint8


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_have_a_reason(data):
    _read_picture(data)


@FUZZ
@given(st.sampled_from(PICTURES), changes)
def test_any_damaged_picture_is_a_picture_or_has_a_reason(data, edits):
    _read_picture(_damage(data, edits))


def _read_archive(file, data: bytes) -> None:
    file.write_bytes(data)
    try:
        for path, content in archives.members(file):
            assert ".." not in path.split("/") and not path.startswith("/")
            assert content is None or len(content) <= archives.MAX_BYTES
    except UserError as told:
        assert "\n" not in str(told)


@FUZZ
@given(data=st.binary(max_size=2000))
def test_any_bytes_are_an_archive_or_have_a_reason(tmp_path, data):
    _read_archive(tmp_path / "archive", data)


@FUZZ
@given(data=st.sampled_from(ARCHIVES), edits=changes)
def test_any_damaged_archive_is_read_or_has_a_reason(tmp_path, data, edits):
    _read_archive(tmp_path / "archive", _damage(data, edits))


@pytest.mark.parametrize("data", ARCHIVES)
def test_the_sound_ones_are_read(tmp_path, data):
    (tmp_path / "archive").write_bytes(data)
    assert len(list(archives.members(tmp_path / "archive"))) >= 2


@pytest.mark.parametrize("length", range(0, 30, 3))
def test_an_archive_that_ends_in_its_first_bytes_is_told(tmp_path, length):
    for number, data in enumerate(ARCHIVES):
        file = tmp_path / str(number)
        file.write_bytes(data[:length])
        with pytest.raises(UserError, match="is damaged"):  # of a gzip's header Python says TypeError
            list(archives.members(file))
