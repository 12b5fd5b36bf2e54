"""Draws the synthetic data sets: procedural cat and dog faces, byte-identical on every machine.

The 35 class folders are named as in Pet Faces, and each breed is drawn by its appearance (ears, muzzle,
coat, pattern, eyes), so similar breeds are confused here too. As in real data, there are near-duplicates
and broken files.

For identical bytes, pixels are computed only with operations that IEEE 754 rounds exactly (+ − × ÷,
comparisons); sines come from `math` and are rounded; random numbers come from PCG64; JPEG is encoded by
Pillow's libjpeg-turbo, whose integer transform is exact on every CPU.
"""

import io
import math
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from pipeline.sources import archives
from pipeline.sources.breeds import BREEDS, COLOURS, Breed

SIDE = 96  # pixels; enough to show a breed's pattern
BLACK, PINK, WHITE = (np.array(COLOURS[name]) for name in ("black", "pink", "white"))

_GRID = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
_X, _Y = np.meshgrid(_GRID, _GRID)


def _normal(rng: np.random.Generator, size: int | None = None) -> np.ndarray | float:
    """Approximately standard normal, as a sum of uniform numbers, which needs no logarithm."""
    total = rng.random(size) - 0.5
    for _ in range(3):
        total = total + (rng.random(size) - 0.5)
    return total * 1.732


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Smooth noise in −1…1, SIDE × SIDE: random values on a coarse grid, interpolated."""
    corners = rng.random((cells + 2, cells + 2)) * 2 - 1
    position = np.arange(SIDE) * (cells / SIDE)
    cell = position.astype(np.int64)
    fraction = position - cell
    fraction = fraction * fraction * (3 - 2 * fraction)
    rows = corners[cell] * (1 - fraction)[:, None] + corners[cell + 1] * fraction[:, None]
    return rows[:, cell] * (1 - fraction) + rows[:, cell + 1] * fraction


def _ellipse(x, y, cx, cy, rx, ry, soft=0.25) -> np.ndarray:
    """Coverage 0…1 of an ellipse with a soft edge."""
    dx, dy = (x - cx) / rx, (y - cy) / ry
    return np.clip((1 - dx * dx - dy * dy) / soft, 0, 1)


def _triangle(x, y, corners, soft=0.06) -> np.ndarray:
    """Coverage 0…1 of a triangle, corners in clockwise order on the screen."""
    inside = np.full_like(x, 9.0)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = round(math.hypot(bx - ax, by - ay), 6)
        inside = np.minimum(inside, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length)
    return np.clip(inside / soft, 0, 1)


def _ear(kind: str, x, y, side: int) -> np.ndarray:
    """Coverage 0…1 of one ear; `side` is −1 for the left, 1 for the right."""
    x = x * side
    if kind == "point":
        return _triangle(x, y, [(0.12, -0.5), (0.5, -0.95), (0.66, -0.2)])
    if kind == "bat":
        return _triangle(x, y, [(0.1, -0.45), (0.72, -1.0), (0.74, -0.05)])
    if kind == "round":
        return _ellipse(x, y, 0.44, -0.55, 0.22, 0.26)
    if kind == "fold":
        return np.maximum(_ellipse(x, y, 0.46, -0.5, 0.26, 0.16), _ellipse(x, y, 0.6, -0.36, 0.13, 0.2))
    return _ellipse(x, y, 0.66, 0.0, 0.2, 0.52)  # flop


def _pattern(kind: str, x, y, noise, fine) -> np.ndarray:
    """Coverage 0…1 of the coat's second colour."""
    if kind == "points":
        return np.maximum(_ellipse(x, y, 0, 0.2, 0.42, 0.5, 0.7), np.clip((-0.42 - y) / 0.1, 0, 1))
    if kind == "stripes":
        wave = (x * 0.9 + noise * 0.25) * 5
        return np.clip(np.abs(wave - np.floor(wave) - 0.5) * 4 - 0.9, 0, 1) * np.clip(-y / 0.1 + 1.2, 0, 1)
    if kind == "spots":
        return np.clip((fine - 0.12) * 7, 0, 1)
    if kind == "blaze":
        return np.maximum(_ellipse(x, y, 0, -0.35, 0.13, 0.6, 0.4), _ellipse(x, y, 0, 0.45, 0.38, 0.35, 0.4))
    if kind == "saddle":
        sides = np.clip((np.abs(x + noise * 0.15) - 0.22) * 8, 0, 1)
        return sides * np.clip((0.25 - y + noise * 0.2) * 6, 0, 1)
    if kind == "mask":
        return _ellipse(x, y, 0, 0.38, 0.44, 0.5, 0.4)
    if kind == "eyebrows":
        dots = np.maximum(_ellipse(x, y, -0.24, -0.34, 0.1, 0.08), _ellipse(x, y, 0.24, -0.34, 0.1, 0.08))
        return np.maximum(dots, _ellipse(x, y, 0, 0.42, 0.36, 0.3, 0.4))
    return np.zeros_like(x)


