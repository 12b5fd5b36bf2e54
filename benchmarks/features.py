"""Time to compute a frozen backbone's features, relative to the bare forward passes, by engine.

``python -m benchmarks.features`` runs on the data set of ``params.yaml``. It takes overrides as for
pipeline.train, such as ``data=petfaces model.net.backbone=tf_efficientnet_lite2``.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, time_in_turn
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data.dataset import ImageDataset, PackedDataset, eval_transform, loader
from pipeline.training import build, features


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--pictures", type=int, default=320, help="number of images")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    cfg = compose("model=probe", *args.overrides)
    pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
    torch.set_num_threads(cfg.runtime.threads)
    training = build.build(cfg, pack)
    card = training.card
    rows = np.arange(min(args.pictures, len(pack.table)))
    images, reordered = (
        ImageDataset(pack, each, eval_transform(card.input)) for each in (rows, np.roll(rows, 1))
    )
    resized = [batch for batch, _ in loader(images, cfg.model.batch_size, 0)]

    def engine(name: str, channels_last: bool = True):
        """A function that computes features of a batch of resized images."""
        engine_cfg = compose("model=probe", *args.overrides, f"runtime.features={name}")
        engine_cfg.model.channels_last = channels_last
        network = build.build(engine_cfg, pack).model
        return features._engine(network, card, engine_cfg)

    # Exports the backbone before anything is timed, because that happens once per machine.
    engines = {
        "ONNX Runtime, resized images in memory": engine("onnx"),
        "torch, channels_last": engine("torch"),
        "torch": engine("torch", channels_last=False),
    }
    with tempfile.TemporaryDirectory() as scratch:
        features.CACHE = Path(scratch) / "features"

        def without_cache() -> None:
            shutil.rmtree(features.CACHE, ignore_errors=True)
            features.features(training, images)

        def with_cache() -> None:
            features.features(training, reordered)

        programs = {
            name: (lambda run=run: [run(batch) for batch in resized]) for name, run in engines.items()
        }
        programs |= {"features(), empty cache": without_cache, "features(), all cached": with_cache}
        timings = time_in_turn(programs, args.rounds)

    first = next(iter(timings.values()))
    title = f"{card.net['backbone']}, {card.input.size} px, {cfg.data.name}, {len(rows)} images"
    table = Table("", "seconds", "images/s", "relative to the first row", title=f"{title}, flip={card.flip}")
    for name, timing in timings.items():
        table.add_row(name, timing.format(), f"{len(rows) / timing:,.0f}", timing.ratio_to(first))
    console = Console(width=120)
    console.print(describe_machine("torch", "timm", "onnxruntime"), f"threads {cfg.runtime.threads}")
    console.print(table)


if __name__ == "__main__":
    main()
