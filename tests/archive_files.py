"""Image files, archives of them and the labels that they are packed with, for tests."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from pipeline import pack
from pipeline.common import tables


def image_file(width=60, height=40, mode="RGB", kind="JPEG", **options) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path, files: dict[str, bytes]):
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_zip(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def packed_labels(tmp_path, *paths: str, classes: str = "folder") -> dict[str, str]:
    """Packs an archive; returns the label of each path that is not quarantined."""
    files = {path: image_file() for path in paths}
    pack.pack(write_tar(tmp_path / "archive", files), tmp_path / "pack", 128, classes)
    return {row["path"]: row["label"] for row in tables.read(tmp_path / "pack/index.csv")}