# Attributes of faces with their probabilities, independent of breed and of each other.
ATTRIBUTES = {"collar": 0.4, "glasses": 0.3, "night": 0.3, "open_mouth": 0.35}


def draw(breed: Breed, rng: np.random.Generator, attributes: frozenset[str] = frozenset()) -> Image.Image:
    """Draws one face of a breed, SIDE pixels wide, with random colours, shape, pose, lighting and noise.

    Args:
        breed: appearance of the breed.
        rng: source of all random choices.
        attributes: names from `ATTRIBUTES`.
    """
    angle, scale = 0.2 * _normal(rng), 1.0 + 0.13 * _normal(rng)
    cosine, sine = round(math.cos(angle) / scale, 6), round(math.sin(angle) / scale, 6)
    shift_x, shift_y, turn = 0.12 * _normal(rng), 0.1 * _normal(rng), 0.16 * _normal(rng)
    px, py = _X - shift_x, _Y - 0.12 - shift_y
    x, y = (cosine * px + sine * py) / breed.width, cosine * py - sine * px
    broad, fine, hair = _noise(rng, 4), _noise(rng, 9), _noise(rng, 30)
    ragged = hair * 0.1 * breed.fluff

    def individual(colour, spread):
        base = np.array(colour) * (1 + 1.2 * spread * _normal(rng))
        return np.clip(base + spread * 0.4 * _normal(rng, 3), 0.03, 1)

    coat, mark = individual(breed.coat, 0.16), individual(breed.mark, 0.16)
    iris = individual(breed.eyes, 0.12)
    muzzle = np.clip(breed.muzzle + 0.14 * _normal(rng), 0, 1)

    image = individual(rng.random(3), 0.1)

    def paint(cover, colour):
        nonlocal image
        image = image + (colour - image) * cover[..., None]

    paint(np.clip(_Y * 0.5 + 0.5 + broad * 0.6, 0, 1), individual(rng.random(3), 0.1))  # background
    body = _ellipse(x + ragged, y + ragged, 0, 1.1, 0.75, 0.6)
    head = _ellipse(x + ragged, y + ragged, 0, 0.0, 0.62 + 0.06 * breed.fluff, 0.62, 0.15)
    dark_ears = mark if breed.pattern in ("points", "saddle", "mask", "spots") else coat * 0.8
    paint(body, coat * 0.85)
    paint(np.maximum(_ear(breed.ears, x, y, -1), _ear(breed.ears, x, y, 1)), dark_ears)
    paint(head, coat)
    paint(head * _pattern(breed.pattern, x - turn * 0.4, y, broad, fine + 0.12 * _normal(rng)), mark)
    image = image * (1 + 0.16 * (hair + fine * 0.5) * np.maximum(head, body))[..., None]

    # Facial features follow the head's rotation; a longer muzzle is lower and larger.
    fx = x - turn * 0.5
    snout = _ellipse(
        fx, y, turn * 0.3 * muzzle, 0.3 + 0.08 * muzzle, 0.2 + 0.08 * muzzle, 0.16 + 0.16 * muzzle, 0.4
    )
    paint(head * snout * 0.5, np.minimum(coat * 1.15 + 0.03, 1) if breed.pattern != "mask" else mark)
    pupil = 0.08 if breed.eyes == COLOURS["dark"] else 0.05
    for side in (-1, 1):
        squint = 0.1 + 0.02 * _normal(rng)
        paint(_ellipse(fx, y, side * 0.25, -0.1, 0.12, squint), iris)
        paint(_ellipse(fx, y, side * 0.25, -0.1, pupil, squint * 0.8), BLACK)
        paint(_ellipse(fx, y, side * 0.25 + 0.03, -0.13, 0.025, 0.025), WHITE)
    nose_y = 0.2 + 0.16 * muzzle
    nose_x = turn * 0.4 * muzzle
    paint(_ellipse(fx, y, nose_x, nose_y, 0.08 + 0.05 * muzzle, 0.05 + 0.04 * muzzle), BLACK * 1.3)
    paint(_ellipse(fx, y, nose_x, nose_y + 0.17, 0.14, 0.02) * 0.7, BLACK)

    if "open_mouth" in attributes:
        mouth = _ellipse(fx, y, nose_x, nose_y + 0.26, 0.15, 0.12)
        paint(mouth, np.array((0.25, 0.05, 0.06)))
        paint(mouth * _ellipse(fx, y, nose_x, nose_y + 0.32, 0.09, 0.06), PINK)
    if "glasses" in attributes:
        for side in (-1, 1):
            inside = _ellipse(fx, y, side * 0.25, -0.1, 0.17, 0.15)
            paint(_ellipse(fx, y, side * 0.25, -0.1, 0.21, 0.19) * (1 - inside), BLACK)
        paint(_ellipse(fx, y, 0, -0.12, 0.06, 0.03), BLACK)
    if "collar" in attributes:
        band = _ellipse(x, y, 0, 0.7, 0.62, 0.2) * (1 - _ellipse(x, y, 0, 0.58, 0.62, 0.2))
        paint(band, individual(rng.random(3), 0.1))

    if rng.random() < 0.25:  # occlusion
        cx, cy = 1.6 * rng.random() - 0.8, 1.2 * rng.random() - 0.2
        paint(_ellipse(_X, _Y, cx, cy, 0.3, 0.2), individual(rng.random(3), 0.1))
    lit = 0.9 + 0.2 * _normal(rng) + 0.3 * _normal(rng) * _X + 0.25 * _normal(rng) * _Y
    image = image * np.clip(lit, 0.25, 1.8)[..., None] * (1 + 0.06 * _normal(rng, 3)) + 0.06 * _normal(rng)
    if "night" in attributes:
        image = image * np.array((0.3, 0.33, 0.45))
    if rng.random() < 0.4:  # out of focus
        image[1:-1, 1:-1] = (image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]) / 4
    image = image + (rng.random((SIDE, SIDE, 3)) - 0.5) * (0.04 + 0.12 * rng.random())

    height = SIDE - int(rng.integers(0, 20))  # real crops are not square
    top = int(rng.integers(0, SIDE - height + 1))
    return Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)[top : top + height])


