"""Arguments of Lightning's Trainer are passed on, and resuming stays exact with them."""

import inspect
import json
import os
import shutil
import signal

import pytest
import pytorch_lightning as pl

from pipeline import config, tasks, train
from pipeline.artifacts import curves
from pipeline.common import paths, yaml_files
from pipeline.common.errors import StoppedError, UserError
from pipeline.config import wording
from pipeline.evaluation import mistakes
from pipeline.tracking import store
from pipeline.training import callbacks

SCRATCH = ("model=scratch", "data.epochs=2", "model.batch_size=16")
pytestmark = pytest.mark.usefixtures("no_plots")
# Set by this program or without use here: each is an error, with the reason or as an unknown key.
REFUSED = {
    "self",
    *("max_epochs", "max_steps", "min_steps", "callbacks", "plugins", "logger", "default_root_dir"),
    *("enable_checkpointing", "num_sanity_val_steps", "use_distributed_sampler", "inference_mode"),
    *("limit_test_batches", "limit_predict_batches", "val_check_interval"),
    *("check_val_every_n_epoch", "reload_dataloaders_every_n_epochs", "barebones"),
    *("model_registry", "enable_autolog_hparams"),
}


def test_every_argument_of_lightnings_trainer_is_a_key_or_refused():
    known = set(yaml_files.read(paths.CONF / "trainer/base/lightning.yaml"))
    known |= set(yaml_files.read(paths.CONF / "trainer/cpu.yaml")["trainer"])
    assert known | REFUSED == set(inspect.signature(pl.Trainer.__init__).parameters)
    assert not known & REFUSED


def test_defaults_of_lightning_are_not_recorded():
    plain = train.settings_of(config.compose())
    assert None not in plain["trainer"].values()
    clipped = train.settings_of(config.compose("trainer.gradient_clip_val=0.5"))
    assert clipped["trainer"] == plain["trainer"] | {"gradient_clip_val": 0.5}


@pytest.mark.parametrize("key", ["max_epochs", "logger", "default_root_dir"])
def test_an_argument_with_another_key_here_is_an_error_that_names_it(project, key):
    message = wording.unknown(f"trainer.{key}", "cpu")
    assert message.startswith(f"trainer.{key} is not used here; set ")


@pytest.mark.parametrize("model", ["scratch", "finetune", "probe"])
def test_fast_dev_run_writes_nothing(repro, project, tmp_path, capsys, model):
    def state() -> set:
        runs = store.client().search_runs([store.experiment_id("sample")])
        return {*(project / "runs").rglob("*"), *(run.info.run_id for run in runs)}

    before = state()
    assert (
        train.train(config.compose(f"model={model}", "trainer.fast_dev_run=true", f"out={tmp_path / 'x'}"))
        == {}
    )
    assert state() == before
    assert not (tmp_path / "x").exists()
    assert "fast_dev_run has finished" in capsys.readouterr().err


CLIPPED = (*SCRATCH, "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1")


