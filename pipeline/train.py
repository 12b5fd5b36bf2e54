"""Stage train: trains one model from one config; DVC, single runs and sweeps all call `train(cfg)`."""

import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline import tasks, tracking
from pipeline.artifacts import atomic, curves, seal
from pipeline.artifacts.lineage import lineage_of, settings_of
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.resume_state import ResumeState, finished_metrics, identity
from pipeline.common import log, paths, yaml_files
from pipeline.common.errors import SharedError, UserError
from pipeline.common.paths import ROOT
from pipeline.stage import stage
from pipeline.training.distributed import ranks_of_one_job

_log = logging.getLogger(__name__)

# A folder with all of these is a train folder, which a new training may replace.
OUTPUT_FILES = ("weights.safetensors", "model.json", "config.yaml", "lineage.json", "metrics.json")
# Folders of the checkout that no training may write to.
PROTECTED = ("benchmarks", "catalog", "conf", "data", "docs", "models", "photos", "pipeline")
PROTECTED += ("reports", "tests")


def train(cfg: DictConfig, name: str | None = None, sweep: str | None = None) -> dict[str, float]:
    """Trains one model and writes its train folder, ``cfg.out``.

    It holds ``weights.safetensors`` with ``model.json``, ``config.yaml`` (resolved), ``metrics.json``,
    ``curves.csv``, ``lineage.json``, and plots of the confusions and worst mistakes on validation. It
    contains no timestamp, host name, run id or commit: equal runs write equal bytes.

    Args:
        cfg: the complete configuration.
        name: name of the MLflow run.
        sweep: the sweep that this job belongs to.

    Returns:
        The content of ``metrics.json``: validation metrics of the kept weights, and the cost. Empty in a
        fast_dev_run and on ranks above 0.

    Raises:
        UserError: there are no packed images, or a setting is invalid.
    """
    started_at = time.monotonic()
    import torch
    from lightning_fabric import seed_everything

    from models.classifier import save
    from pipeline.data.dataset import PackedDataset
    from pipeline.evaluation import mistakes
    from pipeline.training import build
    from pipeline.training.assess import assess
    from pipeline.training.fit import fit

    target = _output_folder(cfg)
    out = target.out
    pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
    device = build.device(cfg)
    settings, lineage = settings_of(cfg), lineage_of(pack, cfg.runtime.threads)
    with start_model(cfg) as start:
        if start:
            lineage["start"] = seal.model_hash(start)
        run_identity = identity(settings, lineage, sweep)
        if sweep and (metrics := finished_metrics(out, run_identity, sweep)):  # resuming a sweep
            _log.info("%s is done already; delete %s to train it again", name, out)
            return metrics
        torch.set_num_threads(cfg.runtime.threads)
        seed_everything(cfg.seed, verbose=False)
        training = build.build(cfg, pack, start)
    model = training.model.to(device)
    resume_state = ResumeState(run_identity, out)
    _log.debug("on %s with %d threads, into %s", device, cfg.runtime.threads, out)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:  # rank 0 does everything else
        with suppress(SharedError):  # on a failure status Lightning kills rank 0 before it reports the error
            fit(training, resume_state.checkpoints, started_at)
        return {}
    if cfg.trainer.get("fast_dev_run"):
        fit(training, resume_state.checkpoints, started_at)
        _log.info("fast_dev_run has finished; it writes no files")
        return {}
    provenance = Provenance.current()
    if warning := provenance.warning():
        _log.warning("%s", warning)
    with resume_state.lock():
        if previous := resume_state.superseded():
            _log.info("starting over: config, data or code differ from %s", previous[0])
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        name = name or tracking.run_name(settings, out)
        run = None
        try:
            # Opened before training, so that an unwritable folder fails at once.
            with target.replace() as part:
                run_args = (training.card, settings, lineage, provenance)
                run = tracking.Run(*run_args, name, sweep, device_name, resume_state.attempt_id())
                fitted = fit(training, resume_state.checkpoints, started_at, run.push)
                fit_ended = time.monotonic()
                model.to(device)
                card, metrics, assessment = assess(training)
                title = f"{cfg.model.name} on {cfg.data.name}, validation"
                mistakes.draw(pack, pack.rows("val"), assessment, title, part)
                metrics |= _epochs_and_images(fitted.rows) | model.cpu().cost(card.input.size)
                save(model, card, part)
                curves.write(fitted.rows, part / "curves.csv")
                for file, tree in (("metrics.json", metrics), ("lineage.json", lineage)):
                    (part / file).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
                (part / "config.yaml").write_text(OmegaConf.to_yaml(settings), encoding="utf-8")
                seal.seal(part)
                provenance.save(part)
        except BaseException as error:
            if run:
                run.fail(error)
            raise
        seconds = fitted.seconds + time.monotonic() - fit_ended
        resume_state.clear(synced=run.finish(out, fitted.rows, seconds))
    return metrics


