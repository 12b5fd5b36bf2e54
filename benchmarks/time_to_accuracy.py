"""Minutes from the packed data to a given validation accuracy: ours against peers.

``python -m benchmarks.time_to_accuracy data=petfaces`` after ``make peers``. All use the same backbone
weights, number of threads and split. Each peer reads the archive's own files and is run at several sizes, of
which the best counts. The time starts with the process, so imports count. For ours it includes the export of
the backbone, its features and all files that a training writes. Each run adds a row to
``reports/benchmarks/<data>/time_to_accuracy.csv``; runs in that file are not measured again.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine
from benchmarks.results import add_row
from models.pretrained import imagenet_from_package
from pipeline.common import tables
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import PackedDataset
from pipeline.sources import archives

COLUMNS = ("contestant", "size", "epochs", "seed", "goal", "minutes", "best")
PEERS = {"timm and torchvision": "timm_script", "fastai fine_tune": "fastai_script"}

# The project's training with empty caches.
OURS = """
import sys
from pathlib import Path
from pipeline import config, train
from pipeline.artifacts import onnx_export
from pipeline.training import features
features.CACHE, onnx_export.CACHE = Path(sys.argv[1]) / "features", Path(sys.argv[1]) / "trunks"
print(train.train(config.compose(*sys.argv[2:]))["val/top1"], flush=True)
"""


@dataclass(frozen=True)
class Contestant:
    """A program to time.

    Attributes:
        name: the project or peer.
        size: side of the training images in pixels.
        epochs: length of its schedule; 0 for a fitted head.
        command: prints the validation accuracy, a fraction, after each epoch.
    """

    name: str
    size: int
    epochs: int
    command: list[str]


def unpack(pack: PackedDataset, archive: Path, folder: Path) -> None:
    """Writes the archive's images of train and val to ``<split>/<class>/<name>``, as peers read them."""
    table = pack.table.set_index("path")
    for path, data in archives.members(archive):
        if path in table.index and table["split"][path] != "test":
            file = folder / table["split"][path] / table["label"][path] / Path(path).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def time_to_goal(
    contestant: Contestant, goal: float, limit: float, threads: int, store: Path
) -> tuple[float | None, float]:
    """Runs a contestant until it has reached the goal, ends, or exceeds the limit.

    Args:
        contestant: what to run.
        goal: validation accuracy to reach.
        limit: in seconds.
        threads: number of OpenMP threads.
        store: file of MLflow's store, for ours.

    Returns:
        Seconds to the goal or None, and the best validation accuracy.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    start, best = time.monotonic(), 0.0
    process = subprocess.Popen(
        contestant.command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            try:
                best = max(best, float(line))
            except ValueError:  # other output
                continue
            if best >= goal:
                return time.monotonic() - start, best
            if time.monotonic() - start > limit:
                return None, best
        if process.wait():
            sys.exit(f"{contestant.name} at {contestant.size} px ended with {process.returncode}; see above")
        return None, best
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--goal", type=float, default=0.9, help="validation accuracy")
    parser.add_argument("--limit", type=float, default=40, help="minutes per run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 160, 224], help="of the peers")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 8], help="of the peers' schedules")
    parser.add_argument("--only", nargs="+", help="first words of contestants' names")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers/bin/python", help="their Python")
    args = parser.parse_args()
    if not args.peers.is_file():
        sys.exit(f"{args.peers} is missing; run: make peers")
    cfg = compose("model=probe", *args.overrides)
    pack, threads = PackedDataset.open(ROOT / "data" / cfg.data.name), cfg.runtime.threads
    file = ROOT / "reports/benchmarks" / cfg.data.name / "time_to_accuracy.csv"
    console = Console(width=120)
    console.print(describe_machine("torch", "timm", "onnxruntime"), f"threads {threads}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(pack, ROOT / "data" / cfg.data.name / "archive", folder / "pictures")
        torch.save(imagenet_from_package(cfg.model.net.backbone).state_dict(), folder / "weights.pt")
        for seed in args.seeds:
            for contestant in _contestants(args, cfg, folder, seed):
                if not args.only or contestant.name.startswith(tuple(args.only)):
                    _measure(file, contestant, seed, args, threads, folder)
    console.print(_table(file, args.goal, cfg.data.name))


def _contestants(args: argparse.Namespace, cfg: DictConfig, folder: Path, seed: int) -> list[Contestant]:
    from pipeline.training import build

    overrides = ["model=probe", *args.overrides, f"seed={seed}"]
    card = build.build(cfg, PackedDataset.open(ROOT / "data" / cfg.data.name)).card
    # With the default configuration, and at the peers' sizes without mirror images.
    variants = {("ours, probe", card.input.size): []}
    for size in args.sizes:
        variants["ours, probe without mirror images", size] = [f"model.input.size={size}", "model.flip=false"]
    found = []
    for number, ((name, size), more) in enumerate(variants.items()):
        own = folder / f"ours{seed}-{number}"
        command = [sys.executable, "-c", OURS, str(own), *overrides, *more, f"out={own / 'out'}"]
        found.append(Contestant(name, size, 0, command))
    for name, script in PEERS.items():
        for size in args.sizes:
            for epochs in args.epochs:
                command = [str(args.peers), str(ROOT / f"benchmarks/peers/{script}.py")]
                command += [str(folder / "pictures"), str(folder / "weights.pt")]
                command += ["--backbone", cfg.model.net.backbone, "--size", str(size)]
                command += ["--epochs", str(epochs), "--threads", str(cfg.runtime.threads)]
                found.append(Contestant(name, size, epochs, [*command, "--seed", str(seed)]))
    return found


def _measure(
    file: Path, contestant: Contestant, seed: int, args: argparse.Namespace, threads: int, folder: Path
) -> None:
    """Times a contestant and adds its row to the file, unless the file has it."""
    key = (contestant.name, *map(str, (contestant.size, contestant.epochs, seed, args.goal)))
    if key in [tuple(row[column] for column in COLUMNS[:5]) for row in _rows(file)]:
        return
    seconds, best = time_to_goal(contestant, args.goal, args.limit * 60, threads, folder / "mlflow.db")
    results = ("" if seconds is None else f"{seconds / 60:.2f}", f"{best:.4f}")
    add_row(file, dict(zip(COLUMNS, (*key, *results), strict=True)))


def _rows(file: Path) -> list[dict]:
    return tables.read(file) if file.is_file() else []


def _table(file: Path, goal: float, data: str) -> Table:
    """The fastest size and schedule of each contestant, by the mean over its seeds."""
    columns = ("", "size", "epochs", "minutes (range)", "seeds", "relative to ours")
    table = Table(*columns, title=f"{goal:.0%} on {data}")
    groups: dict[tuple, list[dict]] = {}
    for row in _rows(file):
        if float(row["goal"]) == goal:
            groups.setdefault((row["contestant"], row["size"], row["epochs"]), []).append(row)
    # Minutes by seed of those that reached the goal with each seed.
    reached = {
        key: [float(row["minutes"]) for row in rows]
        for key, rows in groups.items()
        if all(row["minutes"] for row in rows)
    }
    ours = min((fmean(reached[key]) for key in reached if key[0].startswith("ours")), default=None)
    for name in dict.fromkeys(key[0] for key in groups):
        own = [key for key in reached if key[0] == name]
        if not own:
            best = max(float(row["best"]) for key, rows in groups.items() if key[0] == name for row in rows)
            table.add_row(name, "", "", f"not reached, {best:.1%} at best", "", "")
            continue
        key = min(own, key=lambda key: fmean(reached[key]))
        minutes = reached[key]
        ratio = f"{fmean(minutes) / ours:.1f}" if ours else ""
        shown = f"{fmean(minutes):.1f} ({min(minutes):.1f}–{max(minutes):.1f})"
        table.add_row(name, key[1], key[2], shown, str(len(minutes)), ratio)
    return table


if __name__ == "__main__":
    main()
