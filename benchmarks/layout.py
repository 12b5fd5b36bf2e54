"""Images per second in a training step, by memory layout and number of threads.

``python -m benchmarks.layout``, with overrides as for pipeline.train, such as ``data=petfaces``. The results
for a CPU determine `channels_last` in ``conf/model/`` and `threads` in ``conf/trainer/``.
"""

from collections.abc import Callable
from itertools import product

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, time_in_turn
from models.classifier import Classifier
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import PackedDataset
from pipeline.training import build

MODELS = ("scratch", "finetune")


def step(model: Classifier, batch: tuple[torch.Tensor, torch.Tensor], threads: int) -> Callable[[], None]:
    """A function that runs one training step: forward, backward, optimizer."""
    optimizer = torch.optim.AdamW(model.parameter_groups(), lr=model.lr)

    def run() -> None:
        torch.set_num_threads(threads)
        model.train()
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    table = Table("model", "side", "layout", "threads", "images/s", "speed-up over the slowest")
    for name in MODELS:
        programs = {}
        for channels_last, threads in product((False, True), args.threads):
            cfg = compose(f"model={name}", *args.overrides, f"model.channels_last={channels_last}")
            pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
            training = build.build(cfg, pack)
            size, count = training.card.input.size, cfg.model.batch_size
            images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
            batch = images, torch.randint(0, len(pack.classes), (count,))
            layout = "channels_last" if channels_last else "contiguous"
            programs[layout, threads] = step(training.model, batch, threads)
        for program in programs.values():
            program()  # the first step selects kernels
        timings = time_in_turn(programs, args.rounds)
        slowest = max(timings.values())
        for (layout, threads), timing in timings.items():
            speed_up = slowest.ratio_to(timing)
            table.add_row(name, f"{size} px", layout, str(threads), timing.rate(count), speed_up)
    console = Console(width=120)
    console.print(describe_machine("torch", "timm"))
    console.print(table)


if __name__ == "__main__":
    main()