@contextmanager
def start_model(cfg: DictConfig) -> Iterator[Path | None]:
    """Yields the train folder of the model that ``model.start`` names, or None if it is not set.

    Raises:
        UserError: the model does not exist or is damaged.
    """
    start = cfg.model.start
    if not start:
        yield None
        return
    with tempfile.TemporaryDirectory() as downloaded:
        if start.startswith("models:/"):
            with tracking.reachable():
                folder = tracking.download_train(start, Path(downloaded))
        else:
            folder = paths.from_root(start)
        if not (folder / "model.json").is_file() or not (folder / "weights.safetensors").is_file():
            raise UserError(
                f"model.start={start} is not a trained model; name a train folder (runs/DATA/train/MODEL), "
                "models:/NAME/VERSION or models:/NAME@ALIAS"
            )
        seal.check(folder, f"model.start={start}")
        yield folder


def _output_folder(cfg: DictConfig) -> atomic.Target:
    """The train folder to write.

    Raises:
        UserError: the path has other contents, or is one of the project's own folders.
    """
    out, what = paths.from_root(cfg.out), f"out={cfg.out}"
    advice = "name another out=, such as runs/single/NAME"
    resolved = out.resolve()
    if ROOT.is_relative_to(resolved):
        raise UserError(f"{what} is the project itself, or a folder above it; {advice}")
    parts = resolved.relative_to(ROOT).parts if resolved.is_relative_to(ROOT) else ()
    if parts and (parts[0] in PROTECTED or any(part.startswith(".") for part in parts)):
        raise UserError(f"{what} is among the project's own files; {advice}")
    if parts in (("runs",), ("runs", "single"), ("runs", "sweeps")) or out.suffix == ".part":
        raise UserError(f"{what} is not a folder for one training; {advice}")
    target = atomic.Target(out, OUTPUT_FILES, what, advice)
    target.check()
    return target


def _epochs_and_images(rows: list[dict]) -> dict[str, int]:
    """Epochs run, and images shown in training, with repeats (none for a probe)."""
    last = next((row for row in reversed(rows) if "epoch" in row), {"epoch": 0, "pictures_seen": 0})
    return {"epochs": int(last["epoch"]), "pictures_seen": int(last["pictures_seen"])}


def _new_run_folder(model: str) -> Path:
    """Creates a unique folder for a single run, even if two start in the same second."""
    for number in itertools.count(1):
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{model}" + (f"-{number}" if number > 1 else "")
        try:
            (ROOT / "runs/single" / name).mkdir(parents=True)
        except FileExistsError:
            continue
        return Path("runs/single") / name


def check_augment_is_tracked(augment: str) -> None:
    """Rejects an augmentation whose file ``dvc.yaml`` does not list: DVC would not notice changes to it.

    ``dvc.yaml`` can interpolate the name of the model's file, but not the augmentation that this file
    selects.

    Raises:
        UserError: the file is not among the params of the stage train.
    """
    file = f"conf/augment/{augment}.yaml"
    params = yaml_files.read(ROOT / "dvc.yaml")["stages"]["train"]["params"]
    if not any(isinstance(entry, dict) and file in entry for entry in params):
        raise UserError(
            f"{file} is not among the params of the stage train in dvc.yaml, so dvc repro would not notice a "
            f"change to it; add the line '- {file}:' there"
        )


@stage
def main(cfg: DictConfig) -> float | None:
    """Trains; returns the monitored metric, which Hydra's sweepers take as the objective."""
    job = HydraConfig.get()
    if "DVC_STAGE" in os.environ:
        check_augment_is_tracked(job.runtime.choices.augment)
    name = sweep = created = None
    if job.mode == RunMode.MULTIRUN:
        # A sweep's job writes to Hydra's folder for it; `cfg.out` may be a DVC out.
        out = Path(job.runtime.output_dir)
        if out.parent != Path(job.sweep.dir).absolute():
            raise UserError("hydra.sweep.subdir must be one folder's name, without a slash")
        sweep, name = out.parent.name, " ".join(job.overrides.task)
    elif OmegaConf.is_missing(cfg, "out"):
        out = created = _new_run_folder(cfg.model.name)
    else:
        out = Path(cfg.out)
    cfg.out = str(out)
    try:
        with ranks_of_one_job(list(job.overrides.task), cfg.out):
            metrics = train(cfg, name, sweep)
    finally:
        if created:
            with suppress(OSError):  # not empty if the training wrote anything
                (ROOT / created).rmdir()
    if not metrics:
        return None
    task = tasks.of(cfg.data.task)
    summary = task.describe(metrics, "val", 1)
    log.result(f"{cfg.model.name} on {cfg.data.name}, val {summary}, in {cfg.out}")
    return metrics[task.monitor]


if __name__ == "__main__":
    main()
