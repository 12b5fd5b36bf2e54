"""A sweep's page: parameters, ranking, spread over seeds and importance; the best config can be saved."""

import functools
import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
from chromium import chromium
from conftest import outcome, petfaces
from omegaconf import DictConfig, OmegaConf
from untrusted_models import CARD

from pipeline import config, tasks, tracking, train
from pipeline.artifacts import job_outcomes, seal
from pipeline.common import errors, yaml_files
from pipeline.config import overrides, renamed
from pipeline.sweeps import effects, jobs
from pipeline.tracking import store

TOP1 = effects.metrics(jobs.Sweep("s", []))["val/top1"]


@pytest.fixture
def sweeps(project):
    """The folder of all sweeps, empty before and removed after."""
    folder = project / "runs/sweeps"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch):
    """MLflow has no sweeps, unless a test changes that."""
    monkeypatch.setattr(tracking, "sweep_runs", lambda sweep: [])
    monkeypatch.setattr(tracking, "sweep_of", lambda name: None)


@pytest.fixture
def experiments(project):
    """conf/experiment/; files that a test adds are removed afterwards."""
    folder = project / "conf/experiment"
    shipped = set(folder.iterdir())
    yield folder
    for file in set(folder.iterdir()) - shipped:
        file.unlink()


@functools.cache
def _composed(*given: str) -> DictConfig:
    return config.compose(*given)


@pytest.fixture(autouse=True)
def composed_once(monkeypatch):
    """Choices of conf/ are composed once for all tests, which change params.yaml and experiments at most.

    A sweep's page would take most of its time for it.
    """

    def compose(*given: str) -> DictConfig:
        from_experiment = any(word.startswith("experiment=") for word in given)
        return config.compose(*given) if from_experiment else _composed(*given)

    monkeypatch.setattr(overrides, "compose", compose)


def _job(folder: Path, *overrides: str, top1: float = 0.5, loss: float = 1.0, **values) -> None:
    """Writes a job's folder as training does, without plots and weights."""
    cfg = _composed(*overrides).copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(train.settings_of(cfg))))
    metrics = {"val/top1": top1, "val/top3": top1, "epochs": 1, "pictures_seen": 960, "parameters": 12345}
    (folder / "metrics.json").write_text(json.dumps(metrics | {"multiply_adds": 67890}))
    (folder / "curves.csv").write_text(f"step,epoch,val/loss,val/top1\n0,1,9,0\n1,2,{loss},{top1}\n")
    data = {"name": cfg.data.name, "content": "a", "split": "b", "pictures": 400, "classes": 35}
    (folder / "lineage.json").write_text(json.dumps({"data": data, "commit": "c" * 40, "dirty": False}))
    card = CARD | {"name": cfg.model.name, "data": cfg.data.name, "drawings": True}
    (folder / "model.json").write_text(json.dumps(card))
    seal.seal(folder)


def _output(capsys, *arguments: str) -> str:
    petfaces("sweeps", *arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("lineage.json", "{}"),
        ("lineage.json", '{"data": {"name": "sample", "pictures": 1' + "0" * 30 + "}}"),
        ("config.yaml", "{a: 1}"),
        ("config.yaml", "null"),
        ("config.yaml", "{seed: [1], data: {name: sample}, model: {name: scratch}}"),
        ("config.yaml", "{seed: 1, split: null, data: {name: sample}, model: {name: scratch}}"),
        ("config.yaml", "{seed: 1, a: &a [1], b: *a, data: {name: sample}, model: {name: scratch}}"),
        ("metrics.json", '{"val/top1": 1' + "0" * 400 + "}"),
        ("metrics.json", '{"val/top1": "0.9"}'),
        ("metrics.json", '{"val/top1": 0.9, "parameters": "many"}'),
        ("metrics.json", '{"val/top1": 0.9, "multiply_adds": null}'),
        ("metrics.json", "[1]"),
        ("model.json", "{}"),
        ("curves.csv", "step\n0\n"),
    ],
)
def test_a_jobs_damaged_file_is_reported_and_the_others_are_shown(sweeps, capsys, file, text):
    for number in ("0", "1"):
        _job(sweeps / "s" / number, f"seed={number}", top1=0.5 + int(number) / 10)
    (sweeps / "s/1" / file).write_text(text)
    output = _output(capsys, "s")
    assert "1 of 2 jobs finished" in output and "50.0 %" in output
    assert "job 1: no result: unreadable: " in output
    assert "1 of 2" in _output(capsys)


