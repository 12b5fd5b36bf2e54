"""Memory layout and threads: images per second in a training step, for each combination in turn.

``python -m benchmarks.layout``; further overrides as for pipeline.train, such as ``data=petfaces``. The
results for a CPU go into ``conf/model/`` (`channels_last`) and ``conf/trainer/`` (`threads`).
"""

import argparse
from itertools import product

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described, interleaved
from models.classifier import Classifier
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import PackedDataset
from pipeline.training import build

MODELS = ("scratch", "finetune")


def step(model: Classifier, batch: tuple[torch.Tensor, torch.Tensor], threads: int):
    """A function that makes one step: forward, backward, optimiser."""
    optimizer = model.configure_optimizers()

    def run() -> None:
        torch.set_num_threads(threads)
        model.train()
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layout", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("overrides", nargs="*", help="further choices, as for pipeline.train")
    given = parser.parse_args()
    table = Table("model", "side", "layout", "threads", "pictures/s", "of the slowest")
    for name in MODELS:
        programs = {}
        for channels_last, threads in product((False, True), given.threads):
            cfg = compose(f"model={name}", *given.overrides, f"model.channels_last={channels_last}")
            pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
            training = build.build(cfg, pack)
            size, count = training.card.input.size, cfg.model.batch_size
            pictures = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
            batch = pictures, torch.randint(0, len(pack.classes), (count,))
            layout = "channels_last" if channels_last else "contiguous"
            programs[layout, threads] = step(training.model, batch, threads)
        for program in programs.values():
            program()  # the first step chooses kernels
        seconds = interleaved(programs, given.rounds)
        slowest = max(seconds.values())
        for (layout, threads), taken in seconds.items():
            row = (name, f"{size} px", layout, str(threads), taken.rate(count), slowest.over(taken))
            table.add_row(*row)
    console = Console(width=120)
    console.print(described("torch", "timm"))
    console.print(table)


if __name__ == "__main__":
    main()
