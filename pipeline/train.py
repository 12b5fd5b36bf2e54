"""Stage train: one model from one configuration; `train(cfg)` serves DVC, single runs and sweeps alike."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline import config
from pipeline.config import ROOT, UserError
from pipeline.lineage import lineage_of, settings_of


def _fit_head(model, card: dict, pack, cfg: DictConfig) -> list[dict]:
    """Fits the linear head on cached features.

    Returns:
        Curve rows: one per strength of regularisation, or epoch 0 of a fine-tuning.
    """
    from models import probe
    from pipeline.features import features

    parts = {}
    for split in ("train", "val"):
        rows = pack.rows(split)
        x = features(model, card, pack, rows, cfg.model.batch_size, cfg.trainer.workers)
        parts[split] = (x, pack.table["target"].to_numpy()[rows])
    balanced = cfg.model.balance != "none"
    weight, bias, tried = probe.fit_head(parts["train"], parts["val"], list(cfg.model.strengths), balanced)
    probe.set_head(model.net.get_classifier(), weight, bias)
    if cfg.model.epochs > 0:  # fine-tuning begins where the kept head stands
        start = min(tried, key=lambda row: row["val/loss"])
        return [{"step": 0, "epoch": 0, "pictures_seen": 0, **start}]
    return [{"step": step, **row} for step, row in enumerate(tried)]


def _trainer(cfg: DictConfig, callbacks: list):
    """Lightning's Trainer as ``conf/trainer/`` says.

    Raises:
        UserError: the machine has no such device, or too few.
    """
    import logging
    import warnings

    import pytorch_lightning as pl
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    # Advertisements and a list of devices that are not there; warnings still come through.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Lightning 2.6 calls a function that torch 2.15 renames; nothing here can change that.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    # Two workers on two cores are what conf/trainer/cpu.yaml was measured with.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    try:
        return pl.Trainer(
            accelerator=cfg.trainer.accelerator,
            devices=cfg.trainer.devices,
            strategy=cfg.trainer.strategy,
            precision=cfg.trainer.precision,
            deterministic=cfg.trainer.deterministic,
            max_epochs=cfg.model.epochs,
            callbacks=callbacks,
            logger=False,  # the Curves callback writes the file first and MLflow from it
            enable_model_summary=False,
            enable_progress_bar=os.isatty(2),
            use_distributed_sampler=False,  # EpochSampler shares out by itself, without padding
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(
            f"trainer: {' '.join(str(error).split())[:300]}; "
            "this machine may have fewer devices, try trainer=cpu"
        ) from error


def _fit(model, card: dict, pack, cfg: DictConfig, run, rows: list[dict], work: Path) -> None:
    """Trains the whole network and leaves the best epoch's weights in it; appends a curve row per epoch."""
    import pytorch_lightning as pl
    import torch

    from pipeline import augment
    from pipeline.data import EpochSampler, Pictures, balanced_chances, loader, still

    batch, workers, size = cfg.model.batch_size, cfg.trainer.workers, card["input"]["size"]
    learning = Pictures(
        pack,
        pack.rows("train"),
        augment.build(list(OmegaConf.to_container(cfg.augment.transforms)), size),
        cfg.seed,
    )
    watched = Pictures(pack, pack.rows("val"), still(card["input"]), cfg.seed)

    class Curves(pl.Callback):
        """A row per epoch: into the list that becomes ``curves.csv``, and from there to MLflow."""

        def __init__(self):
            self.began = time.monotonic()

        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
            rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            epoch = trainer.current_epoch + 1
            seen = epoch * sampler.used
            step = len(rows)
            rows.append({"step": step, "epoch": epoch, "pictures_seen": seen, "lr": rate, **figures})
            if trainer.is_global_zero:
                run.push(rows)
                if not os.isatty(2):  # the bar tells it on a terminal
                    print(
                        f"train: {cfg.model.name} epoch {epoch}/{cfg.model.epochs}, "
                        f"loss {figures['train/loss']:.3f}, val top-1 {figures['val/top1']:.1%}, "
                        f"{time.monotonic() - self.began:.0f} s",
                        flush=True,
                    )

    best = pl.callbacks.ModelCheckpoint(
        work, monitor="val/top1", mode="max", save_top_k=1, save_weights_only=True
    )
    stop = pl.callbacks.EarlyStopping("val/top1", mode="max", patience=cfg.model.patience)
    callbacks = [Curves(), best, stop]
    if os.isatty(2):
        callbacks.append(pl.callbacks.TQDMProgressBar())
    trainer = _trainer(cfg, callbacks)
    # Known before the processes are: the launcher starts them within fit.
    rank, world = int(os.environ.get("LOCAL_RANK", 0)), trainer.world_size
    chances = balanced_chances(learning.targets) if cfg.model.balance == "sampler" else None
    sampler = EpochSampler(len(learning), cfg.seed, batch, rank, world, chances)
    quiet = range(rank, len(watched), world)
    # Lightning keeps the modes it finds, and computing features has left the network judging.
    model.train()
    trainer.fit(
        model,
        loader(learning, batch, workers, sampler),
        loader(watched, batch, workers, quiet),
    )
    if trainer.is_global_zero:  # the others are done, and the file goes with the work folder
        best_state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(best_state)


