"""An exported folder is whole, tells what it is, answers as the project does, and needs three packages."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import pandas
import pytest
from safetensors.torch import load_file

from models import classifier
from pipeline import portable
from pipeline.artifacts import seal
from pipeline.data.dataset import LooseImages
from pipeline.evaluation import predictions
from pipeline.portable import OnnxClassifier
from pipeline.sources import synthetic

FILES = {
    "README.md",
    "SHA256SUMS",
    "config.json",
    "example.py",
    "labels.txt",
    "model.json",
    "model.onnx",
    "model.safetensors",
}


@pytest.fixture(scope="module")
def exported(repro, run, tmp_path_factory):
    """The sample's champion, exported without the page."""
    out = tmp_path_factory.mktemp("export") / "out"
    done = run("python", "-m", "pipeline", "export", "--out", str(out), "--no-try")
    assert done.returncode == 0, done.stdout
    return out


@pytest.fixture(scope="module")
def faces():
    """Decoded drawings, larger than what the model sees."""
    return [
        np.asarray(portable.read_picture(data))
        for _, (_, data) in zip(range(20), synthetic.pictures(1, 9), strict=False)
    ]


def test_it_holds_these_files_and_is_sealed(exported):
    assert {file.name for file in exported.iterdir()} == FILES
    seal.check(exported)


def test_it_tells_its_figures_its_weak_classes_and_its_licences(exported, house):
    card = (exported / "README.md").read_text()
    metrics = json.loads((house / "runs/sample/register/champion/evaluation/metrics.json").read_text())
    assert f"{metrics['test/top1']:.1%}".replace("%", " %") in card
    assert "it knows no photographs" in card
    assert "Weakest classes" in card and "drawn by this project" in card
    assert "{{" not in card and "None" not in card


def test_the_model_tells_labels_bound_and_provenance(exported, house):
    known = onnxruntime.InferenceSession(exported / "model.onnx").get_modelmeta().custom_metadata_map
    labels = (exported / "labels.txt").read_text().split()
    assert json.loads(known["labels"]) == labels and len(labels) == 35
    lineage = json.loads((house / "runs/sample/register/champion/train/lineage.json").read_text())
    assert json.loads(known["provenance"])["data"] == lineage["data"]
    assert float(known["unsure_below"]) == json.loads(known["card"])["unsure_below"]
    assert str(house).encode() not in (exported / "model.onnx").read_bytes()


def test_the_weights_rebuild_the_network_as_config_says(exported, faces):
    import timm

    told = json.loads((exported / "config.json").read_text())
    net = timm.create_model(told["architecture"], num_classes=told["num_classes"])
    net.load_state_dict(load_file(exported / "model.safetensors"))


def test_torch_onnx_and_pyfunc_agree(exported, faces, house):
    import mlflow

    from pipeline.tracking import store

    model, card = classifier.load(house / "runs/sample/register/champion/train")
    by_torch = predictions.predict(model, LooseImages(faces, card.input), 8)
    by_onnx = np.stack([OnnxClassifier(exported).probabilities(face) for face in faces])
    store.client.cache_clear()
    store.client()
    loaded = mlflow.pyfunc.load_model("models:/sample@champion")
    by_mlflow = loaded.predict(pandas.DataFrame({"image": faces}))
    assert np.abs(by_onnx - by_torch).max() < 0.03
    assert list(by_mlflow["labels"].str[0]) == [card.classes[place] for place in by_onnx.argmax(axis=1)]
    assert np.abs(np.array([row[0] for row in by_mlflow["probabilities"]]) - by_onnx.max(axis=1)).max() < 1e-5


def test_it_needs_three_packages(exported, tmp_path):
    """In an environment with nothing else the example names a breed."""
    uv = shutil.which("uv") or Path(sys.executable).parent / "uv"
    packages = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "pillow")]
    made = subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "bare"], check=False)
    python = tmp_path / "bare/bin/python"
    if (
        made.returncode
        or subprocess.run([uv, "pip", "install", "-q", "--python", python, *packages]).returncode
    ):
        pytest.skip("the packages can't be installed here")
    (_, data), *_ = synthetic.pictures(1, seed=9)
    (tmp_path / "face.jpg").write_bytes(data)
    surroundings = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [python, "example.py", tmp_path / "face.jpg"],
        cwd=exported,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    best = OnnxClassifier(exported).answer(data)
    assert best["labels"][0] in done.stdout.splitlines()[-5]
    assert f"{best['probabilities'][0]:6.1%}" in done.stdout


def test_int8_tells_what_it_costs(repro, run, tmp_path, faces):
    done = run("python", "-m", "pipeline", "export", "--out", str(tmp_path / "out"), "--no-try", "--int8")
    assert done.returncode == 0, done.stdout
    card = (tmp_path / "out/README.md").read_text()
    assert "## In int8" in card and "validation pictures" in card
    assert OnnxClassifier(tmp_path / "out").probabilities(faces[0]).sum() == pytest.approx(1, abs=1e-4)


def test_nothing_of_a_persons_own_is_overwritten(exported, run, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    for place in (tmp_path, _written_into(exported, tmp_path / "changed")):
        done = run("python", "-m", "pipeline", "export", "--out", str(place), "--no-try")
        assert done.returncode == 1 and re.search("contains .*; name another --out", done.stdout)
        assert (place / "letter.txt").read_text() == "mine"


def _written_into(exported, folder):
    shutil.copytree(exported, folder)
    (folder / "letter.txt").write_text("mine")
    return folder


def test_a_network_of_our_own_leaves_too(repro, run, tmp_path, faces):
    out = tmp_path / "out"
    for _ in range(2):  # an export as it was written is replaced
        done = run(
            "python",
            "-m",
            "pipeline",
            "export",
            "--model",
            "runs/sample/train/scratch",
            "--out",
            str(out),
            "--no-try",
        )
        assert done.returncode == 0, done.stdout
    assert OnnxClassifier(out).probabilities(faces[0]).sum() == pytest.approx(1, abs=1e-4)
    assert "scratch" in (out / "README.md").read_text()


def test_an_exported_model_is_not_exported_again(exported, run, tmp_path):
    done = run(
        "python", "-m", "pipeline", "export", "--model", str(exported), "--out", str(tmp_path / "again")
    )
    assert done.returncode == 1 and "exported already: copy its folder" in done.stdout
