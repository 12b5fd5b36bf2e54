"""`dvc repro` reruns only the stages that changed, and leaves a champion and a report."""

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import pandas
import pytest
from conftest import FINISHED

from pipeline.sources import synthetic

REPORT = {
    "README.md",
    "audit.csv",
    "calibration.png",
    "classes.csv",
    "confusion-probe.png",
    "confusion-scratch.png",
    "confusions.csv",
    "curves.csv",
    "curves.png",
    "index.html",
    "leaderboard.csv",
    "leaderboard.png",
    "metrics.json",
    "pictures",
}


def _bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _changed(status: str) -> set[str]:
    """Stages listed in the output of `dvc status`."""
    return set(re.findall(r"^([a-z@]+):$", status, re.MULTILINE))


def test_the_stages_run_in_order_and_end_with_a_champion(repro):
    stages = re.findall(r"Running stage '(\w+)", repro.stdout)
    assert list(dict.fromkeys(stages)) == [
        "fetch",
        "pack",
        "split",
        "audit",
        "train",
        "evaluate",
        "register",
        "report",
    ]
    register = FINISHED / "runs/sample/register"  # other tests change the champion of the copy
    assert json.loads((register / "decision.json").read_text())["promoted"]
    assert (register / "champion/portable/model.onnx").is_file()


def test_a_second_repro_runs_no_stage(repro, run, project):
    before = _bytes(project / "reports")
    done = run("dvc", "repro")
    assert "Running stage" not in done.stdout
    assert done.returncode == 0
    assert _bytes(project / "reports") == before


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("params.yaml", "split:\n  seed: 1", "split:\n  seed: 2", {"split"}),
        ("params.yaml", "\nseed: 1 ", "\nseed: 2 ", {"train@scratch", "train@probe"}),
        ("conf/model/scratch.yaml", "dropout: 0.2", "dropout: 0.3", {"train@scratch"}),
        ("conf/model/probe.yaml", "batch_size: 16", "batch_size: 32", {"audit", "train@probe"}),
        ("conf/model/finetune.yaml", "ema: ", "ema: 0", set()),
        (
            "conf/model/base/pretrained.yaml",
            ", 1.0]",
            ", 2.0]",
            {"audit", "train@scratch", "train@probe"},
        ),
        ("conf/model/base/trained.yaml", "# A network", "# Of a network", set()),
        ("conf/data/sample.yaml", "per_class: 7", "per_class: 8", {"fetch"}),
        ("conf/data/sample.yaml", "max_side: 128", "max_side: 100", {"pack"}),
        ("params.yaml", "classes: folder", "classes: breed", {"pack"}),
        ("conf/augment/strong.yaml", "mixup: 0.2", "mixup: 0.3", {"train@scratch", "train@probe"}),
        ("conf/augment/strong.yaml", "# For a network", "# Of a network", set()),
        ("conf/trainer/cpu.yaml", "workers: 0", "workers: 1", set()),
        ("conf/trainer/cpu.yaml", "checkpoint_minutes: 5", "checkpoint_minutes: 6", set()),
        (
            "conf/trainer/cpu.yaml",
            "features: onnx",
            "features: torch",
            {"audit", "train@scratch", "train@probe", "evaluate@scratch", "evaluate@probe"},
        ),
    ],
)
def test_a_change_makes_only_its_stages_stale(repro, run, project, restored, change, file, old, new, stale):
    change(file, (old, new))
    assert _changed(run("dvc", "status").stdout) == stale


def test_a_new_config_file_makes_no_stage_stale(repro, run, project):
    for group in ("augment", "data", "model", "trainer", "experiment"):
        (project / f"conf/{group}/mine.yaml").write_text("{}\n")
    try:
        assert _changed(run("dvc", "status").stdout) == set()
    finally:
        for group in ("augment", "data", "model", "trainer", "experiment"):
            (project / f"conf/{group}/mine.yaml").unlink()


def test_the_report_is_complete_small_and_without_paths(repro, project):
    folder = project / "reports/sample"
    assert {file.name for file in folder.iterdir()} == REPORT
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 1_000_000
    for name in ("README.md", "index.html"):
        text = (folder / name).read_text()
        assert "Drawings, not photographs" in text
        assert "more than noise" in text or "within the noise" in text
        assert str(project) not in text
    metrics = pandas.read_csv(folder / "leaderboard.csv", index_col="model").to_dict("index")
    assert set(metrics) == {"scratch", "probe"}
    assert (
        metrics["probe"]["test/top1/low"]
        <= metrics["probe"]["test/top1"]
        <= metrics["probe"]["test/top1/high"]
    )
    assert metrics["probe"]["test/top1"] <= metrics["probe"]["test/top3"] <= metrics["probe"]["test/top5"]
    assert 0 <= metrics["probe"]["test/species"] <= 1


def test_dvc_shows_a_few_metrics_of_each_model(repro, project):
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        ((_, shown),) = repo.metrics.show().items()
    (models,) = (file["data"] for file in shown["data"].values())
    assert set(models) == {"scratch", "probe"}
    for metrics in models.values():
        assert {"test/top1", "test/top3", "test/answered"} <= set(metrics)
        assert len(metrics) <= 4


