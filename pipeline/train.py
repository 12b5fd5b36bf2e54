"""Stage train: one model from one configuration; `train(cfg)` serves DVC, single runs and sweeps alike."""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline import tasks
from pipeline.artifacts import atomic, seal, untrusted
from pipeline.artifacts.lineage import lineage_of, settings_of
from pipeline.artifacts.provenance import Provenance
from pipeline.artifacts.resume import ResumeState, finished, identity
from pipeline.common import paths, yaml_files
from pipeline.common.errors import SharedError, UserError
from pipeline.common.paths import ROOT
from pipeline.portable import ModelCard
from pipeline.stage import stage
from pipeline.training.distributed import own_processes

if TYPE_CHECKING:
    from models.classifier import Classifier

# By these a folder is known that a training may replace.
LEFT = ("weights.safetensors", "model.json", "config.yaml", "lineage.json", "metrics.json")
# Of the checkout: no training writes into them.
SOURCES = ("benchmarks", "conf", "data", "docs", "models", "photos", "pipeline", "reports", "tests")


def train(cfg: DictConfig, name: str | None = None, sweep: str | None = None) -> dict[str, float]:
    """Trains one model and leaves one folder, ``cfg.out``.

    In it: ``weights.safetensors`` with ``model.json``, ``config.yaml`` (resolved), ``metrics.json``,
    ``curves.csv``, ``lineage.json``, and validation's confusions and worst mistakes as pictures. No clock,
    host, run id or commit stands in it: equal runs are equal bytes.

    Args:
        cfg: a whole configuration.
        name: of the run in MLflow.
        sweep: the sweep that this is a job of.

    Returns:
        What ``metrics.json`` says: figures of the kept weights on validation, and the cost.

    Raises:
        UserError: no packed pictures, or a choice that can't be followed.
    """
    began = time.monotonic()
    import torch
    from lightning_fabric import seed_everything

    from pipeline import tracking
    from pipeline.data.dataset import PackedDataset
    from pipeline.evaluation import mistakes
    from pipeline.training import build
    from pipeline.training.assess import assess
    from pipeline.training.fit import fit

    target = _target(cfg)
    out = target.out
    pack = PackedDataset.open(ROOT / "data" / cfg.data.name)
    device = build.device(cfg)
    settings, lineage = settings_of(cfg), lineage_of(pack, cfg.runtime.threads)
    with start_of(cfg) as start:
        if start:
            lineage["start"] = seal.model_hash(start)
        known = identity(settings, lineage, sweep)
        if sweep and (metrics := finished(out, known, sweep)):  # of a sweep that was broken off and goes on
            print(f"train: {name} is done already; delete {out} to train it again", flush=True)
            return metrics
        torch.set_num_threads(cfg.runtime.threads)
        seed_everything(cfg.seed, verbose=False)
        training = build.build(cfg, pack, start)
    model = training.model.to(device)
    place = ResumeState(known, out)
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:  # one of several processes: the first does all the rest
        with suppress(SharedError):  # an exit status would have the first one killed before it can tell
            fit(training, place.checkpoints, began)
        return {}
    if cfg.trainer.get("fast_dev_run"):
        fit(training, place.checkpoints, began)
        print("train: fast_dev_run has gone through the code; nothing is kept", flush=True)
        return {}
    provenance = Provenance.here()
    if warning := provenance.warning():
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    with place.claimed():
        if former := place.others():
            print(f"train: begins anew; choices, data or code are others than in {former[0]}", flush=True)
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        name = name or tracking.run_name(settings, out)
        run = None
        try:
            # Made now, not after an hour: a folder that can't be written is told before anything is trained.
            with target.written() as part:
                described = (training.card, settings, lineage, provenance)
                run = tracking.Run(*described, name, sweep, chip, place.attempt())
                reached = fit(training, place.checkpoints, began, run.push)
                learnt = time.monotonic()
                model.to(device)
                card, metrics, answers = assess(training)
                title = f"{cfg.model.name} on {cfg.data.name}, validation"
                mistakes.draw(pack, pack.rows("val"), answers, title, part)
                metrics |= _effort(reached.rows) | model.cpu().cost(card.input.size)
                _save(model, card, reached.rows, metrics, settings, lineage, part)
                seal.seal(part)
                provenance.keep(part)
        except BaseException as error:
            if run:
                run.fail(error)
            raise
        seconds = reached.seconds + time.monotonic() - learnt
        place.forget(told=run.finish(out, reached.rows, seconds))
    return metrics


