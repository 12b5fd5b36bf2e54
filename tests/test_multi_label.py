"""Several classes per image, from the label file to the report and the exported model."""

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from models import probe
from pipeline import audit, config, evaluate, fetch, pack, register, report, split, tasks, train
from pipeline.common.errors import UserError
from pipeline.data import pack_index
from pipeline.data.dataset import LooseImages
from pipeline.portable import ModelCard, OnnxClassifier, Preprocessing
from pipeline.sources import synthetic
from pipeline.sources.breeds import BREEDS
from pipeline.split import assign_multi_label
from pipeline.tasks import multi_label
from pipeline.tracking import store

TASK = tasks.of("multi_label")
SHARES = {"val": 0.2, "test": 0.2}


def _archive(file: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def _image(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _packed(tmp_path: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Label of each packed image of an archive, by path."""
    pack.pack(_archive(tmp_path / "archive", files), tmp_path / "pack", 64, task=TASK)
    table = pack_index.read_index(tmp_path / "pack")
    return dict(zip(table["path"], table["label"], strict=True))


IMAGES = {f"set/images/{number}.png": _image(number) for number in range(4)}
CSV = b"path,labels,split\nimages/0.png,night|collar,train\nimages/1.png,,test\nimages/2.png, collar ,\n"


def test_a_labels_csv_sets_the_classes_of_images(tmp_path):
    # Whether it is the first or the last file of the archive.
    for number, files in enumerate(({"set/labels.csv": CSV} | IMAGES, IMAGES | {"set/labels.csv": CSV})):
        (tmp_path / str(number)).mkdir()
        assert _packed(tmp_path / str(number), files) == {
            "set/images/0.png": "collar|night",
            "set/images/1.png": "",
            "set/images/2.png": "collar",
        }
    summary = json.loads((tmp_path / "0/pack/pack.json").read_text())
    assert (summary["task"], summary["pictures"], summary["classes"]) == ("multi_label", 3, 2)
    assert list(pack_index.read_index(tmp_path / "0/pack")["official"]) == ["train", "test", ""]
    quarantine = pandas.read_csv(tmp_path / "0/pack/quarantine.csv")
    assert dict(zip(quarantine["path"], quarantine["reason"], strict=True)) == {
        "set/images/3.png": "no entry of its own in a file of labels"
    }


def test_coco_annotations_set_the_classes_of_images(tmp_path):
    coco = {
        "images": [
            {"id": 7, "file_name": "0.png"},
            {"id": 8, "file_name": "1.png"},
            {"id": 9, "file_name": "9.png"},
        ],
        "categories": [{"id": 1, "name": "collar"}, {"id": 2, "name": "night"}],
        "annotations": [
            {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
            {"image_id": 7, "category_id": 1},
            {"image_id": 7, "category_id": 1},
        ],
    }
    files = IMAGES | {"set/annotations/all.json": json.dumps(coco).encode(), "set/other.json": b'{"a": 1}'}
    assert _packed(tmp_path, files) == {"set/images/0.png": "collar|night", "set/images/1.png": ""}
    reasons = pandas.read_csv(tmp_path / "pack/quarantine.csv").set_index("path")["reason"]
    assert reasons["9.png"] == "in a file of labels, but not in the archive"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no annotation file, which data.task=multi_label needs"),
        (
            {"set/labels.csv": b"file,tags\na,b\n"},
            "has columns file, tags; expected labels.csv with the columns",
        ),
        ({"set/labels.csv": b"path,labels\nimages/0.png\n"}, "labels.csv, line 2: 2 columns, but cells: 1"),
        (
            {"set/labels.csv": b"path,labels\nimages/0.png,a,b\n"},
            "line 2: 2 columns, but cells: 3; put several labels",
        ),
        (
            {"set/labels.csv": b"path,labels,labels\nimages/0.png,a,b\n"},
            "expected labels.csv with the columns",
        ),
        ({"set/labels.csv": b"path,labels,split\nimages/0.png,a,holdout\n"}, "labels.csv, line 2"),
        ({"set/labels.csv": b"path,labels\nimages/0.png,\xff\n"}, "is not a CSV file in UTF-8"),
        ({"set/labels.csv": b"path,labels\nimages/0.png,a\nimages/0.png,b\n"}, "lists images/0.png twice"),
        ({"set/labels.csv": b"path,labels\nimages/0.png,a\nimages/1.png,a\n"}, "have 1 class"),
        (
            {"set/labels.csv": b"path,labels\nimages/0.png,a|b\nimages/1.png,a\n"},
            "are labelled a; remove that",
        ),
        ({"set/x.json": b'{"images": 3, "annotations": [], "categories": []}'}, "is not a valid COCO file"),
        (
            {"set/x.json": b'{"images": [{"id": 1}], "annotations": [], "categories": []}'},
            "is not a valid COCO file",
        ),
        (
            {
                "set/x.json": b'{"images": [{"id": 1, "file_name": "0.png"}, {"id": 1, "file_name": "1"}],'
                b'"annotations": [], "categories": []}'
            },
            "duplicate id",
        ),
    ],
)
def test_an_invalid_label_file_is_a_one_line_error(tmp_path, files, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        _packed(tmp_path, IMAGES | files)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pack").exists()


def test_splits_keep_class_proportions_and_whole_groups():
    rng = np.random.default_rng(0)
    has = rng.random((600, 4)) < [0.5, 0.2, 0.1, 0.03]
    labels = ["|".join(f"c{number}" for number in np.flatnonzero(row)) for row in has]
    groups = np.unique(rng.integers(0, 500, 600), return_inverse=True)[1]
    assigned = assign_multi_label(labels, groups, SHARES, seed=1)
    for name, share in (("val", 0.2), ("test", 0.2), ("train", 0.6)):
        assert (assigned == name).mean() == pytest.approx(share, abs=0.01)
        for number in range(4):
            fraction = (assigned == name)[has[:, number]].mean()
            assert fraction == pytest.approx(share, abs=0.05 if number < 3 else 0.15)
    assert all(len(set(assigned[groups == group])) == 1 for group in set(groups))
    assert (assigned == assign_multi_label(labels, groups, SHARES, seed=1)).all()
    assert (assigned != assign_multi_label(labels, groups, SHARES, seed=2)).any()


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_rare_class_is_in_every_split(count):
    labels = ["rare"] * count + ["a", "a|b", "", "b"] * 40
    for seed in range(20):
        assigned = assign_multi_label(labels, np.arange(len(labels)), {"val": 0.15, "test": 0.15}, seed)
        assert set(assigned[:count]) == {"train", "val", "test"}


def test_labels_apply_only_to_the_exact_path(tmp_path):
    copies = {name.replace("set/images", "set/copies/images"): _image(9) for name in IMAGES}
    table = b"path,labels\nimages/0.png,a\nimages/1.png,b\nimages/2.png,a|b\nimages/3.png,\n"
    found = _packed(tmp_path, copies | IMAGES | {"set/labels.csv": table})
    assert found == dict(zip(IMAGES, ("a", "b", "a|b", ""), strict=True))


def test_coco_split_folders_are_the_official_split(tmp_path):
    files = {}
    for number, folder in enumerate(("train2017", "val2017", "test2017")):
        files |= {f"coco/{folder}/{number}.png": _image(number)}
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    annotations = [{"image_id": number, "category_id": number % 2} for number in range(3)]
    names = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    tree = {"images": images, "annotations": annotations, "categories": names}
    _packed(tmp_path, files | {"coco/annotations/all.json": json.dumps(tree).encode()})
    assert list(pack_index.read_index(tmp_path / "pack")["official"]) == ["test", "train", "val"]


def test_a_pack_of_another_task_or_version_is_an_error(attributes):
    with pytest.raises(UserError, match=r"data/attributes was packed as multi_label; run: dvc repro pack"):
        train.train(
            config.compose("data=attributes", "data.task=single_label", "model=scratch", "out=runs/x")
        )
    file = attributes / "data/attributes/pack/pack.json"
    kept = file.read_text()
    try:
        file.write_text(kept.replace('"schema": 3', '"schema": 2'))
        with pytest.raises(UserError, match="another version of this project"):
            pack_index.read_summary(file.parent)
    finally:
        file.write_text(kept)


def test_a_class_with_too_few_images_to_split_is_an_error():
    with pytest.raises(UserError, match=r"1 class\(es\) have fewer .*'rare' \(2\)"):
        assign_multi_label(["a", "b", "a|b", "", "rare", "rare|a", "b"], np.arange(7), SHARES, seed=1)


def _predictions(seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that correlate with the targets, and the targets."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, 3)) < [0.5, 0.3, 0.1]).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-(2 * targets - 1 + rng.normal(size=targets.shape))))
    return probabilities.astype(np.float32).round(2), targets


def _card(**more: object) -> ModelCard:
    inputs = Preprocessing(64, 32, "bilinear", "squash", 1.0, [0.5] * 3, [0.2] * 3)
    fields = dict.fromkeys(("channels_last", "flip", "drawings"), False)
    fields |= {"name": "x", "data": "x", "classes": ["a", "b", "c"], "species": [""] * 3, "net": {}}
    fields |= {"input": inputs, "temperature": 1.0, "unsure_below": 0.0, "task": "multi_label"}
    return ModelCard(**fields | {"thresholds": [0.5] * 3} | more)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_match_scikit_learn(seed, monkeypatch):
    monkeypatch.setattr(multi_label, "RESAMPLES", 100)
    probabilities, targets = _predictions(seed)
    expected = average_precision_score(targets, probabilities, average="macro")
    assert TASK.score(probabilities, targets) == pytest.approx(expected)
    metric = TASK.metrics(3)["map"]
    for part in np.array_split(np.arange(len(targets)), 7):
        metric.update(torch.from_numpy(probabilities[part]), torch.from_numpy(targets[part]).long())
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-5)
    metrics = TASK.evaluate(_card(), probabilities, targets)
    assessed = TASK.assess(_card(), probabilities, targets)
    predicted = probabilities >= 0.5
    assert metrics["test/f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert metrics["test/f1/micro"] == pytest.approx(f1_score(targets, predicted, average="micro"))
    assert metrics["test/exact"] == (predicted == targets).all(axis=1).mean()
    for key in ("test/map", "test/f1", "test/exact"):
        assert metrics[f"{key}/low"] < metrics[key] < metrics[f"{key}/high"]
    right = [a == b for a, b in zip(assessed.labels, assessed.predicted, strict=True)]
    assert np.mean(right) == metrics["test/exact"]
    assert (assessed.matrix.diagonal() == (predicted & (targets > 0)).sum(axis=0)).all()


@pytest.mark.integration
def test_intervals_cover_the_true_value_in_about_95_percent(monkeypatch):
    monkeypatch.setattr(multi_label, "RESAMPLES", 100)
    true = TASK.score(*_predictions(99, 50_000))
    covered = 0
    for seed in range(60):
        metrics = TASK.evaluate(_card(), *_predictions(seed, 150))
        covered += metrics["test/map/low"] <= true <= metrics["test/map/high"]
    assert 52 <= covered <= 60


def test_absent_classes_are_left_out_of_the_mean(monkeypatch):
    monkeypatch.setattr(multi_label, "RESAMPLES", 100)
    probabilities, targets = _predictions(1)
    targets[:, 2] = 0
    metric = TASK.metrics(3)["map"]
    metric.update(torch.from_numpy(probabilities), torch.from_numpy(targets).long())
    assert float(metric.compute()) == pytest.approx(TASK.score(probabilities, targets), abs=1e-5)
    present = TASK.evaluate(_card(thresholds=[0.5, 0.5, 0.99]), probabilities, targets)["test/f1"]
    assert present == pytest.approx(f1_score(targets[:, :2], probabilities[:, :2] >= 0.5, average="macro"))
    assert TASK.score(probabilities, targets) == pytest.approx(
        average_precision_score(targets[:, :2], probabilities[:, :2])
    )


def test_thresholds_are_chosen_per_class():
    rng = np.random.default_rng(0)
    targets = (rng.random((2000, 2)) < [0.5, 0.1]).astype(np.float32)
    probabilities = np.clip(0.2 + 0.2 * targets + rng.normal(0, 0.03, targets.shape), 0, 1)
    probabilities[:, 1] += 0.4
    card = TASK.choose_thresholds(_card(classes=["a", "b"]), probabilities, targets, probabilities, 0.9, 0.1)
    assert card.thresholds == pytest.approx([0.3, 0.7], abs=0.03)
    # With little data, and without positives.
    assert 0.3 < multi_label._best_threshold(np.array([0.1, 0.05]), np.array([1.0, 0.0])) < 0.5
    assert multi_label._best_threshold(np.array([0.1, 0.05]), np.array([0.0, 0.0])) == 0.5
    rare = np.random.default_rng(1).beta(0.3, 2.7, 200_000)  # calibrated by construction
    rare_targets = (np.random.default_rng(2).random(200_000) < rare).astype(np.float32)
    predicted = rare >= (best := multi_label._best_threshold(rare, rare_targets))
    assert best == pytest.approx(f1_score(rare_targets, predicted) / 2, abs=0.02)


def test_calibration_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    targets = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    card, probabilities = TASK.calibrate(_card(), 1 / (1 + np.exp(-3 * logits)), targets)
    assert card.temperature == pytest.approx(3, rel=0.1)
    assert probabilities == pytest.approx(1 / (1 + np.exp(-logits)), abs=0.05)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_head_is_fitted_for_each_class(balanced):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8)).astype(np.float32)
    targets = (features[:, :3] + 0.5 * rng.normal(size=(300, 3)) > [0, 0.5, 1.2]).astype(np.float32)
    parts = (features[:200], targets[:200]), (features[200:], targets[200:])
    weight, bias, rows = probe.fit_head(*parts, [0.01, 1.0], TASK, balanced)
    assert weight.shape == (3, 8) and bias.shape == (3,)
    assert (np.abs(weight).argmax(axis=1) == [0, 1, 2]).all()
    assert all(row["val/map"] > 0.7 for row in rows)
    rate = (features @ weight.T + bias > 0).mean(axis=0)
    assert rate[2] > 0.2 if balanced else rate[2] < 0.2


def test_the_audit_finds_wrong_labels_per_class():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    targets = (features[:, :2] > 0).astype(np.float32)
    features[5, :2] = 3
    targets[5] = [1, 0]
    doubts = audit._multi_label_issues(features, targets, np.arange(300), ["a", "b"])
    assert doubts[0].image == 5
    assert doubts[0].suggested == "a|b" and doubts[0].own_probability < 0.2


def test_class_weights_make_rare_classes_count():
    targets = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 45)
    weights = torch.tensor(TASK.class_weights(targets.numpy(), 2))
    assert weights.tolist() == pytest.approx([9, 5 / 45])
    logits = torch.zeros(50, 2, requires_grad=True)
    TASK.loss(logits, targets, weights).backward()
    # Positives and negatives of a class have gradients of the same size.
    assert logits.grad.sum(dim=0).abs().max() < 1e-6


def test_drawn_faces_match_their_attribute_labels():
    files = dict(synthetic.with_attributes(60, 1))
    rows = pandas.read_csv(io.BytesIO(files.pop("attributes/labels.csv")), keep_default_na=False)
    night = rows.set_index("path")["labels"].str.contains("night")
    light = {name: np.asarray(Image.open(io.BytesIO(data))).mean() for name, data in files.items()}
    dark, bright = (
        [light[f"attributes/{path}"] for path in night.index[night == value] if f"attributes/{path}" in light]
        for value in (True, False)
    )
    assert np.median(dark) < 0.6 * np.median(bright)
    assert {len(label.split("|")) if label else 0 for label in rows["labels"]} >= {0, 1, 2}


@pytest.fixture(scope="module")
def attributes(repro, project, change):
    """The whole pipeline on a small set of faces with attributes, in the copy."""
    change("conf/data/attributes.yaml", ("pictures: 1000", "pictures: 160"), ("side: 48", "side: 32"))
    change("conf/data/attributes.yaml", ("epochs: 40", "epochs: 2"))
    data, runs, models = (
        project / "data/attributes",
        project / "runs/attributes",
        ["scratch", "probe", "finetune"],
    )
    cfg = config.compose("data=attributes", "model=probe")
    fetch.fetch(cfg, data / "archive")
    pack.pack(data / "archive", data / "pack", cfg.pack.max_side, task=TASK)
    split.split(data / "pack", data / "split.csv", cfg.split)
    audit.audit(cfg, data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(multi_label, "RESAMPLES", 100)
        for model in models:
            cfg = config.compose("data=attributes", f"model={model}", f"out=runs/attributes/train/{model}")
            train.train(cfg)
            evaluate.evaluate(runs / "train" / model, data, runs / "evaluate" / model, 2, 0)
    store.client.cache_clear()
    register.register(runs, data, models, 0.05)
    report.report(runs, data, models, project / "reports/attributes")
    yield project
    # Other tests check every data set there is.
    store.client().delete_registered_model("attributes")
    for folder in (data, runs, project / "reports/attributes"):
        shutil.rmtree(folder)


def test_every_stage_takes_several_classes_per_image(attributes):
    runs, scores = attributes / "runs/attributes", {}
    for model in ("scratch", "probe", "finetune"):
        card = json.loads((runs / "train" / model / "model.json").read_text())
        assert card["task"] == "multi_label" and len(card["thresholds"]) == 4
        scores[model] = json.loads((runs / "train" / model / "metrics.json").read_text())["val/map"]
        test = json.loads((runs / "evaluate" / model / "metrics.json").read_text())
        assert test["test/map/low"] <= test["test/map"] <= test["test/map/high"]
    decision = json.loads((runs / "register/decision.json").read_text())
    assert decision["challenger"] == max(scores, key=scores.get)
    assert "test/map" in decision["champion"]
    page = (attributes / "reports/attributes/index.html").read_text()
    assert "mAP" in page and "top-1" not in page and "open_<wbr>mouth" in page
    assert scores["finetune"] >= scores["probe"] > 0.4


def test_mlflow_shows_multi_label_metrics(attributes):
    from pipeline.tracking import web_ui

    experiment = store.client().get_experiment_by_name("attributes")
    view = web_ui._state(experiment)
    assert "metrics.`best/val/map`" in view["selectedColumns"]
    runs = store.client().search_runs([experiment.experiment_id])
    assert all(run.data.tags["task"] == "multi_label" for run in runs)
    assert any("test mAP" in run.data.tags["mlflow.note.content"] for run in runs)


def test_an_exported_model_predicts_as_the_trained_one_and_applies_thresholds(attributes):
    from models.classifier import load
    from pipeline.evaluation import predictions

    champion = attributes / "runs/attributes/register/champion"
    portable = OnnxClassifier(champion / "portable")
    model, card = load(champion / "train")
    faces = [synthetic.draw(BREEDS["dog_pug"], np.random.default_rng(seed)) for seed in range(4)]
    expected = predictions.predict(model, LooseImages([np.asarray(face) for face in faces], card.input), 4)
    for face, probabilities in zip(faces, expected, strict=True):
        assert portable.probabilities(face) == pytest.approx(probabilities, abs=0.02)
        answer = portable.answer(face, top=1)
        named = {
            name
            for name, probability, threshold in zip(
                card.classes, portable.probabilities(face), card.thresholds, strict=True
            )
            if probability >= threshold
        }
        flagged = {name for name, present in zip(answer["labels"], answer["present"], strict=True) if present}
        assert flagged == named and "unsure" not in answer


def test_predict_export_and_the_example_name_several_classes(attributes, run, tmp_path):
    face = synthetic.draw(BREEDS["dog_pug"], np.random.default_rng(3), frozenset(["glasses"]))
    face.save(tmp_path / "face.png")
    model = ("--model", "models:/attributes@champion")
    lines = run(
        "python", "-m", "pipeline", "predict", str(tmp_path / "face.png"), *model, "--format", "jsonl"
    ).stdout
    answer = json.loads(next(line for line in lines.splitlines() if line.startswith("{")))
    named = [label for label, present in zip(answer["labels"], answer["present"], strict=True) if present]
    table = run(
        "python", "-m", "pipeline", "predict", str(tmp_path / "face.png"), *model, "--format", "csv"
    ).stdout
    (row,) = (
        pandas.read_csv(
            io.StringIO(
                table[table.index("photo,present") :].splitlines()[0]
                + "\n"
                + table[table.index("photo,present") :].splitlines()[1]
            )
        )
        .fillna("")
        .to_dict("records")
    )
    assert row["present"] == "|".join(named)
    done = run("python", "-m", "pipeline", "export", *model, "--out", str(tmp_path / "out"), "--no-try")
    assert done.returncode == 0, done.stdout
    card = (tmp_path / "out/README.md").read_text()
    assert "mAP" in card and "unsure" not in card and "{{" not in card and "None" not in card
    output = run("python", str(tmp_path / "out/example.py"), str(tmp_path / "face.png")).stdout.splitlines()
    assert set(output[0].split(", ")) == set(named or ["none"])


def test_a_registered_model_returns_a_table(attributes, project):
    import mlflow

    model = mlflow.pyfunc.load_model("models:/attributes@champion")
    buffer = io.BytesIO()
    synthetic.draw(BREEDS["cat_Bengal"], np.random.default_rng(1)).save(buffer, "PNG")
    answer = model.predict(pandas.DataFrame({"image": [buffer.getvalue()]}))
    assert list(answer.columns) == ["labels", "probabilities", "present"]
    assert len(answer["present"][0]) == len(answer["labels"][0])


def test_a_multi_label_card_needs_a_threshold_for_each_class(tmp_path):
    from untrusted_models import CARD, written

    from pipeline import portable

    for change in ({"task": "multi_label"}, {"thresholds": [0.5] * 3}, {"task": "boxes"}):
        with pytest.raises(portable.DamagedError, match=r"thresholds must have one|task must be"):
            portable.read_card(written(tmp_path / "x", CARD | change))
    card = portable.read_card(
        written(tmp_path / "x", CARD | {"task": "multi_label", "thresholds": [0.5] * 3})
    )
    assert card.thresholds == [0.5] * 3


def test_single_label_settings_are_refused_for_multi_label_data():
    with pytest.raises(UserError, match=r"model\.balance=sampler needs one class per image"):
        config.compose("data=attributes", "model=scratch", "model.balance=sampler")


def test_a_split_in_the_label_file_is_kept(tmp_path):
    _packed(tmp_path, IMAGES | {"set/labels.csv": CSV + b"images/3.png,night,val\n"})
    split.split(tmp_path / "pack", tmp_path / "split.csv", config.compose().split)
    assigned = pandas.read_csv(tmp_path / "split.csv").set_index("path")["split"]
    assert assigned["set/images/1.png"] == "test" and assigned["set/images/3.png"] == "val"
