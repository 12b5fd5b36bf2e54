"""Reading one image: formats, modes, bit depths, orientation and transparency; unreadable ones are errors."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from archive_files import image_file
from PIL import Image, TiffImagePlugin

from pipeline import portable
from pipeline.portable import images


def test_small_images_are_not_enlarged():
    assert portable.shrink(portable.read_picture(image_file(60, 40)), 128).shape == (40, 60, 3)


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
def test_every_colour_mode_is_converted_to_rgb(mode, kind):
    image = portable.read_picture(image_file(mode=mode, kind=kind))
    assert image.mode == "RGB"
    assert image.size == (60, 40)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_used(kind):
    red, *others = (Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue"))
    buffer = io.BytesIO()
    red.save(buffer, kind, save_all=True, append_images=others)
    assert Image.open(buffer).n_frames == 3
    image = portable.read_picture(buffer.getvalue())
    assert image.size == (20, 10)
    red, green, blue = image.getpixel((5, 5))
    assert red > 200 and green < 50 and blue < 50


def test_lab_is_converted_to_rgb():
    buffer = io.BytesIO()
    Image.new("LAB", (4, 4), (128, 128, 128)).save(buffer, "TIFF")
    pixel = np.asarray(portable.read_picture(buffer.getvalue()))[1, 1].astype(int)
    assert np.abs(pixel - 119).max() <= 2  # mid-grey


def test_transparent_pixels_become_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, "PNG")
    assert np.asarray(portable.read_picture(buffer.getvalue())).min() == 255


def test_a_decompression_bomb_is_refused_before_decoding():
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    with pytest.raises(portable.UnreadableError, match="pixels"):
        portable.read_picture(buffer.getvalue())


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned
    assert portable.read_picture(image_file(60, 40, exif=exif)).size == (40, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_once(kind, orientation):
    image = Image.new("RGB", (64, 32), "white")
    image.paste("black", (0, 0, 32, 16))
    # The pixels as a camera stores them.
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
    """EXIF with orientation 6 and an invalid entry."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", tag, kind, count, 38)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + value


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [
        (0x011A, 10, 1, struct.pack("<ii", -1, 0)),  # X resolution -1/0
        (0x011A, 5, 1, struct.pack("<II", 0, 0)),
        (0x829A, 10, 2**31, b""),
        (0x8769, 4, 1, b"\xff\xff\xff\x7f"),  # the EXIF directory, at an invalid offset
        (0x010F, 2, 9, b"\xff\xfe\xfd"),
        (0xEEEE, 99, 7, b"1234567"),
    ],
)
def test_invalid_exif_entries_do_not_hide_the_orientation(tag, kind, count, value):
    data = image_file(60, 40, exif=_exif(tag, kind, count, value))
    assert portable.read_picture(data).size == (40, 60)


def test_16_bit_greyscale_is_scaled_to_8_bits():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    pixels = np.asarray(portable.read_picture(buffer.getvalue()))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255
    assert 120 < pixels[32].mean() < 135


def _encoded(values: np.ndarray, kind: str = "TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("maximum", "kind"),
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
def test_greyscale_is_scaled_from_the_smallest_range_that_fits(maximum, kind):
    grey = np.tile(np.arange(256, dtype=np.float64), (4, 1))
    values = grey / 255 * maximum
    stored = (values if kind == "f4" else np.ceil(values)).astype(kind)
    assert np.array_equal(np.asarray(portable.read_picture(_encoded(stored)))[:, :, 1], grey)


def test_black_stays_black_at_every_depth():
    for kind in ("f4", "u2", "i4"):
        assert not np.asarray(portable.read_picture(_encoded(np.zeros((4, 5), kind)))).any()


def _with_one_value(value: float, kind: str) -> np.ndarray:
    values = np.full((4, 5), 200, kind)
    values[2, 2] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        *(_with_one_value(value, "f4") for value in (np.nan, np.inf, -np.inf, -1, 1e9)),
        *(_with_one_value(value, "i4") for value in (-1, 70_000, 2**31 - 1)),
        np.full((4, 5), 3.7, "f4"),
        np.full((4, 5), 3, "u2"),
    ],
)
def test_pixels_of_unknown_range_are_an_error(values):
    with pytest.raises(portable.UnreadableError, match="are of no known range; save it with 8 or 16 bits"):
        portable.read_picture(_encoded(values))


_PHOTOMETRIC = {1: 1, 3: 2, 4: 5}  # by samples: grey from black, RGB, CMYK


