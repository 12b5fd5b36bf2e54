"""A sweep's page tells what varied, what helped and how much is chance; the best config composes again."""

import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import pytest
from conftest import ended, petfaces
from omegaconf import OmegaConf
from strangers import CARD

from pipeline import config, tasks, tracking, train
from pipeline.artifacts import job_outcomes, seal
from pipeline.common import errors
from pipeline.config import overrides
from pipeline.sweeps import effects, jobs
from pipeline.tracking import store

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


TOP1 = effects.metrics(jobs.Sweep("s", []))["val/top1"]


@pytest.fixture
def place(house):
    """Folder of the sweeps, empty before and after; MLflow is not asked."""
    folder = house / "runs/sweeps"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    """MLflow knows nothing, unless a test says so."""
    monkeypatch.setattr(tracking, "sweep_runs", lambda sweep: [])
    monkeypatch.setattr(tracking, "sweep_of", lambda word: None)


@pytest.fixture
def experiments(house):
    """Folder of the experiments; what a test adds is removed afterwards."""
    folder = house / "conf/experiment"
    shipped = set(folder.iterdir())
    yield folder
    for file in set(folder.iterdir()) - shipped:
        file.unlink()


_COMPOSED = {}


def _job(folder: Path, *overrides: str, top1: float = 0.5, loss: float = 1.0, **values) -> None:
    """A job's folder as training leaves it, less pictures and weights."""
    if overrides not in _COMPOSED:
        _COMPOSED[overrides] = config.compose(*overrides)
    cfg = _COMPOSED[overrides].copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(train.settings_of(cfg))))
    figures = {"val/top1": top1, "val/top3": top1, "epochs": 1, "pictures_seen": 960, "parameters": 12345}
    (folder / "metrics.json").write_text(json.dumps(figures | {"multiply_adds": 67890}))
    (folder / "curves.csv").write_text(f"step,epoch,val/loss,val/top1\n0,1,9,0\n1,2,{loss},{top1}\n")
    data = {"name": cfg.data.name, "content": "a", "split": "b", "pictures": 400, "classes": 35}
    (folder / "lineage.json").write_text(json.dumps({"data": data, "commit": "c" * 40, "dirty": False}))
    card = CARD | {"name": cfg.model.name, "data": cfg.data.name, "drawings": True}
    (folder / "model.json").write_text(json.dumps(card))
    seal.seal(folder)


def _said(capsys, *arguments: str) -> str:
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
def test_a_jobs_damaged_file_is_told_and_the_others_are_shown(place, capsys, file, text):
    for number in ("0", "1"):
        _job(place / "s" / number, f"seed={number}", top1=0.5 + int(number) / 10)
    (place / "s/1" / file).write_text(text)
    told = _said(capsys, "s")
    assert "1 of 2 jobs finished" in told and "50.0 %" in told
    assert "job 1: no result: unreadable: " in told
    assert "1 of 2" in _said(capsys)


@pytest.mark.parametrize("name", ["", "a" * 300, "../x", "a b"])
def test_an_experiments_name_is_checked_before_anything_is_read(place, capsys, name):
    assert "is no name for an experiment" in _error("s", "--save", name)


def _error(*arguments: str) -> str:
    last = ended(lambda: petfaces("sweeps", *arguments))
    assert last.startswith("error: ")
    return last


def _page(place: Path, name: str) -> str:
    """The page without plotly's own code."""
    text = (place / name / "index.html").read_text()
    return re.sub(r"(?s)<script>/\*\*.*?</script>", "", text)


def test_without_a_name_the_sweeps_are_listed(place, capsys):
    assert "no sweeps yet" in _said(capsys)
    _job(place / "one/0", top1=0.25)
    _job(place / "one/1", "seed=2", top1=0.75)
    (place / "two/0").mkdir(parents=True)
    text = _said(capsys)
    assert re.search(r"one .* sample .* 2 of 2 .* 50\.0 % \(25\.0–75\.0\)", text)
    assert re.search(r"two .* 0 of 1 .* –", text)