def test_dvc_plots_compares_curves_by_revision_and_model(repro, project):
    from dvc.render.match import match_defs_renderers
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        shown = repo.plots.show()
        templates = repo.plots.templates_dir
        renderers = {
            each.renderer.name: each.renderer for each in match_defs_renderers(shown, templates_dir=templates)
        }
    for name in ("accuracy on validation", "loss on validation"):
        spec = renderers[name].get_filled_template()
        points = [row for row in spec["data"]["values"] if row["epoch"]]
        assert {row["model"] for row in points} == {"scratch"}  # a probe has no epochs
        assert len(points) == 2
        assert {row["rev"] for row in points} == {"workspace"}
        assert spec["encoding"]["color"]["field"] == "rev"
        assert spec["encoding"]["strokeDash"]["field"] == "model"
        assert all(float(row[spec["encoding"]["y"]["field"]]) >= 0 for row in points)


def test_the_leaderboard_is_printed_with_wall_times(repro, run):
    shown = run("python", "-m", "pipeline", "leaderboard").stdout
    assert "Champion of sample" in shown
    assert "drawings" in shown
    assert re.search(r"\d+ s ", shown)


def test_predict_classifies_one_photo_and_reports_bad_ones(repro, run, tmp_path):
    (_, data), *_ = synthetic.pictures(1, seed=9)
    (tmp_path / "face.jpg").write_bytes(data)
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    done = run("python", "-m", "pipeline", "predict", "face.jpg", "bad.jpg", "gone.jpg", cwd=tmp_path)
    assert done.returncode == 1
    assert "%" in done.stdout
    assert "error: bad.jpg: not a picture of a known format" in done.stdout
    assert "error: gone.jpg: No such file" in done.stdout
    assert "not photographs" in done.stdout
    assert run("python", "-m", "pipeline", "predict", "face.jpg", cwd=tmp_path).returncode == 0
    missing = run("python", "-m", "pipeline", "predict", "face.jpg", "--model", "petfaces", cwd=tmp_path)
    assert missing.returncode == 1
    assert "no champion of 'petfaces'" in missing.stdout


def test_a_new_report_keeps_users_files_and_drops_old_plots(repro, project, tmp_path):
    from pipeline.report import _keep_user_files

    old = tmp_path / "old"
    (old / "pictures").mkdir(parents=True)
    for name in (
        "notes.md",
        "pictures/mine.png",
        "pictures/0123456789abcdef.jpg",
        "confusion-gone.png",
        "index.html",
    ):
        (old / name).write_text("old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/index.html").write_text("new")
    _keep_user_files(old, tmp_path / "new")
    assert _bytes(tmp_path / "new") == {
        tmp_path / "new/index.html": b"new",
        tmp_path / "new/notes.md": b"old",
        tmp_path / "new/pictures/mine.png": b"old",
    }


def test_demo_without_git_stops_before_installing(project, run, tmp_path):
    shutil.copyfile(project / "Makefile", tmp_path / "Makefile")
    done = run("make", "demo", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stdout.splitlines()[:2] == [
        "error: this folder is no git checkout, which DVC needs; use a clone of the project, or run here:",
        "  git init && git add -A && git commit -m Start",
    ]
    assert not (tmp_path / ".venv").exists()
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    assert "Needed a single revision" in run("make", "demo", cwd=tmp_path).stdout
    assert run("make", "checkout", cwd=project).returncode == 0


@pytest.mark.slow
def test_a_commit_alone_changes_neither_dvc_lock_nor_the_report(repro, run, project, tmp_path):
    clone = tmp_path / "clone"
    assert run("git", "clone", "-q", str(project), str(clone)).returncode == 0
    shutil.copyfile(project / "dvc.lock", clone / "dvc.lock")
    shutil.copytree(project / "reports", clone / "reports")
    user = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    assert run("git", "add", "-A", cwd=clone).returncode == 0
    for message in ("what was trained", "a page"):
        assert run("git", *user, "commit", "-q", "--allow-empty", "-m", message, cwd=clone).returncode == 0
    done = run("dvc", "repro", "--force", cwd=clone, PYTHONPATH=str(clone))
    assert done.returncode == 0, done.stdout
    assert "Running stage 'train@scratch'" in done.stdout
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


@pytest.mark.slow
def test_switching_data_and_back_keeps_reports_and_retrains_nothing(
    repro, run, project, restored, change, tmp_path
):
    with tarfile.open(tmp_path / "petfaces.tar.gz", "w:gz") as archive:
        for name, data in synthetic.pictures(7, seed=4):
            member = tarfile.TarInfo(name.replace("sample/", "petfaces/", 1))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    before = _bytes(project / "reports/sample")
    change("params.yaml", ("data: sample ", "data: petfaces "))
    switched = run("dvc", "repro", PETFACES_MIRROR=str(tmp_path))
    assert switched.returncode == 0, switched.stdout
    assert "Running stage 'train@scratch'" in switched.stdout
    assert _bytes(project / "reports/sample") == before
    change("params.yaml", ("data: petfaces ", "data: sample "))
    back = run("dvc", "repro")
    assert back.returncode == 0, back.stdout
    assert "Running stage 'train" not in back.stdout
    assert {file.name for file in (project / "reports/petfaces").iterdir()} == REPORT
    assert _bytes(project / "reports/sample") == before
