"""Lightning callbacks of a training: exact resuming, the curves, the weights that are kept.

A step depends on configuration, data and its number alone, so a checkpoint needs no random state.
"""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import Logger

from pipeline.artifacts.checkpoints import Checkpoints
from pipeline.common.errors import SharedError, StoppedError
from pipeline.evaluation.out_of_domain import Outliers

# Steps between two synchronizations of losses and stop requests: on a GPU each one waits for the device.
EVERY = {"cpu": 1, "cuda": 20}


def is_due(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether the ranks synchronize after this batch; the same on every rank."""
    return (batch_idx + 1) % EVERY.get(trainer.strategy.root_device.type, 1) == 0


class ExactResume(pl.Callback):
    """Checkpoints from which a training ends with the same bytes as if it had not been broken off.

    One is written before a step, where Lightning's counters say exactly what is done: at the beginning of
    each epoch, every few minutes, and when SIGTERM asks to stop; and one at the end. It has to be the first
    callback, since it seeds the step that the others may draw numbers in.

    Args:
        seed: of the training.
        minutes: between two checkpoints within an epoch.
        threads: of torch.
        began: when this process did, by ``time.monotonic``.
        kept: where the checkpoints are.
    """

    def __init__(self, seed: int, minutes: float, threads: int, began: float, kept: Checkpoints):
        self.seed, self.minutes, self.threads = seed, minutes, threads
        self.began, self.kept = began, kept
        self.seconds, self.is_done = 0.0, False
        self.stop_asked, self.saved, self.resumed_at = False, time.monotonic(), 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch.set_num_threads(self.threads)  # the launcher of further processes has set the machine's count

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.is_done

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.resumed_at = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's own handler, which stops at the end of an epoch, and with several
            # processes wherever the signal comes. Lightning puts the one before it back in the end.
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_) -> None:
        self.stop_asked = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seen = trainer.current_epoch * trainer.num_training_batches + batch_idx
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._save_or_stop(trainer, batch_idx)
        # Dropout, mixup and outliers: a stream of its own for each step.
        stream = np.random.SeedSequence([self.seed, seen, trainer.global_rank])
        torch.manual_seed(int(stream.generate_state(1)[0]))

    def _save_or_stop(self, trainer: pl.Trainer, batch_idx: int) -> None:
        is_new_epoch = batch_idx == 0 and trainer.global_step > self.resumed_at
        is_late, is_asked = False, False
        if batch_idx == 0 or is_due(trainer, batch_idx - 1):
            # The first process's clock decides, and a signal to any process stops all.
            minutes = (time.monotonic() - self.saved) / 60
            is_late = self._any(trainer, trainer.is_global_zero and minutes >= self.minutes)
            is_asked = self._any(trainer, self.stop_asked)
        if is_new_epoch or is_late or is_asked:
            self.save(trainer)
        if is_asked:
            raise StoppedError(
                f"SIGTERM; epoch {trainer.current_epoch + 1} is kept at batch {batch_idx} of "
                f"{trainer.num_training_batches}, the same command goes on from there"
            )

    @staticmethod
    def _any(trainer: pl.Trainer, mine: bool) -> bool:
        return trainer.strategy.reduce_boolean_decision(mine, all=False)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a checkpoint; all processes call it."""
        if not trainer.fast_dev_run:
            trainer.save_checkpoint("")
        self.saved = time.monotonic()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, *_: int
    ) -> None:
        # Some processes may have a batch more than others at the end.
        common = len(trainer.datamodule.val_set) // trainer.world_size // trainer.datamodule.batch_size
        if (trainer.world_size == 1 or batch_idx < common) and self._any(trainer, self.stop_asked):
            raise StoppedError(
                f"SIGTERM; epoch {trainer.current_epoch + 1} is trained and not yet validated, the same "
                "command goes on from the last checkpoint"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Killed before the results are written, the same command has them again in seconds.
        self.is_done = True
        self.save(trainer)
        if self._any(trainer, self.stop_asked):
            raise StoppedError("SIGTERM; the training is done, the same command goes on from there")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, KeyboardInterrupt):
            raise exception  # Lightning would end the program here, before it is written down

    def elapsed(self) -> float:
        """Seconds that the training has taken, in all attempts."""
        now = time.monotonic()
        self.seconds += now - self.began
        self.began = now
        return self.seconds

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.elapsed(), "is_done": self.is_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.is_done = state_dict["seconds"], state_dict["is_done"]


class OutlierExposure(pl.Callback):
    """Adds drawn patterns of no class to each training batch (arXiv:1812.04606)."""

    def __init__(self, outliers: Outliers):
        self.outliers = outliers

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: list, batch_idx: int
    ) -> None:
        batch[0] = self.outliers.add(batch[0])


