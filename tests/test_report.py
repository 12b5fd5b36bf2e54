"""The report: its contents, its files, and that it works for few, many and flawed classes."""

import dataclasses
import functools
import io
import json
import re
import shutil
import subprocess
import tarfile
from html.parser import HTMLParser

import numpy as np
import pandas
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from pipeline import audit, config, evaluate, pack, report, split, tasks
from pipeline.artifacts import curves, seal
from pipeline.common.errors import UserError
from pipeline.evaluation import predictions
from pipeline.reporting import leaderboard, report_page
from pipeline.tasks import metrics as shares
from pipeline.training import build

SINGLE = tasks.of("single_label")
POINT = {"step": 0, "C": 0.1, "val/top1": 0.5, "val/loss": 1.0}
EPOCH = {"step": 0, "epoch": 1, "val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.2}


class Page(HTMLParser):
    """A page's text, and the attributes of each tag."""

    def __init__(self, file):
        super().__init__()
        self.words, self.tags, self._hidden = [], [], False
        self.feed(file.read_text())
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.words.append("" if tag == "wbr" else " ")
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


def _blob(rng) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((50, 60), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def _data(data_dir, labels: list[str], each: int, extra: dict[str, bytes] | None = None):
    """Packs and splits random images, `each` per class, and the extra files."""
    rng = np.random.default_rng(5)
    files = {f"tiny/{label}/{label}_{number}.png": _blob(rng) for label in labels for number in range(each)}
    data_dir.mkdir(parents=True)
    with tarfile.open(data_dir / "archive", "w") as archive:
        for name, data in (files | (extra or {})).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    pack.pack(data_dir / "archive", data_dir / "pack", 128)
    choice = OmegaConf.create({"seed": 1, "val": 0.2, "test": 0.2, "distance": 8, "official": True})
    split.split(data_dir / "pack", data_dir / "split.csv", choice)
    return data_dir


def _audited(data_dir, *rows: tuple) -> None:
    lines = [",".join(audit.COLUMNS), *(",".join(map(str, row)) for row in rows)]
    (data_dir / "audit.csv").write_text("\n".join(lines) + "\n")


@functools.cache
def _config() -> DictConfig:
    return config.compose("model=scratch", "model.net.widths=[4]", "model.net.depths=[1]")


def _evaluated(
    runs, data_dir, monkeypatch, model: str, wrong: int, points: list[dict], drawings=True, **costs
) -> None:
    """Writes the train and evaluate folders of a model that is wrong on the first `wrong` test images."""
    from models import classifier
    from pipeline.data.dataset import ImageDataset, PackedDataset

    packed = PackedDataset.open(data_dir)
    built = build.build(_config(), packed)
    card = dataclasses.replace(built.card, name=model, data=runs.name, drawings=drawings)
    folder = runs / "train" / model
    folder.mkdir(parents=True)
    classifier.save(built.model, card, folder)
    curves.write(points, folder / "curves.csv")
    cost = {"val/top1": 0.5, "parameters": 1234, "multiply_adds": 5678, "pictures_seen": 0}
    (folder / "metrics.json").write_text(json.dumps(cost | costs))
    seal.seal(folder)

    original = predictions.predict

    def fake_predict(model, images, *args):
        if not isinstance(images, ImageDataset):
            return original(model, images, *args)
        targets = images.targets.copy()
        targets[:wrong] = (targets[:wrong] + 1) % len(packed.classes)
        confidence = np.linspace(0.6, 0.9, len(targets))
        rest = (1 - confidence) / (len(packed.classes) - 1)
        probabilities = np.repeat(rest[:, None], len(packed.classes), axis=1)
        probabilities[np.arange(len(targets)), targets] = confidence
        return probabilities.astype(np.float32)

    monkeypatch.setattr(predictions, "predict", fake_predict)
    evaluate.evaluate(folder, data_dir, runs / "evaluate" / model, 1, 0)
    champion = {"model": model, "reason": "the first champion"}
    decision = {"promoted": True, "challenger": model, "reason": "x", "looks": 0, "champion": champion}
    (runs / "register").mkdir(exist_ok=True)
    (runs / "register/decision.json").write_text(json.dumps(decision))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The report on two candidates and three classes with every flaw."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(9)
    duplicate = _blob(rng)
    flaws = {
        "tiny/cat_a/cat_a_90.png": duplicate,
        "tiny/dog_b/dog_b_90.png": duplicate,
        "tiny/dog_b/dog_b_91.png": b"<html>404</html>",
        "tiny/dog_c/<b>&.png": b"",
    }
    data_dir = _data(folder / "data/tiny", ["cat_a", "dog_b", "dog_c"], 12, flaws)
    _audited(data_dir, ("tiny/cat_a/cat_a_3.png", "cat_a", "dog_b", 0.01, 0.97))
    runs = folder / "runs/tiny"
    with pytest.MonkeyPatch.context() as monkeypatch:
        _evaluated(runs, data_dir, monkeypatch, "weak", 5, [EPOCH])
        _evaluated(runs, data_dir, monkeypatch, "strong", 2, [POINT])
    report.report(runs, data_dir, ["weak", "strong"], folder / "reports/tiny")
    return folder


def test_the_page_lists_the_datas_flaws(tiny):
    page = Page(tiny / "reports/tiny/index.html")
    assert "tiny/dog_b/dog_b_91.png not a picture of a known format" in page.text
    assert "tiny/dog_c/<b>&.png empty file" in page.text  # escaped
    assert "2 pictures in 1 group" in page.text
    assert "In 1 group the labels differ" in page.text
    assert "1 of 38 labels look improbable" in page.text
    assert any(image["alt"] == "cat_a/cat_a_3.png" for image in page.all("img"))
    assert [row["path"] for row in pandas.read_csv(tiny / "reports/tiny/audit.csv").to_dict("records")] == [
        "tiny/cat_a/cat_a_3.png"
    ]


def test_the_page_shows_the_best_models_most_confident_mistakes(tiny):
    page = Page(tiny / "reports/tiny/index.html")
    assert "The worst mistakes of strong" in page.text
    assert "2 of 7 test pictures were named wrongly; these, surest first" in page.text
    first = pandas.read_csv(tiny / "runs/tiny/evaluate/strong/predictions.csv").iloc[:2]
    shown = re.findall(r"(\w+) taken for (\w+) (\d+) % sure", page.text)
    assert [(label, predicted) for label, predicted, _ in shown] == list(
        zip(first["label"][::-1], first["predicted"][::-1], strict=True)
    )


def test_the_page_loads_only_its_own_files(tiny):
    folder = tiny / "reports/tiny"
    text = (folder / "index.html").read_text()
    page = Page(folder / "index.html")
    assert not re.search(r"https?:|//\w|@import|url\(", text)
    assert not page.all("script", "iframe", "object", "embed", "link", "base")
    loaded = [image["src"] for image in page.all("img")]
    assert len(loaded) > 12
    for address in [*loaded, *(link["href"] for link in page.all("a") if not link["href"].startswith("#"))]:
        assert (folder / address).is_file(), address
    assert {f"pictures/{file.name}" for file in (folder / "pictures").iterdir()} <= set(loaded)


def test_the_page_is_accessible(tiny):
    page = Page(tiny / "reports/tiny/index.html")
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= ids
    assert page.all("html")[0]["lang"] == "en"


def test_equal_results_give_equal_bytes_without_paths(tiny, tmp_path):
    def contents(folder):
        return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    report.report(tiny / "runs/tiny", tiny / "data/tiny", ["weak", "strong"], tmp_path / "again/tiny")
    assert contents(tmp_path / "again/tiny") == contents(tiny / "reports/tiny")
    for name in ("index.html", "README.md"):
        assert str(tiny) not in (tiny / "reports/tiny" / name).read_text()


def test_git_ignores_thumbnails_of_photos_but_not_of_drawings(project):
    def ignored(path):
        return subprocess.run(["git", "check-ignore", "-q", path], cwd=project).returncode == 0

    assert ignored("reports/petfaces/pictures/0123.jpg")
    assert ignored("reports/oxford/pictures/0123.jpg")
    assert not ignored("reports/sample/pictures/0123.jpg")
    assert not ignored("reports/petfaces/index.html")


def test_the_page_says_if_its_thumbnails_are_not_in_git(tiny, tmp_path):
    tiny = shutil.copytree(tiny, tmp_path / "tiny")
    (card_file,) = (tiny / "runs/tiny/train").glob("strong/model.json")
    card_file.write_text(json.dumps(json.loads(card_file.read_text()) | {"drawings": False}))
    seal.seal(card_file.parent)
    report.report(tiny / "runs/tiny", tiny / "data/tiny", ["weak", "strong"], tiny / "reports/tiny")
    text = Page(tiny / "reports/tiny/index.html").text
    assert "not in git" in text
    assert "Drawings, not photographs" not in text


@pytest.mark.parametrize(("labels", "each"), [(["a", "b"], 5), ([f"class {n:03}" for n in range(200)], 3)])
def test_small_and_many_classes_are_reported(tmp_path, monkeypatch, labels, each):
    data_dir, runs, target = (
        _data(tmp_path / "data/x", labels, each),
        tmp_path / "runs/x",
        tmp_path / "reports/x",
    )
    _audited(data_dir)
    _evaluated(runs, data_dir, monkeypatch, "one", 1, [POINT])
    report.report(runs, data_dir, ["one"], target)
    page = Page(target / "index.html")
    assert "One candidate only" in page.text
    assert "One candidate only" in (target / "README.md").read_text()
    assert all(label in page.text for label in labels)
    assert sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) < 1_000_000
    with Image.open(target / "confusion-one.png") as plot:
        assert max(plot.size) < 1500


def test_a_report_without_mistakes_curves_or_suspicious_labels_says_so(tmp_path, monkeypatch):
    data_dir, runs, target = (
        _data(tmp_path / "data/x", ["a", "b"], 9),
        tmp_path / "runs/x",
        tmp_path / "reports/x",
    )
    _audited(data_dir)
    _evaluated(runs, data_dir, monkeypatch, "perfect", 0, [])
    _evaluated(runs, data_dir, monkeypatch, "other", 0, [])
    report.report(runs, data_dir, ["perfect", "other"], target)
    page = Page(target / "index.html")
    assert "every test picture was named rightly" in page.text
    assert "None found by a linear head" in page.text
    assert "perfect and other: within the noise" in page.text


def test_dropped_images_are_counted_and_listed(tmp_path, monkeypatch):
    data_dir, runs, target = (
        _data(tmp_path / "data/x", ["a", "b"], 9),
        tmp_path / "runs/x",
        tmp_path / "reports/x",
    )
    table = pandas.read_csv(data_dir / "split.csv")
    dropped = table.index[table["split"] == "train"][0]
    table.loc[dropped, "split"] = "dropped"
    table.to_csv(data_dir / "split.csv", index=False)
    _audited(data_dir)
    _evaluated(runs, data_dir, monkeypatch, "one", 0, [POINT])
    report.report(runs, data_dir, ["one"], target)
    text = Page(target / "index.html").text
    assert "1 picture, near-duplicates of official test pictures" in text
    assert table.loc[dropped, "path"] in text


def test_a_missing_audit_is_an_error_that_names_the_stage(tmp_path):
    with pytest.raises(UserError, match="dvc repro audit"):
        report.report(tmp_path / "runs/x", tmp_path / "data/x", ["one"], tmp_path / "reports/x")


def test_the_interval_is_right_at_0_and_1_and_covers_the_true_share():
    from scipy.stats import binom

    low, high = shares.wilson_interval(np.ones(42, dtype=bool))
    assert (round(low, 3), high) == (0.916, 1.0)
    low, high = shares.wilson_interval(np.zeros(42, dtype=bool))
    assert (low, round(high, 3)) == (0.0, 0.084)
    intervals = [shares.wilson_interval(np.arange(42) < hits) for hits in range(43)]
    for share in (0.5, 0.9, 0.95, 0.98, 0.99):  # exact coverage
        covered = [hits for hits, (low, high) in enumerate(intervals) if low <= share <= high]
        assert binom.pmf(covered, 42, share).sum() > 0.9


def test_every_share_of_the_test_images_has_an_interval(tiny):
    metrics = json.loads((tiny / "runs/tiny/evaluate/strong/metrics.json").read_text())
    keys = ["test/top1", "test/top3", "test/top5", "test/species", "test/answered", "test/answered/right"]
    for key in keys:
        assert metrics[f"{key}/low"] <= metrics[key] <= metrics[f"{key}/high"]
        assert metrics[f"{key}/high"] - metrics[f"{key}/low"] > 0.2  # seven images
    assert "Wilson" in Page(tiny / "reports/tiny/index.html").text


def test_tied_models_are_ranked_by_cost(tmp_path, monkeypatch):
    data_dir, runs, target = (
        _data(tmp_path / "data/x", ["a", "b"], 9),
        tmp_path / "runs/x",
        tmp_path / "reports/x",
    )
    _audited(data_dir)
    _evaluated(runs, data_dir, monkeypatch, "dear", 1, [EPOCH], pictures_seen=900)
    _evaluated(runs, data_dir, monkeypatch, "cheap", 1, [EPOCH], pictures_seen=100)
    _evaluated(runs, data_dir, monkeypatch, "worse", 2, [EPOCH])
    report.report(runs, data_dir, ["dear", "cheap", "worse"], target)
    message = "cheap and dear tie in top-1. Of ties the cheapest comes first"
    assert message in (target / "README.md").read_text()
    assert message in Page(target / "index.html").text
    assert list(pandas.read_csv(target / "leaderboard.csv")["model"]) == ["cheap", "dear", "worse"]
    assert not leaderboard.ties(SINGLE, leaderboard.rows(runs, ["dear", "worse"]))


def _predictions(correct: list[int]) -> list[dict]:
    return [{"label": "a", "predicted": "a" if is_correct else "b"} for is_correct in correct]


def test_each_candidate_is_compared_with_the_best_and_the_next():
    rows = leaderboard.compare(
        {
            "x": _predictions([1] * 40),
            "y": _predictions([1] * 38 + [0] * 2),
            "z": _predictions([1] * 20 + [0] * 20),
        }
    )
    assert [(row["first"], row["second"], row["noise"]) for row in rows] == [
        ("x", "y", True),
        ("x", "z", False),
        ("y", "z", False),
    ]
    assert "x and y: within the noise. Of 40 test pictures 2 are right with x alone" in leaderboard.verdict(
        rows[0]
    )
    assert "none is corrected" in leaderboard.caution(rows)


def test_thumbnails_are_limited_in_size_and_number(tmp_path, monkeypatch):
    labels = [f"c{n}" for n in range(30)]
    rng = np.random.default_rng(2)
    copies = {f"tiny/{label}/t_{n}.png": blob for label in labels for blob in [_blob(rng)] for n in (1, 2)}
    data_dir, runs = _data(tmp_path / "data/x", labels, 9, copies), tmp_path / "runs/x"
    paths = pandas.read_csv(data_dir / "split.csv")["path"]
    _audited(data_dir, *((path, "c1", "c2", 0.1, 0.8) for path in paths[::3]))
    _evaluated(runs, data_dir, monkeypatch, "one", 60, [POINT])
    report.report(runs, data_dir, ["one"], tmp_path / "reports/x")
    files = list((tmp_path / "reports/x/pictures").iterdir())
    limit = report_page.PAIRS * 3 * report_page.EXAMPLES + report_page.GROUPS * report_page.MEMBERS
    limit += report_page.MISTAKES + report_page.SUSPICIOUS
    assert 40 < len(files) <= limit
    for file in files:
        with Image.open(file) as image:
            assert max(image.size) <= report_page.SIDE