@pytest.fixture(scope="module")
def uninterrupted(repro, tmp_path_factory):
    """Two trainings, one with accumulated and clipped gradients."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mistakes, "draw", lambda *_: None)  # as no_plots does
        train.train(config.compose(*CLIPPED, f"out={folder / 'clipped'}"))
        train.train(config.compose(*SCRATCH, f"out={folder / 'plain'}"))
    return folder


def test_accumulated_and_clipped_gradients_make_a_difference(uninterrupted):
    assert curves.read(uninterrupted / "plain") != curves.read(uninterrupted / "clipped")


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_accumulated_and_clipped_gradients_resume_to_the_same_bytes(
    uninterrupted, tmp_path, monkeypatch, steps
):
    original, calls = callbacks.ExactResume.on_train_batch_start, []

    def hook(self, trainer, module, batch, batch_idx):
        calls.append(trainer.global_step)
        # Between two batches of a step; the training stops before the next step.
        if trainer.global_step == steps and batch_idx % 2:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, module, batch, batch_idx)

    monkeypatch.setattr(callbacks.ExactResume, "on_train_batch_start", hook)
    with pytest.raises(StoppedError):
        train.train(config.compose(*CLIPPED, f"out={tmp_path / 'stopped'}"))
    monkeypatch.undo()
    train.train(config.compose(*CLIPPED, f"out={tmp_path / 'stopped'}"))
    for name in ("weights.safetensors", "curves.csv", "metrics.json"):
        assert (uninterrupted / "clipped" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


def test_a_limited_epoch_counts_the_images_seen(repro, tmp_path):
    train.train(config.compose(*SCRATCH, "trainer.limit_train_batches=3", f"out={tmp_path / 'out'}"))
    rows = curves.read(tmp_path / "out")
    assert [row["pictures_seen"] for row in rows] == [48, 96]
    # The schedule ends with the last of these steps, as in a full training.
    assert rows[-1]["lr"] < rows[0]["lr"] / 2


def test_max_time_ends_a_training_with_its_last_weights(repro, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"trainer\.max_time ended before the first validation"):
        train.train(config.compose(*SCRATCH, "trainer.max_time='00:00:00:00'", f"out={tmp_path / 'none'}"))
    steps, original = [], callbacks.Curves.on_train_batch_start

    def count(self, *args):
        steps.append(1)
        original(self, *args)

    monkeypatch.setattr(callbacks.Curves, "on_train_batch_start", count)
    monkeypatch.setattr(pl.callbacks.Timer, "time_elapsed", lambda *_: float(len(steps)))  # a second per step
    train.train(config.compose(*SCRATCH, "trainer.max_time='00:00:00:04'", f"out={tmp_path / 'out'}"))
    (row,) = curves.read(tmp_path / "out")
    assert row["pictures_seen"] == 4 * 16 and row["val/top1"] >= 0
    assert (tmp_path / "out/weights.safetensors").is_file()


def test_overfit_batches_shows_the_same_images_in_every_epoch(repro, tmp_path, monkeypatch):
    original, seen = callbacks.Curves.on_train_batch_start, []

    def hook(self, trainer, module, batch, batch_idx):
        seen.append((batch_idx, batch[0].sum().item(), tuple(batch[1].tolist())))
        original(self, trainer, module, batch, batch_idx)

    monkeypatch.setattr(callbacks.Curves, "on_train_batch_start", hook)
    words = ("trainer.overfit_batches=2", "model.outliers=0", "model.shares=[1.0]", f"out={tmp_path / 'out'}")
    train.train(config.compose(*SCRATCH, *words))
    assert len(seen) == 4 and seen[:2] == seen[2:] and seen[0] != seen[1]


def test_lightnings_validate_gives_the_recorded_metrics(repro, project):
    from models.classifier import load
    from pipeline.data.dataset import PackedDataset
    from pipeline.training.build import Training
    from pipeline.training.datamodule import ImageData

    folder = project / "runs/sample/train/scratch"
    model, card = load(folder)
    training = Training(
        config.compose("model=scratch"), PackedDataset.open(project / "data/sample"), model, card
    )
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False
    )
    (found,) = trainer.validate(model, ImageData(training), verbose=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {key: found[key] for key in ("val/top1", "val/top3")} == pytest.approx(
        {key: metrics[key] for key in ("val/top1", "val/top3")}
    )


def test_lightning_loads_a_checkpoint(repro, tmp_path, monkeypatch):
    from models.classifier import Classifier
    from models.scratch import ScratchCNN
    from pipeline.artifacts.checkpoints import Checkpoints

    files, original = [], Checkpoints.write
    monkeypatch.setattr(
        Checkpoints, "write", lambda *args: files.append(original(*args)) or shutil.copy(files[-1], tmp_path)
    )
    cfg = config.compose(*SCRATCH, f"out={tmp_path / 'out'}")
    train.train(cfg)
    net = ScratchCNN(35, list(cfg.model.net.widths), list(cfg.model.net.depths), cfg.model.net.dropout)
    before = net.state_dict()["head.weight"].clone()
    model = Classifier.load_from_checkpoint(tmp_path / files[-1].name, net=net, task=tasks.of("single_label"))
    assert model.lr == cfg.model.lr and not model.net.head.weight.equal(before)


def test_lightnings_model_checkpoint_writes_into_the_named_folder(repro, tmp_path):
    overrides = (
        "+callbacks.best._target_=pytorch_lightning.callbacks.ModelCheckpoint",
        f"+callbacks.best.dirpath={tmp_path / 'mine'}",
        "+callbacks.best.monitor=val/top1",
        "+callbacks.best.filename=best",
    )
    train.train(config.compose(*SCRATCH, *overrides, f"out={tmp_path / 'out'}"))
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["callbacks={a: {_target_: models.a.B}}"], r"to add one, use \+callbacks\.NAME\._target_="),
        (["+callbacks.a._target_=os.system"], "must be a class of models or pytorch_lightning.callbacks"),
        (["+callbacks.a._target_=models.scratch.ScratchCNN"], "is not a pytorch_lightning Callback"),
        (["+callbacks.a._target_=models.nothing.Here"], "can't be imported"),
        (["+callbacks.a._target_=pytorch_lightning.callbacks.Nothing"], "can't be imported"),
        (["+callbacks.a.patience=3"], r"callbacks\.a\._target_ is missing"),
        (
            ["+callbacks.a._target_=pytorch_lightning.callbacks.Timer", "+callbacks.a.hours=3"],
            "does not take these arguments",
        ),
        (
            ["+callbacks.a._target_=pytorch_lightning.callbacks.Timer", "+callbacks.a._args_=[3]"],
            "only _target_",
        ),
        (
            ["+metrics.a._target_=torchmetrics.classification.MulticlassAccuracy", "+metrics.a.top=1"],
            "does not take these arguments",
        ),
        (
            ["+metrics.a._target_=torchmetrics.functional.accuracy"],
            "must be a class of models, torchmetrics.classification or torchmetrics.aggregation",
        ),
        (
            ["+metrics.loss._target_=torchmetrics.aggregation.MeanMetric"],
            "metrics.loss: every training logs this",
        ),
        (
            ["+metrics.top3._target_=torchmetrics.aggregation.MeanMetric"],
            "metrics.top3: every training logs this",
        ),
        (
            ["+metrics.a._target_=torchmetrics.classification.MultilabelAUROC"],
            "returns no number for this task",
        ),
        (["+model.loss._target_=torch.nn.Module"], "model.loss returns no number"),
        (
            ["+model.loss._target_=torch.nn.CrossEntropyLoss", "+model.loss.reduction=none"],
            "model.loss returns no number",
        ),
        (
            [
                "+callbacks.a._target_=pytorch_lightning.callbacks.ModelCheckpoint",
                "+callbacks.a.monitor=val/nothing",
            ],
            "trainer: .*val/nothing",
        ),
        (["+model.loss._target_=torch.load"], "must be a class of models, torch.nn or timm.loss"),
        (
            ["+model.loss._target_=torch.nn.BCEWithLogitsLoss", "model.balance=weights"],
            "balance=weights has no effect",
        ),
        (["model=probe", "+model.loss._target_=torch.nn.BCEWithLogitsLoss"], "model=probe has no loss"),
    ],
)
def test_an_invalid_callback_metric_or_loss_is_a_one_line_error(repro, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        train.train(config.compose("model=scratch", *overrides, f"out={tmp_path / 'out'}"))
    assert "\n" not in str(error.value)


def test_values_that_a_callback_logged_before_a_stop_are_kept(repro, tmp_path, monkeypatch):
    overrides = (
        "+callbacks.lr._target_=pytorch_lightning.callbacks.LearningRateMonitor",
        "+callbacks.lr.logging_interval=epoch",
    )
    train.train(config.compose(*SCRATCH, *overrides, f"out={tmp_path / 'whole'}"))
    original = callbacks.ExactResume.on_train_batch_start

    def hook(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, module, batch, batch_idx)

    monkeypatch.setattr(callbacks.ExactResume, "on_train_batch_start", hook)
    with pytest.raises(StoppedError):
        train.train(config.compose(*SCRATCH, *overrides, f"out={tmp_path / 'stopped'}"))
    monkeypatch.undo()
    train.train(config.compose(*SCRATCH, *overrides, f"out={tmp_path / 'stopped'}"))
    assert "lr-AdamW/pg1" in (tmp_path / "whole/curves.csv").read_text()
    for name in ("weights.safetensors", "curves.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