@pytest.mark.parametrize("name", ["", "a" * 300, "../x", "a b"])
def test_an_experiments_name_is_checked_first(sweeps, capsys, name):
    assert "is not an experiment name" in _error("s", "--save", name)


def _error(*arguments: str) -> str:
    message = outcome(lambda: petfaces("sweeps", *arguments))
    assert message.startswith("error: ")
    return message


def _page(sweeps: Path, name: str) -> str:
    """The page without plotly's own code."""
    text = (sweeps / name / "index.html").read_text()
    return re.sub(r"(?s)<script>/\*\*.*?</script>", "", text)


def test_without_a_name_the_sweeps_are_listed(sweeps, capsys):
    assert "no sweeps yet" in _output(capsys)
    _job(sweeps / "one/0", top1=0.25)
    _job(sweeps / "one/1", "seed=2", top1=0.75)
    (sweeps / "two/0").mkdir(parents=True)
    text = _output(capsys)
    assert re.search(r"one .* sample .* 2 of 2 .* 50\.0 % \(25\.0–75\.0\)", text)
    assert re.search(r"two .* 0 of 1 .* –", text)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones(sweeps):
    assert "there is none yet" in _error("moon")
    _job(sweeps / "one/0")
    _job(sweeps / "two/0")
    assert _error("moon") == "error: no sweep is called 'moon': there are one, two"


def test_a_sweep_is_found_by_its_parent_runs_name(sweeps, capsys):
    _job(sweeps / "2026-01-02_03-04-05/0")
    assert "page: runs/sweeps/2026-01-02_03-04-05/index.html" in _output(capsys, "sweep 2026-01-02_03-04-05")


def test_the_choice_of_model_is_one_parameter(sweeps):
    for number, model in enumerate(("scratch", "probe", "finetune")):
        _job(sweeps / f"s/{number}", f"model={model}")
    _job(sweeps / "s/3", "model=finetune", "model.lr=0.01")
    assert jobs.read("s").parameters == ["model", "model.lr"]


def test_the_choice_of_augmentation_is_one_parameter_beside_its_values(sweeps):
    for number, augment in enumerate(("none", "light", "strong")):
        _job(sweeps / f"s/{number}", f"augment={augment}")
    sweep = jobs.read("s")
    assert sweep.parameters == ["augment"]
    assert [job.value("augment") for job in sweep.jobs] == ["none", "light", "strong"]
    _job(sweeps / "s/3", "augment=strong", "augment.mixup=0.4")
    assert jobs.read("s").parameters == ["augment", "augment.mixup"]


def test_interpolated_values_are_no_parameters(sweeps):
    _job(sweeps / "s/0", "data.side=32")
    _job(sweeps / "s/1", "data.side=64")
    assert jobs.read("s").parameters == ["data.side"]


def test_numbers_strings_lists_and_null_can_vary(sweeps):
    for number, (widths, size, crop) in enumerate(
        ([[8, 16], None, "a"], [[8, 8], 32, "a"], [[8, 8], 64, "b"])
    ):
        values = {"model__net__widths": widths, "model__input__size": size, "model__input__crop": crop}
        _job(sweeps / f"s/{number}", **values, model__lr=10.0**-number)
    sweep = jobs.read("s")
    assert set(sweep.parameters) == {"model.net.widths", "model.input.size", "model.input.crop", "model.lr"}
    assert [job.value("model.input.size") for job in sweep.jobs] == [None, 32, 64]
    petfaces("sweeps", "s")
    page = _page(sweeps, "s")
    assert "<td>[8, 16]</td>" in page
    assert "<td>null</td>" in page
    assert '"type": "log"' in page


def test_jobs_of_a_removed_model_are_compared_by_their_files(sweeps, capsys):
    for number, rate in enumerate((1e-3, 1e-2)):
        _job(sweeps / f"s/{number}", model__name="gone", model__lr=rate)
    assert jobs.read("s").parameters == ["model.lr"]
    assert "conf/model/gone.yaml no longer exists" in _output(capsys, "s")


