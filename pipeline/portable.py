"""From a picture's bytes to breed names, with numpy, Pillow and onnxruntime alone.

A registered model carries this one file along (MLflow's ``loader_module``), so it imports nothing of
the project. The project imports *it*: packing, training and evaluation read and size pictures with
these very functions, which is why every place gives the same answer.
"""

import functools
import hashlib
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

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
SUMS = "SHA256SUMS"  # a line a file of the folder, as sha256sum writes and checks it
# What systems and Python leave in any folder: in lower case, whole names and beginnings.
LITTER = frozenset(
    (
        *("desktop.ini", "thumbs.db", "ehthumbs.db", "icon\r", ".ds_store", ".directory", ".localized"),
        *("__pycache__", "__macosx", "@eadir"),
    )
)
LITTER_BEGINS = ("._", ".nfs", ".fuse_hidden")
_TOLD: set[tuple] = set()  # folders and names of which this process has warned
_OWN_MAKING = re.compile(r"/(__pycache__/|\.nfs[0-9a-f]+$)")
# Names that some program reads from a sealed folder: unsealed, such a file is no person's addition.
READ = frozenset(
    (
        *("model.onnx", "model.json", "weights.safetensors", "config.yaml", "lineage.json", "changes.diff"),
        *("metrics.json", "curves.csv", "predictions.csv", "probabilities.npy", "model.sha256"),
        *("classes.csv", "confusions.csv", "pack.json", "pixels.bin", "index.csv", "quarantine.csv"),
        "trunk.onnx",
    )
)
NAME = re.compile(r"\w[\w.-]{0,99}")  # of models and data sets; becomes part of paths and addresses
MAX_JSON = 32 << 20  # bytes: 100,000 long class names
MAX_DEPTH = 32  # of a JSON file; a card has 3
MAX_CLASSES = 100_000
LEAST_DEVIATION, LEAST_CROP = 1e-3, 0.25  # of a card's `std` and `crop_pct`
MAX_ONNX = (2 << 30) - 1  # bytes; protobuf's own limit
MAX_FIELDS = 1_000_000  # of an ONNX file outside its tensors; a large transformer has 100,000
ANSWER_SECONDS = 60  # for one picture


class UnreadableError(ValueError):
    """Bytes that are no usable picture; the message is the reason, fit to show a person."""


class DamagedError(ValueError):
    """A folder whose files are not those that were sealed; the message names them."""


