"""Packed images for PyTorch: datasets, the sampler and the data loader."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from pipeline import portable, tasks
from pipeline.artifacts import seal
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.portable import Preprocessing
from pipeline.tasks import Task


@dataclass
class PackedDataset:
    """Images of one data set with their labels and splits.

    Attributes:
        folder: the pack's folder.
        table: the pack's index with `split` and `group`, a row per image. Sorted by image hash, so file names
            cannot affect batches or seeds.
        classes: class names, sorted.
        targets: training targets, a row per image; see `tasks`.
        summary: contents of ``pack.json``.
        split_sha256: SHA-256 of images, labels and splits, independent of paths.
    """

    folder: Path
    table: pandas.DataFrame
    classes: list[str]
    targets: np.ndarray
    summary: dict
    split_sha256: str

    @classmethod
    def open(cls, data_dir: Path) -> "PackedDataset":
        """Opens ``pack/`` and ``split.csv`` of a data set.

        Args:
            data_dir: ``data/<name>``.

        Raises:
            UserError: they are missing, damaged, or don't belong together.
        """
        if not (data_dir / "split.csv").is_file() or not (data_dir / "pack/pack.json").is_file():
            raise UserError(f"{seal.relative_to_root(data_dir)} has no packed pictures; run: dvc repro split")
        seal.check(data_dir / "pack")
        summary = pack_index.read_summary(data_dir / "pack")
        index, split = pack_index.read_index(data_dir / "pack"), pack_index.read_split(data_dir / "split.csv")
        if list(split["path"]) != list(index["path"]):
            raise UserError(f"{data_dir}/split.csv belongs to another pack; run: dvc repro split")
        table = index.assign(split=split["split"], group=split["group"])
        # Identical images of one class and split are interchangeable, so they may stay sorted by path.
        table = table.sort_values([*pack_index.IDENTITY, "split"], kind="stable", ignore_index=True)
        task = tasks.of(summary["task"])
        classes = task.classes(table["label"].tolist())
        targets = task.targets(table["label"].tolist(), classes)
        for split in ("val", "test"):
            if not task.counts(targets[table["split"] == split], len(classes)).any():
                raise UserError(f"{seal.relative_to_root(data_dir)}: {split} has no labels; add pictures")
        split_sha256 = pack_index.content_hash(table, "split")
        return cls(data_dir / "pack", table, classes, targets, summary, split_sha256)

    @property
    def task(self) -> Task:
        """Single-label or multi-label."""
        return tasks.of(self.summary["task"])

    def rows(self, split: str) -> np.ndarray:
        """Indices of a split into `table`."""
        return np.flatnonzero(self.table["split"] == split)

    def species(self) -> list[str]:
        """Species of each class; empty if unknown or multi-label."""
        if self.task.is_multi_label:
            return [""] * len(self.classes)
        return [self.table["species"][self.table["label"] == name].iloc[0] for name in self.classes]


class ImageDataset(Dataset):
    """Images of some rows of a pack, resized for a network.

    Items are indexed by (epoch, index) or by index alone, so workers don't need to know the current epoch.

    Args:
        pack: the packed data set.
        rows: indices into the pack's table.
        transform: (uint8 H×W×3, seed, epoch) → uint8 size×size×3; without augmentation, seed and epoch are
            None.
        seed: seed of the augmentation.

    Attributes:
        hashes: SHA-256 of each packed image.
    """

    def __init__(
        self,
        pack: PackedDataset,
        rows: np.ndarray,
        transform: Callable[[np.ndarray, int | None, int | None], np.ndarray],
        seed: int = 0,
    ):
        table = pack.table.iloc[rows]
        self.file = pack.folder / "pixels.bin"
        self._locations = table[["offset", "height", "width"]].to_numpy()
        self.targets, self.hashes = pack.targets[rows], table["sha256"].tolist()
        self.rows, self.transform, self.seed = rows, transform, seed
        self._pixels: np.memmap | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> np.ndarray:
        """The packed image, uint8 H×W×3."""
        if self._pixels is None:  # opened in each worker, since a memmap would be pickled with its data
            self._pixels = np.memmap(self.file, dtype=np.uint8, mode="r")
        offset, height, width = self._locations[index]
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
        epoch, index = item if isinstance(item, tuple) else (None, item)
        seed = None
        if epoch is not None:
            # Derived from the row, so neither batches nor workers affect it.
            stream = np.random.SeedSequence([self.seed, epoch, int(self.rows[index])])
            seed = int(stream.generate_state(1)[0])
        image = self.transform(self.image(index), seed, epoch)
        return torch.from_numpy(np.array(image)), self.targets[index]


class LooseImages(Dataset):
    """Images that are not packed, shrunk as for a pack and resized by `eval_transform`; their target is 0.

    Args:
        images: each uint8 H×W×3, of any size.
        preprocessing: a card's `input`.

    Attributes:
        hashes: SHA-256 of each image, before shrinking.
    """

    def __init__(self, images: list[np.ndarray], preprocessing: Preprocessing):
        self.images, self.max_side = images, preprocessing.max_side
        self.transform = eval_transform(preprocessing)

    @property
    def hashes(self) -> list[str]:
        return [hashlib.sha256(f"{each.shape}".encode() + each.tobytes()).hexdigest() for each in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        shrunk = portable.shrink(Image.fromarray(self.images[index]), self.max_side)
        return torch.from_numpy(np.array(self.transform(shrunk))), 0


class EpochSampler(SequentialSampler):  # for overfit_batches, Lightning replaces other types
    """Distributed sampler whose order depends only on seed and epoch.

    Yields (epoch, index). Each rank gets the same number, since DDP waits for all of them. An epoch drops
    the remainder (less than one global batch); as the order changes, later epochs include those images.

    Args:
        length: number of images.
        seed: seed of the order.
        batch_size: batch size per rank.
        rank: rank of this process.
        world_size: number of processes.
        weights: sampling probability of each image, with replacement; None: each image once per epoch.
        is_fixed: whether every epoch repeats the first, in order and augmentation.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
        is_fixed: bool = False,
    ):
        self.length, self.seed, self.weights, self.is_fixed = length, seed, weights, is_fixed
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.epoch, self.done = 0, 0
        # Drop the last, smaller batch, which would disturb BatchNorm. Too little data gives one batch.
        step = batch_size * world_size if length >= batch_size * world_size else world_size
        self.epoch_length = length // step * step
        if not self.epoch_length:
            raise UserError(
                f"{length} pictures are too few for {world_size} processes; set trainer.devices=1"
            )

    def begin(self, epoch: int, batch: int) -> None:
        """Sets the next epoch and how many of this rank's batches in it are already done."""
        self.epoch, self.done = epoch, batch * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, also before one that `begin` has already set."""
        if epoch != self.epoch:
            self.begin(epoch, 0)

    def order(self, epoch: int) -> list[int]:
        """This rank's indices in an epoch, in order."""
        rng = np.random.default_rng([self.seed, 0 if self.is_fixed else epoch])
        if self.weights is None:
            order = rng.permutation(self.length)[: self.epoch_length]
        else:
            order = rng.choice(self.length, self.epoch_length, p=self.weights)
        return order[self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        return self.epoch_length // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = 0 if self.is_fixed else self.epoch
        return iter([(epoch, index) for index in self.order(epoch)[self.done :]])


def balanced_weights(targets: np.ndarray) -> np.ndarray:
    """Sampling probability of each image, summing to 1, that samples every class equally often."""
    counts = np.bincount(targets)
    return 1 / (counts[targets] * np.count_nonzero(counts))


def eval_transform(preprocessing: Preprocessing) -> Callable[..., np.ndarray]:
    """Returns the deterministic resize to the network's input (`to_square`), used everywhere but in training.

    Args:
        preprocessing: a card's `input`.
    """
    return lambda image, *_: portable.to_square(
        image, preprocessing.size, preprocessing.interpolation, preprocessing.crop, preprocessing.crop_pct
    )


def loader(dataset: Dataset, batch_size: int, workers: int, sampler: Sampler | None = None) -> DataLoader:
    """Batches of uint8 images N×H×W×3 and their targets."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
