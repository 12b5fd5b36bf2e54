"""The LightningDataModule of a training."""

import pytorch_lightning as pl
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Subset

from pipeline.data import augment
from pipeline.data.dataset import EpochSampler, ImageDataset, balanced_weights, eval_transform, loader
from pipeline.training.build import Training


class ImageData(pl.LightningDataModule):
    """Training and validation split of a packed data set, sharded over the ranks.

    Args:
        training: provides the images (pack) and the preprocessing (card).

    Attributes:
        train_set: with random augmentation.
        val_set: with deterministic preprocessing.
        sampler: this rank's training sampler; set by `setup`.
    """

    def __init__(self, training: Training):
        super().__init__()
        pack, card, cfg = training.pack, training.card, training.cfg
        self.pack, self.cfg, self.batch_size = pack, cfg, cfg.model.batch_size
        sides = augment.sides_per_epoch(card.input.size, list(cfg.model.shares), cfg.model.epochs)
        transforms = augment.build(list(OmegaConf.to_container(cfg.augment.transforms)), sides)
        self.train_set = ImageDataset(pack, pack.rows("train"), transforms, cfg.seed)
        self.val_set = ImageDataset(pack, pack.rows("val"), eval_transform(card.input))
        self.resumed_at = (0, 0)

    def resume(self, epoch: int, batch: int) -> None:
        """Sets the epoch and batch to start at; called before `fit`, which creates an iterator early."""
        self.resumed_at = (epoch, batch)

    def setup(self, stage: str) -> None:
        self.sampler = self._sampler(self.trainer.global_rank)
        self.sampler.begin(*self.resumed_at)

    def _sampler(self, rank: int) -> EpochSampler:
        weights = balanced_weights(self.train_set.targets) if self.cfg.model.balance == "sampler" else None
        length, world = len(self.train_set), self.trainer.world_size
        is_fixed = bool(self.cfg.trainer.get("overfit_batches"))
        return EpochSampler(length, self.cfg.seed, self.batch_size, rank, world, weights, is_fixed)

    def train_dataloader(self) -> DataLoader:
        return loader(self.train_set, self.batch_size, self.cfg.runtime.workers, self.sampler)

    def val_dataloader(self) -> DataLoader:
        indices = range(self.trainer.global_rank, len(self.val_set), self.trainer.world_size)
        return loader(Subset(self.val_set, indices), self.batch_size, self.cfg.runtime.workers)

    def image_paths(self, epoch: int, batch: int, rank: int) -> list[str]:
        """Paths of the images in one batch of one rank, for error messages."""
        first = batch * self.batch_size
        indices = self._sampler(rank).order(epoch)[first : first + self.batch_size]
        return self.pack.table["path"].iloc[self.train_set.rows[indices]].tolist()
