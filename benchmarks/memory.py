"""How much memory a training uses as the data set grows: 5,000 and 500,000 packed images.

``python -m benchmarks.memory``. Two options measure something else:

- ``--photos 1000 100000`` predicts on that many photos, with the champion of params.yaml's data or
  ``--model``
- ``--uploads`` measures what serve needs to decode its largest images, one alone and four at once

The packs are generated: their indexes are complete, and their pixels are a sparse file of zeros that takes no
disk space. The figure is anonymous memory, which the system cannot drop; the pack is memory-mapped, so its
pages do not count. Each training is watched for some time, then stopped by SIGTERM.
"""

import argparse
import hashlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described
from pipeline.artifacts import seal
from pipeline.common.paths import ROOT, main_checkout
from pipeline.data import pack_index
from pipeline.inference import decoder, resolve, serve
from pipeline.sources import synthetic

NAME = "benchmark-memory"
SIDE, CLASSES = 128, 35

# Not the stage: it wants a file of conf/data/ for each name of a data set.
TRAINING = """
import sys
from pipeline import config, train
from pipeline.common.errors import UserError
try:
    train.train(config.compose(*sys.argv[1:]))
except UserError as error:
    sys.exit(f"stopped: {error}")
"""


def generate(place: Path, pictures: int) -> None:
    """Writes a pack of zeros and its split."""
    (place / "pack").mkdir(parents=True)
    numbers = np.arange(pictures)
    index = pandas.DataFrame({"path": [f"{NAME}/{n % CLASSES:02}/{n:07}.jpg" for n in numbers]})
    index["label"] = [f"{n % CLASSES:02}" for n in numbers]
    index["species"] = index["breed"] = index["official"] = ""
    index["sha256"] = [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]
    index["phash"] = index["sha256"]
    index["height"] = index["width"] = SIDE
    index["offset"] = numbers * SIDE * SIDE * 3
    index.to_csv(place / "pack/index.csv", index=False)
    split = index[["path", "label"]].assign(group=numbers, split="train")
    split.loc[: CLASSES * 2 - 1, "split"] = "val"
    split.to_csv(place / "split.csv", index=False)
    with open(place / "pack/pixels.bin", "wb") as pixels:
        pixels.truncate(pictures * SIDE * SIDE * 3)
    (place / "pack/quarantine.csv").write_text("path,reason\n", encoding="utf-8")
    summary = {"schema": pack_index.VERSION, "max_side": SIDE, "pictures": pictures, "classes": CLASSES}
    summary |= {"quarantined": 0, "content": pack_index.content_hash(index)}
    (place / "pack/pack.json").write_text(json.dumps(summary), encoding="utf-8")
    seal.seal(place / "pack")


def own_memory(process: int) -> int:
    """Bytes of anonymous memory of a process and its children."""
    found = 0
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                found += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{process}/task").iterdir():
            found += sum(
                own_memory(int(child)) for child in (task / "children").read_text(encoding="utf-8").split()
            )
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        pass
    return found


def highest_of(process: subprocess.Popen, until: float = math.inf) -> int:
    """The most of its own memory that a process has, in bytes, until its end or a moment of `monotonic`."""
    highest = 0
    while time.monotonic() < until and process.poll() is None:
        highest = max(highest, own_memory(process.pid))
        time.sleep(0.2)
    return highest


