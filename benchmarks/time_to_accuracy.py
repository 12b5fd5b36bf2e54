"""Minutes from the packed data to a given validation accuracy: ours against peers.

``python -m benchmarks.time_to_accuracy data=petfaces`` after ``make peers``. All use the same backbone
weights, threads and split. Each peer reads the archive's own files and is tried at several sizes, of which
the best counts. The time starts with the process, so imports count. For ours it includes the export of the
backbone, its features and all files that a training writes. Each run adds a row to
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

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described
from benchmarks.results import add_row
from models.pretrained import imagenet_from_package
from pipeline.common import tables
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import PackedDataset
from pipeline.sources import archives

COLUMNS = ("contestant", "size", "epochs", "seed", "goal", "minutes", "best")
PEERS = {"timm and torchvision": "timm_script", "fastai fine_tune": "fastai_script"}

# The project's training with caches of its own, so that nothing is known from before.
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
class Contest:
    """One program that is to be timed.

    Attributes:
        name: of the contestant.
        size: of the pictures it learns from, in pixels.
        epochs: that its schedule is made for; 0 for a head alone.
        command: it prints a share after each epoch.
    """

    name: str
    size: int
    epochs: int
    command: list[str]


def unpack(pack: PackedDataset, archive: Path, folder: Path) -> None:
    """Lays the archive's files of train and val out as ``<split>/<class>/<name>``, as peers read them."""
    table = pack.table.set_index("path")
    for path, data in archives.members(archive):
        if path in table.index and table["split"][path] != "test":
            file = folder / table["split"][path] / table["label"][path] / Path(path).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def timed(
    contest: Contest, goal: float, limit: float, threads: int, store: Path
) -> tuple[float | None, float]:
    """Runs a contestant until it has reached the goal, or its end, or the limit.

    Args:
        contest: what is run.
        goal: share of validation pictures.
        limit: in seconds.
        threads: of the libraries that ask the environment.
        store: of MLflow, for ours.

    Returns:
        Seconds to the goal or None, and the best share.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    began, best = time.monotonic(), 0.0
    process = subprocess.Popen(
        contest.command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for line in process.stdout:
            try:
                best = max(best, float(line))
            except ValueError:  # what a program tells besides
                continue
            if best >= goal:
                return time.monotonic() - began, best
            if time.monotonic() - began > limit:
                return None, best
        if process.wait():
            sys.exit(f"{contest.name} at {contest.size} px ended with {process.returncode}; see above")
        return None, best
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_accuracy", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--goal", type=float, default=0.9)
    parser.add_argument("--limit", type=float, default=40, help="minutes that a run may take")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 160, 224], help="of the peers")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 8], help="of the peers' schedules")
    parser.add_argument("--only", nargs="+", help="words with which contestants' names begin")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers/bin/python")
    parser.add_argument("overrides", nargs="*", help="further choices of ours, as for pipeline.train")
    given = parser.parse_args()
    if not given.peers.is_file():
        sys.exit(f"{given.peers} is not there; run: make peers")
    cfg = compose("model=probe", *given.overrides)
    pack, threads = PackedDataset.open(ROOT / "data" / cfg.data.name), cfg.runtime.threads
    file = ROOT / "reports/benchmarks" / cfg.data.name / "time_to_accuracy.csv"
    console = Console(width=120)
    console.print(described("torch", "timm", "onnxruntime"), f"threads {threads}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(pack, ROOT / "data" / cfg.data.name / "archive", folder / "pictures")
        torch.save(imagenet_from_package(cfg.model.net.backbone).state_dict(), folder / "weights.pt")
        for seed in given.seeds:
            for contest in _contests(given, cfg, folder, seed):
                if not given.only or contest.name.startswith(tuple(given.only)):
                    _row(file, contest, seed, given, threads, folder)
    console.print(_table(file, given.goal, cfg.data.name))


def _contests(given: argparse.Namespace, cfg, folder: Path, seed: int) -> list[Contest]:
    from pipeline.training import build

    choices = ["model=probe", *given.overrides, f"seed={seed}"]
    card = build.build(cfg, PackedDataset.open(ROOT / "data" / cfg.data.name)).card
    # As it ships, and at the peers' sizes without mirror images.
    ways = {("ours, probe", card.input.size): []}
    for size in given.sizes:
        ways["ours, probe without mirror images", size] = [f"model.input.size={size}", "model.flip=false"]
    found = []
    for number, ((name, size), more) in enumerate(ways.items()):
        place = folder / f"ours{seed}-{number}"
        out = f"out={place / 'out'}"
        found.append(Contest(name, size, 0, [sys.executable, "-c", OURS, str(place), *choices, *more, out]))
    for name, script in PEERS.items():
        for size in given.sizes:
            for epochs in given.epochs:
                command = [str(given.peers), str(ROOT / f"benchmarks/peers/{script}.py")]
                command += [str(folder / "pictures"), str(folder / "weights.pt")]
                command += ["--backbone", cfg.model.net.backbone, "--size", str(size)]
                command += ["--epochs", str(epochs), "--threads", str(cfg.runtime.threads)]
                found.append(Contest(name, size, epochs, [*command, "--seed", str(seed)]))
    return found


def _row(
    file: Path, contest: Contest, seed: int, given: argparse.Namespace, threads: int, folder: Path
) -> None:
    """Measures a contestant unless the file knows it, and writes it down."""
    key = (contest.name, str(contest.size), str(contest.epochs), str(seed), str(given.goal))
    if key in [tuple(row[column] for column in COLUMNS[:5]) for row in _rows(file)]:
        return
    seconds, best = timed(contest, given.goal, given.limit * 60, threads, folder / "mlflow.db")
    figures = ("" if seconds is None else f"{seconds / 60:.2f}", f"{best:.4f}")
    add_row(file, dict(zip(COLUMNS, (*key, *figures), strict=True)))


def _rows(file: Path) -> list[dict]:
    return tables.read(file) if file.is_file() else []


def _table(file: Path, goal: float, data: str) -> Table:
    """The fastest schedule and size of each contestant, by the mean over its seeds."""
    table = Table("", "size", "epochs", "minutes (range)", "seeds", "of ours", title=f"{goal:.0%} on {data}")
    groups: dict[tuple, list[dict]] = {}
    for row in _rows(file):
        if float(row["goal"]) == goal:
            groups.setdefault((row["contestant"], row["size"], row["epochs"]), []).append(row)
    reached = {}
    for key, rows in groups.items():
        minutes = [float(row["minutes"]) for row in rows if row["minutes"]]
        reached[key] = minutes if len(minutes) == len(rows) else None
    known = [minutes for key, minutes in reached.items() if key[0].startswith("ours") and minutes]
    ours = min(known, key=lambda minutes: sum(minutes) / len(minutes), default=None)
    for name in dict.fromkeys(key[0] for key in groups):
        good = {key: minutes for key, minutes in reached.items() if key[0] == name and minutes}
        if not good:
            best = max(float(row["best"]) for key, rows in groups.items() if key[0] == name for row in rows)
            table.add_row(name, "", "", f"not reached, {best:.1%} at best", "", "")
            continue
        key = min(good, key=lambda each: sum(good[each]) / len(good[each]))
        mean = sum(good[key]) / len(good[key])
        ratio = f"{mean * len(ours) / sum(ours):.1f}" if ours else ""
        shown = f"{mean:.1f} ({min(good[key]):.1f}–{max(good[key]):.1f})"
        table.add_row(name, key[1], key[2], shown, str(len(good[key])), ratio)
    return table


if __name__ == "__main__":
    main()
