"""Whatever the bytes, readers of archives and images succeed or give a one-line reason."""

import io
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import portable
from pipeline.common.errors import UserError
from pipeline.portable import images
from pipeline.sources import archives

EXAMPLES = 300  # per test of archives; 10,000 each passed once
IMAGE_EXAMPLES = 1000  # per test of images
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _encoded(kind: str, mode: str, size: tuple[int, int] = (17, 13), **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    if mode == "LAB":  # Pillow writes and reads LAB, but can't convert to it
        image = Image.frombytes(mode, image.size, image.tobytes())
    elif mode == "I;16":
        image = image.convert("I").convert(mode)
    else:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x010F] = 6, 72.5, "camera"
    return exif.tobytes()


def _rle() -> bytes:
    """A run-length encoded BMP: nine pixels, the end of the line, and so on."""
    start, rows = 14 + 40 + 1024, b"\x09\x05\0\0" * 9
    head = struct.pack("<IiiHHIIiiII", 40, 9, 9, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + bytes(range(256)) * 4 + rows


IMAGES = [
    _encoded("JPEG", "RGB"),
    _encoded("JPEG", "CMYK"),
    _encoded("JPEG", "L", progressive=True),
    _encoded("PNG", "RGBA"),
    _encoded("PNG", "P"),
    _encoded("PNG", "I;16"),
    _encoded("PNG", "1", transparency=0),
    _encoded("GIF", "P"),
    _encoded("WEBP", "RGB"),
    _encoded("BMP", "RGB"),
    _encoded("TIFF", "RGB"),
    _encoded("TIFF", "CMYK", compression="tiff_lzw"),
    *(_encoded("TIFF", mode) for mode in ("F", "I", "LAB", "YCbCr", "LA", "1")),
    _encoded("JPEG", "RGB", exif=_exif()),
    _encoded("WEBP", "RGBA", exif=_exif()),
    _encoded("PNG", "RGB", exif=_exif()),
    _encoded("AVIF", "RGB"),
    _rle(),
]


STARTS = sorted({image[:length] for image in IMAGES for length in (4, 16, 40)})


def _tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name in ("a/cat/1.jpg", "a/dog/" + "long" * 40 + ".jpg", "a/dog/ü.png"):
            member = tarfile.TarInfo(name)
            member.size = len(IMAGES[0])
            archive.addfile(member, io.BytesIO(IMAGES[0]))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat/1.jpg", "dog/2.jpg"):
            archive.writestr(name, IMAGES[0] * 3)
    return buffer.getvalue()


ARCHIVES = [_tar("w"), _tar("w:gz"), _tar("w:bz2"), _tar("w:xz"), _zip()]

changes = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "end"]), st.floats(0, 1), st.binary(max_size=9)),
    min_size=1,
    max_size=6,
)


def _damage(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """Replaces, removes or inserts bytes, or truncates."""
    for kind, fraction, new in edits:
        at = int(fraction * len(data))
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at] + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at]
    return data


def _read_image(data: bytes) -> None:
    try:
        image = portable.read_picture(data)
    except portable.UnreadableError as reason:
        assert str(reason) and "\n" not in str(reason)
    else:
        assert image.mode == "RGB"
        assert portable.shrink(image, 32).dtype == np.uint8


@settings(FUZZ, max_examples=IMAGE_EXAMPLES)
@given(st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(STARTS), st.binary()).map(b"".join)))
def test_any_bytes_are_an_image_or_give_a_reason(data):
    _read_image(data)


@settings(FUZZ, max_examples=IMAGE_EXAMPLES)
@given(st.sampled_from(IMAGES), changes)
def test_a_damaged_image_is_read_or_gives_a_reason(data, edits):
    _read_image(_damage(data, edits))


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _within(kind: str, at: int, part: bytes, times: int = 200) -> bytes:
    """A valid image with bytes inserted many times."""
    data = _encoded(
        kind, "P" if kind == "GIF" else "RGB", **({"progressive": True} if kind == "JPEG" else {})
    )
    at = at % len(data)
    return data[:at] + part * times + data[at:]


def _last_scan() -> bytes:
    data = _encoded("JPEG", "RGB", progressive=True)
    return data[data.rindex(b"\xff\xda") : -2]


def _tiff(*entries: tuple[int, int, int, bytes | int], tail: bytes = b"") -> bytes:
    """A TIFF of one directory: tag, type, count, and the value or the table of values."""
    found, tables, start = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in sorted(entries):
        at = value if isinstance(value, int) else start + len(tables)
        found += struct.pack("<HHII", tag, kind, count, at)
        tables += value if isinstance(value, bytes) else b""
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + found + bytes(4) + tables + tail


