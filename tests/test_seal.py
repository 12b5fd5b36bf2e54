"""Using a damaged artifact is an error that names the file and the command that repairs it."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import mlflow
import pytest
from omegaconf import OmegaConf

from pipeline import config, evaluate, portable, split, tracking
from pipeline.artifacts import onnx_export, seal
from pipeline.common.errors import UserError
from pipeline.data.dataset import PackedDataset
from pipeline.maintenance.dvc_cache import Cache
from pipeline.maintenance.verify import Findings, repair
from pipeline.portable import seals
from pipeline.reporting import leaderboard
from pipeline.tracking import artifacts
from pipeline.train import start_model

REPAIR = r"run: petfaces verify --repair$"


def _flip(file: Path) -> None:
    """Flips a bit as a failing disk does: even in a read-only file, with size and times unchanged."""
    before = file.stat()
    file.chmod(0o644)
    with open(file, "r+b") as stream:
        stream.seek(before.st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(before.st_size // 2)
        stream.write(bytes([byte ^ 1]))
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _copy(folder: Path, target: Path) -> Path:
    return shutil.copytree(folder, target / folder.name)


@pytest.fixture(scope="module")
def other(repro, run, project, tmp_path_factory) -> Path:
    """A second project with the first one's data, runs and cache, and an MLflow store of its own."""
    copy = tmp_path_factory.mktemp("other") / "project"

    def ignored(folder: str, names: list[str]) -> set[str]:
        patterns = {project: ("mlflow.db*", "mlartifacts"), project / "runs": ("single", "sweeps")}
        return shutil.ignore_patterns(*patterns.get(Path(folder), ()))(folder, names)

    shutil.copytree(project, copy, ignore=ignored)
    for command in (
        ["python", "-m", "pipeline", "tracking", "sync"],
        ["dvc", "status"],
    ):  # neither checks contents
        done = run(*command, cwd=copy, PYTHONPATH=str(copy))
        assert done.returncode == 0, done.stdout
    return copy


def test_a_missing_model_in_mlflow_does_not_stop_the_other_repairs(project, repro, monkeypatch):
    def missing(folder: Path) -> None:
        raise UserError("no such model")

    repaired, folder = [], project / "runs/sample/train/scratch"
    kept = [
        artifacts.StoredFolder(name, folder, put)
        for name, put in (("one", missing), ("two", repaired.append))
    ]
    monkeypatch.setattr("pipeline.maintenance.verify._intact_copy", lambda *_: folder)
    found = Findings(Cache.open(), stored=[(each, ["weights.safetensors is damaged"]) for each in kept])
    assert repair(found) == ["one in MLflow: no such model"]
    assert repaired == [folder]


@pytest.fixture
def verify(run, other):
    """Runs `petfaces verify` in the other project, by default without MLflow.

    Returns the exit status and the lines of output.
    """

    def _verify(*arguments: str, store: str = "sqlite:////nowhere/mlflow.db"):
        command = ["python", "-m", "pipeline", "verify", *arguments]
        done = run(*command, cwd=other, PYTHONPATH=str(other), MLFLOW_TRACKING_URI=store)
        return done.returncode, done.stdout.splitlines()

    return _verify


def _object(other: Path, file: str) -> Path:
    """A file's object in DVC's cache."""
    md5 = hashlib.md5((other / file).read_bytes(), usedforsecurity=False).hexdigest()
    found = other / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    assert found.stat().st_mode & 0o222 == 0
    return found


def test_sha256sum_can_check_a_seal(repro, run, project, tmp_path):
    folder = _copy(project / "runs/sample/train/scratch", tmp_path)
    checked = run("sha256sum", "--strict", "-c", "SHA256SUMS", cwd=folder)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == len(list(folder.iterdir())) - 1
    _flip(folder / "weights.safetensors")
    assert "weights.safetensors: FAILED" in run("sha256sum", "-c", "SHA256SUMS", cwd=folder).stdout