@contextmanager
def start_of(cfg: DictConfig) -> Iterator[Path | None]:
    """The train folder of the model that ``model.start`` names, while it is read; None where it names none.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    from pipeline import tracking

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
                f"model.start={start} holds no trained model; name a train folder (runs/DATA/train/MODEL), "
                "models:/NAME/VERSION or models:/NAME@ALIAS"
            )
        seal.check(folder, f"model.start={start}")
        yield folder


def _target(cfg: DictConfig) -> atomic.Target:
    """Where the train folder goes.

    Raises:
        UserError: something else is there, or it is a place of the project's own.
    """
    out, what, advice = paths.from_root(cfg.out), f"out={cfg.out}", "name another out=, in runs/single/ say"
    whole = out.resolve()
    if ROOT.is_relative_to(whole):
        raise UserError(f"{what} is the project itself, or a folder above it; {advice}")
    parts = whole.relative_to(ROOT).parts if whole.is_relative_to(ROOT) else ()
    if parts and (parts[0] in SOURCES or any(part.startswith(".") for part in parts)):
        raise UserError(f"{what} is among the project's own files; {advice}")
    if parts in (("runs",), ("runs", "single"), ("runs", "sweeps")) or out.suffix == ".part":
        raise UserError(f"{what} is no name for one training; {advice}")
    target = atomic.Target(out, LEFT, what, advice)
    target.check()
    return target


def _save(
    model: "Classifier",
    card: ModelCard,
    rows: list[dict],
    metrics: dict,
    settings: dict,
    lineage: dict,
    folder: Path,
) -> None:
    """Writes the files of a trained model."""
    from models.classifier import save
    from pipeline.artifacts import curves

    save(model, card, folder)
    curves.write(rows, folder / "curves.csv")
    for file, tree in (("metrics.json", metrics), ("lineage.json", lineage)):
        (folder / file).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)), encoding="utf-8")


def _effort(rows: list[dict]) -> dict[str, int]:
    """Epochs run, and pictures shown to the network with a gradient: none for a probe."""
    epochs = [row for row in rows if "epoch" in row]
    return {
        "epochs": int(epochs[-1]["epoch"]) if epochs else 0,
        "pictures_seen": int(epochs[-1]["pictures_seen"]) if epochs else 0,
    }


def _new_single(model: str) -> Path:
    """Makes a folder of its own for a single run, also where two begin in the same second."""
    for number in itertools.count(1):
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{model}" + (f"-{number}" if number > 1 else "")
        try:
            (ROOT / "runs/single" / name).mkdir(parents=True)
        except FileExistsError:
            continue
        return Path("runs/single") / name


def check_watched(augment: str) -> None:
    """Refuses an augmentation whose file ``dvc.yaml`` does not name: DVC would not see a change to it.

    A model's own file is named by a template; the augmentation is chosen in that file, where DVC can't look.

    Raises:
        UserError: it is not among the params of the stage train.
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
    job = HydraConfig.get()
    if "DVC_STAGE" in os.environ:
        check_watched(job.runtime.choices.augment)
    name = sweep = made = None
    if job.mode == RunMode.MULTIRUN:
        # Beside the sweep's other jobs, never in a DVC out.
        out = Path(job.runtime.output_dir)
        if out.parent != Path(job.sweep.dir).absolute():
            raise UserError("hydra.sweep.subdir must be one folder's name, without a slash")
        sweep, name = out.parent.name, " ".join(job.overrides.task)
    elif OmegaConf.is_missing(cfg, "out"):
        out = made = _new_single(cfg.model.name)
    else:
        out = Path(cfg.out)
    cfg.out = str(out)
    try:
        with own_processes(list(job.overrides.task), cfg.out):
            metrics = train(cfg, name, sweep)
    finally:
        if made:
            with suppress(OSError):  # gone only where nothing came of it
                (ROOT / made).rmdir()
    if not metrics:
        return None
    task = tasks.of(untrusted.card(paths.from_root(cfg.out)).task)
    reached = task.describe(metrics, "val", 1)
    print(f"train: {cfg.model.name} on {cfg.data.name}, val {reached}, in {cfg.out}")
    return metrics[task.monitor]


if __name__ == "__main__":
    main()