def test_an_unknown_name_is_told_with_those_that_exist(place):
    assert "there is none yet" in _error("moon")
    _job(place / "one/0")
    _job(place / "two/0")
    assert _error("moon") == "error: no sweep is called 'moon': there are one, two"


def test_the_name_of_the_parent_run_is_a_name_too(place, capsys):
    _job(place / "2026-01-02_03-04-05/0")
    assert "page: runs/sweeps/2026-01-02_03-04-05/index.html" in _said(capsys, "sweep 2026-01-02_03-04-05")


def test_another_model_is_one_parameter_and_not_thirty(place):
    for number, model in enumerate(("scratch", "probe", "finetune")):
        _job(place / f"s/{number}", f"model={model}")
    _job(place / "s/3", "model=finetune", "model.lr=0.01")
    assert jobs.read("s").parameters == ["model", "model.lr"]


def test_an_augmentation_is_one_parameter_and_its_own_values_are_others(place):
    for number, augment in enumerate(("none", "light", "strong")):
        _job(place / f"s/{number}", f"augment={augment}")
    sweep = jobs.read("s")
    assert sweep.parameters == ["augment"]
    assert [job.value("augment") for job in sweep.jobs] == ["none", "light", "strong"]
    _job(place / "s/3", "augment=strong", "augment.mixup=0.4")
    assert jobs.read("s").parameters == ["augment", "augment.mixup"]


def test_what_follows_from_another_word_is_no_parameter(place):
    _job(place / "s/0", "data.side=32")
    _job(place / "s/1", "data.side=64")
    assert jobs.read("s").parameters == ["data.side"]


def test_numbers_words_lists_and_nothing_can_vary(place):
    for number, (widths, size, crop) in enumerate(
        ([[8, 16], None, "a"], [[8, 8], 32, "a"], [[8, 8], 64, "b"])
    ):
        values = {"model__net__widths": widths, "model__input__size": size, "model__input__crop": crop}
        _job(place / f"s/{number}", **values, model__lr=10.0**-number)
    sweep = jobs.read("s")
    assert set(sweep.parameters) == {"model.net.widths", "model.input.size", "model.input.crop", "model.lr"}
    assert [job.value("model.input.size") for job in sweep.jobs] == [None, 32, 64]
    petfaces("sweeps", "s")
    page = _page(place, "s")
    assert "<td>[8, 16]</td>" in page
    assert "<td>null</td>" in page
    assert '"type": "log"' in page


def test_models_that_conf_no_longer_has_are_compared_by_their_files(place, capsys):
    for number, rate in enumerate((1e-3, 1e-2)):
        _job(place / f"s/{number}", model__name="gone", model__lr=rate)
    assert jobs.read("s").parameters == ["model.lr"]
    assert "conf/model/gone.yaml is gone" in _said(capsys, "s")