def test_a_missing_file_and_a_damaged_seal_are_reported(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    seal.seal(tmp_path)
    seal.check(tmp_path)
    (tmp_path / "b").unlink()
    (tmp_path / "d").write_text("d")
    (tmp_path / ".nfs0001").write_text("a system's own")
    with pytest.raises(UserError, match=r": b is missing; " + REPAIR):
        seal.check(tmp_path)
    seal.seal(tmp_path)
    _flip(tmp_path / portable.SUMS)
    with pytest.raises(UserError, match=r"is damaged|is missing"):
        seal.check(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "\n", "0" * 64 + "  ../outside\n", "0" * 64 + "  /etc/hosts\n", "x  a\n"]
)
def test_a_seal_that_is_empty_or_leads_outside_is_damaged(tmp_path, text):
    (tmp_path / "a").write_text("a")
    (tmp_path / portable.SUMS).write_text(text)
    with pytest.raises(UserError, match=r": SHA256SUMS is damaged; " + REPAIR):
        seal.check(tmp_path)


@pytest.mark.parametrize(
    "name", ["desktop.ini", "Thumbs.db", ".DS_Store", "._model.json", "Icon\r", "notes.txt", "mine/photo.jpg"]
)
def test_extra_files_beside_a_model_are_reported_once_and_ignored(repro, project, tmp_path, capsys, name):
    folder = _copy(project / "runs/sample/register/champion/portable", tmp_path)
    before = tracking.digest(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("not the model's")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/example.cpython-311.pyc").write_text("Python's own")
    for _ in range(2):
        seal.check(folder)
        portable.OnnxClassifier(folder)
    assert tracking.digest(folder) == before
    messages = capsys.readouterr().err
    shown = name.replace("\r", "\\r")
    assert messages == f"warning: {folder} also holds {shown}: not sealed, and not used\n"


def test_a_file_that_is_read_must_be_sealed(tmp_path):
    (tmp_path / "model.onnx").write_text("sealed")
    seal.seal(tmp_path)
    (tmp_path / "model.json").write_text("put there afterwards")
    with pytest.raises(UserError, match=r": model\.json is not sealed; " + REPAIR):
        seal.check(tmp_path)


def test_system_files_are_never_sealed(tmp_path):
    for name in ("a", "desktop.ini", ".DS_Store", "Icon\r"):
        (tmp_path / name).write_text(name)
    seal.seal(tmp_path)
    assert list(portable.sealed(tmp_path)) == ["a"]


def test_a_folder_is_hashed_once_per_process_unless_it_changes(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("whole")
    seal.seal(tmp_path)
    calls, original = [], portable.differing
    monkeypatch.setattr(seals, "differing", lambda *args: calls.append(args) or original(*args))
    for _ in range(3):
        seal.check(tmp_path)
    assert len(calls) == 1
    (tmp_path / "file").write_text("wrong")
    with pytest.raises(UserError, match="file is damaged"):
        seal.check(tmp_path)


@pytest.mark.parametrize("file", ["pixels.bin", "index.csv", "pack.json", "quarantine.csv"])
def test_a_flipped_byte_in_a_pack_is_an_error_that_names_the_repair(repro, project, tmp_path, file):
    data_dir = _copy(project / "data/sample", tmp_path)
    PackedDataset.open(data_dir)
    _flip(data_dir / "pack" / file)
    with pytest.raises(UserError, match=rf"pack: {re.escape(file)} is damaged; " + REPAIR):
        PackedDataset.open(data_dir)
    with pytest.raises(UserError, match=rf"{re.escape(file)} is damaged"):
        split.split(data_dir / "pack", tmp_path / "split.csv", config.compose().split)


@pytest.mark.parametrize("file", ["weights.safetensors", "model.json"])
def test_a_flipped_byte_in_a_trained_model_is_an_error_in_every_use(repro, project, tmp_path, file):
    train = _copy(project / "runs/sample/train/scratch", tmp_path)
    _flip(train / file)
    message = rf"{re.escape(file)} is damaged; " + REPAIR
    with pytest.raises(UserError, match=message):
        evaluate.evaluate(train, project / "data/sample", tmp_path / "out", 1, 0)
    with pytest.raises(UserError, match=message):
        onnx_export.to_onnx(train, tmp_path / "onnx")
    cfg = OmegaConf.create({"model": {"start": str(train)}})
    with pytest.raises(UserError, match=r"^model\.start=.*: " + message), start_model(cfg):
        pass
    with pytest.raises(UserError, match=message):
        tracking.ensure(train)
    assert not (tmp_path / "out").exists() and not (tmp_path / "onnx").exists()


def test_a_flipped_byte_in_an_evaluation_stops_register_and_report(repro, project, tmp_path):
    runs = tmp_path / "runs"
    for stage in ("train", "evaluate"):
        shutil.copytree(project / "runs/sample" / stage, runs / stage)
    models = ["scratch", "probe"]
    assert len(leaderboard.rows(runs, models)) == 2
    _flip(runs / "evaluate/scratch/predictions.csv")
    message = r"scratch: predictions\.csv is damaged; " + REPAIR
    with pytest.raises(UserError, match=message):
        leaderboard.rows(runs, models)
    candidate = project / "runs/sample/register/candidates/scratch"
    with pytest.raises(UserError, match=message):
        tracking.ensure_version(runs / "train/scratch", runs / "evaluate/scratch", candidate)


@pytest.mark.parametrize("file", ["model.onnx", "model.json"])
def test_a_flipped_byte_in_an_exported_model_is_an_error_in_every_use(repro, project, tmp_path, file):
    runs = project / "runs/sample"
    candidate = _copy(runs / "register/candidates/scratch", tmp_path)
    portable.OnnxClassifier(candidate)
    _flip(candidate / file)
    with pytest.raises(portable.DamagedError, match=rf"scratch: {re.escape(file)} is damaged"):
        portable.OnnxClassifier(candidate)
    with pytest.raises(UserError, match=rf"{re.escape(file)} is damaged; " + REPAIR):
        tracking.ensure_version(runs / "train/scratch", runs / "evaluate/scratch", candidate)


def test_verify_reports_intact_files_and_changes_nothing(verify, other):
    before = {file: file.read_bytes() for file in (other / "runs").rglob("*") if file.is_file()}
    status, lines = verify(store=f"sqlite:///{other / 'mlflow.db'}")
    assert (status, lines[-1]) == (0, "nothing is damaged")
    assert re.match(
        r"10 sealed folders, \d+ objects of DVC's cache, 8 folders of registered models", lines[0]
    )
    assert {file: file.read_bytes() for file in before} == before


def test_damaged_dvc_objects_are_repaired_from_the_workspace(verify, run, other):
    pixels = other / "data/sample/pack/pixels.bin"
    cached, before = _object(other, "data/sample/pack/pixels.bin"), pixels.read_bytes()
    md5, *_ = re.findall(
        r"path: data/sample/pack\n *hash: md5\n *md5: (\w+\.dir)", (other / "dvc.lock").read_text()
    )
    listing = other / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    _flip(cached)
    assert "up to date" in run("dvc", "status", cwd=other).stdout  # DVC trusts its cache
    _flip(listing)
    status, lines = verify()
    assert status == 1
    assert (
        sum(f"damaged: {file.relative_to(other)}: " in line for file in (cached, listing) for line in lines)
        == 2
    )
    assert lines[-1] == "error: 2 damaged; run: petfaces verify --repair"
    assert verify("--repair")[0] == 0
    assert cached.read_bytes() == before
    assert "Running stage" not in run("dvc", "repro", cwd=other, PYTHONPATH=str(other)).stdout


def test_if_both_copies_are_damaged_repair_and_repro_restore_the_bytes(verify, run, other):
    pixels = other / "data/sample/pack/pixels.bin"
    cached, before = _object(other, "data/sample/pack/pixels.bin"), pixels.read_bytes()
    weights = {file: file.read_bytes() for file in (other / "runs/sample/train").rglob("*.safetensors")}
    _flip(pixels)
    _flip(cached)
    # DVC does not notice; --force would rebuild the pack but leave the damaged object.
    assert "up to date" in run("dvc", "status", cwd=other).stdout
    refused = run("python", "-m", "pipeline.evaluate", "model=probe", cwd=other, PYTHONPATH=str(other))
    assert refused.returncode == 1
    assert refused.stdout == (
        "evaluate: error: data/sample/pack: pixels.bin is damaged; run: petfaces verify --repair\n"
    )
    status, lines = verify("--repair")
    assert status == 1  # one file could not be restored
    assert "damaged: data/sample/pack: pixels.bin is damaged" in lines
    assert any("damaged in DVC's cache (data/sample/pack/pixels.bin)" in line for line in lines)
    assert lines[-1] == "to do: dvc repro"
    done = run("dvc", "repro", cwd=other, PYTHONPATH=str(other))
    assert done.returncode == 0, done.stdout
    assert re.findall(r"Running stage '(\w+)", done.stdout) == ["pack"]
    assert pixels.read_bytes() == before == cached.read_bytes()
    assert {file: file.read_bytes() for file in weights} == weights


def test_damaged_workspace_files_are_restored_from_dvcs_cache(verify, run, other):
    files = [
        other / "data/sample/split.csv",
        other / "runs/sample/register/decision.json",
        other / "runs/sample/train/scratch/weights.safetensors",
        other / "runs/sample/register/candidates/scratch/model.onnx",
    ]
    before = [file.read_bytes() for file in files]
    users_files = [other / "runs/sample/train/scratch" / name for name in ("notes.txt", "photos/a.jpg")]
    for file in files:
        _flip(file)
    assert "up to date" in run("dvc", "status", cwd=other).stdout
    synced = run("python", "-m", "pipeline", "tracking", "sync", cwd=other, PYTHONPATH=str(other))
    assert "skipped: runs/sample/train/scratch: weights.safetensors is damaged" in synced.stdout
    for file in users_files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("a user's")
    status, lines = verify("--repair")
    assert status == 0
    assert sum(line.startswith("damaged: ") for line in lines) == len(files)
    for file in users_files:
        assert file.read_text() == "a user's"
        file.unlink()
    users_files[1].parent.rmdir()
    assert "damaged: data/sample/split.csv: differs from dvc.lock" in lines
    assert "damaged: runs/sample/train/scratch: weights.safetensors is damaged" in lines
    assert [file.read_bytes() for file in files] == before
    assert "up to date" in run("dvc", "status", cwd=other).stdout


def test_files_damaged_in_cache_and_workspace_come_from_the_remote(verify, run, other, tmp_path):
    file, dvc_config = other / "data/sample/archive", (other / ".dvc/config").read_bytes()
    cached, before = _object(other, "data/sample/archive"), file.read_bytes()
    try:
        for command in (["remote", "add", "--default", "share", str(tmp_path / "share")], ["push", "-q"]):
            assert run("dvc", *command, cwd=other).returncode == 0
        _flip(file)
        _flip(cached)
        assert verify("--repair")[0] == 0
        assert file.read_bytes() == before == cached.read_bytes()
    finally:
        (other / ".dvc/config").write_bytes(dvc_config)


def test_a_flipped_byte_in_a_registered_version_is_an_error_and_repaired(verify, run, other, tmp_path):
    store = f"sqlite:///{other / 'mlflow.db'}"
    client = mlflow.MlflowClient(store, store)
    version = client.get_model_version_by_alias("sample", "champion")
    load = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); "
        "mlflow.pyfunc.load_model('models:/sample@champion'); print('loaded')"
    )
    (model,) = (other / "mlartifacts").rglob(f"data/{version.tags['model']}/model.onnx")
    (weights,) = (other / "mlartifacts" / version.run_id).rglob("weights.safetensors")
    before = model.read_bytes(), weights.read_bytes()
    _flip(model)
    _flip(weights)
    error = run("python", "-c", load, store, cwd=tmp_path, PYTHONPATH="").stdout.splitlines()[-1]
    assert "DamagedError" in error and "model.onnx is damaged" in error and "loaded" not in error
    start = (
        "from pathlib import Path; from pipeline import tracking; "
        "tracking.download_train('models:/sample@champion', Path('.'))"
    )
    done = run("python", "-c", start, cwd=tmp_path, PYTHONPATH=str(other), MLFLOW_TRACKING_URI=store)
    assert done.stdout.splitlines()[-1].endswith(
        ": weights.safetensors is damaged; run: petfaces verify --repair"
    )
    status, lines = verify("--repair", store=store)
    assert status == 0
    assert f"damaged: models:/sample/{version.version} in MLflow: model.onnx is damaged" in lines
    assert (model.read_bytes(), weights.read_bytes()) == before
    assert client.get_model_version_by_alias("sample", "champion").version == version.version
    assert "loaded" in run("python", "-c", load, store, cwd=tmp_path, PYTHONPATH="").stdout


