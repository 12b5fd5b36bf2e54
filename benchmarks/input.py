"""Images per second of one core, from storage to an augmented batch: ours, torchvision's and timm's.

``python -m benchmarks.input data=petfaces``. All apply the same augmentation with the parameters of
``conf/augment/light.yaml``: a random crop resized to a fixed size, a horizontal flip half of the time, and
colour jitter. The peers decode the archive's images each time, as their loaders do; ours reads the pack. Each
runs in this process on one thread, so one second is one core-second. The line below the table gives the share
of a training step spent waiting for data.
"""

import io
import time

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.common import argument_parser, describe_machine, time_in_turn
from models.classifier import Classifier
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.data import augment
from pipeline.data.dataset import EpochSampler, ImageDataset, PackedDataset, loader
from pipeline.sources import archives
from pipeline.training import build

BATCH = 32


class EncodedImages(torch.utils.data.Dataset):
    """Encoded images in memory, decoded and transformed when accessed; their target is 0."""

    def __init__(self, files: list[bytes], transform):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        return self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB")), 0


def torchvision_v2(size: int):
    """torchvision's v2 transforms with the parameters of conf/augment/light.yaml; uint8 until the end."""
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
    """timm's own training transform with the same parameters."""
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
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--pictures", type=int, default=640, help="number of images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of the training below the table")
    args = parser.parse_args()

    cfg = compose("model=scratch", "augment=light", *args.overrides)
    pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
    training = build.build(cfg, pack)
    model, size = training.model, training.card.input.size
    torch.set_num_threads(1)
    rows = pack.rows("train")[: args.pictures]
    paths = set(pack.table["path"].iloc[rows])
    members = archives.members(ROOT / "data" / cfg.data.name / "archive")
    files = [data for path, data in members if path in paths]
    assert len(files) == len(rows)
    transform = augment.build(OmegaConf.to_container(cfg.augment.transforms), [size])
    images = ImageDataset(pack, rows, transform, seed=1)

    def ours() -> None:
        sampler = EpochSampler(len(rows), 1, BATCH)
        for batch, _ in loader(images, BATCH, workers=0, sampler=sampler):
            model.normalise(batch)

    def peer(transform):
        dataset = EncodedImages(files, transform)

        def run() -> None:
            for _ in torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, drop_last=True):
                pass

        return run

    timings = time_in_turn(
        {"ours": ours, "torchvision v2": peer(torchvision_v2(size)), "timm": peer(timm_transform(size))},
        args.rounds,
    )
    console = Console(width=120)
    console.print(describe_machine("torch", "torchvision", "timm", "albumentations", "pillow"))
    title = f"{cfg.data.name}, {len(rows)} images at {size} px, one core"
    table = Table("", "images per core-second", "speed-up of ours", title=title)
    for name, timing in timings.items():
        table.add_row(name, timing.rate(len(rows)), timing.ratio_to(timings["ours"], ".1f"))
    console.print(table)

    torch.set_num_threads(cfg.runtime.threads)
    loading, training_step = (np.median(seconds) for seconds in time_steps(model, images, args.steps))
    console.print(
        f"training step of scratch, {cfg.runtime.threads} threads, no workers: {training_step:.3f} s, after "
        f"{loading:.3f} s for its batch: {loading / (loading + training_step):.1%} of the total"
    )


def time_steps(model: Classifier, images: ImageDataset, count: int) -> tuple[list[float], list[float]]:
    """Seconds to load each batch, and to train on it."""
    optimizer = torch.optim.AdamW(model.train().parameter_groups(), lr=model.lr)
    loading, training = [], []
    batches = iter(loader(images, BATCH, workers=0, sampler=EpochSampler(len(images), 1, BATCH)))
    for number in range(min(count, len(images) // BATCH)):
        start = time.perf_counter()
        batch = next(batches)
        loaded = time.perf_counter()
        model.training_step(batch, number).backward()
        optimizer.step()
        optimizer.zero_grad()
        loading.append(loaded - start)
        training.append(time.perf_counter() - loaded)
    return loading[2:], training[2:]  # the first two are slower


if __name__ == "__main__":
    main()
