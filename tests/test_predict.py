"""predict reads files, folders, patterns and standard input; an unreadable image does not stop the others."""

import csv
import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import PYTHON
from PIL import Image

from pipeline.common.errors import UserError, os_errors_as_user_errors
from pipeline.inference import predict, resolve
from pipeline.portable import DamagedError, OnnxClassifier, UnreadableError
from pipeline.sources import photos, synthetic


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder with three images, one of them in a subfolder, a damaged one and other files."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "more").mkdir()
    faces = list(synthetic.pictures(1, seed=9))[:3]
    for name, (_, data) in zip(("a.jpg", "b.JPG", "more/c.png"), faces, strict=True):
        image = Image.open(io.BytesIO(data))
        image.save(folder / name, "PNG" if name.endswith("png") else "JPEG")
    (folder / "broken.jpg").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_bytes(b"nothing")
    return folder


def test_a_folder_yields_only_its_images(album):
    found = [name.removeprefix(f"{album}/") for name in photos.image_paths([str(album)])]
    assert found == ["a.jpg", "b.JPG", "broken.jpg", "more/c.png"]


def test_content_decides_in_a_folder_and_skipped_files_are_counted(album, tmp_path):
    face = (album / "a.jpg").read_bytes()
    for name in ("a.jfif", "b.jpe", "c.mpo", "d", "e.dat", "IMG.HEIC"):
        (tmp_path / name).write_bytes(face)
    (tmp_path / "f.avif").write_bytes(b"damaged")
    others = {
        "notes.txt": b"BMW and so on",
        "table.txt": b"MM",
        "Thumbs.db": b"x",
        ".hidden": b"x",
        "empty": b"",
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    skipped = Counter()
    found = [name.removeprefix(f"{tmp_path}/") for name in photos.image_paths([str(tmp_path)], skipped)]
    assert found == ["IMG.HEIC", "a.jfif", "b.jpe", "c.mpo", "d", "e.dat", "f.avif", "gone.jpg"]
    assert skipped == {".txt": 2, ".jpg": 1, "": 1, "hidden": 1}
    message = "skipped files: 5 (2 .txt, 1 without a suffix, 1 .jpg, 1 hidden)"
    assert photos.skipped_message(skipped) == message


def test_links_in_a_folder_are_followed_and_hidden_files_counted(album, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/faces").symlink_to(album)
    (tmp_path / "own/self").symlink_to("self")
    (tmp_path / "own/up").symlink_to(".")
    for name in (".cats/1.jpg", ".cats/old/2.jpg", ".3.jpg", "._4.jpg", ".cats/.DS_Store"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).touch()
    skipped = Counter()
    found = [
        name.removeprefix(f"{tmp_path}/") for name in photos.image_paths([str(tmp_path / "own")], skipped)
    ]
    assert found == [f"own/faces/{name}" for name in ("a.jpg", "b.JPG", "broken.jpg", "more/c.png")]
    assert skipped == {"": 2, ".txt": 1, "hidden": 4}  # self and up; notes.txt; .hidden.jpg and three here


def test_an_unlistable_folder_is_an_error(album, tmp_path, monkeypatch):
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
    (tmp_path / "open/a.jpg").write_bytes((album / "a.jpg").read_bytes())
    original = Path.iterdir

    def iterdir(folder):  # file modes don't bind root, as in a container
        if folder.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return original(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = list(photos.image_paths([str(tmp_path)]))
    assert found == [f"{tmp_path}/closed", f"{tmp_path}/open/a.jpg"]
    with pytest.raises(UnreadableError, match="Permission denied"):
        photos.read(found[0])


def test_the_number_of_files_behind_links_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "MAX_LINKED", 500)
    for level in range(20):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}/{name}").symlink_to(tmp_path / f"{level + 1}")
    (tmp_path / "20").mkdir()
    with pytest.raises(UserError, match="more than 500 files behind links"):
        list(photos.image_paths([str(tmp_path / "0")]))


def test_a_pipe_or_device_is_an_error_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    found = list(photos.image_paths([f"{tmp_path}/*.jpg"]))
    assert len(found) == 2
    for name in found:
        with pytest.raises(UnreadableError, match="no plain file: a pipe"):
            photos.read(name)


def test_skipped_suffixes_are_one_printable_line():
    skipped = Counter({f".{number}": 10 - number for number in range(9)} | {".\x1b[31m\n": 99})
    message = photos.skipped_message(skipped)
    assert "\n" not in message and "\x1b" not in message
    assert message.endswith(" (99 .\\x1b[31m\\n, 10 .0, 9 .1, 8 .2, 7 .3, 20 others)")


def test_an_image_that_fails_in_the_model_does_not_stop_the_rest(album):
    class Broken:
        def answer(self, data: bytes, top: int) -> dict:
            if len(data) < 10:
                raise RuntimeError("[ONNXRuntimeError] : 1 :\n FAIL")
            return {"labels": ["cat"]}

    found = dict(predict.answers(Broken(), photos.image_paths([str(album)]), 1))
    assert [answer.get("error") for answer in found.values()] == [
        *(None, None, "the model gives no answer ([ONNXRuntimeError] : 1 : FAIL)", None)
    ]


def test_pyfuncs_error_names_the_row_that_fails_in_the_model(album):
    portable = OnnxClassifier.__new__(OnnxClassifier)
    portable.session = portable.card = None  # so every image fails
    portable._file, portable._seconds = "model.onnx", 5
    row = {"image": [np.zeros((3, 3, 3), np.uint8)]}
    with pytest.raises(UnreadableError, match=r"row 0: .*'NoneType' object has no attribute 'run'"):
        portable.predict(row)


def test_a_pattern_that_the_shell_did_not_expand_is_expanded(album):
    assert list(photos.image_paths([f"{album}/**/*.png"])) == [f"{album}/more/c.png"]
    assert list(photos.image_paths([f"{album}/*.gif"])) == [f"{album}/*.gif"]


def test_jsonl_has_a_line_for_each_image(repro, run, album):
    done = subprocess.run(
        [PYTHON, "-m", "pipeline", "predict", "--format", "jsonl", "--top", "2", str(album)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["photo"].rpartition("/")[2] for line in lines] == ["a.jpg", "b.JPG", "broken.jpg", "c.png"]
    assert lines[2]["error"] == "not a picture of a known format"
    assert all(len(line["labels"]) == 2 and "unsure" in line for line in lines if "error" not in line)
    assert done.returncode == 1
    assert "broken.jpg: not a picture" in done.stderr and "not photographs" in done.stderr
    assert "skipped files: 2 (1 .txt, 1 hidden)" in done.stderr


def test_csv_has_the_same_columns_in_each_row(repro, run, album):
    done = subprocess.run(
        [PYTHON, "-m", "pipeline", "predict", "--format", "csv", "--top", "3", album / "a.jpg"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert rows[0]["label_3"] and float(rows[0]["probability_1"]) >= float(rows[0]["probability_3"])
    assert rows[0]["error"] == ""


def test_a_file_name_may_hold_any_bytes(repro, album, tmp_path):
    name = bytes(tmp_path) + b"/na\xefve.jpg"
    with open(name, "wb") as file:
        file.write((album / "a.jpg").read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "predict", "--format", "csv", tmp_path],
        env={**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_an_image_is_read_from_standard_input(repro, album):
    done = subprocess.run(
        [PYTHON, "-m", "pipeline", "predict", "--format", "jsonl", "-"],
        input=(album / "a.jpg").read_bytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["photo"] == "-"


def test_a_closed_standard_input_is_a_one_line_error(repro):
    command = f"{shlex.quote(sys.executable)} -m pipeline predict - <&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "-: standard input is closed" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("model", ["models:/sample@champion", "sample@champion", "runs/sample/train/scratch"])
def test_a_model_is_named_by_registry_or_folder(repro, run, album, model):
    done = run("python", "-m", "pipeline", "predict", "--model", model, "--format", "csv", f"{album}/a.jpg")
    assert done.returncode == 0, done.stdout
    assert "a.jpg," in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model", "petfaces", "x.jpg"],
            "error: there is no champion of 'petfaces' (there is one of sample); train one",
        ),
        (["--model", "conf", "x.jpg"], "conf holds no model; name a folder with model.onnx"),
        (["--model", "sample@nobody", "x.jpg"], "has no models:/sample@nobody"),
        (["--top", "0", "x.jpg"], "Invalid value for '--top'"),
        (["models"], "error: models: no pictures there"),
        (["x" * 5000], "File name too long"),
        (["x" * 5000 + "*"], "File name too long"),
    ],
)
def test_impossible_arguments_are_one_line_errors(repro, run, arguments, message):
    done = run("python", "-m", "pipeline", "predict", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stdout and "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "holds no model"),
        ("~nobody_of_this_name/model", "there is no such user"),
        ("x" * 5000, "File name too long"),
        (f"models:/sample/{'9' * 30}", "is no version"),
        ("models:/sample/1e3", "is no version"),
        ("models:/", "is no version"),
        ("sample@", "is no version"),
        ("models:/\udcff/1", "is no version"),
    ],
)
def test_an_invalid_model_name_is_a_one_line_error(repro, model, message):
    with pytest.raises(UserError, match=message) as error, os_errors_as_user_errors(), resolve.opened(model):
        pass
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("model", [None, "sample"])
def test_a_folder_with_the_data_sets_name_does_not_hide_its_champion(
    project, repro, tmp_path, monkeypatch, model
):
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    with resolve.opened(model) as found:
        assert found.portable == project / "runs/sample/register/champion/portable"


def test_an_error_names_the_model_and_not_its_temporary_copy(project, repro, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(project / "runs/sample/train/scratch", folder)
    with pytest.raises(UserError) as error, resolve.opened(str(folder)) as found:
        assert not found.portable.is_relative_to(folder)
        raise DamagedError(f"{found.portable}/model.onnx did not finish within 60 seconds")
    assert str(error.value) == f"{folder}/portable/model.onnx did not finish within 60 seconds"


def test_images_are_streamed(repro, project, album, monkeypatch):
    """Only a few paths are taken before the first answer, however many there are."""
    portable = OnnxClassifier(project / "runs/sample/register/champion/portable", threads=1)
    requested = []

    def endless():
        while True:
            requested.append(1)
            yield str(album / "a.jpg")

    answers = predict.answers(portable, endless(), top=1)
    labels = [next(answers)[1]["labels"] for _ in range(20)]
    assert len(set(map(tuple, labels))) == 1
    assert len(requested) < 40


def test_an_answer_says_when_it_is_unsure(repro, project):
    portable = OnnxClassifier(project / "runs/sample/register/champion/portable")
    image = np.zeros((50, 40, 3), dtype=np.uint8)
    portable.unsure_below = 1.1
    assert portable.answer(image)["unsure"] is True
    portable.unsure_below = 0.0
    assert portable.answer(image)["unsure"] is False