def train(seconds: float, overrides: list[str]) -> tuple[int, str]:
    """Trains on the generated pack; returns the highest memory in bytes, and what was told at the end."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = [
            "-c",
            TRAINING,
            "model=scratch",
            f"data.name={NAME}",
            f"out={folder}/out",
            *overrides,
        ]
        training = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        highest = highest_of(training, time.monotonic() + seconds)
        training.send_signal(signal.SIGTERM)
        _, told = training.communicate()
        for file in (main_checkout() / "runs/.work").glob("*/attempt.json"):
            if json.loads(file.read_text(encoding="utf-8"))["out"].startswith(folder):
                shutil.rmtree(file.parent)  # nobody will go on with it
        return highest, told.strip().splitlines()[-1] if told.strip() else ""


def name_photos(count: int, model: str | None) -> tuple[int, float]:
    """Names a folder of one drawn photo under many names; returns the highest memory, and seconds."""
    (_, face), *_ = synthetic.pictures(1, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, count, 1000):  # a file has not any number of links
            (first := Path(folder) / f"{start:07}.jpg").write_bytes(face)
            for number in range(start + 1, min(start + 1000, count)):
                os.link(first, Path(folder) / f"{number:07}.jpg")
        command = [sys.executable, "-m", "pipeline", "predict", folder, "--format", "csv"]
        began = time.monotonic()
        program = subprocess.Popen(
            [*command, *(["--model", model] if model else [])],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        highest = highest_of(program)
        if program.returncode:
            sys.exit(f"petfaces predict ended with {program.returncode}")
        return highest, time.monotonic() - began


def uploads() -> Table:
    """What a picture of as many pixels as serve takes costs the process that decodes it, by kind."""
    side = math.isqrt(serve.MAX_PIXELS)
    small = np.random.default_rng(0).integers(0, 256, (side // 50, side // 50, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((side, side))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    kinds = {
        "JPEG": (image, "JPEG", {}),
        "progressive JPEG": (image, "JPEG", {"progressive": True, "subsampling": 0}),
        "progressive JPEG, CMYK": (image.convert("CMYK"), "JPEG", {"progressive": True}),
        "PNG": (image, "PNG", {"compress_level": 1}),
        "PNG, transparent": (image.convert("RGBA"), "PNG", {"compress_level": 1}),
        "PNG, palette": (image.quantize(256), "PNG", {"compress_level": 1}),
        "PNG, 16-bit grey": (deep, "PNG", {"compress_level": 1}),
        "GIF": (image.quantize(256), "GIF", {}),
        "WebP": (image, "WEBP", {"method": 0}),
        "AVIF": (image, "AVIF", {"speed": 10}),
    }
    table = Table("25 million pixels", "upload (MB)", "seconds", "one (MB)", "four at once (MB)")
    for name, (picture, kind, options) in kinds.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        data = buffer.getvalue()
        seconds, alone = _decoded(data, 1)
        _, together = _decoded(data, 4)
        sizes = (f"{len(data) / 1e6:.1f}", f"{seconds:.2f}", f"{alone / 1e6:.0f}", f"{together / 1e6:.0f}")
        table.add_row(name, *sizes)
    return table


def _decoded(data: bytes, count: int) -> tuple[float, int]:
    """Decodes a picture in so many processes at once; returns seconds and the sum of their peaks in bytes."""
    decoders = [decoder.Decoder(SIDE, serve.MAX_PIXELS, 120) for _ in range(count)]
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda each: each.read(data), decoders))
        return time.monotonic() - began, sum(_peak(each.process.pid) for each in decoders)
    finally:
        for each in decoders:
            each.close()


def _peak(process: int) -> int:
    told = Path(f"/proc/{process}/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--pictures", type=int, nargs="+", default=[5_000, 500_000])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--photos", type=int, nargs="+", default=[])
    parser.add_argument("--uploads", action="store_true")
    parser.add_argument("--model", help=resolve.HELP)
    parser.add_argument("overrides", nargs="*", help="further choices, as for pipeline.train")
    given = parser.parse_args()
    console = Console(width=120)
    console.print(described("torch", "pandas", "onnxruntime"))
    console.print(uploads() if given.uploads else _named(given) if given.photos else _trained(given))


def _trained(given: argparse.Namespace) -> Table:
    table = Table("pictures", "pixels in the pack (GB)", "own memory at most (GB)", "ended with")
    place = ROOT / "data" / NAME
    for pictures in given.pictures:
        try:
            generate(place, pictures)
            highest, told = train(given.seconds, given.overrides)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        size = pictures * SIDE * SIDE * 3 / 1e9
        table.add_row(f"{pictures:,}", f"{size:.2f}", f"{highest / 1e9:.2f}", told.partition(";")[2] or told)
    return table


def _named(given: argparse.Namespace) -> Table:
    table = Table("photos", "a second", "own memory at most (GB)")
    for count in given.photos:
        highest, seconds = name_photos(count, given.model)
        table.add_row(f"{count:,}", f"{count / seconds:.0f}", f"{highest / 1e9:.2f}")
    return table


if __name__ == "__main__":
    main()