def test_code_and_requirements_of_a_registered_model_are_repaired(verify, other):
    store = f"sqlite:///{other / 'mlflow.db'}"
    version = mlflow.MlflowClient(store, store).get_model_version_by_alias("sample", "champion")
    (model,) = (other / "mlartifacts").rglob(f"data/{version.tags['model']}/model.onnx")
    files = [
        model.parents[2] / name for name in ("code/portable/card.py", "requirements.txt", "python_env.yaml")
    ]
    before = [file.read_bytes() for file in files]
    for file in files:
        _flip(file)
    status, lines = verify("--repair", store=store)
    name = f"models:/sample/{version.version}, code and MLmodel"
    assert (
        f"damaged: {name} in MLflow: code/portable/card.py is damaged, python_env.yaml is damaged, "
        "requirements.txt is damaged"
    ) in lines
    assert [file.read_bytes() for file in files] == before
    assert status == 0


def test_a_damaged_mlmodel_is_reported_and_invalid_records_count_as_none(repro, project, tmp_path):
    client = tracking.store.client()
    version = client.get_model_version_by_alias("sample", "champion")
    identity = version.source.rpartition("/")[2]
    (folder,) = (file.parent for file in (project / "mlartifacts").rglob("MLmodel") if identity in file.parts)
    expected_name = f"models:/sample/{version.version}, code and MLmodel"

    def find(folder_name: str):
        (stored,) = [
            stored
            for stored in tracking.registered_folders(tmp_path / folder_name)
            if stored.name == expected_name
        ]
        return stored

    assert find("whole").damaged() == []
    _flip(folder / "MLmodel")
    # A module that Python would import from there first.
    (folder / "code/numpy.py").write_text("untrusted")
    assert find("flipped").damaged() == ["MLmodel is damaged", "code/numpy.py is not sealed"]
    (folder / "code/numpy.py").unlink()
    _flip(folder / "MLmodel")
    client.delete_model_version_tag("sample", version.version, "wrapping_sha256")
    try:
        assert not find("older").sealed
        # Tags are untrusted: a file name could lead out of the repair's folder.
        digest = hashlib.sha256((project / "pipeline/portable/card.py").read_bytes()).hexdigest()
        names = (str(tmp_path / "out/portable.py"), "../portable.py", "a//portable.py", "a\nb")
        tags = [{name: digest} for name in names]
        for number, tag in enumerate(["{", "3", "[1]", "null", {"portable.py": "x"}, {"a": [1]}, *tags]):
            tag = tag if isinstance(tag, str) else json.dumps(tag)
            client.set_model_version_tag("sample", version.version, "wrapping_sha256", tag)
            assert not find(f"hostile{number}").sealed
    finally:
        client.set_model_version_tag(
            "sample", version.version, "wrapping_sha256", version.tags["wrapping_sha256"]
        )