def test_the_best_config_has_the_best_mean_over_seeds(sweeps, capsys):
    for number, (rate, seed, top1) in enumerate(
        [(1e-3, 1, 0.90), (1e-3, 2, 0.10), (1e-2, 1, 0.61), (1e-2, 2, 0.59)]
    ):
        _job(sweeps / f"s/{number}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    text = _output(capsys, "s")
    assert "Expect: val top-1 60.0 % (59.0–61.0) on sample, mean of seeds 1, 2" in text
    assert "  lr: 0.01" in text
    assert "seed:" not in text
    assert "within the spread over seeds" in text


def test_a_lead_above_the_spread_is_reported_as_such(sweeps, capsys):
    for number, (rate, seed, top1) in enumerate(
        [(1e-3, 1, 0.90), (1e-3, 2, 0.901), (1e-2, 1, 0.50), (1e-2, 2, 0.501)]
    ):
        _job(sweeps / f"s/{number}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    assert "ahead of the runner-up by 40.0 points: more than the spread over seeds" in _output(capsys, "s")


def test_the_spread_of_the_lead_is_a_t_tests_confidence_interval(sweeps):
    from scipy.stats import ttest_ind

    metrics = {1e-3: [0.80, 0.84, 0.83], 1e-2: [0.79, 0.75, 0.78]}
    for rate, values in metrics.items():
        for seed, top1 in enumerate(values):
            _job(sweeps / f"s/{rate}-{seed}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    metric = TOP1
    sweep = jobs.read("s")
    ranked = effects.configurations(sweep, metric)
    half_width = float(re.search(r"by up to (\S+) points", effects.reliability(sweep, ranked, metric)[0])[1])
    test = ttest_ind(*metrics.values())
    expected = 100 * (test.confidence_interval().high - test.confidence_interval().low) / 2
    assert half_width == pytest.approx(expected, abs=0.05)


def test_ties_are_shown_and_sorted_by_cost(sweeps, capsys):
    for number, (rate, top1, seen) in enumerate(
        [(0.1, 0.6, 960), (0.2, 0.8, 960), (0.3, 0.8, 96), (0.4, 0.8, 9600)]
    ):
        _job(sweeps / f"s/{number}", f"model.lr={rate}", top1=top1)
        metrics = json.loads((sweeps / f"s/{number}/metrics.json").read_text()) | {"pictures_seen": seen}
        (sweeps / f"s/{number}/metrics.json").write_text(json.dumps(metrics))
    text = _output(capsys, "s")
    rows = re.findall(r"│ +(\S+) │ +(\S+) % │ (\S+) ", text)
    assert rows == [
        ("1=", "80.0", "0.3"),
        ("1=", "80.0", "0.2"),
        ("1=", "80.0", "0.4"),
        ("4", "60.0", "0.1"),
    ]
    assert "The best ties with 2 others (the cheapest comes first)" in text
    assert "Of ties the cheapest comes first" in text
    page = _page(sweeps, "s")
    assert page.count('<td class="n">1=</td>') == 3
    assert "Of ties the cheapest comes first" in page


def test_means_that_differ_by_float32_rounding_tie(sweeps):
    # 160 and 162 of 210 correct against 161 twice, as float32
    metrics = {0.1: (160 / 210, 162 / 210), 0.2: (0.7666666507720947, 0.7666666507720947)}
    for rate, values in metrics.items():
        for seed, top1 in enumerate(values):
            _job(sweeps / f"s/{rate}-{seed}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    ranked = effects.configurations(jobs.read("s"), TOP1)
    assert effects.ranks(ranked) == ["1=", "1="]


def test_an_accuracy_of_100_percent_is_shown_with_its_interval(sweeps, capsys):
    _job(sweeps / "s/0", "model.lr=0.01", top1=1.0)
    _job(sweeps / "s/1", "model.lr=0.02", top1=0.5)
    assert "a share of 100.0 % has a 95 % interval of 94.0–100.0 %" in _output(capsys, "s")


@pytest.mark.parametrize(("metric", "rate"), [("val/top1", "0.01"), ("val/loss", "0.02")])
def test_the_metric_can_be_chosen_and_a_loss_is_minimised(sweeps, capsys, metric, rate):
    _job(sweeps / "s/0", "model.lr=0.01", top1=0.6, loss=2.0)
    _job(sweeps / "s/1", "model.lr=0.02", top1=0.5, loss=0.5)
    assert f"lr: {rate}" in _output(capsys, "s", "--metric", metric)


def test_a_metric_of_the_test_split_is_an_error(sweeps, capsys):
    with pytest.raises(SystemExit) as end:
        petfaces("sweeps", "s", "--metric", "test/top1")
    assert end.value.code == 2


def test_the_loss_is_that_of_the_kept_weights():
    epochs = [
        {"epoch": 1.0, "val/loss": 3.0, "val/top1": 0.5},
        {"epoch": 2.0, "val/loss": 2.0, "val/top1": 0.4},
    ]
    assert tasks.best_row(epochs, TOP1.key)["val/loss"] == 3.0
    fitted_head = {"epoch": 0.0, "val/loss": 4.0, "val/top1": 0.5}
    assert tasks.best_row([fitted_head, *epochs], TOP1.key)["val/loss"] == 4.0
    diverged = {"epoch": 1.0, "val/loss": 9.0, "val/top1": float("nan")}
    assert tasks.best_row([diverged, *epochs], TOP1.key)["val/loss"] == 3.0
    probe_rows = [{"val/loss": 3.0, "val/top1": 0.5}, {"val/loss": 2.0, "val/top1": 0.4}]
    assert tasks.best_row(probe_rows, TOP1.key)["val/loss"] == 2.0


def test_a_diverged_job_is_shown_and_never_the_best(sweeps, capsys):
    _job(sweeps / "s/0", "model.lr=0.5", top1=math.nan, loss=math.nan)
    _job(sweeps / "s/1", "model.lr=0.01", top1=0.1)
    text = _output(capsys, "s")
    assert "lr: 0.01" in text
    assert "excluded from the ranking: 1" in text
    assert '<td class="n">NaN</td>' in _page(sweeps, "s")


def test_a_sweep_of_nan_only_has_no_best(sweeps, capsys, experiments):
    _job(sweeps / "s/0", top1=math.nan)
    assert "No finished job reported val top-1, so no configuration is the best." in _output(capsys, "s")
    assert "nothing to save" in _error("s", "--save", "best")
    assert not (experiments / "best.yaml").exists()


def test_a_single_job_is_not_compared(sweeps, capsys):
    _job(sweeps / "s/0")
    assert "Only one configuration reported val top-1, with one seed, so" in _output(capsys, "s")
    assert "Plotly" not in _page(sweeps, "s")


def test_if_only_seeds_vary_the_spread_is_shown(sweeps, capsys):
    for seed, top1 in enumerate((0.50, 0.52, 0.54)):
        _job(sweeps / f"s/{seed}", f"seed={seed}", top1=top1)
    text = _output(capsys, "s")
    assert "Only one configuration reported val top-1, so there is nothing to compare." in text
    assert "Its standard deviation over 3 seeds is 2.0 points." in text
    assert "Nothing but the seed varies" in _page(sweeps, "s")


def test_with_one_seed_the_spread_is_reported_as_unknown(sweeps, capsys):
    _job(sweeps / "s/0", "model.lr=0.01", top1=0.6)
    _job(sweeps / "s/1", "model.lr=0.02", top1=0.5)
    assert "more than one seed, so the seed noise is unknown" in _output(capsys, "s")
    assert "more than one seed, so the seed noise is unknown" in _page(sweeps, "s")


def test_a_repeated_seed_counts_once(sweeps):
    for number in range(2):
        _job(sweeps / f"s/{number}", "model.lr=0.01")
    (configuration,) = effects.configurations(jobs.read("s"), TOP1)
    assert len(configuration.values) == 1


def test_different_validation_splits_are_reported(sweeps, capsys):
    _job(sweeps / "s/0", "model.lr=0.01")
    _job(sweeps / "s/1", "model.lr=0.02")
    file = sweeps / "s/1/lineage.json"
    file.write_text(file.read_text().replace('"split": "b"', '"split": "other"'))
    assert "2 different validation splits" in _output(capsys, "s")


def test_an_unreadable_job_is_reported(sweeps, capsys):
    _job(sweeps / "s/0")
    _job(sweeps / "s/1", "seed=2")
    (sweeps / "s/1/config.yaml").write_text("a: [")
    assert re.search(r"job 1: no result: unreadable: ", _output(capsys, "s"))


def test_failed_and_missing_jobs_of_a_sweep_are_listed(sweeps, run, capsys):
    done = run(
        *("python", "-m", "pipeline.train", "--multirun", "hydra.sweep.dir=runs/sweeps/failed"),
        *("data=petfaces", "model=probe,scratch", "seed=1,2"),
    )
    assert done.stdout.count("error: data/petfaces has no packed pictures") == 4, done.stdout
    assert "error: 4 of 4 jobs failed (0, 1, 2, 3)" in done.stdout
    assert done.returncode == 1
    shutil.rmtree(sweeps / "failed" / job_outcomes.read(sweeps / "failed")[3]["folder"])
    text = _output(capsys, "failed")
    assert re.search("job 1: failed: .* has no packed pictures.* data=petfaces model=probe seed=2", text)
    assert re.search("job 2: failed: .* has no packed pictures.* data=petfaces model=scratch seed=1", text)
    assert "job 3: not started data=petfaces model=scratch seed=2" in text
    assert "not started" in _page(sweeps, "failed")


def test_times_and_failures_from_mlflow_are_shown(sweeps, capsys, monkeypatch):
    _job(sweeps / "s/0", "seed=1")
    (sweeps / "s/1").mkdir()
    hydra = {"sweeper": {"_target_": "x.BasicSweeper", "params": None}, "overrides": {"task": ["seed=1,2"]}}
    OmegaConf.save({"hydra": hydra}, sweeps / "s/multirun.yaml")
    settings = OmegaConf.to_container(OmegaConf.load(sweeps / "s/0/config.yaml"))
    finished = {"name": "seed=1", "status": "FINISHED", "reason": "", "params": tracking.params(settings)}
    failed = {"name": "seed=2", "status": "FAILED", "reason": "out of memory", "params": {}, "seconds": None}
    monkeypatch.setattr(tracking, "sweep_runs", lambda sweep: [finished | {"seconds": 42.0}, failed])
    text = _output(capsys, "s")
    assert "42 s of wall time" in text
    assert "job 1: failed: out of memory seed=2" in text


def test_a_sweep_over_a_glob_is_shown(sweeps, capsys):
    _job(sweeps / "s/0")
    hydra = {"sweeper": {"_target_": "x.BasicSweeper", "params": None}}
    OmegaConf.save({"hydra": hydra | {"overrides": {"task": ["model=glob(*)"]}}}, sweeps / "s/multirun.yaml")
    assert "1 of 1 jobs finished" in _output(capsys, "s")


@pytest.mark.integration
def test_mlflow_finds_a_sweep_by_run_id_by_name_and_by_a_jobs_run(sweeps, capsys, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.client.cache_clear()
    assert "there is none yet" in _error("0123456789abcdef0123456789abcdef")
    assert not (tmp_path / "mlflow.db").exists()
    _job(sweeps / "s/0")
    job = tracking.ensure(sweeps / "s/0")
    client = store.client()
    parent = client.get_run(job).data.tags["mlflow.parentRunId"]
    client.update_run(parent, name="my rates")
    for name in (parent, "my rates", job):
        assert "page: runs/sweeps/s/index.html" in _output(capsys, name)
    shutil.rmtree(sweeps / "s")
    assert "its files are not in runs/sweeps/" in _error(parent)
    store.client.cache_clear()


def test_an_unreachable_mlflow_does_not_stop_the_page(sweeps, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store.client.cache_clear()
    _job(sweeps / "s/0")
    text = _output(capsys, "s")
    assert "MLflow at http://127.0.0.1:9 does not answer" in text
    assert "page: runs/sweeps/s/index.html" in text
    assert "does not answer" in _error("moon")
    store.client.cache_clear()


def test_a_saved_experiment_composes_to_the_best_config(sweeps, capsys, experiments):
    overrides = ("model=finetune", "augment=strong", "augment.mixup=0.1", "model.lr=0.00001", "data.side=32")
    _job(sweeps / "s/0", *overrides, "model.net.backbone=resnet18", "seed=3", top1=0.8)
    _job(sweeps / "s/1", "model=probe", top1=0.7)
    assert "saved: conf/experiment/best.yaml" in _output(capsys, "s", "--save", "best")
    text = (experiments / "best.yaml").read_text()
    assert re.search(r"(?m)^# python -m pipeline\.train experiment=best$", text)
    assert "12,345 parameters, 67,890 multiply-adds a picture, 960 pictures seen" in text
    assert "val top-1 80.0 % on sample, seed 3 alone" in text
    assert set(OmegaConf.load(experiments / "best.yaml").model) == {"lr", "net"}
    composed = train.settings_of(config.compose("experiment=best", "seed=3"))
    assert composed == OmegaConf.to_container(OmegaConf.load(sweeps / "s/0/config.yaml"))


def test_an_experiment_wins_over_params_and_the_command_line_over_both(
    sweeps, capsys, experiments, restored, change
):
    _job(sweeps / "s/0", "model=probe", "split.val=0.25", "data.side=32")
    petfaces("sweeps", "s", "--save", "mine")
    change("params.yaml", ("data: sample ", "data: petfaces "), ("\n  val: 0.15 ", "\n  val: 0.3 "))
    assert config.compose().data.name == "petfaces"
    cfg = config.compose("experiment=mine")
    assert (cfg.data.name, cfg.model.name, cfg.split.val) == ("sample", "probe", 0.25)
    cfg = config.compose("experiment=mine", "data=petfaces", "model=scratch", "split.val=0.1")
    assert (cfg.data.name, cfg.model.name, cfg.split.val) == ("petfaces", "scratch", 0.1)
    assert cfg.augment.mixup > 0


def test_a_stage_runs_a_saved_experiment(sweeps, experiments, run):
    _job(sweeps / "s/0", "data=petfaces", "model=probe")
    petfaces("sweeps", "s", "--save", "mine")
    done = run("python", "-m", "pipeline.train", "experiment=mine", "out=runs/single/never")
    assert done.returncode == 1
    assert "data/petfaces" in done.stdout


def test_an_existing_experiment_is_not_overwritten(sweeps, experiments):
    _job(sweeps / "s/0")
    petfaces("sweeps", "s", "--save", "mine")
    before = (experiments / "mine.yaml").read_text()
    assert "conf/experiment/mine.yaml exists already" in _error("s", "--save", "mine")
    assert (experiments / "mine.yaml").read_text() == before


@pytest.mark.parametrize("name", ["../model/scratch", "a.b", "", "-x y"])
def test_an_invalid_experiment_name_is_an_error(sweeps, name):
    with pytest.raises(errors.UserError, match="not an experiment name"):
        overrides.check_name(name)


def test_a_key_that_conf_no_longer_has_is_an_error_on_save(sweeps, experiments):
    _job(sweeps / "s/0")
    file = sweeps / "s/0/config.yaml"
    file.write_text(file.read_text().replace("  patience:", "  endurance:"))
    assert "can no longer express model.endurance" in _error("s", "--save", "mine")
    assert not (experiments / "mine.yaml").exists()


def _recorded_under_old_names(folder: Path, fraction: float, **values) -> dict:
    """A probe's job as recorded before the renaming, with two keys set to a value; returns its settings."""
    changed = (f"unsure.min_precision={fraction}", f"model.inverse_regularization=[{fraction}]")
    _job(folder, "model=probe", *changed, **values)
    file = folder / "config.yaml"
    text = file.read_text()
    for old, new in renamed.RENAMED.items():
        old, new = (f"\n  {name.rpartition('.')[2]}:" for name in (old, new))
        assert new in text
        text = text.replace(new, old)
    file.write_text(text)
    seal.seal(folder)
    return yaml_files.read(file)


def test_a_sweep_recorded_under_old_names_is_shown_timed_and_saved(sweeps, capsys, experiments, monkeypatch):
    runs = []
    for number, fraction in enumerate((0.8, 0.9)):
        settings = _recorded_under_old_names(sweeps / f"s/{number}", fraction, top1=fraction)
        params = tracking.params(settings)
        assert params["unsure.answers_right"] == str(fraction)  # of a run in MLflow, as in its config.yaml
        runs.append({"name": str(number), "status": "FINISHED", "params": params, "seconds": 42.0 + number})
    monkeypatch.setattr(tracking, "sweep_runs", lambda sweep: runs)
    sweep = jobs.read("s")
    assert set(sweep.parameters) == {"unsure.min_precision", "model.inverse_regularization"}
    assert [job.value("unsure.min_precision") for job in sweep.jobs] == [0.8, 0.9]
    assert [job.seconds for job in sweep.jobs] == [42.0, 43.0]
    _output(capsys, "s", "--save", "mine")
    cfg = config.compose("experiment=mine")
    assert (cfg.unsure.min_precision, cfg.model.inverse_regularization) == (0.9, [0.9])
    # What `petfaces tracking sync` would record of such a run.
    assert tracking.params(settings)["experiment"] == "mine"
    name = "probe model.inverse_regularization=[0.9] unsure.min_precision=0.9"
    assert tracking.run_name(settings, Path("/elsewhere/mine")) == name


@pytest.mark.parametrize("settings", [{}, {"unsure": 3, "model": None}, {"model": {"model.strengths": 1}}])
def test_only_renamed_keys_are_upgraded(settings):
    assert renamed.upgrade(settings) == settings


_RENDERED: dict[str, object] = {}


@pytest.fixture
def many(sweeps, capsys, tmp_path_factory) -> str:
    """A sweep `many` of 151 jobs, one without a result, and its page, made once; the command's output."""
    if not _RENDERED:
        _jobs(sweeps)
        (sweeps / "many/150").mkdir()
        _RENDERED["output"] = _output(capsys, "many")
        _RENDERED["folder"] = shutil.copytree(sweeps / "many", tmp_path_factory.mktemp("rendered") / "many")
    else:
        shutil.copytree(_RENDERED["folder"], sweeps / "many")
    return _RENDERED["output"]


def _jobs(sweeps: Path) -> None:
    """150 jobs in which model and learning rate matter, batch size and dropout do not."""
    rng = random.Random(0)
    for number in range(150):
        model = rng.choice(["scratch", "finetune"])
        rate = 10 ** rng.uniform(-4, -1)
        values = {"model__batch_size": rng.choice([16, 32])}
        if model == "scratch":
            values["model__net__dropout"] = rng.choice([0.1, 0.3])
        top1 = (0.8 if model == "finetune" else 0.5) - 0.05 * (math.log10(rate) + 2.5) ** 2
        _job(sweeps / f"many/{number}", f"model={model}", model__lr=rate, top1=top1, **values)


@pytest.mark.integration
def test_importance_finds_the_parameters_that_matter(sweeps, many):
    assert "150 of 151 jobs" in many
    assert "and 140 more configurations on the page" in many
    found, summary = effects.effects(jobs.read("many"), TOP1)
    assert [effect.parameter for effect in found[:2]] == ["model", "model.lr"]
    assert found[1].importance > 5 * found[2].importance
    assert len(found[1].means) == 4  # values that never repeat are grouped in quartiles
    assert re.search(r"R² is (0\.9\d|1\.00)\.$", summary)
    jobs_listed = re.findall(r"<tr><td><a [^>]*>(\d+)</a></td>", _page(sweeps, "many"))
    assert jobs_listed == [str(number) for number in range(151)]


def test_with_few_jobs_there_is_no_importance(sweeps):
    for number in range(4):
        _job(sweeps / f"s/{number}", model__lr=0.01 * (number + 1), model__batch_size=8 * (number % 2 + 1))
    found, summary = effects.effects(jobs.read("s"), TOP1)
    assert [effect.importance for effect in found] == [None, None]
    assert "4 jobs are too few" in summary


def test_importance_of_noise_is_reported_as_unreliable(sweeps):
    rng = random.Random(1)
    for number in range(40):
        values = {"model__lr": rng.random(), "model__warmup": rng.random()}
        _job(sweeps / f"s/{number}", **values, top1=rng.random())
    _, summary = effects.effects(jobs.read("s"), TOP1)
    assert summary.endswith(", not above 0: ignore these figures.")


def test_the_page_escapes_html(sweeps):
    _job(sweeps / "s/<i>0")
    _job(sweeps / "s/<i>1", model__input__crop="</script><b>bold")
    petfaces("sweeps", "s")
    page = _page(sweeps, "s")
    assert "<i>" not in page
    assert "<b>" not in page
    assert 'href="%3Ci%3E0/"' in page


@pytest.mark.integration
def test_a_browser_draws_all_plots_without_network_or_errors(sweeps, many):
    requests, problems = [], []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto((sweeps / "many/index.html").as_uri())
        page.wait_for_selector("#effect-3 .plot-container")
        body = page.inner_text("body")
        plots = page.locator(".plot-container").count()
        width = page.evaluate("document.documentElement.scrollWidth")
        without_js = browser.new_context(java_script_enabled=False).new_page()
        without_js.goto((sweeps / "many/index.html").as_uri())
        rows = without_js.locator("tr").count()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert plots == 6  # parallel coordinates, best so far, four effects
    assert "not supported" not in body  # plotly's message if its shaders can't run
    assert width == 390
    assert rows > 150
