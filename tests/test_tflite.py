"""tools/to_tflite.py converts an exported model, and says in one line what is wrong with its input.

The conversion needs an environment of its own (docs/take-along.md): PETFACES_TFLITE_PYTHON names its Python.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import portable
from pipeline.portable import OnnxClassifier
from pipeline.portable.resizing import shrink, to_square
from pipeline.sources import synthetic

PYTHON = os.environ.get("PETFACES_TFLITE_PYTHON")
CONFIG = {
    "num_classes": 2,
    "net": {"_target_": "models.pretrained.create", "backbone": "resnet18", "weights": None, "file": None},
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "temperature": 1.0,
}
CARD = {"flip": False, "task": "single_label"}
RUN = """
import sys
import numpy
from ai_edge_litert.interpreter import Interpreter
run = Interpreter(sys.argv[1]).get_signature_runner()
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], numpy.concatenate([run(image=image[None])["probabilities"] for image in images]))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of an export, without weights in them."""
    made = tmp_path / "exported"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    (made / "model.json").write_text(json.dumps(CARD))
    (made / "model.safetensors").write_bytes(b"")
    return made


@pytest.fixture
def message(project, tmp_path):
    """What the program says on a folder, in a Python that has the standard library alone."""

    def run(folder, out=tmp_path / "model.tflite") -> str:
        program = [sys.executable, "-I", "-S", project / "tools/to_tflite.py"]
        done = subprocess.run([*program, folder, out], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        assert not out.is_file()
        return done.stderr.removeprefix("error: ").rstrip()

    return run


def _change(folder, part, **values) -> None:
    """Changes `config.json`, or a mapping in it."""
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_missing_folder(message, tmp_path):
    assert message(tmp_path / "no") == f"{tmp_path}/no is not a folder"
    (tmp_path / "a.zip").write_bytes(b"PK")
    assert message(tmp_path / "a.zip") == f"{tmp_path}/a.zip is not a folder; unpack it first"


@pytest.mark.parametrize("name", ["config.json", "model.json", "model.safetensors"])
def test_a_folder_that_is_no_export(message, folder, name):
    (folder / name).unlink()
    assert message(folder) == f"{folder} is not an exported model: it has no {name}"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"net": "resnet18", "pretrained_cfg": {}}', "\udcff"])
def test_a_config_of_something_else(message, folder, text):
    (folder / "config.json").write_text(text, errors="surrogateescape")
    assert message(folder).startswith(f"{folder} is not an exported model, or damaged (")


@pytest.mark.parametrize(
    "values",
    [
        {"input_size": [3, 0, 0]},
        {"input_size": [3, 9999, 9999]},
        {"mean": [0.5]},
        {"std": 1},
        {"crop_pct": 0},
    ],
)
def test_a_preprocessing_that_is_none(message, folder, values):
    _change(folder, "pretrained_cfg", **values)
    assert message(folder).startswith(f"{folder} is not an exported model, or damaged (")


def test_a_network_that_is_not_timms(message, folder):
    _change(folder, "net", _target_="models.scratch.ScratchCNN")
    expected = f"{folder}: only timm's networks can be converted, not 'models.scratch.ScratchCNN'"
    assert message(folder) == expected


def test_a_network_from_elsewhere_is_not_loaded(message, folder):
    _change(folder, "net", backbone="local-dir:/tmp/x")
    assert message(folder) == f"{folder}: 'local-dir:/tmp/x' is not the name of a timm network"
    _change(folder, "net", backbone="resnet18", checkpoint_path="/tmp/x")
    assert message(folder) == f"{folder}: the network has the unknown argument 'checkpoint_path'"


def test_a_file_that_cannot_be_written(message, folder, tmp_path):
    for out in (tmp_path, tmp_path / "no/model.tflite"):
        assert message(folder, out) == f"{out} can't be written: it is a folder, or is in none"


def test_an_environment_without_the_packages(message, folder, project):
    assert message(folder) == f"timm is not installed here; see {project}/tools/tflite-requirements.txt"


@pytest.fixture(scope="module")
def champion(request, tmp_path_factory):
    """The sample's champion, exported, and its TensorFlow Lite file with what the program printed."""
    if not PYTHON:
        pytest.skip("PETFACES_TFLITE_PYTHON is not set; see docs/take-along.md, TensorFlow Lite")
    request.getfixturevalue("repro")
    folder, run = tmp_path_factory.mktemp("tflite"), request.getfixturevalue("run")
    done = run("python", "-m", "pipeline", "export", "--out", str(folder / "exported"), "--no-try")
    assert done.returncode == 0, done.stdout
    done = run(PYTHON, "-I", "tools/to_tflite.py", str(folder / "exported"), str(folder / "model.tflite"))
    assert done.returncode == 0, done.stdout
    return folder / "exported", folder / "model.tflite", done.stdout


def test_the_file_gives_the_probabilities_of_the_exported_model(champion, tmp_path):
    exported, file, output = champion
    assert "largest difference of a probability from PyTorch's, on 12 random images: " in output
    model = OnnxClassifier(exported)
    sizing = model.card.input
    pictures = [
        portable.read_picture(data) for _, (_, data) in zip(range(20), synthetic.pictures(1, 9), strict=False)
    ]
    squares = [
        to_square(
            shrink(each, sizing.max_side), sizing.size, sizing.interpolation, sizing.crop, sizing.crop_pct
        )
        for each in pictures
    ]
    np.save(tmp_path / "images.npy", squares)
    subprocess.run(
        [PYTHON, "-I", "-c", RUN, file, tmp_path / "images.npy", tmp_path / "answers.npy"], check=True
    )
    answers = np.load(tmp_path / "answers.npy")
    expected = np.stack([model.probabilities(np.asarray(each)) for each in pictures])
    assert answers.shape == expected.shape == (20, 35)
    assert np.abs(answers - expected).max() < 0.01
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_the_file_has_no_path_of_this_machine(champion, project):
    exported, file, _ = champion
    content = file.read_bytes()
    for path in (project, exported, sys.prefix, Path.home()):
        assert str(path).encode() not in content


@pytest.mark.parametrize("part", ["weights", "architecture"])
def test_weights_of_another_network(champion, run, tmp_path, part):
    copy, out = shutil.copytree(champion[0], tmp_path / "copy"), tmp_path / "model.tflite"
    if part == "weights":
        (copy / "model.safetensors").write_bytes(b"no weights")
    else:
        _change(copy, "net", backbone="resnet18")
    done = run(PYTHON, "-I", "tools/to_tflite.py", str(copy), str(out))
    assert done.returncode == 1 and not out.exists()
    assert "doesn't fit" in done.stdout.splitlines()[-1]
