"""Cost of computing a frozen backbone's features, relative to the bare forward passes, by engine.

``python -m benchmarks.features`` runs on the data set of ``params.yaml``. It takes further overrides, as for
pipeline.train, such as ``data=petfaces model.net.backbone=tf_efficientnet_lite2``. Ratios are of images per
second.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described, interleaved
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import ImageDataset, PackedDataset, eval_transform, loader
from pipeline.training import build, features


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="further choices, as for pipeline.train")
    given = parser.parse_args()

    cfg = compose("model=probe", *given.overrides)
    pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
    torch.set_num_threads(cfg.runtime.threads)
    training = build.build(cfg, pack)
    card = training.card
    rows = np.arange(min(given.pictures, len(pack.table)))
    pictures, shuffled = (
        ImageDataset(pack, each, eval_transform(card.input)) for each in (rows, np.roll(rows, 1))
    )
    sized = [batch for batch, _ in loader(pictures, cfg.model.batch_size, 0)]

    def engine(name: str, channels_last: bool = True):
        other = compose("model=probe", *given.overrides, f"runtime.features={name}")
        other.model.channels_last = channels_last
        network = build.build(other, pack).model
        return features._engine(network, card, other)

    # The trunk is exported before anything is timed: once in a machine's life.
    engines = {
        "ONNX Runtime, sized pictures in memory": engine("onnx"),
        "torch, channels_last": engine("torch"),
        "torch": engine("torch", channels_last=False),
    }
    with tempfile.TemporaryDirectory() as place:
        features.CACHE = Path(place) / "kept"  # a path from the root on stands for itself

        def anew() -> None:
            shutil.rmtree(features.CACHE, ignore_errors=True)
            features.features(training, pictures)

        def again() -> None:
            features.features(training, shuffled)

        programs = {name: (lambda run=run: [run(batch) for batch in sized]) for name, run in engines.items()}
        programs |= {"features(), nothing kept": anew, "features(), all kept": again}
        seconds = interleaved(programs, given.rounds)

    bare = next(iter(seconds.values()))
    title = f"{card.net['backbone']}, {card.input.size} px, {cfg.data.name}, {len(rows)} pictures"
    table = Table("", "seconds", "pictures/s", "time, of the first", title=f"{title}, flip={card.flip}")
    for name, taken in seconds.items():
        table.add_row(name, taken.shown(), f"{len(rows) / taken:,.0f}", taken.over(bare))
    console = Console(width=120)
    console.print(described("torch", "timm", "onnxruntime"), f"threads {cfg.runtime.threads}")
    console.print(table)


if __name__ == "__main__":
    main()
