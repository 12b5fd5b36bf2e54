"""Decodes untrusted image files into upright RGB images."""

import io
import logging
import sys
import warnings

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from .errors import UnreadableError, reason

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # MPO, from phones, is read as JPEG
MAX_PIXELS = 64_000_000  # above common cameras; 256 MB in Pillow
MAX_RATIO = 100  # aspect ratio: beyond it, the shorter side has at most 2 pixels at a longer side of 256
MAX_READS = 1_000_000  # read() calls per file; 64 MB of GIF's 255-byte blocks take 500,000
MAX_TABLE = 400_000  # bytes of a TIFF directory entry: the offsets of 100,000 strips or tiles
MAX_RLE_PIXELS = 16_000_000  # of a run-length encoded BMP, which Pillow decodes in Python
# Parts that a file may repeat at most MAX_PARTS times: file magic, part marker, description. Each scan of a
# JPEG covers the whole image; encoders write about ten. For each EXIF block Pillow copies all previous ones,
# and it decompresses every colour profile; valid files have one of each.
MAX_PARTS = 100
_PARTS = (
    (b"\xff\xd8", b"\xff\xda\0", "scans"),
    (b"\xff\xd8", b"Exif\0\0", "EXIF blocks"),
    (b"\x89PNG", b"iCCP", "colour profiles"),
)
# Of 8, 12 and 16 bits, the depths that cameras and scanners write.
_MAX_VALUES = (255, 4095, 65535)
_TRANSPOSES = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's warnings would repeat the message of UnreadableError.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class _ReadLimited(io.BytesIO):
    """Limits the read() calls to MAX_READS: Pillow's parsers take about a microsecond for each."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise UnreadableError(f"in more than {MAX_READS:,} pieces")
        return super().read(size)


def read_picture(data: bytes, max_pixels: int = MAX_PIXELS, reject_animation: bool = False) -> Image.Image:
    """Decodes one image; returns it upright and in RGB.

    The format is detected from the content. Uses the first frame of an animation, makes transparent areas
    white and scales deeper channels to 8 bits. The decoding cost is bounded before decoding.

    Args:
        data: the encoded image.
        max_pixels: maximum number of pixels.
        reject_animation: whether to reject animations.

    Raises:
        UnreadableError: the data is empty or damaged, its format is not accepted, it has too many pixels or
            parts or an unknown value range, or it is an animation and `reject_animation` is set.
    """
    if not data:
        raise UnreadableError("empty file")
    try:
        image = _open(data)
        long, short = max(image.size), min(image.size)
        if long * short > max_pixels:
            raise UnreadableError(f"{image.width}×{image.height} pixels, more than {max_pixels:,}")
        if long > MAX_RATIO * short:
            raise UnreadableError(
                f"{image.width}×{image.height} pixels: one side is more than {MAX_RATIO} times the other"
            )
        if reject_animation and image.format != "MPO" and getattr(image, "is_animated", False):
            raise UnreadableError("an animation; send one picture")
        _check_tiles(image)
        stored = _raw_mode(image)
        image.load()
        if stored.endswith((";16B", ";16L", ";16N")) and not image.mode.startswith("I"):
            _check_16_bit_colours(image, stored, data)
        transpose = _transpose(image)
        image = _to_rgb(image)
        # Transposing copies the image: done only if EXIF requires it, and after the conversion to RGB.
        return image if transpose is None else image.transpose(transpose)
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {max_pixels:,} pixels") from None
    except MemoryError:
        raise UnreadableError("too large for the memory that is left") from None
    except Exception as error:  # Pillow's decoders raise all kinds of errors on malformed data
        raise UnreadableError(f"damaged: {reason(error)}") from error


def _open(data: bytes) -> Image.Image:
    """Opens an image lazily; rejects files whose header alone would take minutes to parse."""
    for start, part, name in _PARTS:
        if data.startswith(start) and data.count(part) > MAX_PARTS:
            raise UnreadableError(f"more than {MAX_PARTS} {name}")
    file = _ReadLimited(data)
    if data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        # Image.open lists all strips and samples of the directory, so their number is checked before it.
        directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2] == 43 else 8))
        file.seek(directory.next)
        directory.load(file)
        if any(
            len(value) > MAX_TABLE for tag, value in directory._tagdata.items() if tag < 700 and tag != 270
        ):
            raise UnreadableError(f"a table of more than {MAX_TABLE:,} bytes in its directory")
        file.seek(0)
    return Image.open(file, formats=FORMATS)


def _check_tiles(image: Image.Image) -> None:
    """Rejects images that decode the same pixels repeatedly, or take too long in Python decoders."""
    whole = image.width * image.height
    areas = ((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in image.tile)
    if sum(areas) > whole * len(image.getbands()):
        raise UnreadableError("its parts overlap")
    if image.tile and image.tile[0][0] == "bmp_rle" and whole > MAX_RLE_PIXELS:
        raise UnreadableError(f"a run-length encoded bitmap of more than {MAX_RLE_PIXELS:,} pixels")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)


def _raw_mode(image: Image.Image) -> str:
    """Pillow's raw mode of the stored pixels, such as ``RGB;16B``; empty for formats without one."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) or not args else args[0])


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Rejects TIFFs that Pillow would decode to wrong values; corrects the byte order in `image.tile`."""
    tags = image.tag_v2
    bits, photometric, compression = set(tags.get(258, (1,))), tags.get(262), tags.get(259, 1)
    # Old-style JPEG is always YCbCr, and in fax images 0 is white.
    if photometric is None and compression != 6 and image.mode != "1":
        raise UnreadableError("it doesn't say whether 0 is black or white; save it as PNG")
    if bits == {8} and 2 in tags.get(339, ()):
        raise UnreadableError("its values of 8 bits have a sign, and no known range; save it as PNG")
    if tags.get(284) == 2:  # planar: Pillow supports fewer kinds, and misreads the others silently
        if compression == 1:
            is_known = tags.get(266, 1) == 1 and (
                (bits == {8} and photometric in (1, 2, 3, 5, 6))
                or (bits == {1} and photometric == 1)
                or bits == {32}
            )
        else:
            with_alpha = image.mode == "RGBA" and 338 in tags
            is_known = tags.get(277, 1) == 1 or image.mode in ("RGB", "CMYK") or with_alpha
        if not is_known:
            raise UnreadableError("a TIFF whose separate planes can't be read; save it as PNG")
    stored = _raw_mode(image)
    if stored.endswith(("BS", "BF")) and image.tile[0][0] == "libtiff" and sys.byteorder == "little":
        # libtiff has already swapped the bytes to native order; Pillow would swap them again.
        ((codec, box, offset, args),) = image.tile
        image.tile = [ImageFile._Tile(codec, box, offset, (stored.replace("B", ""), *args[1:]))]


def _check_16_bit_colours(image: Image.Image, stored: str, data: bytes) -> None:
    """Rejects 16-bit colours whose maximum is below a sixteenth of the range.

    Pillow keeps only the upper 8 bits. Values of 8 or 12 bits stored in 16 would come out black, or as
    transparent and therefore white.

    Args:
        image: the decoded image.
        stored: its raw mode.
        data: the encoded image; its lower 8 bits show whether an image that looks black is black.
    """

    def maxima(decoded: Image.Image) -> list[int]:
        """Maximum of the colour bands and, if there is one, of the alpha band."""
        band_maxima = [value for _, value in decoded.getextrema()]
        return [max(band_maxima)] if decoded.mode == "CMYK" else [max(band_maxima[:3]), *band_maxima[3:]]

    tops = maxima(image)
    if 0 in tops:  # certainly black or fully transparent only if the lower 8 bits are 0 too
        lower = _open(data)
        if stored.startswith("LA"):  # Pillow has one byte order for LA; RGBA reads all four bytes as bands
            raw = "RGBA"
        else:  # with the byte order swapped, Pillow keeps the lower 8 bits
            other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[stored[-1]]
            raw = stored[:-1].replace("a", "A") + other
        lower.tile = [
            ImageFile._Tile(codec, box, offset, raw if isinstance(args, str) else (raw, *args[1:]))
            for codec, box, offset, args in lower.tile
        ]
        lower.load()
        below = [lower.getextrema()[band][1] for band in (1, 3)] if raw == "RGBA" else maxima(lower)
        tops = [255 if top == rest == 0 else top for top, rest in zip(tops, below, strict=True)]
    if min(tops) < 16:
        raise UnreadableError(
            "its values of 16 bits are all below a sixteenth of that range, so that nobody can tell what is "
            "white; save it with 8 bits"
        )


def _transpose(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns the image upright, by its EXIF orientation; None if it is upright."""
    try:
        return _TRANSPOSES.get(image.getexif().get(0x0112))
    except Exception:  # the EXIF parsers raise all kinds of errors on malformed data
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB with as few copies as possible: each takes four bytes per pixel."""
    if image.mode.startswith(("I", "F")):
        # TIFF PhotometricInterpretation 0 means that 0 is white; Pillow inverts only up to 8 bits for it.
        from_white = getattr(image, "tag_v2", {}).get(262) == 0
        return _to_8_bit(np.asarray(image), from_white).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "La":  # premultiplied grey, which Pillow converts to LA only
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, from_white: bool) -> Image.Image:
    """Scales greyscale integers or floats to 8 bits.

    The file doesn't state the value range. It is assumed to be the smallest of 8, 12 and 16 bits, and for
    floats also 0 to 1, that contains the maximum.

    Args:
        values: height × width.
        from_white: whether 0 is white and the maximum black.

    Raises:
        UnreadableError: a value is negative, above 65,535 or not finite, or the maximum is below a sixteenth
            of the range: with a wrong range the image would be black.
    """
    floats = values.dtype.kind == "f"
    low, high = values.min(), values.max()  # NaN if there is any
    ranges = [limit for limit in ((1, *_MAX_VALUES) if floats else _MAX_VALUES) if high <= limit]
    if not low >= 0 or not ranges or 0 < high < ranges[0] / 16:
        raise UnreadableError(
            f"its values, {low:g} to {high:g}, are of no known range; save it with 8 or 16 bits"
        )
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 256):  # in strips: float64 takes eight bytes per pixel
        strip = values[top : top + 256].astype(np.float64) * 255 / ranges[0]
        grey[top : top + 256] = np.rint(strip) if floats else strip
    if from_white:
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)
