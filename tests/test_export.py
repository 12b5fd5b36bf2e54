"""An exported folder is complete, describes itself, predicts as the project does and needs three packages."""

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
    """The sample's champion, exported without the browser demo."""
    out = tmp_path_factory.mktemp("export") / "out"
    done = run("python", "-m", "pipeline", "export", "--out", str(out), "--no-try")
    assert done.returncode == 0, done.stdout
    return out


@pytest.fixture(scope="module")
def faces():
    """Decoded drawings, larger than the model's input."""
    return [
        np.asarray(portable.read_picture(data))
        for _, (_, data) in zip(range(20), synthetic.pictures(1, 9), strict=False)
    ]


def test_an_export_holds_these_files_and_is_sealed(exported):
    assert {file.name for file in exported.iterdir()} == FILES
    seal.check(exported)


def test_the_readme_has_metrics_weakest_classes_and_licences(exported, project):
    card = (exported / "README.md").read_text()
    metrics = json.loads((project / "runs/sample/register/champion/evaluation/metrics.json").read_text())
    assert f"{metrics['test/top1']:.1%}".replace("%", " %") in card
    assert "it knows no photographs" in card
    assert "Weakest classes" in card and "drawn by this project" in card
    assert "{{" not in card and "None" not in card


def test_the_onnx_metadata_has_labels_threshold_and_provenance(exported, project):
    metadata = onnxruntime.InferenceSession(exported / "model.onnx").get_modelmeta().custom_metadata_map
    labels = (exported / "labels.txt").read_text().split()
    assert json.loads(metadata["labels"]) == labels and len(labels) == 35
    lineage = json.loads((project / "runs/sample/register/champion/train/lineage.json").read_text())
    assert json.loads(metadata["provenance"])["data"] == lineage["data"]
    assert float(metadata["unsure_below"]) == json.loads(metadata["card"])["unsure_below"]
    assert str(project).encode() not in (exported / "model.onnx").read_bytes()


def test_the_weights_load_into_the_network_that_config_json_names(exported, faces):
    import timm

    spec = json.loads((exported / "config.json").read_text())
    net = timm.create_model(spec["architecture"], num_classes=spec["num_classes"])
    net.load_state_dict(load_file(exported / "model.safetensors"))


def test_torch_onnx_and_pyfunc_agree(exported, faces, project):
    import mlflow

    from pipeline.tracking import store

    model, card = classifier.load(project / "runs/sample/register/champion/train")
    by_torch = predictions.predict(model, LooseImages(faces, card.input), 8)
    by_onnx = np.stack([OnnxClassifier(exported).probabilities(face) for face in faces])
    store.client.cache_clear()
    store.client()
    loaded = mlflow.pyfunc.load_model("models:/sample@champion")
    by_mlflow = loaded.predict(pandas.DataFrame({"image": faces}))
    assert np.abs(by_onnx - by_torch).max() < 0.03
    assert list(by_mlflow["labels"].str[0]) == [card.classes[index] for index in by_onnx.argmax(axis=1)]
    assert np.abs(np.array([row[0] for row in by_mlflow["probabilities"]]) - by_onnx.max(axis=1)).max() < 1e-5


def test_the_example_needs_three_packages(exported, tmp_path):
    """The example runs in an environment with nothing else."""
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
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [python, "example.py", tmp_path / "face.jpg"],
        cwd=exported,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = OnnxClassifier(exported).answer(data)
    assert answer["labels"][0] in done.stdout.splitlines()[-5]
    assert f"{answer['probabilities'][0]:6.1%}" in done.stdout


def test_the_readme_states_what_int8_costs(repro, run, tmp_path, faces):
    done = run("python", "-m", "pipeline", "export", "--out", str(tmp_path / "out"), "--no-try", "--int8")
    assert done.returncode == 0, done.stdout
    card = (tmp_path / "out/README.md").read_text()
    assert "## In int8" in card and "validation pictures" in card
    assert OnnxClassifier(tmp_path / "out").probabilities(faces[0]).sum() == pytest.approx(1, abs=1e-4)


def test_an_unchanged_export_may_be_replaced(exported, run, tmp_path):
    out = shutil.copytree(exported, tmp_path / "out")
    done = run("python", "-m", "pipeline", "export", "--out", str(out), "--no-try")
    assert done.returncode == 0, done.stdout


def test_a_users_files_are_not_overwritten(exported, run, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    for folder in (tmp_path, _with_another_file(exported, tmp_path / "changed")):
        done = run("python", "-m", "pipeline", "export", "--out", str(folder), "--no-try")
        assert done.returncode == 1 and re.search("contains .*; name another --out", done.stdout)
        assert (folder / "letter.txt").read_text() == "mine"


def _with_another_file(exported, folder):
    shutil.copytree(exported, folder)
    (folder / "letter.txt").write_text("mine")
    return folder


def test_a_network_that_is_not_timms_can_be_exported(repro, run, tmp_path, faces):
    out, model = tmp_path / "out", ("--model", "runs/sample/train/scratch")
    done = run("python", "-m", "pipeline", "export", *model, "--out", str(out), "--no-try")
    assert done.returncode == 0, done.stdout
    assert OnnxClassifier(out).probabilities(faces[0]).sum() == pytest.approx(1, abs=1e-4)
    assert "scratch" in (out / "README.md").read_text()


def test_exporting_an_exported_model_is_an_error(exported, run, tmp_path):
    done = run(
        "python", "-m", "pipeline", "export", "--model", str(exported), "--out", str(tmp_path / "again")
    )
    assert done.returncode == 1 and "exported already: copy its folder" in done.stdout