def _encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures(per_class: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields (path in the archive, bytes), breed by breed, including near-duplicates and broken files.

    Args:
        per_class: images per breed, not counting near-duplicates and broken files.
        seed: seed of the drawing.
    """
    for number, (label, breed) in enumerate(BREEDS.items()):
        name = label.split("_", 1)[1]
        for index in range(1, per_class + 1):
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number, index])))
            face = draw(breed, rng)
            yield f"sample/{label}/{name}_{index}.jpg", _encode(face, quality=88)
            if number % 5 == 0 and index == 1:  # near-duplicate: smaller and brighter
                smaller = face.resize((face.width * 3 // 4, face.height * 3 // 4), Image.Resampling.BILINEAR)
                yield (
                    f"sample/{label}/{name}_{per_class + 1}.jpg",
                    _encode(smaller.point(lambda v: min(255, v + 12)), quality=60),
                )
            if label == "cat_Bengal" and index == 1:  # usable despite the wrong format or colour mode
                yield f"sample/{label}/{name}_{per_class + 2}.jpg", _encode(face.convert("P"), "GIF")
                yield f"sample/{label}/{name}_{per_class + 3}.jpg", _encode(face.convert("CMYK"), quality=88)
            if label == "dog_beagle" and index == 1:  # not usable
                whole = _encode(face, quality=88)
                yield f"sample/{label}/{name}_{per_class + 1}.jpg", whole[: len(whole) // 2]
                yield f"sample/{label}/{name}_{per_class + 2}.jpg", b""
                yield f"sample/{label}/{name}_{per_class + 3}.jpg", b"<html>404 Not Found</html>\n"


def with_attributes(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields (path in the archive, bytes): faces with zero to four attributes, and ``labels.csv`` last.

    Args:
        count: number of faces, not counting near-duplicates.
        seed: seed of the drawing.
    """
    breeds, lines = list(BREEDS.values()), ["path,labels"]
    for index in range(count):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, len(BREEDS), index])))
        breed = breeds[int(rng.integers(len(breeds)))]
        attributes = [name for name, probability in ATTRIBUTES.items() if rng.random() < probability]
        name = f"images/{index:05}.jpg"
        face = draw(breed, rng, frozenset(attributes))
        yield f"attributes/{name}", _encode(face, quality=88)
        lines.append(f"{name},{'|'.join(attributes)}")
        if index % 100 == 0:  # near-duplicate: smaller
            smaller = face.resize((face.width * 3 // 4, face.height * 3 // 4), Image.Resampling.BILINEAR)
            name = f"images/{index:05}_again.jpg"
            yield f"attributes/{name}", _encode(smaller, quality=60)
            lines.append(f"{name},{'|'.join(attributes)}")
    lines.append("images/gone.jpg,collar")  # a label without an image, as in real data
    yield "attributes/labels.csv", ("\n".join(lines) + "\n").encode()


def fetch_faces(target: Path, settings: DictConfig, *, per_class: int, seed: int) -> str:
    """Draws single-label faces, see `pictures`; for `kinds`."""
    write(target, pictures(per_class, seed))
    return "drawn"


def fetch_attributes(target: Path, settings: DictConfig, *, pictures: int, seed: int) -> str:
    """Draws multi-label faces, see `with_attributes`; for `kinds`."""
    write(target, with_attributes(pictures, seed))
    return "drawn"


def write(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Writes `pictures` or `with_attributes` as an uncompressed tar."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files:
            archives.add(archive, name, data)