def _tiff(values: np.ndarray, photometric: int | None = -1, planar: bool = False, compressed: bool = False):
    """A TIFF of height × width × samples; photometric -1 follows from samples, None omits the tag."""
    height, width, samples = values.shape
    parts = [part.tobytes() for part in (np.moveaxis(values, 2, 0) if planar else [values])]
    parts = [zlib.compress(part) for part in parts] if compressed else parts
    order, mark = (">", b"MM\0*") if values.dtype.str[0] == ">" else ("<", b"II*\0")
    tags = {256: width, 257: height, 277: samples, 278: height, 284: 1 + planar, 259: 8 if compressed else 1}
    tags[258] = (values.dtype.itemsize * 8,) * samples
    tags[339] = ({"u": 1, "i": 2, "f": 3}[values.dtype.kind],) * samples
    # Pillow adds the offset of the first part.
    tags[273] = tuple(sum(map(len, parts[:number])) for number in range(len(parts)))
    tags[279] = tuple(map(len, parts))
    if photometric is not None:
        tags[262] = _PHOTOMETRIC[samples] if photometric == -1 else photometric
    directory = TiffImagePlugin.ImageFileDirectory_v2(mark + bytes(4))
    directory.update(tags)
    return mark + struct.pack(order + "I", 8) + directory.tobytes(8) + b"".join(parts)


def _png(values: np.ndarray) -> bytes:
    """A 16-bit PNG of height × width × 2, 3 or 4 samples; the last of 2 and 4 is alpha."""
    height, width, samples = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, 0)}
    parts |= {b"IDAT": zlib.compress(rows), b"IEND": b""}
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _ramp(kind: str, maximum: float, samples: int = 1) -> np.ndarray:
    """A ramp from 0 to `maximum` over 16 × 16 pixels, the same in all samples."""
    return np.repeat(np.linspace(0, maximum, 256).reshape(16, 16, 1), samples, axis=2).astype(kind)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("kind", "maximum"), [("<u2", 65535), ("<u2", 4095), ("<f4", 1), ("<f4", 255), (">f4", 1)]
)
def test_white_is_zero_images_are_inverted(kind, maximum, compressed):
    grey = np.asarray(portable.read_picture(_tiff(_ramp(kind, maximum), 0, compressed=compressed)))
    assert np.abs(grey[:, :, 0] - (255.0 - np.arange(256).reshape(16, 16))).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        *(_tiff(_ramp(kind, 200), None) for kind in ("<u1", "<u2", "<f4")),
        *(
            _tiff(_ramp("<i1", maximum), compressed=compressed)
            for maximum in (-128, 127)
            for compressed in (False, True)
        ),
    ],
)
def test_an_ambiguous_tiff_is_an_error(data):
    with pytest.raises(portable.UnreadableError, match=r"0 is black or white|have a sign"):
        portable.read_picture(data)


@pytest.mark.parametrize("kind", ["<u1", ">u1", "<u2", ">u2", "<f4", ">f4"])
@pytest.mark.parametrize("photometric", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("compressed", [False, True])
def test_planar_tiffs_are_read_like_interleaved_ones_or_are_an_error(kind, photometric, compressed):
    values = _ramp(kind, 1 if "f" in kind else 250, {2: 3, 5: 4, 8: 3}.get(photometric, 1))
    values = values if "2" not in kind else values * 257
    try:
        found = portable.read_picture(_tiff(values, photometric, planar=True, compressed=compressed))
    except portable.UnreadableError:
        return
    interleaved = portable.read_picture(_tiff(values, photometric))
    assert np.array_equal(np.asarray(found), np.asarray(interleaved))


@pytest.mark.parametrize("maximum", [3, 255, 4095])
def test_16_bit_colour_of_low_range_is_an_error(maximum):
    files = [_png(_ramp("<u2", maximum, samples)) for samples in (2, 3, 4)]
    opaque = _ramp("<u2", maximum, 4)
    opaque[:, :, 3] = 65535
    files += [_png(opaque), _png(opaque[:, :, 2:])]
    for kind, samples, compressed in itertools.product(("<u2", ">u2"), (3, 4), (False, True)):  # 4 are CMYK
        files.append(_tiff(_ramp(kind, maximum, samples), compressed=compressed))
    for data in files:
        with pytest.raises(portable.UnreadableError, match="of 16 bits are all below a sixteenth"):
            portable.read_picture(data)


def test_16_bit_colour_of_full_range_is_read():
    expected = np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2)
    for write in (_png, _tiff):
        assert np.array_equal(np.asarray(portable.read_picture(write(_ramp("<u2", 65535, 3)))), expected)
        assert not np.asarray(portable.read_picture(write(_ramp("<u2", 0, 3)))).any()
    shape = _ramp("<u2", 65535, 4)  # black with increasing alpha
    shape[:, :, :3] = 0
    for values in (shape, shape[:, :, 2:]):
        assert np.array_equal(np.asarray(portable.read_picture(_png(values))), 255 - expected)
