"""Arguments of Lightning's Trainer are passed on as they are, and keep what is promised of a training."""

import inspect
import os
import signal

import pytest
import pytorch_lightning as pl

from pipeline import callbacks, config, curves, train, yaml_files
from pipeline.config import StoppedError, UserError
from pipeline.tracking import store

SCRATCH = ("model=scratch", "data.epochs=2", "model.batch_size=16")
# Made by the program, or of no use where it is: each is refused with its reason or as unknown.
OURS = {
    "self",
    *("max_epochs", "max_steps", "min_steps", "callbacks", "plugins", "logger", "default_root_dir"),
    *("enable_checkpointing", "num_sanity_val_steps", "use_distributed_sampler", "inference_mode"),
    *("limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval"),
    *("check_val_every_n_epoch", "log_every_n_steps", "reload_dataloaders_every_n_epochs", "barebones"),
    *("model_registry", "enable_autolog_hparams"),
}


def test_every_argument_of_lightnings_trainer_is_known_here_or_has_another_home():
    known = set(yaml_files.read(config.CONF / "trainer/base/lightning.yaml"))
    known |= set(yaml_files.read(config.CONF / "trainer/cpu.yaml")["trainer"])
    assert known | OURS == set(inspect.signature(pl.Trainer.__init__).parameters)
    assert not known & OURS


def test_what_is_left_to_lightning_is_not_recorded():
    plain = train.settings_of(config.compose())
    assert None not in plain["trainer"].values()
    clipped = train.settings_of(config.compose("trainer.gradient_clip_val=0.5"))
    assert clipped["trainer"] == plain["trainer"] | {"gradient_clip_val": 0.5}


@pytest.mark.parametrize("key", ["max_epochs", "logger", "default_root_dir"])
def test_what_has_another_home_here_is_told(house, key):
    from pipeline import validate

    told = validate.unknown(f"trainer.{key}", "cpu")
    assert told.startswith(f"trainer.{key} is Lightning's word; here it is ")


@pytest.mark.parametrize("model", ["scratch", "finetune", "probe"])
def test_fast_dev_run_goes_through_the_code_and_leaves_nothing(repro, house, tmp_path, capsys, model):
    def there() -> set:
        runs = store.client().search_runs([store.experiment_id("sample")])
        return {*(house / "runs").rglob("*"), *(run.info.run_id for run in runs)}

    before = there()
    assert (
        train.train(config.compose(f"model={model}", "trainer.fast_dev_run=true", f"out={tmp_path / 'x'}"))
        == {}
    )
    assert there() == before
    assert not (tmp_path / "x").exists()
    assert "nothing is kept" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_accumulated_and_clipped_gradients_go_on_exactly(repro, tmp_path, monkeypatch, steps):
    overrides = (*SCRATCH, "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1")
    train.train(config.compose(*overrides, f"out={tmp_path / 'whole'}"))
    whole, calls = callbacks.ExactResume.on_train_batch_start, []

    def hook(self, trainer, module, batch, batch_idx):
        calls.append(trainer.global_step)
        # In the middle of a step: it stops before the next one.
        if trainer.global_step == steps and batch_idx % 2:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, trainer, module, batch, batch_idx)

    monkeypatch.setattr(callbacks.ExactResume, "on_train_batch_start", hook)
    with pytest.raises(StoppedError):
        train.train(config.compose(*overrides, f"out={tmp_path / 'stopped'}"))
    monkeypatch.undo()
    train.train(config.compose(*overrides, f"out={tmp_path / 'stopped'}"))
    for name in ("weights.safetensors", "curves.csv", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    train.train(config.compose(*SCRATCH, f"out={tmp_path / 'plain'}"))
    assert curves.read(tmp_path / "plain") != curves.read(tmp_path / "whole")


def test_a_limited_epoch_counts_what_it_has_seen(repro, tmp_path):
    train.train(config.compose(*SCRATCH, "trainer.limit_train_batches=3", f"out={tmp_path / 'out'}"))
    rows = curves.read(tmp_path / "out")
    assert [row["pictures_seen"] for row in rows] == [48, 96]
    # The rate has come down by the last of these steps, as it does in a whole training.
    assert rows[-1]["lr"] < rows[0]["lr"] / 2


def test_a_training_whose_time_is_over_ends_with_what_it_has_reached(repro, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"trainer\.max_time was over before the first validation"):
        train.train(config.compose(*SCRATCH, "trainer.max_time='00:00:00:00'", f"out={tmp_path / 'none'}"))
    steps, whole = [], callbacks.Curves.on_train_batch_start

    def count(self, *given):
        steps.append(1)
        whole(self, *given)

    monkeypatch.setattr(callbacks.Curves, "on_train_batch_start", count)
    monkeypatch.setattr(pl.callbacks.Timer, "time_elapsed", lambda *_: float(len(steps)))  # a second each
    train.train(config.compose(*SCRATCH, "trainer.max_time='00:00:00:04'", f"out={tmp_path / 'out'}"))
    (row,) = curves.read(tmp_path / "out")
    assert row["pictures_seen"] == 4 * 16 and row["val/top1"] >= 0
    assert (tmp_path / "out/weights.safetensors").is_file()