def reason(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its name from there, sorted, as a seal lists them.

    Left out are ``SHA256SUMS`` itself, hidden files, and what systems leave anywhere (`is_litter`).
    """
    names = (name for name in entries(folder) if name != SUMS and not is_litter(name))
    return {
        name: _sha256(folder / name) for name in names if "/." not in f"/{name}" and (folder / name).is_file()
    }


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:  # in pieces: a pack may be larger than the memory
        return hashlib.file_digest(stream, "sha256").hexdigest()


def entries(folder: Path) -> list[str]:
    """Names of all that lies in a folder and below it but plain directories; links are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        found += [Path(place, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def is_litter(name: str) -> bool:
    """Whether a name is one that systems and Python leave in any folder: nobody's work, and never sealed."""
    return any(part in LITTER or part.startswith(LITTER_BEGINS) for part in name.lower().split("/"))


def sealed(folder: Path) -> dict[str, str]:
    """What ``SHA256SUMS`` says of a folder: SHA-256 by the files' names.

    Raises:
        DamagedError: it is missing, can't be read, or is not as `sums` gives it.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DamagedError(f"{SUMS} is missing") from None
    except OSError as error:  # what a dying disk answers
        raise DamagedError(f"{SUMS} can't be read ({error.strerror})") from error
    except ValueError:
        lines = []
    found = [line.partition("  ") for line in lines]
    # A seal without a line would make everything whole.
    if not found or not all(is_sealable(name, digest) for digest, _, name in found):
        raise DamagedError(f"{SUMS} is damaged")
    return {name: digest for digest, _, name in found}


def is_sealable(name: object, digest: object) -> bool:
    """Whether these are the name of a file inside a folder and a SHA-256; a stranger's could lie outside."""
    return (
        isinstance(name, str)
        and isinstance(digest, str)
        and re.fullmatch(r"[0-9a-f]{64}", digest) is not None
        and re.fullmatch(r".+", name) is not None
        and not {"", ".."} & set(name.split("/"))
    )


def damaged(folder: Path) -> list[str]:
    """What of a sealed folder is not as it was sealed, a phrase a file; empty where all is whole.

    Further files are nobody's damage (`extra`), unless they bear a name that the programs read.
    """
    try:
        known = sealed(folder)
    except DamagedError as error:
        return [str(error)]
    return differing(folder, known) + [f"{name} is not sealed" for name in extra(folder) if name in READ]


def differing(folder: Path, known: dict[str, str]) -> list[str]:
    """A phrase for each file of a folder that is missing or has another SHA-256 than the known one."""
    wrong = []
    for name, digest in sorted(known.items()):
        try:
            if not (folder / name).is_file():
                wrong.append(f"{name} is missing")
            elif _sha256(folder / name) != digest:
                wrong.append(f"{name} is damaged")
        except OSError as error:
            wrong.append(f"{name} can't be read ({error.strerror})")
    return wrong


def extra(folder: Path) -> list[str]:
    """Names of what lies in a sealed folder and is not sealed, but for what Python and NFS make unasked."""
    known = {SUMS, *sealed(folder)}
    return [name for name in entries(folder) if name not in known and not _OWN_MAKING.search(f"/{name}")]


def tell_extra(folder: Path, name: str) -> None:
    """Warns in one line, once a process, of what lies in a whole folder and is not sealed."""
    names = extra(folder)
    told = (folder.resolve(), *names)
    if not names or told in _TOLD:
        return
    _TOLD.add(told)
    shown = ", ".join("".join(map(_printable, name)) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    print(f"warning: {name} also holds {shown}{more}: not sealed, and not used", file=sys.stderr)


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


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


def shrink(image: Image.Image, max_side: int) -> np.ndarray:
    """Brings the longer side down to `max_side` with antialiasing, never up.

    Returns:
        uint8 array, height × width × 3.
    """
    scale = max_side / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = _resized(image, size, Image.Resampling.BICUBIC)
    return np.asarray(image)


def _resized(image: Image.Image, size: tuple[int, int], kind: Image.Resampling) -> Image.Image:
    """Width first, then height, as ONNX Runtime does: Pillow alone takes whichever order is cheaper."""
    return image.resize((size[0], image.height), kind).resize(size, kind)


def to_square(picture: np.ndarray, size: int, interpolation: str, crop: str, crop_pct: float) -> np.ndarray:
    """Sizes a packed picture for a network, without chance.

    Args:
        picture: uint8, height × width × 3.
        size: side of the result in pixels.
        interpolation: a name of Pillow's `Resampling`, in lower case.
        crop: `squash` scales both sides to `size`; `center` scales the shorter side to
            `size / crop_pct` and cuts the middle out, as timm does.
        crop_pct: used by `center` alone.

    Returns:
        uint8, size × size × 3.
    """
    height, width = picture.shape[:2]
    if crop == "squash":
        target = (size, size)
    elif crop == "center":
        scale = size / crop_pct / min(height, width)
        target = (max(size, round(width * scale)), max(size, round(height * scale)))
    else:
        raise ValueError(f"crop '{crop}' is not known: squash or center")
    image = Image.fromarray(picture)
    if target != (width, height):
        image = _resized(image, target, Image.Resampling[interpolation.upper()])
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


def read_json(file: Path, numbers_only: bool = True) -> object:
    """Reads a JSON file that anyone may have written.

    Args:
        file: which.
        numbers_only: whether NaN and Infinity, which JSON does not have, are refused.

    Raises:
        DamagedError: it is missing, no regular file, too large, or not plain JSON (NaN, a key twice).
    """

    def constant(text: str) -> float:
        if numbers_only:
            raise ValueError(f"{text} is no number")
        return float(text)

    def unique(pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        if not file.is_file():  # a pipe or a device would never end
            raise DamagedError(f"{file} is missing")
        with open(file, "rb") as opened:
            data = opened.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise DamagedError(f"{file} is larger than {MAX_JSON >> 20} MB")
        tree = json.loads(data.decode(), parse_constant=constant, object_pairs_hook=unique)
        _check_depth(tree)
        # A lone surrogate, which JSON can spell, can't be written anywhere.
        json.dumps(tree, ensure_ascii=False).encode()
        return tree
    except OSError as error:
        raise DamagedError(f"{file} can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        why = "too deeply nested" if isinstance(error, RecursionError) else error
        raise DamagedError(f"{file} is no sound JSON ({why})") from error


def _check_depth(tree: object) -> None:
    """Raises RecursionError where others, that write the tree again, would."""
    level = [tree] if isinstance(tree, dict | list) else []
    for _ in range(MAX_DEPTH):
        nodes = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in nodes for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise RecursionError


def is_plain(value: object, deep: int = 1) -> bool:
    """Whether a value is None, a bool, a finite number, a short text, or a list of such."""
    if isinstance(value, list):
        return deep > 0 and len(value) <= 64 and all(is_plain(item, deep - 1) for item in value)
    if isinstance(value, str):
        return len(value) <= 1000
    return value is None or type(value) is bool or is_number(value)


def is_number(value: object) -> bool:
    """Whether a value is a number of ordinary size, neither NaN nor infinite."""
    return _number(-1e15, 1e15)(value)


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _three(low: float, high: float) -> Callable[[object], bool]:
    number = _number(low, high)
    return lambda value: isinstance(value, list) and len(value) == 3 and all(map(number, value))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000


def _are_classes(value: object) -> bool:
    return (
        isinstance(value, list)
        and 2 <= len(value) <= MAX_CLASSES
        and all(_is_text(name) and name for name in value)
        and len(set(value)) == len(value)
    )


def _are_shares(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_CLASSES and all(map(_number(0, 1), value))


def _is_net(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 64
        and isinstance(value.get("_target_"), str)
        and all(is_plain(argument) for argument in value.values())
    )


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input; a card's `input`.

    Attributes:
        max_side: pixels to which the longer side is shrunk first.
        size: side of the network's input in pixels.
        interpolation: a name of Pillow's `Resampling`, in lower case.
        crop: `squash` or `center`, see `to_square`.
        crop_pct: used by `center` alone.
        mean: per channel, in 0–1.
        std: per channel, in 0–1.
    """

    max_side: int
    size: int
    interpolation: str
    crop: str
    crop_pct: float
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class ModelCard:
    """What rebuilds a trained model and prepares its images; the file ``model.json``.

    Attributes:
        name: of the model's configuration.
        data: name of the data set.
        drawings: whether it was trained on drawings.
        classes: names, in the order of the outputs.
        species: of each class; empty where unknown.
        net: `_target_`, a registered network's name, and its arguments (see `models.build`).
        input: how an image is prepared.
        channels_last: memory layout of the network.
        flip: whether it answers by the mean over an image and its mirror image.
        temperature: the logits are divided by it.
        unsure_below: no class is named where the highest probability is below.
        task: what its answers are, one of `TASKS`.
        thresholds: of each class the probability from which on an image has it; empty where an image has one
            class only.
    """

    name: str
    data: str
    drawings: bool
    classes: list[str]
    species: list[str]
    net: dict[str, object]
    input: Preprocessing
    channels_last: bool
    flip: bool
    temperature: float
    unsure_below: float
    task: str
    thresholds: list[float]

    @property
    def several(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.task == "multi_label"

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def write(self, folder: Path) -> None:
        """Writes ``model.json``."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / "model.json").write_text(text, encoding="utf-8")


def upgrade(tree: dict) -> dict:
    """A card's fields as today's code knows them: what cards of earlier versions lack, they get here.

    Their models were neither calibrated nor mirrored, and named one class for every image.
    """
    former = {
        "flip": False,
        "temperature": 1.0,
        "unsure_below": 0.0,
        "task": "single_label",
        "thresholds": [],
    }
    return former | tree


TASKS = ("single_label", "multi_label")  # kinds of answers that this version knows
_CARD = {  # of each field what it has to be, and how that is said
    "name": (_is_name, "a name of letters, digits and _.-"),
    "data": (_is_name, "a name of letters, digits and _.-"),
    "drawings": (_is_bool, "true or false"),
    "classes": (_are_classes, f"2 to {MAX_CLASSES:,} different names"),
    "species": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names"),
    "net": (_is_net, "a mapping with _target_ and plain arguments"),
    "input": (lambda value: isinstance(value, dict), "a mapping"),
    "channels_last": (_is_bool, "true or false"),
    "flip": (_is_bool, "true or false"),
    "temperature": (_number(1e-3, 1e3), "a number from 0.001 to 1,000"),
    "unsure_below": (_number(0, 1), "a number from 0 to 1"),
    "task": (lambda value: isinstance(value, str) and value in TASKS, " or ".join(TASKS)),
    "thresholds": (_are_shares, "a list of numbers from 0 to 1"),
}
_INPUT = {
    "max_side": (_whole(1, 1 << 16), "a whole number from 1 to 65,536"),
    "size": (_whole(1, 1024), "a whole number from 1 to 1,024"),
    "interpolation": (
        lambda value: isinstance(value, str) and value.upper() in Image.Resampling.__members__,
        "a filter of Pillow",
    ),
    "crop": (lambda value: value in ("squash", "center"), "squash or center"),
    "crop_pct": (_number(LEAST_CROP, 2), f"a number from {LEAST_CROP} to 2"),
    "mean": (_three(-10, 10), "three numbers"),
    "std": (_three(LEAST_DEVIATION, 100), f"three numbers from {LEAST_DEVIATION} on"),
}


def read_card(folder: str | Path) -> ModelCard:
    """Reads a model's card, ``model.json``, which a stranger may have written.

    A card is data: plain values within bounds. What its `net` names is checked by who builds it. A field that
    this version does not know has no effect, so that cards of later versions can be read; in `input`, where
    it would change the answers, it is an error.

    Raises:
        DamagedError: says which field is wrong, and what it has to be.
    """
    file = Path(folder) / "model.json"
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise DamagedError(f"{file} is no model card")
    tree = upgrade(tree)
    _check(tree, _CARD, f"{file}: ")
    _check(tree["input"], _INPUT, f"{file}: input.")
    if unknown := sorted(tree["input"].keys() - _INPUT.keys()):
        raise DamagedError(f"{file}: input has the unknown field {unknown[0][:50]!r}")
    if len(tree["species"]) != len(tree["classes"]):
        raise DamagedError(f"{file}: species must name one for each of the classes")
    if len(tree["thresholds"]) != (len(tree["classes"]) if tree["task"] == "multi_label" else 0):
        raise DamagedError(f"{file}: thresholds must have one for each class of multi_label, and else none")
    fields = {name: tree[name] for name in _CARD}
    return ModelCard(**fields | {"input": Preprocessing(**tree["input"])})


def _check(tree: dict, rules: dict, where: str) -> None:
    for name, (fits, wanted) in rules.items():
        if name not in tree:
            raise DamagedError(f"{where}{name} is missing; the card is damaged or of an older form")
        if not fits(tree[name]):
            raise DamagedError(f"{where}{name} must be {wanted}, not {str(tree[name])[:50]!r}")


# Of ONNX's own description (onnx.proto): the field numbers under which a message holds another one ...
_MESSAGES = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
    "tensor": {},
}
# ... and what no model of this project has: ways to other files, to code, and to work without an end.
_REFUSED = {
    ("model", 20): "steps of a training",
    ("model", 25): "functions of its own",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "loops or branches",
    ("attribute", 11): "loops or branches",
    ("attribute", 22): "sparse tensors",
    ("attribute", 23): "sparse tensors",
    ("tensor", 6): "texts",
    ("tensor", 13): "data in other files",
}
# Operators of networks for pictures. Left out are those on texts, sequences and optional values, and those
# whose results are as long as their input's values say: ONNX Runtime keeps both outside the memory it bounds.
# The smallest network of each of timm's families that PyTorch can export, 92 of 98, uses 52 of them.
OPERATORS = frozenset(
    (
        *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd"),
        *("BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Cosh"),
        *("Div", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less"),
        *("LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow"),
        *("Reciprocal", "Round", "Sign", "Sin", "Sinh", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "Where"),
        "Xor",
        *("Celu", "Dropout", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "LeakyRelu"),
        *("LogSoftmax", "Mish", "PRelu", "Relu", "Selu", "Shrink", "Sigmoid", "Softmax", "Softplus"),
        *("Softsign", "Swish", "ThresholdedRelu"),
        *("AffineGrid", "Attention", "AveragePool", "BatchNormalization", "Col2Im", "Conv", "ConvInteger"),
        *("ConvTranspose", "DFT", "DeformConv", "Einsum", "GRU", "Gemm", "GlobalAveragePool"),
        *("GlobalLpPool", "GlobalMaxPool", "GridSample", "GroupNormalization", "InstanceNormalization"),
        *("LRN", "LSTM", "LayerNormalization", "LpNormalization", "LpPool", "MatMul", "MatMulInteger"),
        *("MaxPool", "MeanVarianceNormalization", "QLinearConv", "QLinearMatMul", "RMSNormalization"),
        *("RNN", "Resize", "RotaryEmbedding", "Upsample"),
        *("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"),
        *("ArgMax", "ArgMin", "CumSum", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        *("CenterCropPad", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike"),
        *("Flatten", "Gather", "GatherElements", "GatherND", "Identity", "OneHot", "Pad", "Range"),
        *("Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split"),
        *("Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
    )
)
_NUMBERS = frozenset((*range(1, 8), *range(9, 14), 16))  # types: all but texts, complex and packed numbers
_ALLOWED = {  # where only some values are, and what the others are
    ("node", 4): (frozenset(name.encode() for name in OPERATORS), "the operator {}"),
    ("node", 7): (frozenset((b"", b"ai.onnx")), "operators outside the standard"),
    ("tensor", 2): (_NUMBERS, "values that are no numbers"),
    ("tensor", 14): (frozenset((0,)), "data in other files"),
}


def read_onnx(file: Path) -> bytes:
    """Reads an ONNX file that a stranger may have written, and refuses what could reach beyond it.

    The bytes are to be loaded as bytes: then nothing is looked for beside the file.

    Raises:
        DamagedError: it is missing, too large, no ONNX file, keeps data in other files, or has loops,
            functions, texts or other operators than `OPERATORS`.
    """
    try:
        if not file.is_file():
            raise DamagedError(f"{file} is missing")
        if file.stat().st_size > MAX_ONNX:
            raise DamagedError(f"{file} is larger than 2 GB")
        data = file.read_bytes()
    except OSError as error:
        raise DamagedError(f"{file} can't be read ({error.strerror})") from error
    left = MAX_FIELDS
    inside = [("model", memoryview(data))]
    graphs = 0
    try:
        while inside:
            kind, message = inside.pop()
            for number, value in _fields(message):
                left -= 1
                if not left:
                    raise DamagedError(f"{file} has more than {MAX_FIELDS:,} parts")
                if wrong := _refused(kind, number, value):
                    raise DamagedError(
                        f"{file} has {wrong}; no model of this project does, so it is not loaded"
                    )
                if number in _MESSAGES[kind] and isinstance(value, memoryview):
                    inside.append((_MESSAGES[kind][number], value))
                    graphs += _MESSAGES[kind][number] == "graph"
    except (IndexError, ValueError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"{file} is no ONNX file") from error
    if not graphs:
        raise DamagedError(f"{file} is no ONNX file")
    return data


def _refused(kind: str, number: int, value: int | memoryview) -> str | None:
    """What is wrong with a field of an ONNX message."""
    if (kind, number) in _REFUSED:
        return _REFUSED[kind, number]
    if (kind, number) == ("node", 5) and isinstance(value, memoryview):
        # Together: it is the name that says what the value means.
        parts = list(_fields(value))
        names = [held for part, held in parts if part == 1]
        to_text = b"to" in names and any(part == 3 and held not in _NUMBERS for part, held in parts)
        return "texts" if to_text or b"value_string" in names or b"value_strings" in names else None
    allowed, others = _ALLOWED.get((kind, number), (None, None))
    held = bytes(value) if isinstance(value, memoryview) else value
    return others.format(str(held)[1:40]) if allowed is not None and held not in allowed else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; values of fixed length are given as 0.

    Raises:
        IndexError: it ends too soon.
        ValueError: it is no such message.
    """
    place, end = 0, len(message)

    def varint() -> int:
        nonlocal place
        value = 0
        for shift in range(0, 70, 7):
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number without an end")

    while place < end:
        tag = varint()
        if tag >= 1 << 32:  # protobuf takes the lower 32 bits, and so another field than this reads
            raise ValueError("a field's number that is too large")
        number, kind = divmod(tag, 8)
        value: int | memoryview = 0
        if kind == 0:
            value = varint()
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        elif kind == 2:
            length = varint()
            value = message[place : place + length]
            place += length
        else:
            raise ValueError("groups, which ONNX does not have")
        if place > end:
            raise IndexError("it ends too soon")
        yield number, value


@functools.cache
def _limit_memory() -> int:
    """Bounds what ONNX Runtime may take for all models of this process together; returns the bytes.

    Half of the machine's memory, or of the container's; 4 GB where the system does not tell.
    """
    from onnxruntime.capi import _pybind_state as runtime

    most = 8 << 30
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no container, or no bound ("max")
        most = min(most, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    place = runtime.OrtMemoryInfo(
        "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
    )
    with suppress(Exception):  # another library in this process has set its own
        runtime.create_and_register_allocator(place, runtime.OrtArenaCfg({"max_mem": most // 2}))
    return most // 2


def _session(model: bytes, threads: int):
    """An ONNX Runtime session that takes nothing but these bytes and runs nothing while it is made."""
    import onnxruntime  # here, so that reading pictures needs numpy and Pillow only

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised, and told in one line
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Folding computes parts of the graph while it is loaded, where no bound on time or memory holds.
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )


def _within(seconds: float, function: Callable, stop: Callable[[], None]) -> object:
    """Calls a function in a thread of its own and waits for it.

    Raises:
        TimeoutError: it took too long; `stop` was called, and what it still does nobody waits for.
    """
    ended: Future = Future()

    def call() -> None:
        try:
            ended.set_result(function())
        except BaseException as error:  # for whoever waits
            ended.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return ended.result(seconds)
    except TimeoutError:
        stop()
        raise


def _first_line(error: Exception) -> str:
    """What ONNX Runtime says, without the places in its source."""
    if "bfc_arena" in str(error):
        return f"it asks for more than {_limit_memory() >> 20:,} MB of memory"
    text = " ".join(str(error).split()).rpartition(" : ")[2]
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


class Portable:
    """A trained model in a folder: `model.onnx` and `model.json`, sealed by `SHA256SUMS`.

    The model takes one picture, uint8 height × width × 3 of any size, and gives calibrated probabilities; all
    that happens to a picture after it was decoded is inside. The folder may come from a stranger: it is data,
    and what does not answer as such a model does is refused.

    Args:
        folder: where it is.
        threads: within one picture; 0 is ONNX Runtime's own choice.
        seconds: that one answer may take.

    Raises:
        DamagedError: a file is not as it was sealed, of an older form, or no such model.
    """

    def __init__(self, folder: str | Path, threads: int = 0, seconds: float = ANSWER_SECONDS):
        folder = Path(folder)
        self._file, self._seconds = folder / "model.onnx", seconds
        if wrong := damaged(folder):
            raise DamagedError(
                f"{folder}: {', '.join(wrong)}; take another copy of the model, or, "
                "in the project that made it, run: python -m pipeline.verify --repair"
            )
        tell_extra(folder, str(folder))
        self.card = read_card(folder)
        self.classes, self.unsure_below = self.card.classes, self.card.unsure_below
        model = read_onnx(self._file)
        try:
            self.session = _within(seconds, lambda: _session(model, threads), lambda: None)
        except TimeoutError:
            raise DamagedError(f"{self._file} was not loaded within {seconds:g} seconds") from None
        except Exception as error:  # ONNX Runtime raises many kinds
            raise DamagedError(f"{self._file} can't be loaded ({_first_line(error)})") from error
        self._check_form()
        self.probabilities(np.full((2, 3, 3), 128, dtype=np.uint8))

    def _check_form(self) -> None:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if [each.name for each in inputs] != ["picture"]:
            raise DamagedError(f"{self._file.parent}: model.onnx is of an older form; export it again")
        (picture,) = inputs
        if picture.type != "tensor(uint8)" or len(picture.shape) != 3 or picture.shape[2] != 3:
            raise DamagedError(f"{self._file} takes no picture, uint8 height × width × 3")
        if [(each.type, each.shape) for each in outputs] != [("tensor(float)", [len(self.classes)])]:
            raise DamagedError(
                f"{self._file} does not give one probability for each of the {len(self.classes)} classes of "
                "model.json"
            )

    def probabilities(self, picture: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """Of each class, of one picture: encoded, decoded by `read_picture`, or as uint8 array H × W × 3.

        Raises:
            UnreadableError: it is no picture.
            DamagedError: the model gives no probabilities, or none in time.
        """
        if isinstance(picture, bytes | bytearray | memoryview):
            # Byte for byte as packed; the graph, which shrinks an array, is a few of 255 levels beside it.
            pixels = shrink(read_picture(bytes(picture)), self.card.input.max_side)
        else:
            pixels = np.asarray(picture)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                raise UnreadableError(
                    f"an array must be uint8, height × width × 3, not {pixels.dtype} {pixels.shape}"
                )
        found = self._run(pixels)
        fine = found.shape == (len(self.classes),) and np.isfinite(found).all()
        # Of several classes an image may have all or none: each share is at most 1.
        several = self.card.several
        most, least = (found.max(initial=0), 0) if several else (found.sum(dtype=np.float64), 0.99)
        if not fine or found.min() < 0 or not least <= float(most) <= 1.01:
            raise DamagedError(f"{self._file} answers with something else than probabilities")
        return found

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        import onnxruntime

        options = onnxruntime.RunOptions()

        def stop() -> None:
            options.terminate = True

        try:
            (found,) = _within(
                self._seconds, lambda: self.session.run(None, {"picture": pixels}, options), stop
            )
        except TimeoutError:
            raise DamagedError(f"{self._file} gave no answer within {self._seconds:g} seconds") from None
        except Exception as error:  # ONNX Runtime raises many kinds
            raise DamagedError(f"{self._file} can't answer ({_first_line(error)})") from error
        return found

    def answer(self, picture: bytes | Image.Image | np.ndarray, top: int = 5) -> dict:
        """The most probable classes of one picture.

        Returns:
            `labels`, best first, `probabilities` in the same order, and, of a model that names one class,
            `unsure`: whether the first is too little to name it. Of one that names several, `present`:
            whether the picture has each of the `labels`; all those that it has come, and come first.

        Raises:
            UnreadableError: it is no picture.
        """
        shares = self.probabilities(picture)
        if self.card.several:
            present = shares >= np.array(self.card.thresholds)
            best = np.lexsort((-shares, ~present))[: max(top, int(present.sum()))]
            more = {"present": [bool(present[place]) for place in best]}
        else:
            best = np.argsort(-shares, kind="stable")[:top]
            more = {"unsure": bool(shares[best[0]] < self.unsure_below)}
        return {
            "labels": [self.classes[place] for place in best],
            "probabilities": [float(shares[place]) for place in best],
            **more,
        }

    def predict(self, model_input, params=None):
        """What MLflow calls.

        Args:
            model_input: DataFrame with the column `image`: encoded bytes or uint8 arrays H × W × 3.
            params: unused; MLflow passes it.

        Returns:
            DataFrame, a row a picture: what `answer` says of the five most probable classes.

        Raises:
            UnreadableError: names the row whose picture can't be used.
        """
        import pandas

        answers = []
        for row, picture in enumerate(model_input["image"]):
            try:
                answers.append(self.answer(picture))
            except Exception as error:  # of reading it, or of the model on it
                raise UnreadableError(f"row {row}: {reason(error)}") from error
        decided = "present" if self.card.several else "unsure"
        return pandas.DataFrame(answers, columns=["labels", "probabilities", decided])


def _load_pyfunc(path: str) -> Portable:
    """MLflow's entry point."""
    return Portable(path)
