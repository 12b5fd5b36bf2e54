"""Overhead of starting stages, of `dvc repro` with nothing to do, of packing, and of tracking.

Run ``python -m benchmarks.overhead`` in a checkout in which ``dvc repro`` has nothing to do.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, time_in_turn
from pipeline import pack, portable
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.sources import archives


def _command(*command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def decode(task: tuple[str, bytes | None, int]) -> int:
    """Decodes one member of the archive; takes the arguments of `pack.decode`."""
    try:
        return portable.read_picture(task[1]).width
    except portable.UnreadableError:
        return 0


def decode_and_hash(task: tuple[str, bytes | None, int]) -> int:
    """Decodes, resizes and hashes one member of the archive, as packing does."""
    return pack.decode(task).get("width", 0)


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cfg = compose(*args.overrides)
    data_dir = ROOT / "data" / cfg.data.name
    console, table = Console(width=120), Table("", "seconds", "baseline", "ratio")
    console.print(describe_machine("dvc", "mlflow", "torch", "pillow"))

    python = sys.executable
    timings = time_in_turn(
        {
            "dvc status": _command("dvc", "status"),
            "dvc repro, nothing to do": _command("dvc", "repro"),
            "an empty Python": _command(python, "-c", ""),
            **{
                f"pipeline.{name} --help": _command(python, "-m", f"pipeline.{name}", "--help")
                for name in ("fetch", "pack", "split", "train")
            },
        },
        args.rounds,
    )
    for name, timing in timings.items():
        baseline = "dvc status" if name.startswith("dvc") else "an empty Python"
        table.add_row(name, timing.format(), baseline, timing.ratio_to(timings[baseline]))

    def in_processes(function) -> None:  # forked, so they don't have to start up
        members = archives.members(data_dir / "archive")
        with ProcessPoolExecutor() as pool:
            list(pool.map(function, ((*member, cfg.pack.max_side) for member in members), chunksize=32))

    def run_pack() -> None:
        with tempfile.TemporaryDirectory(dir=data_dir) as folder:
            pack.pack(data_dir / "archive", Path(folder) / "pack", cfg.pack.max_side, cfg.pack.classes)

    programs = {
        "decoding alone, all cores": lambda: in_processes(decode),
        "decoding, resizing and hashing, all cores": lambda: in_processes(decode_and_hash),
        "pack": run_pack,
    }
    timings = time_in_turn(programs, args.rounds)
    decoding = timings["decoding alone, all cores"]
    for name, timing in timings.items():
        table.add_row(name, timing.format(), "decoding", timing.ratio_to(decoding, ".1f"))

    with tempfile.TemporaryDirectory() as folder:
        timings = time_in_turn(_trainings(Path(folder), args.overrides), args.rounds)
    for name, timing in timings.items():
        table.add_row(name, timing.format(), "untracked", timing.ratio_to(timings["two epochs, untracked"]))
    console.print(table)


def _trainings(folder: Path, overrides: list[str]) -> dict[str, Callable[[], object]]:
    """Two epochs of `scratch` with and without tracking."""
    from pipeline.artifacts.checkpoints import Checkpoints
    from pipeline.artifacts.lineage import lineage_of, settings_of
    from pipeline.artifacts.provenance import Provenance
    from pipeline.data.dataset import PackedDataset
    from pipeline.tracking import Run
    from pipeline.training import build, fit

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    cfg = compose("model=scratch", "data.epochs=2", *overrides)
    packed = PackedDataset.open(ROOT / "data" / cfg.data.name)
    card = build.build(cfg, packed).card
    settings, lineage = settings_of(cfg), lineage_of(packed, cfg.runtime.threads)
    numbers = itertools.count()

    def train(on_epoch_end) -> list[dict]:
        checkpoints = Checkpoints(folder / f"checkpoints{next(numbers)}")
        return fit.fit(build.build(cfg, packed), checkpoints, time.monotonic(), on_epoch_end).rows

    def tracked() -> None:
        attempt = f"attempt{next(numbers)}"
        train(Run(card, settings, lineage, Provenance(), "overhead", None, "cpu", attempt).push)

    tracked()  # creates the store
    return {"two epochs, untracked": lambda: train(lambda rows: None), "two epochs, tracked": tracked}


if __name__ == "__main__":
    main()
