"""Images per second of one core, from storage to an augmented batch: ours, torchvision's and timm's.

``python -m benchmarks.input data=petfaces``. All apply the same augmentation with the numbers of
``conf/augment/light.yaml``: a random crop resized to a fixed size, a horizontal flip half of the time, and
colour jitter. The peers decode the archive's images each time, as their loaders do; ours reads the pack. Each
runs in this process on one thread, so one second is one core-second. The line below the table gives the share
of a training step spent waiting for data.
"""

import argparse
import io
import time

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described, interleaved
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data import augment
from pipeline.data.dataset import EpochSampler, ImageDataset, PackedDataset, loader
from pipeline.sources import archives
from pipeline.training import build

BATCH = 32


class Encoded(torch.utils.data.Dataset):
    """Encoded pictures in memory, decoded and changed when they are asked for."""

    def __init__(self, files: list[bytes], transform):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int):
        return self.transform(Image.open(io.BytesIO(self.files[place])).convert("RGB")), 0


def torchvision_v2(size: int):
    """torchvision's v2 transforms with the numbers of conf/augment/light.yaml; uint8 until the end."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(size, scale=(0.7, 1.0), ratio=(0.85, 1.18), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2, 0.02)], 0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


def timm_transform(size: int):
    """timm's own training transform with the same numbers."""
    from timm.data import create_transform

    return create_transform(
        size,
        is_training=True,
        scale=(0.7, 1.0),
        ratio=(0.85, 1.18),
        color_jitter=(0.2, 0.2, 0.2, 0.02),
        color_jitter_prob=0.5,
        interpolation="bilinear",
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.input", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--pictures", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of the training below the table")
    parser.add_argument("overrides", nargs="*", help="further choices, as for pipeline.train")
    given = parser.parse_args()

    cfg = compose("model=scratch", "augment=light", *given.overrides)
    pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
    training = build.build(cfg, pack)
    model, card = training.model, training.card
    size = card.input.size
    torch.set_num_threads(1)
    rows = pack.rows("train")[: given.pictures]
    wanted = set(pack.table["path"].iloc[rows])
    members = archives.members(ROOT / "data" / cfg.data.name / "archive")
    files = [data for path, data in members if path in wanted]
    assert len(files) == len(rows)
    pictures = ImageDataset(
        pack, rows, augment.build(OmegaConf.to_container(cfg.augment.transforms), [size]), seed=1
    )

    def ours() -> None:
        sampler = EpochSampler(len(rows), 1, BATCH)
        for batch, _ in loader(pictures, BATCH, workers=0, sampler=sampler):
            model.normalise(batch)

    def peer(transform):
        dataset = Encoded(files, transform)

        def run() -> None:
            for _ in torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, drop_last=True):
                pass

        return run

    seconds = interleaved(
        {"ours": ours, "torchvision v2": peer(torchvision_v2(size)), "timm": peer(timm_transform(size))},
        given.rounds,
    )
    console = Console(width=120)
    console.print(described("torch", "torchvision", "timm", "albumentations", "pillow"))
    title = f"{cfg.data.name}, {len(rows)} pictures at {size} px, one core"
    table = Table("", "pictures per core-second", "ours is so many times as fast", title=title)
    for name, taken in seconds.items():
        table.add_row(name, taken.rate(len(rows)), taken.over(seconds["ours"], ".1f"))
    console.print(table)

    torch.set_num_threads(cfg.runtime.threads)
    waited, taken = steps(model, pictures, given.steps)
    share = np.median(waited) / (np.median(waited) + np.median(taken))
    console.print(
        f"a training step of scratch, {cfg.runtime.threads} threads, no workers: {np.median(taken):.3f} s of "
        f"learning, {np.median(waited):.3f} s for its batch: {share:.1%} of the whole"
    )


def steps(model, pictures: ImageDataset, count: int) -> tuple[list[float], list[float]]:
    """Seconds of making each batch and of learning from it."""
    optimiser = model.train().configure_optimizers()
    waited, taken = [], []
    batches = iter(loader(pictures, BATCH, workers=0, sampler=EpochSampler(len(pictures), 1, BATCH)))
    for number in range(min(count, len(pictures) // BATCH)):
        began = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        model.training_step(batch, number).backward()
        optimiser.step()
        optimiser.zero_grad()
        waited.append(ready - began)
        taken.append(time.perf_counter() - ready)
    return waited[2:], taken[2:]  # the first two warm the memory up


if __name__ == "__main__":
    main()
