"""A flipped byte is found wherever it is and named, before it is used, with the command that repairs it."""

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
from pipeline.maintenance.verify import Found, repair
from pipeline.portable import seals
from pipeline.reporting import leaderboard
from pipeline.tracking import artifacts
from pipeline.train import start_model

REPAIR = r"run: petfaces verify --repair$"


def _flip(file: Path) -> None:
    """Changes one byte as a failing disk does: read-only or not, and no time or size tells of it."""
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
def other(repro, run, house, tmp_path_factory) -> Path:
    """A second project with the first one's data, runs and cache, and an MLflow store of its own."""
    copy = tmp_path_factory.mktemp("other") / "project"

    def left_out(folder: str, names: list[str]) -> set[str]:
        patterns = {house: ("mlflow.db*", "mlartifacts"), house / "runs": ("single", "sweeps")}
        return shutil.ignore_patterns(*patterns.get(Path(folder), ()))(folder, names)

    shutil.copytree(house, copy, ignore=left_out)
    for command in (
        ["python", "-m", "pipeline", "tracking", "sync"],
        ["dvc", "status"],
    ):  # both look, and trust
        done = run(*command, cwd=copy, PYTHONPATH=str(copy))
        assert done.returncode == 0, done.stdout
    return copy


def test_a_model_that_is_lost_in_mlflow_does_not_end_the_repair_of_the_others(house, repro, monkeypatch):
    def lost(folder: Path) -> None:
        raise UserError("no such model")

    brought, folder = [], house / "runs/sample/train/scratch"
    kept = [
        artifacts.StoredFolder(name, folder, put) for name, put in (("one", lost), ("two", brought.append))
    ]
    monkeypatch.setattr("pipeline.maintenance.verify._twin", lambda *_: folder)
    found = Found(Cache.open(), kept=[(each, ["weights.safetensors is damaged"]) for each in kept])
    assert repair(found) == ["one in MLflow: no such model"]
    assert brought == [folder]


@pytest.fixture
def verify(run, other):
    """Runs the program in the other project, without MLflow unless that is asked for.

    Returns its status and its lines.
    """

    def _verify(*arguments: str, store: str = "sqlite:////nowhere/mlflow.db"):
        command = ["python", "-m", "pipeline", "verify", *arguments]
        done = run(*command, cwd=other, PYTHONPATH=str(other), MLFLOW_TRACKING_URI=store)
        return done.returncode, done.stdout.splitlines()

    return _verify


def _object(other: Path, file: str) -> Path:
    """DVC's copy of a file."""
    md5 = hashlib.md5((other / file).read_bytes(), usedforsecurity=False).hexdigest()
    found = other / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    assert found.stat().st_mode & 0o222 == 0
    return found


def test_sha256sum_itself_checks_a_seal_and_finds_what_is_damaged(repro, run, house, tmp_path):
    folder = _copy(house / "runs/sample/train/scratch", tmp_path)
    checked = run("sha256sum", "--strict", "-c", "SHA256SUMS", cwd=folder)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == len(list(folder.iterdir())) - 1
    _flip(folder / "weights.safetensors")
    assert "weights.safetensors: FAILED" in run("sha256sum", "-c", "SHA256SUMS", cwd=folder).stdout


def test_a_missing_file_and_a_damaged_seal_are_named(tmp_path):
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
def test_a_seal_that_lists_nothing_or_leads_outside_is_damaged(tmp_path, text):
    (tmp_path / "a").write_text("a")
    (tmp_path / portable.SUMS).write_text(text)
    with pytest.raises(UserError, match=r": SHA256SUMS is damaged; " + REPAIR):
        seal.check(tmp_path)