def train(cfg: DictConfig, name: str | None = None, sweep: str | None = None) -> dict[str, float]:
    """Trains one model and leaves one folder, ``cfg.out``.

    In it: ``weights.safetensors`` with ``model.json``, ``config.yaml`` (resolved), ``metrics.json``,
    ``curves.csv``, ``lineage.json``, and validation's confusions and worst mistakes as pictures. No clock,
    host or run id stands in it: equal runs are equal bytes.

    Args:
        cfg: a whole configuration.
        name: of the run in MLflow.
        sweep: the sweep that this is a job of.

    Returns:
        What ``metrics.json`` says: figures of the kept weights on validation, and the cost.

    Raises:
        UserError: no packed pictures, or a choice that can't be followed.
    """
    import pytorch_lightning as pl
    import torch

    from models.classifier import save
    from pipeline import curves, networks, tracking
    from pipeline.data import Pack

    out = config.from_root(cfg.out)
    if out.exists() and any(out.iterdir()) and not (out / "model.json").is_file():
        raise UserError(f"out={out} holds something else than a trained model; name another folder")
    pack = Pack.open(ROOT / "data" / cfg.data.name)
    torch.set_num_threads(cfg.trainer.threads)
    pl.seed_everything(cfg.seed, verbose=False)
    settings, lineage, card = (
        settings_of(cfg),
        lineage_of(pack, cfg.trainer.threads),
        networks.card(cfg, pack),
    )
    model, started = networks.build(cfg, card, pack)
    if started:
        lineage["start"] = started
    leader = int(os.environ.get("LOCAL_RANK", 0)) == 0
    run, unfinished = tracking.Run(None), out.with_name(out.name + ".part")
    if leader:
        # Now, not after an hour: a folder that can't be written is told before anything is trained.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        run = tracking.start(card, settings, lineage, name or f"{cfg.model.name} seed={cfg.seed}", sweep)
    work = config.main_checkout() / "runs/.work" / f"{out.parent.name}-{out.name}-{os.getpid()}"
    rows: list[dict] = []
    try:
        device = networks.device(cfg)
        if cfg.model.head == "probe":
            model.to(device)
            rows += _fit_head(model, card, pack, cfg)
        if cfg.model.epochs > 0:
            _fit(model, card, pack, cfg, run, rows, work)
        if not leader:
            return {}
        tracking.device(run, torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu")
        model.to(device)
        metrics = _judge(model, card, pack, cfg, unfinished)
        metrics |= _effort(rows) | model.cpu().cost(card["input"]["size"])
        save(model, card, unfinished)
        curves.write(rows, unfinished / "curves.csv")
        for file, tree in (("metrics.json", metrics), ("lineage.json", lineage)):
            (unfinished / file).write_text(json.dumps(tree, indent=2) + "\n")
        (unfinished / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
        shutil.rmtree(out, ignore_errors=True)
        os.replace(unfinished, out)
    except BaseException as error:
        run.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if leader:
            shutil.rmtree(unfinished, ignore_errors=True)
    run.push(rows)
    run.finish(out)
    return metrics


def _judge(model, card: dict, pack, cfg: DictConfig, folder: Path) -> dict[str, float]:
    """Figures of the kept weights on validation; draws its confusions and worst mistakes into the folder."""
    import torch

    from models.classifier import topk_metrics
    from pipeline import scores

    rows = pack.rows("val")
    probabilities = scores.predict(model, card, pack, rows, cfg.model.batch_size, cfg.trainer.workers)
    targets = pack.table["target"].to_numpy()[rows]
    scores.draw(pack, rows, probabilities, f"{cfg.model.name} on {cfg.data.name}, validation", folder)
    figures = topk_metrics(len(pack.classes), "val/")(
        torch.from_numpy(probabilities), torch.from_numpy(targets)
    )
    return {key: float(value) for key, value in figures.items()}


def _effort(rows: list[dict]) -> dict[str, int]:
    """Epochs run, and pictures shown to the network with a gradient: none for a probe."""
    epochs = [row for row in rows if "epoch" in row]
    return {
        "epochs": int(epochs[-1]["epoch"]) if epochs else 0,
        "pictures_seen": int(epochs[-1]["pictures_seen"]) if epochs else 0,
    }


@contextmanager
def _own_processes(overrides: list[str], out: str) -> Iterator[None]:
    """Lets Lightning start further processes from within a sweep.

    It calls this program again by `sys.argv`: under --multirun each would run the whole sweep, so the
    arguments become this job's. Afterwards nothing may remain that makes the next job think it is one of
    them.
    """
    given = list(sys.argv)
    sys.argv = [
        given[0],
        *(item for item in overrides if not item.startswith("out=")),
        f"out={out}",
        "hydra.mode=RUN",
    ]
    try:
        yield
    finally:
        sys.argv = given
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for variable in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(variable, None)


@config.stage
def main(cfg: DictConfig) -> float | None:
    job = HydraConfig.get()
    name = sweep = None
    if job.mode == RunMode.MULTIRUN:
        # Beside the sweep's other jobs, never in a DVC out.
        out = Path(job.sweep.dir) / job.sweep.subdir
        sweep, name = out.parent.name, " ".join(job.overrides.task)
    elif OmegaConf.is_missing(cfg, "out"):
        out = Path(f"runs/single/{time.strftime('%Y-%m-%d_%H-%M-%S')}-{cfg.model.name}")
    else:
        out = Path(cfg.out)
    cfg.out = str(out)
    with _own_processes(list(job.overrides.task), cfg.out):
        metrics = train(cfg, name, sweep)
    if metrics:
        print(
            f"train: {cfg.model.name} on {cfg.data.name}, val top-1 {metrics['val/top1']:.1%}, in {cfg.out}"
        )
        return metrics["val/top1"]
    return None


if __name__ == "__main__":
    main()
