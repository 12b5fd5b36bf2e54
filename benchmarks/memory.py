"""How much memory a training uses as the data set grows: 5,000 and 500,000 packed images.

``python -m benchmarks.memory``. Two options measure something else:

- ``--photos 1000 100000`` predicts that many photos, with the champion of params.yaml's data or ``--model``
- ``--uploads`` measures what serve needs to decode its largest images, one alone and four at once

The packs are generated: their indexes are complete, and their pixels are a sparse file of zeros that takes no
disk space. The result is anonymous memory, which the system cannot drop; the pack is memory-mapped, so its
pages do not count. Each training is measured for some time, then stopped by SIGTERM.
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

from benchmarks.common import argument_parser, describe_machine
from pipeline.artifacts import seal
from pipeline.common.paths import ROOT, main_checkout
from pipeline.data import pack_index
from pipeline.inference import decoder, resolve, serve
from pipeline.sources import synthetic

NAME = "benchmark-memory"
SIDE, CLASSES = 128, 35

# Not the stage, which requires a file in conf/data/ for each data set.
TRAINING = """
import sys
from pipeline import config, train
from pipeline.common.errors import UserError
try:
    train.train(config.compose(*sys.argv[1:]))
except UserError as error:
    sys.exit(f"stopped: {error}")
"""


def generate(data_dir: Path, count: int) -> None:
    """Writes a pack of `count` black images, and its split."""
    (data_dir / "pack").mkdir(parents=True)
    numbers = np.arange(count)
    index = pandas.DataFrame({"path": [f"{NAME}/{n % CLASSES:02}/{n:07}.jpg" for n in numbers]})
    index["label"] = [f"{n % CLASSES:02}" for n in numbers]
    index["species"] = index["breed"] = index["official"] = index["boxes"] = ""
    index["sha256"] = [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]
    index["phash"] = index["sha256"]
    index["height"] = index["width"] = SIDE
    index["offset"] = numbers * SIDE * SIDE * 3
    index.to_csv(data_dir / "pack/index.csv", index=False)
    split = index[["path", "label"]].assign(group=numbers, split="train")
    split.loc[: CLASSES * 2 - 1, "split"] = "val"
    split.loc[CLASSES * 2 : CLASSES * 3 - 1, "split"] = "test"
    split.to_csv(data_dir / "split.csv", index=False)
    with open(data_dir / "pack/pixels.bin", "wb") as pixels:
        pixels.truncate(count * SIDE * SIDE * 3)
    (data_dir / "pack/quarantine.csv").write_text("path,reason\n", encoding="utf-8")
    summary = {"schema": pack_index.VERSION, "max_side": SIDE, "pictures": count, "classes": CLASSES}
    summary |= {"task": "single_label", "quarantined": 0, "content": pack_index.content_hash(index)}
    (data_dir / "pack/pack.json").write_text(json.dumps(summary), encoding="utf-8")
    seal.seal(data_dir / "pack")


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and its children."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text(encoding="utf-8").split()
            total += sum(anonymous_memory(int(child)) for child in children)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        pass
    return total


def peak_memory(process: subprocess.Popen, until: float = math.inf) -> int:
    """Peak anonymous memory of a process in bytes, until it ends or until a time of `time.monotonic`."""
    peak = 0
    while time.monotonic() < until and process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(0.2)
    return peak


def train(seconds: float, overrides: list[str]) -> tuple[int, str]:
    """Trains on the generated pack; returns the peak memory in bytes, and the last message."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        arguments = ["model=scratch", f"data.name={NAME}", f"out={folder}/out", *overrides]
        command = [sys.executable, "-c", TRAINING, *arguments]
        training = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        peak = peak_memory(training, time.monotonic() + seconds)
        training.send_signal(signal.SIGTERM)
        _, output = training.communicate()
        for file in (main_checkout() / "runs/.work").glob("*/attempt.json"):
            if json.loads(file.read_text(encoding="utf-8"))["out"].startswith(folder):
                shutil.rmtree(file.parent)  # it will not be resumed
        return peak, output.strip().splitlines()[-1] if output.strip() else ""


