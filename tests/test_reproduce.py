"""`petfaces reproduce` rebuilds a registered version or reports why it can't, and changes nothing else."""

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from conftest import PYTHON
from omegaconf import OmegaConf

from pipeline.artifacts import seal
from pipeline.common.paths import ROOT as PROJECT
from pipeline.maintenance import comparison, worktree_script

# Arguments: evaluation, export, then overrides; trains and registers a version for each of the latter.
VERSIONS = """
import sys
from pathlib import Path
from pipeline import config, tracking, train
from pipeline.common import paths
for words in sys.argv[3:]:
    cfg = config.compose("model=scratch", "data.epochs=1", *words.split())
    if not paths.from_root(cfg.out).is_dir():
        train.train(cfg)
    tracking.ensure_version(paths.from_root(cfg.out), Path(sys.argv[1]), Path(sys.argv[2]))
"""
POOLED = "return self.blocks(self.stem(x)).mean(dim=(2, 3))"  # of models/scratch.py


class Clone:
    """A clone with its own MLflow store, whose versions were registered three commits ago."""

    def __init__(self, run, root: Path):
        self._run, self.root = run, root
        self.store = f"sqlite:///{root / 'mlflow.db'}"

    def __call__(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        return self._run(*command, cwd=self.root, PYTHONPATH=str(self.root), **environment)

    def checked(self, *command: str, **environment: str) -> str:
        done = self(*command, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def reproduce(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self("python", "-m", "pipeline", "reproduce", *arguments, **environment)

    def version(self, number: int):
        return mlflow.MlflowClient(self.store, self.store).get_model_version("sample", str(number))

    def versions(self) -> list:
        return mlflow.MlflowClient(self.store, self.store).search_model_versions("name='sample'")

    def train_dir(self, number: int) -> Path:
        """The train folder in the artifacts of a version's run."""
        return self.root / "mlartifacts" / self.version(number).run_id / "artifacts/train"

    def state(self) -> list:
        """What a rebuild must not change."""
        client = mlflow.MlflowClient(self.store, self.store)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        folders = [self.root / name for name in ("runs", "data", "mlartifacts", ".dvc")]
        files = (file for folder in folders for file in folder.rglob("*") if "tmp" not in file.parts[-3:])
        return [
            self.checked("git", "status", "--porcelain"),
            self.checked("git", "rev-parse", "HEAD"),
            self.checked("git", "worktree", "list"),
            (self.root / ".dvc/config.local").read_text(),
            sorted(run.info.run_id for run in client.search_runs(experiments)),
            sorted(str(file) for file in files if ".dvc/tmp" not in str(file)),
        ]

    def register(self, *overrides: str, **environment: str) -> None:
        """Trains, unless its folder exists, and registers a version for each of these overrides."""
        folders = (PROJECT / f"runs/sample/{part}/scratch" for part in ("evaluate", "register/candidates"))
        self.checked("python", "-c", VERSIONS, *map(str, folders), *overrides, **environment)


@pytest.fixture(scope="module")
def clone(repro, run, project, change, tmp_path_factory):
    """Version 1 is from a clean tree, 2 starts from it, 3 is from a dirty tree."""
    root = tmp_path_factory.mktemp("theirs") / "petfaces"
    assert run("git", "clone", "-q", str(project), str(root)).returncode == 0
    shutil.copyfile(project / "dvc.lock", root / "dvc.lock")
    clone = Clone(run, root)
    clone.checked("dvc", "cache", "dir", "--local", str(project / ".dvc/cache"))
    clone.checked("dvc", "checkout", "data/sample/pack", "data/sample/split.csv")
    clone.register("out=runs/single/clean", "out=runs/single/started seed=2 model.start=models:/sample/1")
    untracked = root / "models/extra piece.py"
    change("models/scratch.py", (POOLED, POOLED.replace("mean", "amax")), project=root)
    untracked.write_text("# Not in git when the version was trained.\n")
    clone.register("out=runs/single/dirty")
    clone.checked("git", "checkout", "-q", "models")
    untracked.unlink()
    # The first of these commits changes the weights.
    change("models/scratch.py", (POOLED, POOLED.replace("mean", "logsumexp")), project=root)
    for number in range(3):
        (root / "notes.txt").write_text(f"{number}\n")
        clone.checked("git", "add", "-A")
        user = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        clone.checked("git", *user, "commit", "-qm", f"change {number}")
    return clone


@contextmanager
def _replaced(file: Path, text: str):
    """Replaces a file's text and seals its folder, while the context lasts."""
    sums = file.with_name("SHA256SUMS")
    before = {path: path.read_bytes() for path in (file, sums)}
    try:
        file.write_text(text)
        seal.seal(file.parent)
        yield
    finally:
        for path, data in before.items():
            path.write_bytes(data)


def _changed(file: Path, **changes):
    """Replaces values in a JSON file; a double underscore separates nested keys: data__content."""
    tree = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    return _replaced(file, json.dumps(tree))


@pytest.fixture
def empty_cache(clone, tmp_path):
    """The clone with an empty DVC cache."""
    config = clone.root / ".dvc/config.local"
    text = config.read_text()
    clone.checked("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    yield clone
    config.write_text(text)


def test_a_version_from_three_commits_ago_is_rebuilt_to_identical_weights(clone, tmp_path):
    before = clone.state()
    done = clone.reproduce("sample", "1", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout
    commit = clone.checked("git", "rev-parse", "HEAD~3")[:8]
    assert re.search(
        rf"sample 1: identical weights \(sha256 \w{{12}}\), rebuilt from commit {commit} in \d+ s$",
        done.stdout.strip(),
    )
    assert "sample, from DVC's cache" in done.stdout
    train_dir = clone.root / "runs/single/clean"
    for file in train_dir.iterdir():
        assert (tmp_path / "kept" / file.name).read_bytes() == file.read_bytes(), file.name
    assert clone.state() == before


def test_a_version_from_a_dirty_tree_is_rebuilt_from_its_recorded_diff(clone, empty_cache):
    version = clone.version(3)
    assert version.tags["dirty"] == "true"
    assert "with uncommitted changes (the run keeps them: `provenance/changes.diff`)" in version.description
    changes = (clone.train_dir(3).parent / "provenance/changes.diff").read_text()
    assert "amax" in changes
    assert "models/extra piece.py" in changes
    assert not (clone.train_dir(1).parent / "provenance/changes.diff").exists()
    before = clone.state()
    # The diff is code: it is shown and, without --trust, not run.
    refused = clone.reproduce("sample", "3", "--check")
    assert refused.returncode == 1
    assert refused.stdout.splitlines()[-1].startswith("error: these changes are code that would run here")
    assert "  models/scratch.py  +1 −1\n" in refused.stdout
    assert re.search(r"\|\s+\+.*amax", refused.stdout)
    # Its data is not in the cache: it is drawn again.
    done = clone.reproduce("sample", "3", "--trust")
    assert done.returncode == 0, done.stdout
    assert "with the run's uncommitted changes to 2 files:" in done.stdout
    assert "sample, created again" in done.stdout
    assert "sample 3: identical weights" in done.stdout
    assert clone.state() == before


@pytest.mark.slow
def test_a_version_is_rebuilt_with_its_start_model_and_data_from_a_remote(
    clone, empty_cache, project, tmp_path
):
    clone.checked("dvc", "remote", "add", "--local", "--default", "share", str(tmp_path / "share"))
    empty = clone.reproduce("sample", "2", "--check")
    assert "sample, neither in DVC's cache nor on a remote; to be generated again" in empty.stdout
    clone.checked("dvc", "cache", "dir", "--local", str(project / ".dvc/cache"))
    clone.checked("dvc", "push", "data/sample/pack", "data/sample/split.csv")
    clone.checked("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    check = clone.reproduce("sample", "2", "--check")
    assert check.returncode == 0, check.stdout
    assert "sample, on DVC's remote" in check.stdout
    done = clone.reproduce("sample", "2")
    assert done.returncode == 0, done.stdout
    assert "sample, from DVC's remote" in done.stdout
    assert re.search(r"start: +models:/sample/1\n", done.stdout)
    assert "sample 2: identical weights" in done.stdout


def test_a_commit_with_other_modules_does_not_import_todays(project, run, tmp_path):
    """Today's checkout is installed too, with modules that this commit does not have."""
    files = {
        "conf/config.yaml": "seed: 1\n",
        "pipeline/__init__.py": "",
        "pipeline/config.py": "from pathlib import Path\nROOT = Path(__file__).resolve().parents[1]\n",
        "pipeline/data.py": "class Pack: pass\n",
        "pipeline/lineage.py": "def lineage_of(*given): return {'of': 'it', 'threads': given[1]}\n",
        "config.yaml": "data: {name: sample}\ntrainer: {accelerator: cpu, threads: 3}\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "program").mkdir()
    program = shutil.copy(project / "pipeline/maintenance/worktree_script.py", tmp_path / "program")
    run("python", program, "config.yaml", "answer.json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer == {"lineage": {"of": "it", "threads": 3}, "device": "cpu"}


@pytest.mark.parametrize("group", ["runtime", "trainer"])
def test_the_number_of_threads_is_found_under_its_old_key_too(project, monkeypatch, group):
    cfg = OmegaConf.create(
        {"data": {"name": "nothing"}, "trainer": {"accelerator": "cpu"}, group: {"threads": 3}}
    )
    OmegaConf.set_struct(cfg, True)
    assert worktree_script.lineage(cfg)["environment"]["threads"] == 3


@pytest.mark.slow
def test_a_version_from_two_processes_is_rebuilt_by_two(clone):
    overrides = "out=runs/single/two trainer=ddp trainer.accelerator=cpu runtime.workers=0"
    clone.checked("python", "-m", "pipeline.train", "model=scratch", "data.epochs=1", *overrides.split())
    clone.register(overrides)
    number = max(int(version.version) for version in clone.versions())
    done = clone.reproduce("sample", str(number))
    assert done.returncode == 0, done.stdout
    # One process gives other weights.
    assert clone.version(number).tags["model_sha256"] != clone.version(1).tags["model_sha256"]
    assert f"sample {number}: identical weights" in done.stdout


def test_a_check_trains_nothing_and_says_if_a_rebuild_is_possible(clone):
    clone.checked("python", "-c", "from pipeline import tracking; tracking.promote('sample', '1', 'by hand')")
    before = clone.state()
    done = clone.reproduce("sample", "champion", "--check")
    assert done.returncode == 0, done.stdout
    fields = dict(re.findall(r"^(\w+): +(.+)$", done.stdout, re.MULTILINE))
    assert fields.keys() == {"version", "code", "data", "environment", "result"}
    assert fields["version"].startswith("sample 1, scratch data.epochs=1, run ")
    assert fields["result"] == "sample 1 can be rebuilt"
    assert not re.search(r"(?m)^epoch ", done.stdout)
    assert clone.state() == before


def test_a_check_lists_differences_in_the_environment(clone):
    with _changed(clone.train_dir(1) / "lineage.json", environment__torch="1.0.0"):
        done = clone.reproduce("sample", "1", "--check")
    assert done.returncode == 0
    assert re.search(r"environment: +torch: 1\.0\.0 then, \S+ now\n", done.stdout)
    assert "sample 1 could be rebuilt, but may differ: torch: 1.0.0 then" in done.stdout


def test_different_data_is_an_error_with_both_hashes(clone):
    original = json.loads((clone.train_dir(1) / "lineage.json").read_text())["data"]["split"]
    with _changed(clone.train_dir(1) / "lineage.json", data__split="0" * 64):
        done = clone.reproduce("sample", "1")
    assert done.returncode == 1
    assert f"error: sample 1 can't be rebuilt: data's split: {'0' * 64} then, {original} now" in done.stdout
    assert not re.search(r"(?m)^epoch ", done.stdout)


def test_different_code_is_an_error(clone):
    with _changed(clone.train_dir(1) / "lineage.json", code="f" * 64):
        done = clone.reproduce("sample", "1", "--check")
    assert done.returncode == 1
    assert f"error: sample 1 can't be rebuilt: code: {'f' * 64} then, " in done.stdout


def test_a_run_restored_from_files_can_be_rebuilt(clone, tmp_path):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    clone.register("out=runs/single/clean", MLFLOW_TRACKING_URI=address)
    done = clone.reproduce("sample", "1", "--check", MLFLOW_TRACKING_URI=address)
    assert done.returncode == 0, done.stdout
    assert "sample, from DVC's cache" in done.stdout
    assert "sample 1 can be rebuilt" in done.stdout


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("sample", "99", r"has no models:/sample/99; it has versions 1 to 3.* of sample"),
        ("sample", "nobody", r"has no models:/sample@nobody; it has versions 1 to 3"),
        ("dogs", "1", r"has no models:/dogs/1; it has the names 'sample'"),
    ],
)
def test_an_unknown_version_is_an_error_that_lists_the_known_ones(clone, name, version, message):
    done = clone.reproduce(name, version)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: the registry at \S+ {message}.*\n", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"commit": "1234567890" * 4},
            "does not have commit 12345678, which sample 1 was trained from; run: git",
        ),
        ({"commit": None}, "sample 1 was trained outside a git checkout"),
        (
            {"commit": "HEAD~3", "dirty": True},
            "uncommitted changes to commit .*, which were not recorded",
        ),
        (
            {"start": "5" * 64},
            r"model that sample 1 starts from \(None, hash 5{12}\) is neither registered",
        ),
    ],
)
def test_a_version_that_cannot_be_rebuilt_is_a_one_line_error(clone, changes, message):
    if changes.get("commit") == "HEAD~3":  # an existing commit
        changes = changes | {"commit": clone.checked("git", "rev-parse", "HEAD~3").strip()}
    before = clone.state()
    with _changed(clone.train_dir(1) / "lineage.json", **changes):
        done = clone.reproduce("sample", "1", "--check")
    assert done.returncode == 1
    assert re.search(message, done.stdout.splitlines()[-1]), done.stdout
    assert "Traceback" not in done.stdout
    assert clone.state() == before


def test_commit_and_diff_are_read_from_an_earlier_versions_train_folder(clone):
    train_dir = clone.train_dir(3)
    changes, commit = (
        train_dir.parent / "provenance/changes.diff",
        clone.checked("git", "rev-parse", "HEAD~3").strip(),
    )
    aside = train_dir.parent.parent / "aside"
    with _changed(train_dir / "lineage.json", commit=commit, dirty=True):
        shutil.copyfile(changes, train_dir / "changes.diff")
        changes.parent.rename(aside)
        seal.seal(train_dir)
        try:
            done = clone.reproduce("sample", "3", "--check", "--trust")
        finally:
            (train_dir / "changes.diff").unlink()
            aside.rename(changes.parent)
    assert done.returncode == 0, done.stdout
    assert f"commit {commit[:8]} with the run's uncommitted changes" in done.stdout


@pytest.mark.parametrize("number", [1, 3])
def test_a_lost_commit_is_replaced_by_one_with_the_same_code(clone, number):
    hidden = {path: path.with_name("aside") for path in (clone.train_dir(number).parent / "provenance",)}
    hidden[clone.root / "runs/.provenance"] = clone.root / "runs/aside"
    for path, aside in hidden.items():
        path.rename(aside)
    try:
        done = clone.reproduce("sample", str(number), "--check")
    finally:
        for path, aside in hidden.items():
            aside.rename(path)
    if number == 1:
        commit = clone.checked("git", "rev-parse", "HEAD~3")[:8]
        assert f"commit {commit} (the record is lost; this commit has the same code)" in done.stdout
        assert "sample 1 can be rebuilt" in done.stdout
    else:  # from a dirty tree
        assert done.stdout.endswith(
            "\nerror: sample 3 was trained outside a git checkout, or the record of its commit is lost: "
            "its code is unknown, so it can't be rebuilt\n"
        )


def test_a_missing_device_is_an_error(clone):
    file = clone.train_dir(1) / "config.yaml"
    other = file.read_text().replace("accelerator: cpu\n  devices: 1", "accelerator: gpu\n  devices: 64")
    with _replaced(file, other):
        done = clone.reproduce("sample", "1", "--check")
    assert done.returncode == 1
    assert "sample 1 was trained on another device (gpu × 64, cpu), which PyTorch does not see" in done.stdout


def test_sigterm_leaves_no_worktree(clone):
    before = clone.state()
    process = subprocess.Popen(
        [PYTHON, "-m", "pipeline", "reproduce", "sample", "1"],
        cwd=clone.root,
        env=_environment(clone.root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while "petfaces-" not in clone.checked("git", "worktree", "list") and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert clone.state() == before


def _environment(root: Path) -> dict[str, str]:
    import os

    train_dir = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return train_dir | {"PYTHONPATH": str(root)}


THEN = {
    "code": "a" * 64,
    "data": {"content": "b" * 64, "split": "c" * 64},
    "environment": {"python": "3.11.1", "threads": 2, "torch": "2.9", "instructions": "AVX2"},
}


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (("code", "content", "split", "torch", "threads", "device"), f"code: {'a' * 64} then, other now"),
        (("content", "split", "torch", "threads", "device"), f"data's content: {'b' * 64} then, other now"),
        (("split", "torch", "threads", "device"), f"data's split: {'c' * 64} then, other now"),
        (("torch", "threads", "device"), "torch: 2.9 then, other now"),
        (("threads", "device", "instructions"), "threads: 2 then, other now"),
        (("device", "instructions"), "device: cpu then, other now"),
        (("instructions",), "processor's instructions: AVX2 then, other now"),
    ],
)
def test_differences_are_ordered_by_importance(changes, first):
    now = json.loads(json.dumps(THEN))
    for change in changes:
        for tree in (now, now["data"], now["environment"]):
            if change in tree:
                tree[change] = "other"
    device = "other" if "device" in changes else "cpu"
    found = comparison.differences(comparison.facts(THEN, "cpu"), comparison.facts(now, device))
    assert found[0] == first
    assert len(found) == len(changes)


def test_fields_missing_from_an_older_lineage_are_no_difference():
    old = {"data": THEN["data"], "environment": {"python": "3.11.1", "threads": 2, "torch": "2.9"}}
    assert comparison.differences(comparison.facts(old, None), comparison.facts(THEN, "cpu")) == []


def test_different_weights_are_reported_with_their_largest_difference(repro, project, tmp_path):
    from safetensors.torch import load_file, save_file

    then = project / "runs/sample/train/scratch"
    now = shutil.copytree(then, tmp_path / "now")
    assert comparison.verdict(then, now, [])[0]
    tensors = load_file(now / "weights.safetensors")
    tensors["head.bias"][3] += 0.25
    save_file(tensors, now / "weights.safetensors")
    same, lines = comparison.verdict(then, now, [])
    assert not same
    assert lines[0].startswith("different weights (sha256 ")
    assert "maximum difference 0.25" in lines[0]
    assert lines[1] == "nothing in the lineage differs"
    assert (
        comparison.verdict(then, now, ["torch: 1 then, 2 now"])[1][1]
        == "first difference: torch: 1 then, 2 now"
    )
    same, lines = comparison.verdict(then, then, ["torch: 1 then, 2 now"])
    assert same
    assert lines[1] == "although this differs: torch: 1 then, 2 now"