class LastValues(Logger):
    """Lets callbacks log to ``trainer.logger``, as LearningRateMonitor does.

    Attributes:
        values: the last one of each metric; a row of ``curves.csv`` takes them.
    """

    def __init__(self):
        super().__init__()
        self.values: dict[str, float] = {}

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.values |= {key: float(value) for key, value in metrics.items()}

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is recorded anyway."""


class Curves(pl.Callback):
    """The rows of ``curves.csv``, one an epoch, and the sum of the losses within an epoch.

    Args:
        rows: those before the first epoch.
        tell: is given all rows after each epoch, in the first process of several.
        title: of the model, for the line that each epoch leaves.
        resume: knows the time that was spent, and the last checkpoint.

    Attributes:
        logger: of the trainer.
    """

    def __init__(
        self,
        rows: list[dict],
        tell: Callable[[list[dict]], None] | None,
        title: str,
        resume: ExactResume,
    ):
        self.rows, self.tell, self.title, self.resume = rows, tell, title, resume
        self.loss, self.lr, self.batches, self.seen = 0.0, 0.0, 0, 0
        self.pending: list[torch.Tensor] = []
        self.logger = LastValues()
        self.started = (0.0, 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = (time.monotonic(), trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning has divided it by the number of batches that a step accumulates.
        self.pending.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        self.seen += len(batch[1]) * trainer.world_size
        if is_due(trainer, batch_idx) or batch_idx + 1 == trainer.num_training_batches:
            self._sum_up(trainer, batch_idx)

    def _sum_up(self, trainer: pl.Trainer, batch_idx: int) -> None:
        """Adds up the losses since the last time, of all processes."""
        mine = torch.stack(self.pending).float()
        losses = trainer.strategy.all_gather(mine).reshape(trainer.world_size, -1).double().cpu()
        self.pending = []
        if not torch.isfinite(losses).all():
            self._tell_not_finite(trainer, losses, batch_idx)
        # Batch by batch: the sum may not depend on how often it is made.
        for loss in losses.T.sum(dim=1).tolist():
            self.loss += loss
        self.batches += losses.shape[1]

    def _tell_not_finite(self, trainer: pl.Trainer, losses: torch.Tensor, batch_idx: int) -> NoReturn:
        """Names the first batch whose loss is no number.

        Args:
            trainer: the trainer.
            losses: processes × batches, up to now.
            batch_idx: of the last of them.
        """
        number = int((~torch.isfinite(losses)).any(dim=0).nonzero()[0])
        rank = int((~torch.isfinite(losses[:, number])).nonzero()[0])
        batch = batch_idx + 1 - losses.shape[1] + number
        last = self.resume.kept.latest() if trainer.is_global_zero else None
        epoch, loss = trainer.current_epoch, float(losses[rank, number])
        raise SharedError(
            f"epoch {epoch + 1}, batch {batch + 1}: the loss is {loss}; "
            f"its pictures: {', '.join(trainer.datamodule.names(epoch, batch, rank))}; "
            f"last good checkpoint: {last or 'none'}; choose a lower model.lr, or look at these pictures"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.pending:  # stopped within the epoch, by its time
            self._sum_up(trainer, self.batches + len(self.pending) - 1)
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        row = {
            "step": len(self.rows),
            "epoch": epoch,
            "pictures_seen": self.seen,
            "lr": self.lr,
            "train/loss": self.loss / (self.batches * trainer.world_size),
            "val/loss": logged["val/loss"],
        }
        logged |= self.logger.values
        row |= {key: logged[key] for key in sorted(logged) if key not in row}
        self.rows.append(row)
        self.loss, self.batches = 0.0, 0
        if self.tell and trainer.is_global_zero:
            self.tell(self.rows)
            seconds = self.resume.elapsed()
            since, first = self.started
            left = (time.monotonic() - since) / (epoch - first) * (trainer.max_epochs - epoch)
            print(
                f"train: {self.title} epoch {epoch}/{trainer.max_epochs}, "
                f"loss {row['train/loss']:.3f}, val {pl_module.task.describe(row, 'val', 1)}, {seconds:.0f} s"
                + (f", {left:.0f} s left" if left else ""),
                flush=True,
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "loss": self.loss,
            "batches": self.batches,
            "seen": self.seen,
            "logged": self.logger.values,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.loss, self.batches = (state_dict[key] for key in ("rows", "loss", "batches"))
        self.seen, self.logger.values = state_dict["seen"], state_dict["logged"]


class KeepBest(pl.Callback):
    """The weights of the epoch that is best on validation, averaged ones where there are such.

    It stands before the callback that averages: that one takes the averaged weights out of the model again
    at the end of a validation.

    Args:
        monitor: the figure that decides; larger is better.

    Attributes:
        best: figure of the kept weights, or None.
        weights: the kept weights.
    """

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.best: float | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figure = float(trainer.callback_metrics[self.monitor])
        if self.best is None or figure > self.best:
            self.best, self.weights = figure, copied(pl_module.net)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.weights = state_dict["best"], state_dict["weights"]


def copied(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's weights, on the processor."""
    return {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}


def averaging(decay: float) -> WeightAveraging:
    """A moving average of the weights (Polyak, Juditsky 1992); buffers are those of the last step.

    Args:
        decay: reached after a while: at first the average follows quickly, else a short training would keep
            its random beginning (as TensorFlow's ExponentialMovingAverage with num_updates does).
    """

    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor) -> None:
        done = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + done) / (10 + done)))

    return WeightAveraging(use_buffers=False, multi_avg_fn=average)
