"""Trains with Lightning's Trainer, resuming an interrupted attempt."""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from models import probe
from pipeline.artifacts.checkpoints import Checkpoints, load_checkpoint
from pipeline.common import log
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.data.dataset import ImageDataset, eval_transform
from pipeline.evaluation.out_of_domain import Outliers
from pipeline.tasks import best_row
from pipeline.training import callbacks, components
from pipeline.training.build import Training
from pipeline.training.callbacks import EpochHook
from pipeline.training.datamodule import ImageData
from pipeline.training.features import features

_log = logging.getLogger(__name__)

for _name in ("pytorch_lightning", "lightning_fabric"):  # hides tips and device listings
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class FitResult:
    """The results of a training except the weights, which are in the model.

    Attributes:
        rows: rows of ``curves.csv``.
        seconds: training time over all attempts.
    """

    rows: list[dict]
    seconds: float


class HashedCheckpoints(TorchCheckpointIO):
    """Saves a checkpoint whose path is empty to `Checkpoints`, which names the file by step and hash."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        if path:  # from a ModelCheckpoint in the user's config
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            self.checkpoints.write(checkpoint["global_step"], checkpoint)

    def load_checkpoint(self, path: str, *_: Any, **__: Any) -> dict[str, Any]:
        return load_checkpoint(Path(path))


def fit(
    training: Training, checkpoints: Checkpoints, started_at: float, after_epoch: EpochHook = None
) -> FitResult:
    """Fits the head, the whole network or both; the model gets the weights that are best on validation.

    Args:
        training: with the initial weights.
        checkpoints: training resumes from the newest.
        started_at: start of this process, by ``time.monotonic``.
        after_epoch: see `callbacks.EpochHook`.

    Raises:
        StoppedError: SIGTERM was received.
        SharedError: the loss is not finite.
        UserError: the machine lacks the requested device, or a DataLoader worker was killed.
    """
    model, card, cfg = training.model, training.card, training.cfg
    last = None if cfg.trainer.get("fast_dev_run") else checkpoints.latest()
    rows = fit_head(training) if cfg.model.head == "probe" and not last else []
    if cfg.model.epochs == 0:
        return FitResult(rows, time.monotonic() - started_at)

    data = ImageData(training)
    minutes, threads = cfg.runtime.checkpoint_minutes, cfg.runtime.threads
    exact_resume = callbacks.ExactResume(cfg.seed, minutes, threads, started_at, checkpoints)
    curves = callbacks.Curves(rows, after_epoch, card.name, exact_resume)
    monitor = model.task.monitor
    best = callbacks.KeepBest(monitor)
    stopping = EarlyStopping(monitor, mode="max", min_delta=0.0, patience=cfg.model.patience)
    if rows:  # the fitted head counts as epoch 0, so the kept weights are never worse on validation
        best.rows, best.weights = list(rows), callbacks.cpu_weights(model.net)
        stopping.best_score = torch.tensor(rows[0][monitor], dtype=torch.float64)
    outliers = math.ceil(cfg.model.get("outliers", 0.0) * cfg.model.batch_size)
    trainer_callbacks = [
        exact_resume,
        *([callbacks.OutlierExposure(Outliers(outliers, card.input))] if outliers else []),
        *components.callbacks(OmegaConf.to_container(cfg.callbacks, resolve=True)),
        curves,
        best,
        *([callbacks.weight_ema(cfg.model.ema)] if cfg.model.ema else []),
        stopping,
    ]
    trainer = _trainer(cfg, HashedCheckpoints(checkpoints), trainer_callbacks, curves.logger)

    if last:
        epoch, batch = _progress(load_checkpoint(last))
        data.resume(epoch, batch)
        if trainer.is_global_zero:
            _log.info("resuming after epoch %d%s", epoch, f", batch {batch}" if batch else "")
    model.train()  # feature extraction left it in eval mode
    with _user_facing_problems():
        trainer.fit(model, data, ckpt_path=last)
    if not best.weights:
        raise UserError("trainer.max_time ended before the first validation; increase or remove it")
    if not cfg.trainer.get("fast_dev_run"):
        model.net.load_state_dict(best.weights)
    return FitResult(curves.rows, exact_resume.elapsed())


def fit_head(training: Training) -> list[dict]:
    """Fits the linear head on cached features.

    Returns:
        Curve rows: one per regularization strength, or epoch 0 if fine-tuning follows.
    """
    cfg, pack, resize = training.cfg, training.pack, eval_transform(training.card.input)
    datasets = [ImageDataset(pack, pack.rows(split), resize) for split in ("train", "val")]
    parts = [(features(training, dataset), dataset.targets) for dataset in datasets]
    balanced = cfg.model.balance != "none"
    c_values = list(cfg.model.inverse_regularization)
    weight, bias, results = probe.fit_head(*parts, c_values, pack.task, balanced)
    probe.set_head(training.model.net.get_classifier(), weight, bias)
    if cfg.model.epochs > 0:  # fine-tuning starts from the best head
        return [{"step": 0, "epoch": 0, "pictures_seen": 0, **best_row(results, pack.task.monitor)}]
    return [{"step": step, **row} for step, row in enumerate(results)]


def _progress(checkpoint: dict) -> tuple[int, int]:
    """Completed epochs, and completed batches of the next epoch."""
    loop = checkpoint["loops"]["fit_loop"]
    epoch = loop["epoch_progress"]["current"]["processed"]
    return epoch, loop["epoch_loop.batch_progress"]["current"]["completed"]


def _trainer(
    cfg: DictConfig, checkpoint_io: HashedCheckpoints, trainer_callbacks: list[pl.Callback], logger: Logger
) -> pl.Trainer:
    """Lightning's Trainer with the arguments in ``conf/trainer/``.

    Raises:
        UserError: the machine lacks these devices, or Lightning rejects an argument.
    """
    defaults = {
        "enable_model_summary": False,
        "enable_progress_bar": os.isatty(1) and not log.is_quiet(),
        "log_every_n_steps": 1,  # Lightning's default of 50 may exceed an epoch
    }
    options = OmegaConf.to_container(cfg.trainer, resolve=True)
    options = {key: value for key, value in options.items() if value is not None}  # null: Lightning's default
    if "profiler" in options:  # the profile is logged at this level
        logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    try:
        return pl.Trainer(
            **defaults | options,
            max_epochs=cfg.model.epochs,
            callbacks=trainer_callbacks,
            plugins=[checkpoint_io],
            logger=logger,
            enable_checkpointing=any(isinstance(each, Checkpoint) for each in trainer_callbacks),
            default_root_dir=ROOT / "runs/checkpoints" / checkpoint_io.checkpoints.folder.parent.name,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:
        is_cpu = cfg.trainer.accelerator == "cpu"
        advice = "" if is_cpu else "; this machine may have fewer devices, try trainer=cpu"
        raise UserError(f"trainer: {' '.join(str(error).split())[:300]}{advice}") from error


@contextmanager
def _user_facing_problems() -> Iterator[None]:
    """Hides warnings that a user can't act on, and turns errors that a user can fix into UserErrors.

    Raises:
        UserError: a DataLoader worker was killed, or Lightning rejects a callback's arguments.
    """
    try:
        with warnings.catch_warnings():
            # Advice on DataLoaders: it calls ours not resumable, but its sampler is.
            warnings.simplefilter("ignore", PossibleUserWarning)
            # PyTorch's deprecation warnings about calls inside Lightning.
            modules = r"pytorch_lightning\.utilities\._pytree|lightning_fabric\.utilities\.distributed"
            warnings.filterwarnings("ignore", module=modules)
            yield
    except MisconfigurationException as error:
        raise UserError(f"trainer: {' '.join(str(error).split())[:300]}") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a DataLoader worker was killed, probably for lack of memory ({str(error).splitlines()[0]}); "
            "choose fewer runtime.workers; training continues from the last checkpoint"
        ) from error
