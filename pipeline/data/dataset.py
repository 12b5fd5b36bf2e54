"""Packed pictures as PyTorch sees them: the pack, datasets, the sampler and the loaders."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler

from pipeline import portable, tasks
from pipeline.artifacts import seal
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.portable import Preprocessing
from pipeline.tasks import Task


@dataclass
class PackedDataset:
    """Pictures of one data set with their labels and splits.

    Attributes:
        table: a row a picture: the pack's index with `split` and `group`. In the order of the pictures'
            hashes: what the order decides (a picture's chances, a batch) must not depend on what a file is
            called.
        classes: class names, sorted.
        targets: what a network learns to answer, a row an image: see `tasks`.
        summary: what ``pack.json`` says.
        split_sha256: of the assignment: of pictures, labels and splits, not of paths.
    """

    folder: Path
    table: pandas.DataFrame
    classes: list[str]
    targets: np.ndarray
    summary: dict
    split_sha256: str

    @classmethod
    def open(cls, place: Path) -> "PackedDataset":
        """Opens ``pack/`` and ``split.csv`` in a data set's folder.

        Raises:
            UserError: they are not there, are damaged, or do not belong together.
        """
        if not (place / "split.csv").is_file() or not (place / "pack/pack.json").is_file():
            raise UserError(f"{seal.near(place)} has no packed pictures; run: dvc repro split")
        seal.check(place / "pack")
        summary = pack_index.read_summary(place / "pack")
        index, split = pack_index.read_index(place / "pack"), pack_index.read_split(place / "split.csv")
        if list(split["path"]) != list(index["path"]):
            raise UserError(f"{place}/split.csv is of another pack; run: dvc repro split")
        table = index.assign(split=split["split"], group=split["group"])
        # Equal pictures of one class and split can stand for each other; their order by path stays.
        table = table.sort_values([*pack_index.PICTURE, "split"], kind="stable", ignore_index=True)
        task = tasks.of(summary["task"])
        classes = task.classes(table["label"].tolist())
        targets = task.targets(table["label"].tolist(), classes)
        for split in ("val", "test"):
            if not task.counts(targets[table["split"] == split], len(classes)).any():
                raise UserError(f"{seal.near(place)}: {split} has no picture of any class; add some")
        return cls(
            folder=place / "pack",
            table=table,
            classes=classes,
            targets=targets,
            summary=summary,
            split_sha256=pack_index.content_hash(table, "split"),
        )

    @property
    def task(self) -> Task:
        """What the labels are."""
        return tasks.of(self.summary["task"])

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.flatnonzero(self.table["split"] == split)

    def species(self) -> list[str]:
        """Species of each class, empty where unknown."""
        if self.task.several:
            return [""] * len(self.classes)
        return [self.table["species"][self.table["label"] == name].iloc[0] for name in self.classes]


class ImageDataset(Dataset):
    """Pictures of some rows, sized for a network.

    An item is asked for by (epoch, place) or by place alone, so that a worker needs to know nothing of the
    training's progress.

    Args:
        pack: where they come from.
        rows: row numbers of the pack's table.
        size: uint8 H×W×3, seed, epoch → uint8 size×size×3; the latter two are None where nothing is drawn.
        seed: of the augmentation.
    """

    def __init__(
        self,
        pack: PackedDataset,
        rows: np.ndarray,
        size: Callable[[np.ndarray, int | None, int | None], np.ndarray],
        seed: int,
    ):
        table = pack.table.iloc[rows]
        self.file = pack.folder / "pixels.bin"
        self.places = table[["offset", "height", "width"]].to_numpy()
        self.targets = pack.targets[rows]
        self.rows, self.size, self.seed = rows, size, seed
        self._pixels: np.memmap | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, place: int) -> np.ndarray:
        """The packed picture, uint8 H×W×3."""
        if self._pixels is None:  # opened in the process that reads: a mapping does not travel
            self._pixels = np.memmap(self.file, dtype=np.uint8, mode="r")
        offset, height, width = self.places[place]
        return self._pixels[offset : offset + height * width * 3].reshape(height, width, 3)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
        epoch, place = item if isinstance(item, tuple) else (None, item)
        seed = None
        if epoch is not None:
            # From the picture's row, not from its place in a batch: workers and batches don't matter.
            stream = np.random.SeedSequence([self.seed, epoch, int(self.rows[place])])
            seed = int(stream.generate_state(1)[0])
        picture = self.size(self.picture(place), seed, epoch)
        return torch.from_numpy(np.array(picture)), self.targets[place]


class EpochSampler(SequentialSampler):  # Lightning replaces others for overfit_batches
    """Places in an order that seed and epoch alone decide, shared out over processes.

    Yields (epoch, place). Each process gets equally many, since DDP waits for all; what an epoch leaves over
    (less than a batch of all processes) comes up in another one, for the order changes.

    Args:
        length: number of pictures.
        seed: of the order.
        batch_size: of one process.
        rank: this process.
        world: number of processes.
        chances: of each picture to be drawn, with replacement; None: each comes once an epoch.
        is_fixed: whether every epoch is like the first, in order and augmentation.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        chances: np.ndarray | None = None,
        is_fixed: bool = False,
    ):
        self.is_fixed = is_fixed
        self.length, self.seed, self.rank, self.world, self.chances = length, seed, rank, world, chances
        self.batch_size, self.epoch, self.done = batch_size, 0, 0
        # Whole batches only: a last one of three pictures would unsettle BatchNorm. Little data is one batch.
        step = batch_size * world if length >= batch_size * world else world
        self.used = length // step * step
        if not self.used:
            raise UserError(
                f"{length} pictures can't be shared out over {world} processes; set trainer.devices=1"
            )

    def begin(self, epoch: int, batch: int) -> None:
        """Says which epoch comes next, and how many of this process's batches of it are done."""
        self.epoch, self.done = epoch, batch * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """What Lightning calls before each epoch, also before the one that was begun already."""
        if epoch != self.epoch:
            self.begin(epoch, 0)

    def order(self, epoch: int) -> list[int]:
        """This process's places of an epoch."""
        rng = np.random.default_rng([self.seed, 0 if self.is_fixed else epoch])
        if self.chances is None:
            order = rng.permutation(self.length)[: self.used]
        else:
            order = rng.choice(self.length, self.used, p=self.chances)
        return order[self.rank :: self.world].tolist()

    def __len__(self) -> int:
        return self.used // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = 0 if self.is_fixed else self.epoch
        return iter([(epoch, place) for place in self.order(epoch)[self.done :]])


def balanced_chances(targets: np.ndarray) -> np.ndarray:
    """Chances of pictures, summing to 1, by which every class is drawn equally often."""
    counts = np.bincount(targets)
    return 1 / (counts[targets] * np.count_nonzero(counts))


def still(sizing: Preprocessing) -> Callable[..., np.ndarray]:
    """Sizes pictures without chance, as everywhere outside training.

    Args:
        sizing: a card's `input`.
    """
    return lambda picture, *_: portable.to_square(
        picture, sizing.size, sizing.interpolation, sizing.crop, sizing.crop_pct
    )


def loader(
    pictures: ImageDataset, batch_size: int, workers: int, sampler: Sampler | None = None
) -> DataLoader:
    """Batches of uint8 pictures N×H×W×3 and their targets."""
    return DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
