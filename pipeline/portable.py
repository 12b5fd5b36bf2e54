"""From a picture's bytes to breed names, with numpy, Pillow and onnxruntime alone.

A registered model carries this one file along (MLflow's ``loader_module``), so it imports nothing of
the project. The project imports *it*: packing, training and evaluation read and size pictures with
these very functions, which is why every place gives the same answer.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # a phone's MPO is read as its JPEG
MAX_PIXELS = 64_000_000  # above any camera a shelter owns; decoded this is 192 MB
SUMS = "SHA256SUMS"  # a line a file of the folder, as sha256sum writes and checks it


class UnreadableError(ValueError):
    """Bytes that are no usable picture; the message is the reason, fit to show a person."""


class DamagedError(ValueError):
    """A folder whose files are not those that were sealed; the message names them."""


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder by its name from there, sorted.

    Left out are ``SHA256SUMS`` itself and hidden files, which systems leave anywhere.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    found = {}
    for name in names:
        if name != SUMS and "/." not in f"/{name}":
            with open(folder / name, "rb") as file:  # in pieces: a pack may be larger than the memory
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def damaged(folder: Path) -> list[str]:
    """What of a sealed folder is not as it was sealed, a phrase a file; empty where all is whole."""
    if not (folder / SUMS).is_file():
        return [f"{SUMS} is missing"]
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
        found = sums(folder)
    except OSError as error:  # what a dying disk answers
        return [f"{Path(error.filename or SUMS).name} can't be read ({error.strerror})"]
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return [
        f"{name} is {'missing' if name not in found else 'new' if name not in known else 'damaged'}"
        for name in sorted(known.keys() | found.keys())
        if known.get(name) != found.get(name)
    ]


def read_picture(data: bytes) -> Image.Image:
    """Decodes one picture, upright and in RGB.

    The real format counts, not the file's name; of an animation the first frame is taken, transparent
    parts become white, 16-bit grey is scaled to 8.

    Raises:
        UnreadableError: empty, of no accepted format, over MAX_PIXELS, or damaged.
    """
    if not data:
        raise UnreadableError("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableError(f"{image.width}×{image.height} pixels, more than {MAX_PIXELS:,}")
        image.load()
        # Turned only where the camera says so: transposing copies the picture.
        image = ImageOps.exif_transpose(image)
        return _to_rgb(image)
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError("not a picture of a known format") from None
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MAX_PIXELS:,} pixels") from None
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
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def shrink(image: Image.Image, max_side: int) -> np.ndarray:
    """Brings the longer side down to `max_side` with antialiasing, never up.

    Returns:
        uint8 array, height × width × 3.
    """
    scale = max_side / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image)


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
        image = image.resize(target, Image.Resampling[interpolation.upper()])
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


class Portable:
    """A trained model in a folder: `model.onnx` and `model.json`, sealed by `SHA256SUMS`.

    The network takes uint8 pictures, N × size × size × 3, and gives logits; normalisation is inside.

    Raises:
        DamagedError: a file is not as it was sealed.
    """

    batch = 32  # bounds the memory of a long table

    def __init__(self, folder: str | Path):
        import onnxruntime  # here, so that reading pictures needs numpy and Pillow only

        folder = Path(folder)
        if wrong := damaged(folder):
            raise DamagedError(
                f"{folder}: {', '.join(wrong)}; take another copy of the model, or, "
                "in the project that made it, run: python -m pipeline.verify --repair"
            )
        self.card = json.loads((folder / "model.json").read_text())
        self.classes: list[str] = self.card["classes"]
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def prepare(self, picture: bytes | np.ndarray) -> np.ndarray:
        """One encoded picture, or one uint8 array H × W × 3, as the network wants it."""
        if isinstance(picture, bytes | bytearray | memoryview):
            image = read_picture(bytes(picture))
        else:
            array = np.asarray(picture)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
                raise UnreadableError(
                    f"an array must be uint8, height × width × 3, not {array.dtype} {array.shape}"
                )
            image = Image.fromarray(array)
        sizing = self.card["input"]
        packed = shrink(image, sizing["max_side"])
        return to_square(
            packed, **{key: sizing[key] for key in ("size", "interpolation", "crop", "crop_pct")}
        )

    def probabilities(self, prepared: np.ndarray) -> np.ndarray:
        """Probabilities, N × classes, of prepared pictures, N × size × size × 3."""
        logits = np.concatenate(
            [
                self.session.run(None, {"pictures": prepared[start : start + self.batch]})[0]
                for start in range(0, len(prepared), self.batch)
            ]
        ).astype(np.float64)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def predict(self, model_input, params=None):
        """What MLflow calls.

        Args:
            model_input: DataFrame with the column `image`: encoded bytes or uint8 arrays H × W × 3.
            params: unused; MLflow passes it.

        Returns:
            DataFrame, a row a picture: `labels`, the five most probable class names, best first, and
            `probabilities` in the same order.

        Raises:
            UnreadableError: names the row whose picture can't be used.
        """
        import pandas

        labels, scores = [], []
        pictures = list(model_input["image"])
        for start in range(0, len(pictures), self.batch):
            prepared = []
            for row, picture in enumerate(pictures[start : start + self.batch], start):
                try:
                    prepared.append(self.prepare(picture))
                except UnreadableError as error:
                    raise UnreadableError(f"row {row}: {error}") from error
            for row in self.probabilities(np.stack(prepared)):
                best = np.argsort(-row, kind="stable")[:5]
                labels.append([self.classes[index] for index in best])
                scores.append([float(row[index]) for index in best])
        return pandas.DataFrame({"labels": labels, "probabilities": scores})


def _load_pyfunc(path: str) -> Portable:
    """MLflow's entry point."""
    return Portable(path)
