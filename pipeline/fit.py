"""The training loop: what a step does follows from configuration, data and the step's number alone.

Lightning's Fabric carries it to the devices. Its Trainer would not do: its checkpoints can't say "all batches
done, not yet judged", and hold no sums of an epoch's losses, so that a restart within an epoch ends
elsewhere. Here a place is (epoch, batch), and all that was reached is one `Progress` beside the tensors.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import NoReturn

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from models.classifier import Classifier, topk_metrics
from pipeline import augment, checkpoints
from pipeline.checkpoints import Checkpoints
from pipeline.config import SharedError, StoppedError, UserError
from pipeline.data import EpochSampler, Pack, Pictures, balanced_chances, loader, still
from pipeline.portable import ModelCard
from pipeline.things import Outliers

# Steps between two looks at the losses and at whether to stop: on a GPU each look waits for it.
EVERY = {"cpu": 1, "cuda": 20}


@dataclass
class Progress:
    """What a training has reached, beside the tensors of network and optimiser.

    Attributes:
        epoch: epochs that are trained and judged.
        batch: batches of the one after them that are trained, in each process.
        step: optimiser steps in all.
        loss: sum of this epoch's losses so far, over batches and processes.
        rows: of ``curves.csv``.
        best: val/top1 of the kept weights, and their epoch.
        weights: the kept weights.
        seconds: spent so far.
    """

    rows: list[dict]
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    best: float = -1.0
    best_epoch: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def fabric(cfg: DictConfig) -> Fabric:
    """The devices that ``conf/trainer/`` names; starts the further processes.

    Raises:
        UserError: the machine has no such device, or too few.
    """
    chosen = cfg.trainer
    try:
        made = Fabric(
            accelerator=chosen.accelerator,
            devices=chosen.devices,
            strategy=chosen.strategy,
            precision=chosen.precision,
        )
    except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(
            f"trainer: {' '.join(str(error).split())[:300]}; "
            "this machine may have fewer devices, try trainer=cpu"
        ) from error
    made.launch()
    torch.set_num_threads(chosen.threads)  # the launcher has set the machine's count
    if chosen.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return made


class Fit:
    """One training of the whole network.

    Args:
        model: with the weights to start from; ends with the best epoch's.
        pack: the pictures.
        card: the model's.
        cfg: the configuration.
        rows: of the curves before the first epoch.
        kept: where checkpoints are; the newest is where it begins.
        began: when this process did, by ``time.monotonic``.
        tell: is given the rows after each epoch, in the first process of several.
    """

    def __init__(
        self,
        model: Classifier,
        pack: Pack,
        card: ModelCard,
        cfg: DictConfig,
        rows: list[dict],
        kept: Checkpoints,
        began: float,
        tell: Callable[[list[dict]], None] | None,
    ):
        self.model, self.pack, self.cfg, self.kept, self.tell = model, pack, cfg, kept, tell
        self.fabric = fabric(cfg)
        rank, world = self.fabric.global_rank, self.fabric.world_size
        batch = cfg.model.batch_size
        sides = augment.sides(card.input.size, list(cfg.model.shares), cfg.model.epochs)
        transforms = augment.build(list(OmegaConf.to_container(cfg.augment.transforms)), sides)
        self.learning = Pictures(pack, pack.rows("train"), transforms, cfg.seed)
        self.watched = Pictures(pack, pack.rows("val"), still(card.input), cfg.seed)
        chances = balanced_chances(self.learning.targets) if cfg.model.balance == "sampler" else None
        self.sampler = EpochSampler(len(self.learning), cfg.seed, batch, rank, world, chances)
        self.train_loader = loader(self.learning, batch, cfg.trainer.workers, self.sampler)
        quiet = range(rank, len(self.watched), world)
        self.val_loader = loader(self.watched, batch, cfg.trainer.workers, quiet)
        self.batches = len(self.train_loader)
        more = math.ceil(cfg.model.get("outliers", 0.0) * batch)
        self.outliers = Outliers(more, card.input) if more else None

        model.begin_averaging()
        self.module, self.optimizer = self.fabric.setup(model, model.configure_optimizers())
        self.metrics = topk_metrics(model.num_classes, "val/").to(self.fabric.device)
        self.progress = Progress(rows)
        if rows:  # the head that was fitted counts as epoch 0: what is kept is never worse on validation
            self.progress.best, self.progress.weights = rows[0]["val/top1"], self._kept()
        self.began = began
        # The first process chooses, for it takes a damaged one away.
        found = self.fabric.broadcast(str(kept.latest() or "") if self.fabric.is_global_zero else "")
        if found:
            self._restore(checkpoints.read(found))
        self.stop_asked = False
        self.pending: list[torch.Tensor] = []
        self.saved = time.monotonic()

    def run(self) -> Progress:
        """Trains until the epochs are done or validation stays; puts the best weights into the model.

        Raises:
            StoppedError: SIGTERM came.
            SharedError: the loss is no number any more.
            UserError: a loader's worker was killed.
        """
        with self._terminable():
            while not self._done():
                self._train_epoch()
                self._judge_epoch()
        self.model.averaged = None
        self.model.net.load_state_dict(self.progress.weights)
        return self._timed()

    def _done(self) -> bool:
        now = self.progress
        idle = now.epoch - now.best_epoch
        return now.epoch >= self.cfg.model.epochs or (now.epoch > 0 and idle >= self.cfg.model.patience)

    def _train_epoch(self) -> None:
        now = self.progress
        steps = self.cfg.model.epochs * self.batches
        every = EVERY.get(self.fabric.device.type, 1)
        # Features or validation have left the network judging.
        self.module.train()
        self.sampler.begin(now.epoch, now.batch)
        for pictures, labels in self._read(self.train_loader, f"epoch {now.epoch + 1}", now.batch):
            # Dropout, mixup and outliers: a stream of its own for each step needs no random state in a
            # checkpoint.
            stream = np.random.SeedSequence([self.cfg.seed, now.step, self.fabric.global_rank])
            torch.manual_seed(int(stream.generate_state(1)[0]))
            share = self.model.rate(now.step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            if self.outliers:
                pictures = self.outliers.add(pictures)
            loss = self.module.training_step((pictures, labels), now.batch)
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            self.optimizer.step()
            self.model.on_train_batch_end()
            self.pending.append(loss.detach())
            now.batch += 1
            now.step += 1
            if now.batch % every == 0 or now.batch == self.batches:
                self._settle()

    @torch.no_grad()
    def _judge_epoch(self) -> None:
        now, world = self.progress, self.fabric.world_size
        self.module.eval()
        self.metrics.reset()
        total = torch.zeros(2, dtype=torch.float64, device=self.fabric.device)
        # All processes have as many batches before any of them asks the others whether to stop.
        common = len(self.watched) // world // self.cfg.model.batch_size
        for number, (pictures, labels) in enumerate(self._read(self.val_loader, "validation")):
            logits, loss = self.module.validation_step((pictures, labels), number)
            self.metrics.update(logits, labels)
            total += torch.stack([loss.double() * len(labels), torch.tensor(len(labels), device=loss.device)])
            if number < common:
                self._settle()
        figures = {key: float(value) for key, value in self.metrics.compute().items()}
        summed, count = self.fabric.all_reduce(total, reduce_op="sum").tolist()

        now.epoch += 1
        row = {
            "step": len(now.rows),
            "epoch": now.epoch,
            "pictures_seen": now.epoch * self.sampler.used,
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "train/loss": now.loss / (self.batches * world),
            "val/loss": summed / count,
            **figures,
        }
        now.rows.append(row)
        now.batch, now.loss = 0, 0.0
        if row["val/top1"] > now.best:
            now.best, now.best_epoch, now.weights = row["val/top1"], now.epoch, self._kept()
        if self.fabric.is_global_zero:
            self._save()
            self.tell(now.rows)
            if not os.isatty(2):  # the bar tells it on a terminal
                print(
                    f"train: {self.cfg.model.name} epoch {now.epoch}/{self.cfg.model.epochs}, "
                    f"loss {row['train/loss']:.3f}, val top-1 {row['val/top1']:.1%}, "
                    f"{self._timed().seconds:.0f} s",
                    flush=True,
                )

    def _kept(self) -> dict[str, torch.Tensor]:
        """A copy of the weights that would be kept now."""
        weights = self.model.kept().state_dict()
        return {name: value.detach().cpu().clone() for name, value in weights.items()}

    def _settle(self) -> None:
        """Adds up the losses since the last time, and does together what SIGTERM or the clock ask for.

        All processes come here after the same steps, and learn the same.
        """
        now, world = self.progress, self.fabric.world_size
        asked = torch.tensor([float(self.stop_asked)], device=self.fabric.device)
        mine = torch.cat([asked, *(loss.float().reshape(1) for loss in self.pending)])
        theirs = (self.fabric.all_gather(mine) if world > 1 else mine).reshape(world, -1).double().cpu()
        self.pending = []
        losses = theirs[:, 1:]
        if not torch.isfinite(losses).all():
            self._tell_not_finite(losses)
        # Batch by batch: the sum may not depend on how often it is made.
        for loss in losses.T.sum(dim=1).tolist():
            now.loss += loss
        if theirs[:, 0].any():
            if self.fabric.is_global_zero:
                self._save()
            self.fabric.barrier()
            raise StoppedError(
                f"SIGTERM; epoch {now.epoch + 1} is kept at batch {now.batch} of {self.batches}, "
                "the same command goes on from there"
            )
        minutes = (time.monotonic() - self.saved) / 60
        if self.fabric.is_global_zero and losses.numel() and minutes >= self.cfg.trainer.checkpoint_minutes:
            self._save()

    def _tell_not_finite(self, losses: torch.Tensor) -> NoReturn:
        """Names the first batch whose loss is no number.

        Args:
            losses: processes × batches, up to now.
        """
        now, batch = self.progress, self.cfg.model.batch_size
        number = int((~torch.isfinite(losses)).any(dim=0).nonzero()[0])
        rank = int((~torch.isfinite(losses[:, number])).nonzero()[0])
        first = (now.batch - losses.shape[1] + number) * batch
        seen = EpochSampler(
            len(self.learning), self.cfg.seed, batch, rank, self.fabric.world_size, self.sampler.chances
        )
        places = seen.order(now.epoch)[first : first + batch]
        names = ", ".join(self.pack.table["path"].iloc[self.learning.rows[places]])
        last = self.kept.latest() if self.fabric.is_global_zero else None
        raise SharedError(
            f"epoch {now.epoch + 1}, batch {first // batch + 1}: the loss is {float(losses[rank, number])}; "
            f"its pictures: {names}; last good checkpoint: {last or 'none'}; "
            "choose a lower model.lr, or look at these pictures"
        )

    def _read(self, batches: DataLoader, title: str, done: int = 0) -> Iterator:
        """Batches on the device; a bar on a terminal.

        Raises:
            UserError: a worker was killed.
        """
        from tqdm import tqdm

        length = len(batches)
        # No bar for other processes or files.
        shown = None if self.fabric.is_global_zero else True
        bar = tqdm(batches, title, length, initial=done, disable=shown, leave=False)
        try:
            for pictures, labels in bar:
                yield pictures.to(self.fabric.device, non_blocking=True), labels.to(self.fabric.device)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "a loader's worker was killed, most often for want of memory "
                f"({str(error).splitlines()[0]}); "
                "choose fewer trainer.workers; the same command goes on from the last checkpoint"
            ) from error

    def _timed(self) -> Progress:
        moment = time.monotonic()
        self.progress.seconds += moment - self.began
        self.began = moment
        return self.progress

    def _save(self) -> None:
        tree = {
            "progress": asdict(self._timed()),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.kept.write(self.progress.step, tree)
        self.saved = time.monotonic()

    def _restore(self, tree: dict) -> None:
        self.model.load_state_dict(tree["model"])
        self.optimizer.load_state_dict(tree["optimizer"])
        self.progress = Progress(**tree["progress"])
        if self.fabric.is_global_zero:
            at = f", batch {self.progress.batch}" if self.progress.batch else ""
            print(f"train: goes on after epoch {self.progress.epoch}{at}", flush=True)

    @contextmanager
    def _terminable(self) -> Iterator[None]:
        """Within, SIGTERM is answered after the batch that is being worked on."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return

        def ask(*_) -> None:
            self.stop_asked = True

        former = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)
