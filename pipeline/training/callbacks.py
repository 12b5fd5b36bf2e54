"""Lightning callbacks: exact resuming, training curves, the best weights.

Each step depends only on config, data and step number, so a checkpoint needs no RNG state.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers.logger import DummyLogger

from pipeline.artifacts.checkpoints import Checkpoints
from pipeline.common.errors import SharedError, StoppedError
from pipeline.evaluation.out_of_domain import Outliers
from pipeline.tasks import best_row

_log = logging.getLogger(__name__)

# Called on rank 0 with all rows of the curves after each epoch.
EpochHook = Callable[[list[dict]], None] | None

# Steps between syncs of losses and stop requests; on a GPU each sync waits for the device.
SYNC_INTERVAL = {"cpu": 1, "cuda": 20}


def is_sync_step(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the ranks sync after this batch; the same on every rank."""
    return (batch_idx + 1) % SYNC_INTERVAL.get(trainer.strategy.root_device.type, 1) == 0


class ExactResume(pl.Callback):
    """Writes checkpoints from which a resumed training gives the same bytes as an uninterrupted one.

    It saves before a step, when Lightning's progress counters are exact: at the start of each epoch, every
    few minutes, and on SIGTERM. It also saves at the end. It must be the first callback, because it seeds the
    RNG that other callbacks may use in the same step.

    Args:
        seed: the training's seed.
        minutes: time between two checkpoints within an epoch.
        threads: number of torch threads.
        started_at: start of this process, by ``time.monotonic``.
        checkpoints: the training's checkpoints.
    """

    def __init__(self, seed: int, minutes: float, threads: int, started_at: float, checkpoints: Checkpoints):
        self.seed, self.minutes, self.threads, self.checkpoints = seed, minutes, threads, checkpoints
        self.seconds, self.elapsed_counted_at, self.is_done = 0.0, started_at, False
        self.stop_requested, self.last_save, self.resumed_step = False, time.monotonic(), 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch.set_num_threads(self.threads)  # Lightning's launcher has overridden it

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.is_done

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.resumed_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            # Replaces Lightning's handler, which stops only at the end of an epoch, and with several
            # processes not at the same step. Lightning restores the previous handler at the end.
            signal.signal(signal.SIGTERM, self._request_stop)

    def _request_stop(self, *_) -> None:
        self.stop_requested = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batches_done = trainer.current_epoch * trainer.num_training_batches + batch_idx
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._save_or_stop(trainer, batch_idx)
        # One RNG stream per batch, for dropout, mixup and outlier patterns.
        stream = np.random.SeedSequence([self.seed, batches_done, trainer.global_rank])
        torch.manual_seed(int(stream.generate_state(1)[0]))

    def _save_or_stop(self, trainer: pl.Trainer, batch_idx: int) -> None:
        is_new_epoch = batch_idx == 0 and trainer.global_step > self.resumed_step
        is_due_to_save, must_stop = False, False
        if batch_idx == 0 or is_sync_step(trainer, batch_idx - 1):
            # Rank 0's clock decides when to save; a signal to any rank stops all of them.
            minutes = (time.monotonic() - self.last_save) / 60
            is_due_to_save = self._any_rank(trainer, trainer.is_global_zero and minutes >= self.minutes)
            must_stop = self._any_rank(trainer, self.stop_requested)
        if is_new_epoch or is_due_to_save or must_stop:
            self.save(trainer)
        if must_stop:
            raise StoppedError(
                f"SIGTERM; epoch {trainer.current_epoch + 1} is saved at batch {batch_idx} of "
                f"{trainer.num_training_batches}; run the same command again to continue there"
            )

    @staticmethod
    def _any_rank(trainer: pl.Trainer, local: bool) -> bool:
        """Whether `local` is true on any rank; every rank must call it."""
        return trainer.strategy.reduce_boolean_decision(local, all=False)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a checkpoint; every rank must call it."""
        if not trainer.fast_dev_run:
            trainer.save_checkpoint("")  # without a path, fit.py's HashedCheckpoints chooses the file
        self.last_save = time.monotonic()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, *_: int
    ) -> None:
        # Syncs only in batches that every rank has; some ranks may have one more at the end.
        data, ranks = trainer.datamodule, trainer.world_size
        batches_on_every_rank = len(data.val_set) // ranks // data.batch_size
        may_sync = ranks == 1 or batch_idx < batches_on_every_rank
        if may_sync and self._any_rank(trainer, self.stop_requested):
            raise StoppedError(
                f"SIGTERM; epoch {trainer.current_epoch + 1} is trained and not yet validated; run the "
                "same command again to continue from the last checkpoint"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run killed before it writes its results can then be resumed in seconds.
        self.is_done = True
        self.save(trainer)
        if self._any_rank(trainer, self.stop_requested):
            raise StoppedError("SIGTERM; training is done; run the same command again to write its results")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            raise exception  # Lightning would exit here, before the run is recorded as failed

    def elapsed(self) -> float:
        """Seconds spent on this training, over all attempts."""
        now = time.monotonic()
        self.seconds += now - self.elapsed_counted_at
        self.elapsed_counted_at = now
        return self.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed(), "is_done": self.is_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.is_done = state_dict["seconds"], state_dict["is_done"]


class OutlierExposure(pl.Callback):
    """Outlier exposure: adds out-of-domain patterns to each training batch (arXiv:1812.04606)."""

    def __init__(self, outliers: Outliers):
        self.outliers = outliers

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: list, batch_idx: int
    ) -> None:
        batch[0] = self.outliers.add(batch[0])


class LatestMetricsLogger(DummyLogger):
    """Keeps the metrics that callbacks such as LearningRateMonitor log to ``trainer.logger``, nothing else.

    Attributes:
        values: the last value of each metric, for the next row of ``curves.csv``.
    """

    def __init__(self):
        super().__init__()
        self.values: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.values |= {key: float(value) for key, value in metrics.items()}


class Curves(pl.Callback):
    """Collects the rows of ``curves.csv``, one per epoch, and logs a line per epoch.

    Args:
        rows: rows before the first epoch.
        after_epoch: see `EpochHook`.
        title: the model's name in the logged line.
        exact_resume: provides the elapsed time and the last checkpoint.

    Attributes:
        logger: the logger to pass to the trainer.
    """

    def __init__(self, rows: list[dict], after_epoch: EpochHook, title: str, exact_resume: ExactResume):
        self.rows, self.after_epoch, self.title, self.exact_resume = rows, after_epoch, title, exact_resume
        self.loss, self.lr, self.batches, self.images_seen = 0.0, 0.0, 0, 0
        self.pending: list[torch.Tensor] = []  # losses of the batches since the last sync
        self.logger = LatestMetricsLogger()
        self.started_at, self.first_epoch = 0.0, 0  # of this attempt

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started_at, self.first_epoch = time.monotonic(), trainer.current_epoch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning has divided the loss by accumulate_grad_batches.
        self.pending.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        self.images_seen += len(batch[1]) * trainer.world_size
        if is_sync_step(trainer, batch_idx) or batch_idx + 1 == trainer.num_training_batches:
            self._accumulate_losses(trainer, batch_idx)

    def _accumulate_losses(self, trainer: pl.Trainer, batch_idx: int) -> None:
        """Adds the losses of all ranks since the last sync."""
        local = torch.stack(self.pending).float()
        losses = trainer.strategy.all_gather(local).reshape(trainer.world_size, -1).double().cpu()
        self.pending = []
        if not torch.isfinite(losses).all():
            self._raise_not_finite(trainer, losses, batch_idx)
        # Batch by batch, so that the sum does not depend on how often the ranks sync.
        for loss in losses.T.sum(dim=1).tolist():
            self.loss += loss
        self.batches += losses.shape[1]

    def _raise_not_finite(self, trainer: pl.Trainer, losses: torch.Tensor, batch_idx: int) -> NoReturn:
        """Raises a SharedError that names the first batch with a non-finite loss.

        Args:
            trainer: the trainer.
            losses: ranks × batches since the last sync.
            batch_idx: index of the last of these batches.
        """
        column = int((~torch.isfinite(losses)).any(dim=0).nonzero()[0])
        rank = int((~torch.isfinite(losses[:, column])).nonzero()[0])
        batch = batch_idx + 1 - losses.shape[1] + column
        last = self.exact_resume.checkpoints.latest() if trainer.is_global_zero else None
        epoch, loss = trainer.current_epoch, float(losses[rank, column])
        raise SharedError(
            f"epoch {epoch + 1}, batch {batch + 1}: the loss is {loss}; "
            f"its pictures: {', '.join(trainer.datamodule.image_paths(epoch, batch, rank))}; "
            f"last good checkpoint: {last or 'none'}; choose a lower model.lr, or look at these pictures"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.pending:  # trainer.max_time ended the epoch early
            self._accumulate_losses(trainer, self.batches + len(self.pending) - 1)
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        row = {
            "step": len(self.rows),
            "epoch": epoch,
            "pictures_seen": self.images_seen,  # the name of a recorded column
            "lr": self.lr,
            "train/loss": self.loss / (self.batches * trainer.world_size),
            "val/loss": logged["val/loss"],
        }
        logged |= self.logger.values
        row |= {key: logged[key] for key in sorted(logged) if key not in row}
        self.rows.append(row)
        self.loss, self.batches = 0.0, 0
        if trainer.is_global_zero:
            if self.after_epoch:
                self.after_epoch(self.rows)
            seconds = self.exact_resume.elapsed()
            seconds_per_epoch = (time.monotonic() - self.started_at) / (epoch - self.first_epoch)
            remaining = seconds_per_epoch * (trainer.max_epochs - epoch)
            _log.info(
                "%s epoch %d/%d, loss %.3f, val %s, %.0f s%s",
                self.title,
                epoch,
                trainer.max_epochs,
                row["train/loss"],
                pl_module.task.describe(row, "val", 1),
                seconds,
                f", {remaining:.0f} s left" if remaining else "",
            )

    def state_dict(self) -> dict[str, Any]:
        sums = {"loss": self.loss, "batches": self.batches, "seen": self.images_seen}
        return {"rows": self.rows, **sums, "logged": self.logger.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.logger.values = state_dict["rows"], state_dict["logged"]
        self.loss, self.batches, self.images_seen = (state_dict[key] for key in ("loss", "batches", "seen"))


class KeepBest(pl.Callback):
    """Keeps the weights (EMA weights if there are any) of the epoch with the best monitored metric.

    It must come before the WeightAveraging callback, which swaps the averaged weights out again at the end
    of validation.

    Args:
        monitor: the monitored metric; larger is better.

    Attributes:
        rows: the monitored metric by epoch.
        weights: the kept weights.
    """

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.rows: list[dict] = []
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        self.rows.append({"epoch": trainer.current_epoch + 1, self.monitor: value})
        if best_row(self.rows, self.monitor) is self.rows[-1]:
            self.weights = cpu_weights(pl_module.net)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.weights = state_dict["rows"], state_dict["weights"]


def cpu_weights(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's state dict on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}


def weight_ema(decay: float) -> WeightAveraging:
    """A callback for an exponential moving average of the weights (Polyak, Juditsky 1992), without buffers.

    Args:
        decay: the final decay. It starts lower, so that the initialization does not dominate the average in a
            short training (like TensorFlow's ExponentialMovingAverage with num_updates).
    """

    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor) -> None:
        done = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + done) / (10 + done)))

    return WeightAveraging(use_buffers=False, multi_avg_fn=update)