def test_the_best_is_the_best_mean_over_seeds_and_not_the_best_job(place, capsys):
    for number, (rate, seed, top1) in enumerate(
        [(1e-3, 1, 0.90), (1e-3, 2, 0.10), (1e-2, 1, 0.61), (1e-2, 2, 0.59)]
    ):
        _job(place / f"s/{number}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    text = _said(capsys, "s")
    assert "Expect: val top-1 60.0 % (59.0–61.0) on sample, mean of seeds 1, 2" in text
    assert "  lr: 0.01" in text
    assert "seed:" not in text
    assert "within the spread over seeds" in text


def test_a_clear_lead_is_called_one(place, capsys):
    for number, (rate, seed, top1) in enumerate(
        [(1e-3, 1, 0.90), (1e-3, 2, 0.901), (1e-2, 1, 0.50), (1e-2, 2, 0.501)]
    ):
        _job(place / f"s/{number}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    assert "before the next: more than the spread over seeds" in _said(capsys, "s")


def test_the_spread_of_the_lead_is_that_of_a_t_test(place):
    from scipy.stats import ttest_ind

    figures = {1e-3: [0.80, 0.84, 0.83], 1e-2: [0.79, 0.75, 0.78]}
    for rate, shares in figures.items():
        for seed, top1 in enumerate(shares):
            _job(place / f"s/{rate}-{seed}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    metric = TOP1
    sweep = jobs.read("s")
    ranked = effects.candidates(sweep, metric)
    reach = float(re.search(r"by up to (\S+) points", effects.reliability(sweep, ranked, metric)[0])[1])
    test = ttest_ind(*figures.values())
    expected = 100 * (test.confidence_interval().high - test.confidence_interval().low) / 2
    assert reach == pytest.approx(expected, abs=0.05)


def test_ties_are_shown_as_ties_the_cheapest_first(place, capsys):
    for number, (rate, top1, seen) in enumerate(
        [(0.1, 0.6, 960), (0.2, 0.8, 960), (0.3, 0.8, 96), (0.4, 0.8, 9600)]
    ):
        _job(place / f"s/{number}", f"model.lr={rate}", top1=top1)
        figures = json.loads((place / f"s/{number}/metrics.json").read_text()) | {"pictures_seen": seen}
        (place / f"s/{number}/metrics.json").write_text(json.dumps(figures))
    text = _said(capsys, "s")
    shown = re.findall(r"│ +(\S+) │ +(\S+) % │ (\S+) ", text)
    assert shown == [
        ("1=", "80.0", "0.3"),
        ("1=", "80.0", "0.2"),
        ("1=", "80.0", "0.4"),
        ("4", "60.0", "0.1"),
    ]
    assert "The best ties with 2 others (the cheapest comes first)" in text
    assert "Of ties the cheapest comes first" in text
    page = _page(place, "s")
    assert page.count('<td class="n">1=</td>') == 3
    assert "Of ties the cheapest comes first" in page


def test_means_that_differ_in_float32s_last_digits_alone_tie(place):
    # 160 and 162 right of 210, and 161 twice, as float32 has them
    figures = {0.1: (160 / 210, 162 / 210), 0.2: (0.7666666507720947, 0.7666666507720947)}
    for rate, shares in figures.items():
        for seed, top1 in enumerate(shares):
            _job(place / f"s/{rate}-{seed}", f"seed={seed}", f"model.lr={rate}", top1=top1)
    ranked = effects.candidates(jobs.read("s"), TOP1)
    assert effects.ranks(ranked) == ["1=", "1="]


def test_a_best_that_is_right_everywhere_is_not_called_certain(place, capsys):
    _job(place / "s/0", "model.lr=0.01", top1=1.0)
    _job(place / "s/1", "model.lr=0.02", top1=0.5)
    assert "a share of 100.0 % has a 95 % interval of 94.0–100.0 %" in _said(capsys, "s")


@pytest.mark.parametrize(("metric", "rate"), [("val/top1", "0.01"), ("val/loss", "0.02")])
def test_the_metric_decides_and_a_loss_is_minimised(place, capsys, metric, rate):
    _job(place / "s/0", "model.lr=0.01", top1=0.6, loss=2.0)
    _job(place / "s/1", "model.lr=0.02", top1=0.5, loss=0.5)
    assert f"lr: {rate}" in _said(capsys, "s", "--metric", metric)


def test_the_test_split_can_not_choose(place, capsys):
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
    strengths = [{"val/loss": 3.0, "val/top1": 0.5}, {"val/loss": 2.0, "val/top1": 0.4}]
    assert tasks.best_row(strengths, TOP1.key)["val/loss"] == 2.0


def test_a_job_that_diverged_is_shown_and_never_the_best(place, capsys):
    _job(place / "s/0", "model.lr=0.5", top1=math.nan, loss=math.nan)
    _job(place / "s/1", "model.lr=0.01", top1=0.1)
    text = _said(capsys, "s")
    assert "lr: 0.01" in text
    assert "can't be best: 1" in text
    assert '<td class="n">NaN</td>' in _page(place, "s")


def test_a_sweep_of_nothing_but_nan_has_no_best(place, capsys, experiments):
    _job(place / "s/0", top1=math.nan)
    assert "nothing to choose" in _said(capsys, "s")
    assert "nothing to save" in _error("s", "--save", "best")
    assert not (experiments / "best.yaml").exists()


def test_one_job_is_compared_with_nothing(place, capsys):
    _job(place / "s/0")
    assert "One job only: nothing is compared." in _said(capsys, "s")
    assert "Plotly" not in _page(place, "s")


def test_where_only_seeds_vary_the_spread_is_told(place, capsys):
    for seed, top1 in enumerate((0.50, 0.52, 0.54)):
        _job(place / f"s/{seed}", f"seed={seed}", top1=top1)
    text = _said(capsys, "s")
    assert "One configuration with 3 seeds: nothing to choose" in text
    assert "spreads by 2.0 points" in text
    assert "Nothing but the seed varies" in _page(place, "s")


def test_without_a_second_seed_the_page_says_that_chance_is_unknown(place, capsys):
    _job(place / "s/0", "model.lr=0.01", top1=0.6)
    _job(place / "s/1", "model.lr=0.02", top1=0.5)
    assert "chance is not known" in _said(capsys, "s")
    assert "chance is not known" in _page(place, "s")


def test_the_same_seed_twice_is_no_spread(place):
    for number in range(2):
        _job(place / f"s/{number}", "model.lr=0.01")
    (candidate,) = effects.candidates(jobs.read("s"), TOP1)
    assert len(candidate.values) == 1


def test_jobs_on_different_splits_are_said_not_to_compare(place, capsys):
    _job(place / "s/0", "model.lr=0.01")
    _job(place / "s/1", "model.lr=0.02")
    file = place / "s/1/lineage.json"
    file.write_text(file.read_text().replace('"split": "b"', '"split": "other"'))
    assert "2 different validation splits" in _said(capsys, "s")


def test_an_unreadable_job_stops_nothing(place, capsys):
    _job(place / "s/0")
    _job(place / "s/1", "seed=2")
    (place / "s/1/config.yaml").write_text("a: [")
    assert re.search(r"job 1: no result: unreadable: ", _said(capsys, "s"))


def test_a_failed_sweep_of_hydra_tells_which_jobs_have_no_result(place, run, capsys):
    done = run(
        *("python", "-m", "pipeline.train", "--multirun", "hydra.sweep.dir=runs/sweeps/failed"),
        *("data=petfaces", "model=probe,scratch", "seed=1,2"),
    )
    assert done.stdout.count("error: data/petfaces has no packed pictures") == 4, done.stdout
    assert "error: 4 of 4 jobs failed (0, 1, 2, 3)" in done.stdout
    assert done.returncode == 1
    shutil.rmtree(place / "failed" / job_outcomes.read(place / "failed")[3]["folder"])
    text = _said(capsys, "failed")
    assert re.search("job 1: failed: .* has no packed pictures.* data=petfaces model=probe seed=2", text)
    assert re.search("job 2: failed: .* has no packed pictures.* data=petfaces model=scratch seed=1", text)
    assert "job 3: not started data=petfaces model=scratch seed=2" in text
    assert "not started" in _page(place, "failed")


def test_what_mlflow_knows_of_times_and_failures_is_shown(place, capsys, monkeypatch):
    _job(place / "s/0", "seed=1")
    (place / "s/1").mkdir()
    hydra = {"sweeper": {"_target_": "x.BasicSweeper", "params": None}, "overrides": {"task": ["seed=1,2"]}}
    OmegaConf.save({"hydra": hydra}, place / "s/multirun.yaml")
    settings = OmegaConf.to_container(OmegaConf.load(place / "s/0/config.yaml"))
    known = {"name": "seed=1", "status": "FINISHED", "reason": "", "params": tracking.params(settings)}
    failed = {"name": "seed=2", "status": "FAILED", "reason": "out of memory", "params": {}, "seconds": None}
    monkeypatch.setattr(tracking, "sweep_runs", lambda sweep: [known | {"seconds": 42.0}, failed])
    text = _said(capsys, "s")
    assert "42 s of wall time" in text
    assert "job 1: failed: out of memory seed=2" in text


def test_a_sweep_over_all_files_of_a_group_is_shown_without_its_plan(place, capsys):
    _job(place / "s/0")
    hydra = {"sweeper": {"_target_": "x.BasicSweeper", "params": None}}
    OmegaConf.save({"hydra": hydra | {"overrides": {"task": ["model=glob(*)"]}}}, place / "s/multirun.yaml")
    assert "1 of 1 jobs finished" in _said(capsys, "s")


@pytest.mark.integration
def test_mlflow_finds_a_sweep_by_run_id_by_name_and_by_a_jobs_run(place, capsys, monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    store.client.cache_clear()
    assert "there is none yet" in _error("0123456789abcdef0123456789abcdef")
    assert not (tmp_path / "mlflow.db").exists()
    _job(place / "s/0")
    job = tracking.ensure(place / "s/0")
    client = store.client()
    parent = client.get_run(job).data.tags["mlflow.parentRunId"]
    client.update_run(parent, name="my rates")
    for word in (parent, "my rates", job):
        assert "page: runs/sweeps/s/index.html" in _said(capsys, word)
    shutil.rmtree(place / "s")
    assert "its files are not in runs/sweeps/" in _error(parent)
    store.client.cache_clear()


def test_an_unreachable_mlflow_does_not_stop_the_page(place, capsys, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store.client.cache_clear()
    _job(place / "s/0")
    text = _said(capsys, "s")
    assert "MLflow at http://127.0.0.1:9 does not answer" in text
    assert "page: runs/sweeps/s/index.html" in text
    assert "does not answer" in _error("moon")
    store.client.cache_clear()


def test_a_saved_experiment_composes_to_the_best_config(place, capsys, experiments):
    words = ("model=finetune", "augment=strong", "augment.mixup=0.1", "model.lr=0.00001", "data.side=32")
    _job(place / "s/0", *words, "model.net.backbone=resnet18", "seed=3", top1=0.8)
    _job(place / "s/1", "model=probe", top1=0.7)
    assert "saved: conf/experiment/best.yaml" in _said(capsys, "s", "--save", "best")
    text = (experiments / "best.yaml").read_text()
    assert re.search(r"(?m)^# python -m pipeline\.train experiment=best$", text)
    assert "12,345 parameters, 67,890 multiply-adds a picture, 960 pictures seen" in text
    assert "val top-1 80.0 % on sample, seed 3 alone" in text
    assert set(OmegaConf.load(experiments / "best.yaml").model) == {"lr", "net"}
    composed = train.settings_of(config.compose("experiment=best", "seed=3"))
    assert composed == OmegaConf.to_container(OmegaConf.load(place / "s/0/config.yaml"))


def test_an_experiment_wins_over_params_and_the_command_line_over_both(
    place, capsys, experiments, restored, change
):
    _job(place / "s/0", "model=probe", "split.val=0.25", "data.side=32")
    petfaces("sweeps", "s", "--save", "mine")
    change("params.yaml", ("data: sample ", "data: petfaces "), ("\n  val: 0.15 ", "\n  val: 0.3 "))
    assert config.compose().data.name == "petfaces"
    cfg = config.compose("experiment=mine")
    assert (cfg.data.name, cfg.model.name, cfg.split.val) == ("sample", "probe", 0.25)
    cfg = config.compose("experiment=mine", "data=petfaces", "model=scratch", "split.val=0.1")
    assert (cfg.data.name, cfg.model.name, cfg.split.val) == ("petfaces", "scratch", 0.1)
    assert cfg.augment.mixup > 0


def test_a_stage_takes_an_experiment(place, experiments, run):
    _job(place / "s/0", "data=petfaces", "model=probe")
    petfaces("sweeps", "s", "--save", "mine")
    done = run("python", "-m", "pipeline.train", "experiment=mine", "out=runs/single/never")
    assert done.returncode == 1
    assert "data/petfaces" in done.stdout


def test_no_experiment_is_overwritten(place, experiments):
    _job(place / "s/0")
    petfaces("sweeps", "s", "--save", "mine")
    before = (experiments / "mine.yaml").read_text()
    assert "conf/experiment/mine.yaml exists already" in _error("s", "--save", "mine")
    assert (experiments / "mine.yaml").read_text() == before


@pytest.mark.parametrize("name", ["../model/scratch", "a.b", "", "-x y"])
def test_only_a_name_is_a_name(place, name):
    with pytest.raises(errors.UserError, match="no name for an experiment"):
        overrides.check_name(name)


def test_what_conf_can_no_longer_say_is_not_saved(place, experiments):
    _job(place / "s/0")
    file = place / "s/0/config.yaml"
    file.write_text(file.read_text().replace("  patience:", "  endurance:"))
    assert "can't say model.endurance any more" in _error("s", "--save", "mine")
    assert not (experiments / "mine.yaml").exists()


def _many(place: Path) -> None:
    """150 jobs in which model and rate matter, batch size and dropout do not."""
    rng = random.Random(0)
    for number in range(150):
        model = rng.choice(["scratch", "finetune"])
        rate = 10 ** rng.uniform(-4, -1)
        values = {"model__batch_size": rng.choice([16, 32])}
        if model == "scratch":
            values["model__net__dropout"] = rng.choice([0.1, 0.3])
        top1 = (0.8 if model == "finetune" else 0.5) - 0.05 * (math.log10(rate) + 2.5) ** 2
        _job(place / f"many/{number}", f"model={model}", model__lr=rate, top1=top1, **values)


@pytest.mark.integration
def test_importance_finds_what_matters_in_many_jobs(place, capsys):
    _many(place)
    text = _said(capsys, "many")
    assert "150 of 150 jobs" in text
    assert "and 140 more configurations on the page" in text
    found, told = effects.effects(jobs.read("many"), TOP1)
    assert [effect.parameter for effect in found[:2]] == ["model", "model.lr"]
    assert found[1].importance > 5 * found[2].importance
    assert len(found[1].means) == 4  # rates that never repeat, in quarters
    assert re.search(r"explains (9\d|100) %", told)
    listed = re.findall(r"<tr><td><a [^>]*>(\d+)</a></td>", _page(place, "many"))
    assert listed == [str(number) for number in range(150)]


def test_with_too_few_jobs_there_is_no_importance(place):
    for number in range(4):
        _job(place / f"s/{number}", model__lr=0.01 * (number + 1), model__batch_size=8 * (number % 2 + 1))
    found, told = effects.effects(jobs.read("s"), TOP1)
    assert [effect.importance for effect in found] == [None, None]
    assert "4 jobs are too few" in told


def test_importance_of_pure_chance_says_so(place):
    rng = random.Random(1)
    for number in range(40):
        values = {"model__lr": rng.random(), "model__warmup": rng.random()}
        _job(place / f"s/{number}", **values, top1=rng.random())
    _, told = effects.effects(jobs.read("s"), TOP1)
    assert "read nothing into these figures" in told


def test_the_page_escapes_what_it_shows(place):
    _job(place / "s/<i>0")
    _job(place / "s/<i>1", model__input__crop="</script><b>bold")
    petfaces("sweeps", "s")
    page = _page(place, "s")
    assert "<i>" not in page
    assert "<b>" not in page
    assert 'href="%3Ci%3E0/"' in page


@pytest.mark.integration
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: none on the path, nor in $CHROMIUM")
def test_in_a_browser_all_figures_are_drawn_without_network_or_errors(place):
    playwright = pytest.importorskip("playwright.sync_api")
    _many(place)
    (place / "many/150").mkdir()
    petfaces("sweeps", "many")
    requests, problems = [], []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto((place / "many/index.html").as_uri())
        page.wait_for_selector("#effect-3 .plot-container")
        told = page.inner_text("body")
        drawn = page.locator(".plot-container").count()
        wide = page.evaluate("document.documentElement.scrollWidth")
        plain = browser.new_context(java_script_enabled=False).new_page()
        plain.goto((place / "many/index.html").as_uri())
        rows = plain.locator("tr").count()
        browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert drawn == 6  # parallel coordinates, best so far, four effects
    assert "not supported" not in told  # what plotly says where its shaders' code may not run
    assert wide == 390
    assert rows > 150
