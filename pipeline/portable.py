"""From a picture's bytes to breed names, with numpy, Pillow and onnxruntime alone.

A registered model carries this one file along (MLflow's ``loader_module``), so it imports nothing of
the project. The project imports *it*: packing, training and evaluation read and size pictures with
these very functions, which is why every place gives the same answer.
"""

import hashlib
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # a phone's MPO is read as its JPEG
MAX_PIXELS = 64_000_000  # above any camera a shelter owns; decoded this is 192 MB
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


class UnreadableError(ValueError):
    """Bytes that are no usable picture; the message is the reason, fit to show a person."""


class DamagedError(ValueError):
    """A folder whose files are not those that were sealed; the message names them."""


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
        lines = (folder / SUMS).read_text().removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise DamagedError(f"{SUMS} is missing") from None
    except OSError as error:  # what a dying disk answers
        raise DamagedError(f"{SUMS} can't be read ({error.strerror})") from error
    except ValueError:
        lines = []
    found = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    # A seal without a line would make everything whole; a stranger's could name files outside.
    if not found or not all(found) or any({"", ".."} & set(line[2].split("/")) for line in found):
        raise DamagedError(f"{SUMS} is damaged")
    return {line[2]: line[1] for line in found}


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


def read_picture(data: bytes, most: int = MAX_PIXELS, still: bool = False) -> Image.Image:
    """Decodes one picture, upright and in RGB.

    The real format counts, not the file's name; of an animation the first frame is taken, transparent
    parts become white, 16-bit grey is scaled to 8.

    Args:
        data: the encoded picture.
        most: pixels.
        still: whether an animation is refused.

    Raises:
        UnreadableError: empty, of no accepted format, of too many pixels, an animation, or damaged.
    """
    if not data:
        raise UnreadableError("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > most:
            raise UnreadableError(f"{image.width}×{image.height} pixels, more than {most:,}")
        if still and image.format != "MPO" and getattr(image, "is_animated", False):
            raise UnreadableError("an animation; send one picture")
        image.load()
        # Turned only where the camera says so: transposing copies the picture.
        image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {most:,} pixels") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet in hostile bytes
        raise UnreadableError(f"damaged: {error or type(error).__name__}".replace("\n", " ")) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey when it converts; dividing keeps the picture.
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray((grey // 257 if grey.max(initial=0) > 255 else grey).astype(np.uint8)).convert(
            "RGB"
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


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


class Portable:
    """A trained model in a folder: `model.onnx` and `model.json`, sealed by `SHA256SUMS`.

    The model takes one picture, uint8 height × width × 3 of any size, and gives calibrated probabilities; all
    that happens to a picture after it was decoded is inside.

    Args:
        folder: where it is.
        threads: within one picture; 0 is ONNX Runtime's own choice.

    Raises:
        DamagedError: a file is not as it was sealed, or of an older form.
    """

    def __init__(self, folder: str | Path, threads: int = 0):
        import onnxruntime  # here, so that reading pictures needs numpy and Pillow only

        folder = Path(folder)
        if wrong := damaged(folder):
            raise DamagedError(
                f"{folder}: {', '.join(wrong)}; take another copy of the model, or, "
                "in the project that made it, run: python -m pipeline.verify --repair"
            )
        tell_extra(folder, str(folder))
        self.card = json.loads((folder / "model.json").read_text())
        self.classes: list[str] = self.card["classes"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        if [each.name for each in self.session.get_inputs()] != ["picture"]:
            raise DamagedError(f"{folder}: model.onnx is of an older form; export it again")
        # Of models that were made before there was one: they never say that they are unsure.
        self.unsure_below: float = self.card.get("unsure_below", 0.0)

    def probabilities(self, picture: bytes | Image.Image | np.ndarray) -> np.ndarray:
        """Of each class, of one picture: encoded, decoded by `read_picture`, or as uint8 array H × W × 3.

        Raises:
            UnreadableError: it is no picture.
        """
        if isinstance(picture, bytes | bytearray | memoryview):
            pixels = np.asarray(read_picture(bytes(picture)))
        else:
            pixels = np.asarray(picture)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                raise UnreadableError(
                    f"an array must be uint8, height × width × 3, not {pixels.dtype} {pixels.shape}"
                )
        return self.session.run(None, {"picture": pixels})[0]

    def answer(self, picture: bytes | Image.Image | np.ndarray, top: int = 5) -> dict:
        """The most probable classes of one picture.

        Returns:
            `labels`, best first, `probabilities` in the same order, and `unsure`: whether the first is too
            little to name a class.

        Raises:
            UnreadableError: it is no picture.
        """
        shares = self.probabilities(picture)
        best = np.argsort(-shares, kind="stable")[:top]
        return {
            "labels": [self.classes[place] for place in best],
            "probabilities": [float(shares[place]) for place in best],
            "unsure": bool(shares[best[0]] < self.unsure_below),
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
            except UnreadableError as error:
                raise UnreadableError(f"row {row}: {error}") from error
        return pandas.DataFrame(answers, columns=["labels", "probabilities", "unsure"])


def _load_pyfunc(path: str) -> Portable:
    """MLflow's entry point."""
    return Portable(path)