def predict_photos(count: int, model: str | None) -> tuple[int, float]:
    """Runs petfaces predict on many links to a synthetic photo; returns peak memory in bytes, and seconds."""
    (_, face), *_ = synthetic.pictures(1, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, count, 1000):  # file systems limit the number of links to a file
            (first := Path(folder) / f"{start:07}.jpg").write_bytes(face)
            for number in range(start + 1, min(start + 1000, count)):
                os.link(first, Path(folder) / f"{number:07}.jpg")
        command = [sys.executable, "-m", "pipeline", "predict", folder, "--format", "csv"]
        start = time.monotonic()
        program = subprocess.Popen(
            [*command, *(["--model", model] if model else [])],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        peak = peak_memory(program)
        if program.returncode:
            sys.exit(f"petfaces predict ended with {program.returncode}")
        return peak, time.monotonic() - start


def measure_uploads() -> Table:
    """What serve's subprocess needs to decode an image of the maximum number of pixels, by format."""
    side = math.isqrt(serve.MAX_PIXELS)
    small = np.random.default_rng(0).integers(0, 256, (side // 50, side // 50, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((side, side))
    grey_16_bit = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    formats = {
        "JPEG": (image, "JPEG", {}),
        "progressive JPEG": (image, "JPEG", {"progressive": True, "subsampling": 0}),
        "progressive JPEG, CMYK": (image.convert("CMYK"), "JPEG", {"progressive": True}),
        "PNG": (image, "PNG", {"compress_level": 1}),
        "PNG, transparent": (image.convert("RGBA"), "PNG", {"compress_level": 1}),
        "PNG, palette": (image.quantize(256), "PNG", {"compress_level": 1}),
        "PNG, 16-bit grey": (grey_16_bit, "PNG", {"compress_level": 1}),
        "GIF": (image.quantize(256), "GIF", {}),
        "WebP": (image, "WEBP", {"method": 0}),
        "AVIF": (image, "AVIF", {"speed": 10}),
    }
    table = Table("25 million pixels", "upload (MB)", "seconds", "one (MB)", "four at once (MB)")
    for name, (variant, image_format, options) in formats.items():
        buffer = io.BytesIO()
        variant.save(buffer, image_format, **options)
        data = buffer.getvalue()
        seconds, one = _decode(data, 1)
        _, four = _decode(data, 4)
        sizes = (f"{len(data) / 1e6:.1f}", f"{seconds:.2f}", f"{one / 1e6:.0f}", f"{four / 1e6:.0f}")
        table.add_row(name, *sizes)
    return table


def _decode(data: bytes, count: int) -> tuple[float, int]:
    """Decodes an image in `count` processes at once; returns seconds, and the sum of their peaks in bytes."""
    decoders = [decoder.Decoder(SIDE, serve.MAX_PIXELS, 120) for _ in range(count)]
    try:
        start = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda each: each.read(data), decoders))
        return time.monotonic() - start, sum(_peak_rss(each.process.pid) for each in decoders)
    finally:
        for each in decoders:
            each.close()


def _peak_rss(pid: int) -> int:
    """Peak resident memory of a running process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5_000, 500_000])
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--photos", type=int, nargs="+", default=[])
    parser.add_argument("--uploads", action="store_true")
    parser.add_argument("--model", help=resolve.HELP)
    args = parser.parse_args()
    console = Console(width=120)
    console.print(describe_machine("torch", "pandas", "onnxruntime"))
    if args.uploads:
        console.print(measure_uploads())
    else:
        console.print(measure_predict(args) if args.photos else measure_train(args))


def measure_train(args: argparse.Namespace) -> Table:
    table = Table("images", "pixels in the pack (GB)", "peak memory (GB)", "ended with")
    data_dir = ROOT / "data" / NAME
    for count in args.pictures:
        try:
            generate(data_dir, count)
            peak, message = train(args.seconds, args.overrides)
        finally:
            shutil.rmtree(data_dir, ignore_errors=True)
        size = count * SIDE * SIDE * 3 / 1e9
        table.add_row(f"{count:,}", f"{size:.2f}", f"{peak / 1e9:.2f}", message.partition(";")[2] or message)
    return table


def measure_predict(args: argparse.Namespace) -> Table:
    table = Table("photos", "photos/s", "peak memory (GB)")
    for count in args.photos:
        peak, seconds = predict_photos(count, args.model)
        table.add_row(f"{count:,}", f"{count / seconds:.0f}", f"{peak / 1e9:.2f}")
    return table


if __name__ == "__main__":
    main()
