"""Images for benchmarks of frozen features: those of a data set, and others that belong to no class."""

import hashlib
import io
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from rich.console import Console

from catalog.helper import features
from pipeline.common.paths import ROOT
from pipeline.evaluation import out_of_domain
from pipeline.portable import UnreadableError, read_picture
from pipeline.sources import archives, photos

CACHE = ROOT / "runs/few"  # features
OTHERS, SIDE = 400, 90  # images of each kind that belong to no class; pixels of the smallest background


def pictures(archive: Path, most: int | None = None) -> Iterable[tuple[str, bytes]]:
    """Class and file of the readable images of an archive, or of `most` of them."""
    found = [
        (PurePosixPath(path).parent.name, data)
        for path, data in archives.members(archive)
        if photos.is_named_as_picture(path) and isinstance(data, bytes)
    ]
    kept = range(len(found)) if most is None else np.random.default_rng(0).permutation(len(found))[:most]
    for number in kept:
        try:
            read_picture(found[number][1])
        except UnreadableError:
            continue
        yield found[number]


def backgrounds(folder: Path, most: int) -> Iterable[Image.Image]:
    """Square crops beside the heads in the photos of Oxford-IIIT Pet."""
    rng, boxes, count = np.random.default_rng(0), {}, 0
    with tarfile.open(folder / "annotations.tar.gz") as archive:
        for member in archive:
            if member.name.endswith(".xml") and not PurePosixPath(member.name).name.startswith("."):
                box = ET.parse(archive.extractfile(member)).find("object/bndbox")
                sides = [int(float(box.find(side).text)) for side in ("xmin", "ymin", "xmax", "ymax")]
                boxes[PurePosixPath(member.name).stem] = sides
    with tarfile.open(folder / "images.tar.gz") as archive:
        for member in archive:
            box = boxes.get(PurePosixPath(member.name).stem)
            if box is None or rng.random() > 0.25 or count == most:  # photos of all breeds
                continue
            photo = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
            (left, top, right, bottom), (width, height) = box, photo.size
            areas = [
                (0, 0, left, height),
                (right, 0, width, height),
                (0, 0, width, top),
                (0, bottom, width, height),
            ]
            areas = [area for area in areas if min(area[2] - area[0], area[3] - area[1]) >= SIDE]
            if areas:
                a, b, c, d = areas[rng.integers(len(areas))]
                side = int(rng.integers(SIDE, min(c - a, d - b) + 1))
                x, y = int(rng.integers(a, c - side + 1)), int(rng.integers(b, d - side + 1))
                count += 1
                yield photo.crop((x, y, x + side, y + side))


def computed(name: str, files: Iterable[bytes | np.ndarray | Image.Image]) -> np.ndarray:
    """Features of images, N×C, by the network that projects use; kept in CACHE."""
    store, backbone = features.imagenet_backbone(CACHE)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for number, image in enumerate(files):
            path = Path(folder) / f"{number}.png"
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)
            paths[number] = path
        keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()]
        with Console(stderr=True).status(f"features of {len(keys):,} images: {name}"):
            files_by_key = dict(zip(keys, paths.values(), strict=True))
            features.compute(store, backbone, files_by_key, lambda done, count: None)
        return store.get(keys)


def others(data: str, photo_folder: Path | None) -> dict[str, np.ndarray]:
    """Features of images that belong to no class of any data set of faces, or of drawn ones."""
    found = {
        "patterns": computed("patterns", out_of_domain.generated_patterns(OTHERS, seed=7)),
        "photo crops": computed("photo crops", out_of_domain.photo_crops(OTHERS // 2, seed=7)),
    }
    drawn = ROOT / "data/sample/archive"
    if data != "sample" and drawn.is_file():
        found["drawn"] = computed("drawn", (image for _, image in pictures(drawn, OTHERS)))
    if photo_folder is not None:
        found["backgrounds"] = computed("backgrounds", backgrounds(photo_folder, OTHERS))
    return found
