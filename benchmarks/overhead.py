"""Overhead around the work: starting stages, doing nothing, packing, tracking.

Run ``python -m benchmarks.overhead`` in a checkout in which ``dvc repro`` has nothing to do.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import described, interleaved
from pipeline import pack, portable
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.sources import archives


def _run(*command: str):
    return lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def decode(task: tuple[str, bytes | None, int]) -> int:
    """Decodes one picture; what can't be read costs what it costs."""
    try:
        return portable.read_picture(task[1]).width
    except portable.UnreadableError:
        return 0


def prepare(task: tuple[str, bytes | None, int]) -> int:
    """Decodes, sizes and hashes one picture, as packing does."""
    return pack.decode(task).get("width", 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="further choices, as for pipeline.train")
    given = parser.parse_args()
    cfg = compose(*given.overrides)
    place = ROOT / "data" / cfg.data.name
    console, table = Console(width=120), Table("", "seconds", "of", "ratio")
    console.print(described("dvc", "mlflow", "torch", "pillow"))

    python = sys.executable
    seconds = interleaved(
        {
            "dvc status": _run("dvc", "status"),
            "dvc repro, nothing to do": _run("dvc", "repro"),
            "an empty Python": _run(python, "-c", ""),
            **{
                f"pipeline.{name} --help": _run(python, "-m", f"pipeline.{name}", "--help")
                for name in ("fetch", "pack", "split", "train")
            },
        },
        given.rounds,
    )
    for name, taken in seconds.items():
        base = "dvc status" if name.startswith("dvc") else "an empty Python"
        table.add_row(name, taken.shown(), base, taken.over(seconds[base]))

    def forked(work) -> None:  # no process has to start up
        members = archives.members(place / "archive")
        with ProcessPoolExecutor() as pool:
            list(pool.map(work, ((*member, cfg.pack.max_side) for member in members), chunksize=32))

    def packed() -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            pack.pack(place / "archive", Path(folder) / "pack", cfg.pack.max_side, cfg.pack.classes)

    programs = {
        "decoding alone, all cores": lambda: forked(decode),
        "decoding, sizing and hashing, all cores": lambda: forked(prepare),
        "pack": packed,
    }
    seconds = interleaved(programs, given.rounds)
    bare = seconds["decoding alone, all cores"]
    for name, taken in seconds.items():
        table.add_row(name, taken.shown(), "decoding", taken.over(bare, ".1f"))

    with tempfile.TemporaryDirectory() as folder:
        seconds = interleaved(_trainings(Path(folder), given.overrides), given.rounds)
    for name, taken in seconds.items():
        table.add_row(name, taken.shown(), "the epochs", taken.over(seconds["the epochs alone"]))
    console.print(table)


def _trainings(folder: Path, overrides: list[str]) -> dict:
    """The same few epochs with what they are told to, and with none."""
    from pipeline.artifacts.checkpoints import Checkpoints
    from pipeline.artifacts.lineage import lineage_of, settings_of
    from pipeline.data.dataset import PackedDataset
    from pipeline.tracking import Run
    from pipeline.training import build, fit

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    cfg = compose("model=scratch", "data.epochs=2", *overrides)
    pack_ = PackedDataset.open(ROOT / "data" / cfg.data.name)
    card = build.build(cfg, pack_).card
    settings, lineage = settings_of(cfg), lineage_of(pack_, cfg.runtime.threads)
    numbers = itertools.count()

    def learn(tell) -> list[dict]:
        kept = Checkpoints(folder / f"checkpoints{next(numbers)}")
        return fit.fit(build.build(cfg, pack_), kept, time.monotonic(), tell).rows

    def tracked() -> None:
        run = Run(card, settings, lineage, "overhead", None, "cpu", f"attempt{next(numbers)}")
        learn(run.push)

    tracked()  # makes the store
    return {"the epochs alone": lambda: learn(lambda rows: None), "the epochs, tracked": tracked}


if __name__ == "__main__":
    main()