def _grey(side: int, *entries: tuple) -> bytes:
    plain = (
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
    )
    return _tiff(*plain, *entries, tail=bytes(side * side))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_within("JPEG", -2, _last_scan()), "more than 100 scans"),
        (_within("JPEG", 2, b"\xff\xe1\0\x0aExif\0\0ab"), "more than 100 EXIF blocks"),
        (
            _within("PNG", 33, _chunk(b"iCCP", b"x\0\0" + zlib.compress(b"x"))),
            "more than 100 colour profiles",
        ),
        (_grey(9, (278, 4, 1, 1), (273, 4, 100_001, bytes(400_004))), "a table of more than 400,000 bytes"),
        (_grey(9, (278, 4, 1, 9), (273, 4, 1, 8), (339, 3, 200_001, bytes(400_002))), "a table of more than"),
        (_grey(9, (322, 4, 1, 9), (323, 4, 1, 8), (324, 4, 90, struct.pack("<I", 8) * 90)), "parts overlap"),
        (_rle().replace(struct.pack("<ii", 9, 9), struct.pack("<ii", 4001, 4000)), "run-length encoded"),
        (_encoded("PNG", "RGB", size=(1, 101)), "1×101 pixels: one side is more than 100 times the other"),
        (_encoded("PNG", "1", size=(200_000, 30)), "one side is more than"),
    ],
)
def test_an_image_too_slow_to_decode_is_refused_before_decoding(data, message, monkeypatch):
    monkeypatch.setattr(images, "_transpose", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(portable.UnreadableError, match=message):
        portable.read_picture(data)


@pytest.mark.parametrize(
    "data",
    [
        _within("JPEG", 2, b"\xff\xfe\0\x02", 5000),
        _within("PNG", 33, _chunk(b"teSt"), 5000),
        _within("GIF", 13 + 768, b"!\xfe\x01x\0", 5000),
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 5000) + struct.pack("<HHQQ", 40000, 3, 1, 5) * 5000,
        _rle()[: -9 * 4] + b"\0\2\0\0" * 5000,
    ],
)
def test_an_image_in_too_many_pieces_is_refused(data, monkeypatch):
    monkeypatch.setattr(images, "MAX_READS", 4000)
    with pytest.raises(portable.UnreadableError, match="in more than 4,000 pieces"):
        portable.read_picture(data)


def test_images_of_ordinary_encoders_are_within_the_limits():
    for kind, options in (
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("TIFF", {}),
        ("GIF", {}),
        ("WEBP", {}),
    ):
        data = _encoded(kind, "P" if kind == "GIF" else "RGB", size=(800, 600), **options)
        assert portable.read_picture(data).size == (800, 600)


def test_pillows_warnings_are_not_printed(tmp_path):
    """In a subprocess: pytest sets its own warning filters."""
    odd = [
        _within("JPEG", 2, b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x09\0" + b"\1" * 16, 1),
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 9_500, 1, 0, 0, 0, 0))
        + _chunk(b"IDAT"),
        _encoded("TIFF", "RGB").replace(b"\x15\1\3\0\1\0\0\0\3", b"\x15\1\3\0\1\0\0\0\xff"),
        _grey(9, (278, 4, 1, 9), (273, 4, 1, 8), (300, 4, 9999, 8)),
    ]
    for number, data in enumerate(odd):
        (tmp_path / str(number)).write_bytes(data)
    code = """if True:
        import sys
        from pathlib import Path
        from pipeline import portable
        for file in sorted(Path(sys.argv[1]).iterdir()):
            try:
                portable.read_picture(file.read_bytes())
            except portable.UnreadableError:
                pass
        """
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def _read_archive(file, data: bytes) -> None:
    file.write_bytes(data)
    try:
        for path, content in archives.members(file):
            assert ".." not in path.split("/") and not path.startswith("/")
            assert content is None or len(content) <= archives.MAX_BYTES
    except UserError as error:
        assert "\n" not in str(error)


@FUZZ
@given(data=st.binary(max_size=2000))
def test_any_bytes_are_an_archive_or_give_a_reason(tmp_path, data):
    _read_archive(tmp_path / "archive", data)


@FUZZ
@given(data=st.sampled_from(ARCHIVES), edits=changes)
def test_a_damaged_archive_is_read_or_gives_a_reason(tmp_path, data, edits):
    _read_archive(tmp_path / "archive", _damage(data, edits))


@pytest.mark.parametrize("data", ARCHIVES)
def test_valid_archives_are_read(tmp_path, data):
    (tmp_path / "archive").write_bytes(data)
    assert len(list(archives.members(tmp_path / "archive"))) >= 2


@pytest.mark.parametrize("length", range(0, 30, 3))
def test_an_archive_truncated_in_its_first_bytes_is_an_error(tmp_path, length):
    for number, data in enumerate(ARCHIVES):
        file = tmp_path / str(number)
        file.write_bytes(data[:length])
        with pytest.raises(UserError, match="is damaged"):  # for a gzip header Python raises TypeError
            list(archives.members(file))
