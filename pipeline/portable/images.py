"""From the bytes of an image file, whoever wrote it, to an upright RGB image."""

import io
import logging
import sys
import warnings

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from .errors import UnreadableError, reason

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # a phone's MPO is read as its JPEG
MAX_PIXELS = 64_000_000  # above any camera a shelter owns; Pillow holds them in 256 MB
MAX_RATIO = 100  # of the sides: shrunk to 256 pixels, more would leave two of the shorter one
MAX_READS = 1_000_000  # pieces in which a file is read: 64 MB of GIF's blocks of 255 bytes take 500,000
MAX_TABLE = 400_000  # bytes of a table in a TIFF's directory: the places of 100,000 strips or tiles
MAX_RLE_PIXELS = 16_000_000  # of a run-length encoded BMP, which Pillow decodes in Python
# What a file may hold 100 times at most: start of the file, start of the part, and what it is. Each scan of a
# JPEG goes over the whole image; encoders write about ten. Pillow copies all EXIF blocks for each further
# one, and decompresses each colour profile; there is one of both.
MAX_PARTS = 100
_PARTS = (
    (b"\xff\xd8", b"\xff\xda\0", "scans"),
    (b"\xff\xd8", b"Exif\0\0", "EXIF blocks"),
    (b"\x89PNG", b"iCCP", "colour profiles"),
)
# The highest value of 8, 12 and 16 bits: cameras and scanners write these.
_RANGES = (255, 4095, 65535)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's remarks on a file, of which a reader learns what matters from the reason.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class _Counted(io.BytesIO):
    """A file that is read in MAX_READS pieces at most: Pillow's parsers take a microsecond for each."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise UnreadableError(f"in more than {MAX_READS:,} pieces")
        return super().read(size)


def read_picture(data: bytes, most: int = MAX_PIXELS, still: bool = False) -> Image.Image:
    """Decodes one picture, upright and in RGB.

    The real format counts, not the file's name; of an animation the first frame is taken, transparent
    parts become white, more than 8 bits are scaled to 8. What it takes to decode it is bounded before.

    Args:
        data: the encoded picture.
        most: pixels.
        still: whether an animation is refused.

    Raises:
        UnreadableError: empty, of no accepted format, of too many pixels or parts, of pixels whose range is
            not known, an animation, or damaged.
    """
    if not data:
        raise UnreadableError("empty file")
    try:
        image = _open(data)
        long, short = max(image.size), min(image.size)
        if long * short > most:
            raise UnreadableError(f"{image.width}×{image.height} pixels, more than {most:,}")
        if long > MAX_RATIO * short:
            raise UnreadableError(
                f"{image.width}×{image.height} pixels: one side is more than {MAX_RATIO} times the other"
            )
        if still and image.format != "MPO" and getattr(image, "is_animated", False):
            raise UnreadableError("an animation; send one picture")
        _check_tiles(image)
        stored = _raw_mode(image)
        image.load()
        if stored.endswith((";16B", ";16L", ";16N")) and not image.mode.startswith("I"):
            _check_16_bit_colours(image, stored, data)
        turn = _turn(image)
        image = _to_rgb(image)
        # Only where the camera says so, and of RGB alone: transposing copies the picture.
        return image if turn is None else image.transpose(turn)
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {most:,} pixels") from None
    except MemoryError:
        raise UnreadableError("too large for the memory that is left") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet in hostile bytes
        raise UnreadableError(f"damaged: {reason(error)}") from error


def _open(data: bytes) -> Image.Image:
    """The picture with its header read; refused are those whose header alone would take minutes."""
    for start, part, name in _PARTS:
        if data.startswith(start) and data.count(part) > MAX_PARTS:
            raise UnreadableError(f"more than {MAX_PARTS} {name}")
    file = _Counted(data)
    if data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        # Pillow lists all strips and samples of the directory before anything can be asked.
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
    """Refuses what decodes the same places again and again, and what takes too long in Python."""
    whole = image.width * image.height
    areas = ((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in image.tile)
    if sum(areas) > whole * len(image.getbands()):
        raise UnreadableError("its parts overlap")
    if image.tile and image.tile[0][0] == "bmp_rle" and whole > MAX_RLE_PIXELS:
        raise UnreadableError(f"a run-length encoded bitmap of more than {MAX_RLE_PIXELS:,} pixels")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)


def _raw_mode(image: Image.Image) -> str:
    """How a picture's values are stored, in Pillow's words (``RGB;16B``); empty for formats without them."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) or not args else args[0])


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuses what Pillow would decode to other values than are stored; mends the order of bytes."""
    tags = image.tag_v2
    bits, photometric, compression = set(tags.get(258, (1,))), tags.get(262), tags.get(259, 1)
    # Old JPEGs are YCbCr in any case, and in a fax 0 is white.
    if photometric is None and compression != 6 and image.mode != "1":
        raise UnreadableError("it doesn't say whether 0 is black or white; save it as PNG")
    if bits == {8} and 2 in tags.get(339, ()):
        raise UnreadableError("its values of 8 bits have a sign, and no known range; save it as PNG")
    if tags.get(284) == 2:  # a plane for each sample: of these Pillow knows fewer kinds, and does not say so
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
        # libtiff has put the bytes into the machine's order; Pillow would do so again.
        ((codec, box, offset, args),) = image.tile
        image.tile = [ImageFile._Tile(codec, box, offset, (stored.replace("B", ""), *args[1:]))]


def _check_16_bit_colours(image: Image.Image, stored: str, data: bytes) -> None:
    """Refuses colours of 16 bits, of which Pillow gives the upper 8, that don't reach a sixteenth of them.

    These may be values of 8 or 12 bits, which would come out black, or transparent, and so white.

    Args:
        image: as it was decoded.
        stored: its raw mode.
        data: the encoded picture, of which the lower 8 bits tell whether what looks black is.
    """

    def highest(found: Image.Image) -> list[int]:
        """Of the colours, and of the transparency where there is one."""
        tops = [top for _, top in found.getextrema()]
        return [max(tops)] if found.mode == "CMYK" else [max(tops[:3]), *tops[3:]]

    tops = highest(image)
    if 0 in tops:  # black or wholly transparent in any range, if the lower 8 bits are 0 too
        lower = _open(data)
        if stored.startswith("LA"):  # of which Pillow knows one order of bytes; as RGBA it is all four
            raw = "RGBA"
        else:  # in the other order of bytes, the upper 8 bits are the lower ones
            other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[stored[-1]]
            raw = stored[:-1].replace("a", "A") + other
        lower.tile = [
            ImageFile._Tile(codec, box, offset, raw if isinstance(args, str) else (raw, *args[1:]))
            for codec, box, offset, args in lower.tile
        ]
        lower.load()
        below = [lower.getextrema()[band][1] for band in (1, 3)] if raw == "RGBA" else highest(lower)
        tops = [255 if top == rest == 0 else top for top, rest in zip(tops, below, strict=True)]
    if min(tops) < 16:
        raise UnreadableError(
            "its values of 16 bits are all below a sixteenth of that range, so that nobody can tell what is "
            "white; save it with 8 bits"
        )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What sets it upright, as EXIF says; whatever else stands in EXIF, readable or not, does not matter."""
    try:
        return _TURNS.get(image.getexif().get(0x0112))
    except Exception:  # its parsers raise whatever they meet, as those of the formats do
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """In RGB, with as few copies as can be: each takes four bytes a pixel."""
    if image.mode.startswith(("I", "F")):
        # A TIFF's PhotometricInterpretation: at 0, 0 is white. Pillow inverts 8 bits for it, but not more.
        from_white = getattr(image, "tag_v2", {}).get(262) == 0
        return _to_8_bit(np.asarray(image), from_white).convert("RGB")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "La":  # premultiplied grey, of which Pillow knows one way out
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray, from_white: bool) -> Image.Image:
    """Grey of 8 bits from grey of more, integers or floats.

    Neither says its range. It is taken to be the smallest of 8, 12 and 16 bits, for floats also from 0 to 1,
    that holds the highest value.

    Args:
        values: height × width.
        from_white: whether 0 is white and the range's end black.

    Raises:
        UnreadableError: there are values below 0, above 65,535 or not finite, or nothing reaches a sixteenth
            of the range: scaled by a wrong one, the picture would be black.
    """
    floats = values.dtype.kind == "f"
    low, high = values.min(), values.max()  # NaN where there is any
    ranges = [limit for limit in ((1, *_RANGES) if floats else _RANGES) if high <= limit]
    if not low >= 0 or not ranges or 0 < high < ranges[0] / 16:
        raise UnreadableError(
            f"its values, {low:g} to {high:g}, are of no known range; save it with 8 or 16 bits"
        )
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 256):  # in strips: doubles take eight bytes a pixel
        strip = values[top : top + 256].astype(np.float64) * 255 / ranges[0]
        grey[top : top + 256] = np.rint(strip) if floats else strip
    if from_white:
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)