@pytest.mark.parametrize(
    "name", ["desktop.ini", "Thumbs.db", ".DS_Store", "._model.json", "Icon\r", "notes.txt", "mine/photo.jpg"]
)
def test_what_lies_beside_a_models_files_is_named_once_and_changes_nothing(
    repro, house, tmp_path, capsys, name
):
    folder = _copy(house / "runs/sample/register/champion/portable", tmp_path)
    before = tracking.digest(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("not the model's")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/example.cpython-311.pyc").write_text("Python's own")
    for _ in range(2):
        seal.check(folder)
        portable.OnnxClassifier(folder)
    assert tracking.digest(folder) == before
    told = capsys.readouterr().err
    shown = name.replace("\r", "\\r")
    assert told == f"warning: {folder} also holds {shown}: not sealed, and not used\n"


def test_a_file_that_is_read_must_be_sealed(tmp_path):
    (tmp_path / "model.onnx").write_text("sealed")
    seal.seal(tmp_path)
    (tmp_path / "model.json").write_text("put there afterwards")
    with pytest.raises(UserError, match=r": model\.json is not sealed; " + REPAIR):
        seal.check(tmp_path)


def test_what_a_system_left_is_never_sealed(tmp_path):
    for name in ("a", "desktop.ini", ".DS_Store", "Icon\r"):
        (tmp_path / name).write_text(name)
    seal.seal(tmp_path)
    assert list(portable.sealed(tmp_path)) == ["a"]


def test_a_folder_is_read_once_a_process_unless_it_was_touched(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("whole")
    seal.seal(tmp_path)
    read, differing = [], portable.differing
    monkeypatch.setattr(seals, "differing", lambda *given: read.append(given) or differing(*given))
    for _ in range(3):
        seal.check(tmp_path)
    assert len(read) == 1
    (tmp_path / "file").write_text("wrong")
    with pytest.raises(UserError, match="file is damaged"):
        seal.check(tmp_path)


@pytest.mark.parametrize("file", ["pixels.bin", "index.csv", "pack.json", "quarantine.csv"])
def test_a_flipped_byte_in_a_pack_is_named_with_its_repair(repro, house, tmp_path, file):
    place = _copy(house / "data/sample", tmp_path)
    PackedDataset.open(place)
    _flip(place / "pack" / file)
    with pytest.raises(UserError, match=rf"pack: {re.escape(file)} is damaged; " + REPAIR):
        PackedDataset.open(place)
    with pytest.raises(UserError, match=rf"{re.escape(file)} is damaged"):
        split.split(place / "pack", tmp_path / "split.csv", config.compose().split)


@pytest.mark.parametrize("file", ["weights.safetensors", "model.json"])
def test_a_flipped_byte_in_a_trained_model_stops_who_would_use_it(repro, house, tmp_path, file):
    train = _copy(house / "runs/sample/train/scratch", tmp_path)
    _flip(train / file)
    told = rf"{re.escape(file)} is damaged; " + REPAIR
    with pytest.raises(UserError, match=told):
        evaluate.evaluate(train, house / "data/sample", tmp_path / "out", 1, 0)
    with pytest.raises(UserError, match=told):
        onnx_export.to_onnx(train, tmp_path / "onnx")
    cfg = OmegaConf.create({"model": {"start": str(train)}})
    with pytest.raises(UserError, match=r"^model\.start=.*: " + told), start_model(cfg):
        pass
    with pytest.raises(UserError, match=told):
        tracking.ensure(train)
    assert not (tmp_path / "out").exists() and not (tmp_path / "onnx").exists()


def test_a_flipped_byte_in_an_evaluation_stops_register_and_report(repro, house, tmp_path):
    runs = tmp_path / "runs"
    for stage in ("train", "evaluate"):
        shutil.copytree(house / "runs/sample" / stage, runs / stage)
    models = ["scratch", "probe"]
    assert len(leaderboard.rows(runs, models)) == 2
    _flip(runs / "evaluate/scratch/predictions.csv")
    told = r"scratch: predictions\.csv is damaged; " + REPAIR
    with pytest.raises(UserError, match=told):
        leaderboard.rows(runs, models)
    candidate = house / "runs/sample/register/candidates/scratch"
    with pytest.raises(UserError, match=told):
        tracking.ensure_version(runs / "train/scratch", runs / "evaluate/scratch", candidate)


@pytest.mark.parametrize("file", ["model.onnx", "model.json"])
def test_a_flipped_byte_in_an_exported_model_is_named_wherever_it_is_loaded(repro, house, tmp_path, file):
    runs = house / "runs/sample"
    candidate = _copy(runs / "register/candidates/scratch", tmp_path)
    portable.OnnxClassifier(candidate)
    _flip(candidate / file)
    with pytest.raises(portable.DamagedError, match=rf"scratch: {re.escape(file)} is damaged"):
        portable.OnnxClassifier(candidate)
    with pytest.raises(UserError, match=rf"{re.escape(file)} is damaged; " + REPAIR):
        tracking.ensure_version(runs / "train/scratch", runs / "evaluate/scratch", candidate)


def test_what_is_whole_is_said_to_be_and_nothing_is_changed(verify, other):
    before = {file: file.read_bytes() for file in (other / "runs").rglob("*") if file.is_file()}
    status, lines = verify(store=f"sqlite:///{other / 'mlflow.db'}")
    assert (status, lines[-1]) == (0, "everything is whole")
    assert re.match(
        r"10 sealed folders, \d+ objects of DVC's cache, 8 folders of registered models", lines[0]
    )
    assert {file: file.read_bytes() for file in before} == before


def test_a_damaged_dvc_object_is_trusted_by_dvc_found_by_verify_and_healed_from_the_workspace(
    verify, run, other
):
    pixels = other / "data/sample/pack/pixels.bin"
    broken, bytes_before = _object(other, "data/sample/pack/pixels.bin"), pixels.read_bytes()
    md5, *_ = re.findall(
        r"path: data/sample/pack\n *hash: md5\n *md5: (\w+\.dir)", (other / "dvc.lock").read_text()
    )
    listing = other / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    _flip(broken)
    assert "up to date" in run("dvc", "status", cwd=other).stdout  # which is why verify exists
    _flip(listing)
    status, lines = verify()
    assert status == 1
    assert (
        sum(f"damaged: {file.relative_to(other)}: " in line for file in (broken, listing) for line in lines)
        == 2
    )
    assert lines[-1] == "error: 2 damaged; run: petfaces verify --repair"
    assert verify("--repair")[0] == 0
    assert broken.read_bytes() == bytes_before
    assert "Running stage" not in run("dvc", "repro", cwd=other, PYTHONPATH=str(other)).stdout


def test_where_both_copies_are_damaged_repair_and_repro_give_the_same_bytes(verify, run, other):
    pixels = other / "data/sample/pack/pixels.bin"
    broken, before = _object(other, "data/sample/pack/pixels.bin"), pixels.read_bytes()
    weights = {file: file.read_bytes() for file in (other / "runs/sample/train").rglob("*.safetensors")}
    _flip(pixels)
    _flip(broken)
    # By itself DVC sees nothing; asked by force it writes the pack anew and leaves its own copy damaged.
    assert "up to date" in run("dvc", "status", cwd=other).stdout
    refused = run("python", "-m", "pipeline.evaluate", "model=probe", cwd=other, PYTHONPATH=str(other))
    assert refused.returncode == 1
    assert refused.stdout == (
        "evaluate: error: data/sample/pack: pixels.bin is damaged; run: petfaces verify --repair\n"
    )
    status, lines = verify("--repair")
    assert status == 1  # not everything could be had
    assert "damaged: data/sample/pack: pixels.bin is damaged" in lines
    assert any("DVC's copy of data/sample/pack/pixels.bin is not as" in line for line in lines)
    assert lines[-1] == "to be made again: dvc repro"
    done = run("dvc", "repro", cwd=other, PYTHONPATH=str(other))
    assert done.returncode == 0, done.stdout
    assert re.findall(r"Running stage '(\w+)", done.stdout) == ["pack"]
    assert pixels.read_bytes() == before == broken.read_bytes()
    assert {file: file.read_bytes() for file in weights} == weights


def test_what_only_the_workspace_has_damaged_comes_back_from_dvcs_cache(verify, run, other):
    files = [
        other / "data/sample/split.csv",
        other / "runs/sample/register/decision.json",
        other / "runs/sample/train/scratch/weights.safetensors",
        other / "runs/sample/register/candidates/scratch/model.onnx",
    ]
    before = [file.read_bytes() for file in files]
    mine = [other / "runs/sample/train/scratch" / name for name in ("notes.txt", "photos/a.jpg")]
    for file in files:
        _flip(file)
    assert "up to date" in run("dvc", "status", cwd=other).stdout
    synced = run("python", "-m", "pipeline", "tracking", "sync", cwd=other, PYTHONPATH=str(other))
    assert "skipped: runs/sample/train/scratch: weights.safetensors is damaged" in synced.stdout
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("a person's")
    status, lines = verify("--repair")
    assert status == 0
    assert sum(line.startswith("damaged: ") for line in lines) == len(files)
    for file in mine:
        assert file.read_text() == "a person's"
        file.unlink()
    mine[1].parent.rmdir()
    assert "damaged: data/sample/split.csv: not what dvc.lock says" in lines
    assert "damaged: runs/sample/train/scratch: weights.safetensors is damaged" in lines
    assert [file.read_bytes() for file in files] == before
    assert "up to date" in run("dvc", "status", cwd=other).stdout


def test_what_is_damaged_in_cache_and_workspace_comes_from_the_remote(verify, run, other, tmp_path):
    file, kept = other / "data/sample/archive", (other / ".dvc/config").read_bytes()
    broken, before = _object(other, "data/sample/archive"), file.read_bytes()
    try:
        for command in (["remote", "add", "--default", "share", str(tmp_path / "share")], ["push", "-q"]):
            assert run("dvc", *command, cwd=other).returncode == 0
        _flip(file)
        _flip(broken)
        assert verify("--repair")[0] == 0
        assert file.read_bytes() == before == broken.read_bytes()
    finally:
        (other / ".dvc/config").write_bytes(kept)


def test_a_flipped_byte_in_a_registered_version_is_refused_when_loaded_and_repaired_in_place(
    verify, run, other, tmp_path
):
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
    told = run("python", "-c", load, store, cwd=tmp_path, PYTHONPATH="").stdout.splitlines()[-1]
    assert "DamagedError" in told and "model.onnx is damaged" in told and "loaded" not in told
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


def test_what_surrounds_a_registered_model_is_checked_and_repaired(verify, other):
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


def test_a_damaged_mlmodel_is_named_and_a_version_without_a_record_is_not_sealed(repro, house, tmp_path):
    client = tracking.store.client()
    version = client.get_model_version_by_alias("sample", "champion")
    identity = version.source.rpartition("/")[2]
    (folder,) = (file.parent for file in (house / "mlartifacts").rglob("MLmodel") if identity in file.parts)
    wanted = f"models:/sample/{version.version}, code and MLmodel"

    def look(place: str):
        (kept,) = [kept for kept in tracking.registered_folders(tmp_path / place) if kept.name == wanted]
        return kept

    assert look("whole").damaged() == []
    _flip(folder / "MLmodel")
    # Python looks there before anywhere else.
    (folder / "code/numpy.py").write_text("a stranger's")
    assert look("flipped").damaged() == ["MLmodel is damaged", "code/numpy.py is not sealed"]
    (folder / "code/numpy.py").unlink()
    _flip(folder / "MLmodel")
    client.delete_model_version_tag("sample", version.version, "wrapping_sha256")
    try:
        assert not look("older").sealed
        # Anybody may write tags; a file's name could lead out of where a repair collects files.
        digest = hashlib.sha256((house / "pipeline/portable/card.py").read_bytes()).hexdigest()
        names = (str(tmp_path / "out/portable.py"), "../portable.py", "a//portable.py", "a\nb")
        tags = [{name: digest} for name in names]
        for number, tag in enumerate(["{", "3", "[1]", "null", {"portable.py": "x"}, {"a": [1]}, *tags]):
            tag = tag if isinstance(tag, str) else json.dumps(tag)
            client.set_model_version_tag("sample", version.version, "wrapping_sha256", tag)
            assert not look(f"hostile{number}").sealed
    finally:
        client.set_model_version_tag(
            "sample", version.version, "wrapping_sha256", version.tags["wrapping_sha256"]
        )


def test_a_damaged_champion_names_no_photo(run, other, tmp_path):
    model = other / "runs/sample/register/champion/portable/model.onnx"
    _flip(model)
    done = run("python", "-m", "pipeline", "predict", "face.jpg", cwd=other, PYTHONPATH=str(other))
    _flip(model)
    assert done.returncode == 1
    assert done.stdout == (
        "error: runs/sample/register/champion/portable: model.onnx is damaged; "
        "run: petfaces verify --repair\n"
    )


def test_a_run_that_no_stage_made_is_told_and_kept_and_an_older_one_is_taken_as_it_is(verify, other):
    single = shutil.copytree(other / "runs/sample/train/scratch", other / "runs/single/mine")
    (single / "curves.csv").write_text("mine\n")  # of no other folder
    (single / portable.SUMS).unlink()
    try:
        status, lines = verify()
        assert status == 0  # nothing tells that it is damaged
        assert "not sealed, nothing tells whether it is whole: runs/single/mine" in lines
        with pytest.raises(UserError, match=r"has no SHA256SUMS .* petfaces verify --seal /.*mine$"):
            seal.check(single)
        assert verify("--seal", "runs/single/mine")[0] == 0
        for name in ("runs/single/mine", ""):
            assert verify("--seal", name)[1][0].startswith("error: ")
        seal.check(single)
        _flip(single / "weights.safetensors")
        status, lines = verify("--repair")
        assert status == 1
        assert lines[-1].startswith("to be made again: runs/single/mine: train it again")
        assert (single / "config.yaml").is_file()
    finally:
        shutil.rmtree(single)