def test_a_damaged_champion_does_not_predict(run, other, tmp_path):
    model = other / "runs/sample/register/champion/portable/model.onnx"
    _flip(model)
    done = run("python", "-m", "pipeline", "predict", "face.jpg", cwd=other, PYTHONPATH=str(other))
    _flip(model)
    assert done.returncode == 1
    assert done.stdout == (
        "error: runs/sample/register/champion/portable: model.onnx is damaged; "
        "run: petfaces verify --repair\n"
    )


def test_single_runs_are_verified_and_an_unsealed_one_can_be_sealed(verify, other):
    single = shutil.copytree(other / "runs/sample/train/scratch", other / "runs/single/mine")
    (single / "curves.csv").write_text("mine\n")  # unlike any other folder's
    (single / portable.SUMS).unlink()
    try:
        status, lines = verify()
        assert status == 0  # without a seal nothing proves damage
        assert "not sealed, so it can't be verified: runs/single/mine" in lines
        with pytest.raises(UserError, match=r"has no SHA256SUMS .* petfaces verify --seal /.*mine$"):
            seal.check(single)
        assert verify("--seal", "runs/single/mine")[0] == 0
        for name in ("runs/single/mine", ""):
            assert verify("--seal", name)[1][0].startswith("error: ")
        seal.check(single)
        _flip(single / "weights.safetensors")
        status, lines = verify("--repair")
        assert status == 1
        assert lines[-1].startswith("to do: runs/single/mine: train it again")
        assert (single / "config.yaml").is_file()
    finally:
        shutil.rmtree(single)
