"""Any registered version is rebuilt from its number, or it is said why not; what is here stays as it is."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from omegaconf import OmegaConf

from pipeline.artifacts import seal
from pipeline.common.paths import ROOT as HOUSE
from pipeline.maintenance import comparison, worktree_script

# Trains and registers a version for each argument, but the first two: an evaluation and an export.
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


class Theirs:
    """A clone of the copy with a store of its own, in which versions were registered before three commits."""

    def __init__(self, run, root: Path):
        self._run, self.root = run, root
        self.store = f"sqlite:///{root / 'mlflow.db'}"

    def __call__(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        return self._run(*command, cwd=self.root, PYTHONPATH=str(self.root), **environment)

    def good(self, *command: str, **environment: str) -> str:
        done = self(*command, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def reproduce(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return self("python", "-m", "pipeline", "reproduce", *arguments, **environment)

    def version(self, number: int):
        return mlflow.MlflowClient(self.store, self.store).get_model_version("sample", str(number))

    def versions(self) -> list:
        return mlflow.MlflowClient(self.store, self.store).search_model_versions("name='sample'")

    def kept(self, number: int) -> Path:
        """The train folder among the files of a version's run."""
        return self.root / "mlartifacts" / self.version(number).run_id / "artifacts/train"

    def state(self) -> list:
        """What a rebuilding must leave alone."""
        client = mlflow.MlflowClient(self.store, self.store)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        places = [self.root / name for name in ("runs", "data", "mlartifacts", ".dvc")]
        files = (file for place in places for file in place.rglob("*") if "tmp" not in file.parts[-3:])
        return [
            self.good("git", "status", "--porcelain"),
            self.good("git", "rev-parse", "HEAD"),
            self.good("git", "worktree", "list"),
            (self.root / ".dvc/config.local").read_text(),
            sorted(run.info.run_id for run in client.search_runs(experiments)),
            sorted(str(file) for file in files if ".dvc/tmp" not in str(file)),
        ]

    def register(self, *words: str, **environment: str) -> None:
        """Trains a version with each of these words, unless its folder is there, and registers it."""
        judged = (HOUSE / f"runs/sample/{part}/scratch" for part in ("evaluate", "register/candidates"))
        self.good("python", "-c", VERSIONS, *map(str, judged), *words, **environment)


@pytest.fixture(scope="module")
def theirs(repro, run, house, change, tmp_path_factory):
    """Version 1 is of a clean tree, 2 starts from it, 3 is of a dirty tree."""
    root = tmp_path_factory.mktemp("theirs") / "petfaces"
    assert run("git", "clone", "-q", str(house), str(root)).returncode == 0
    shutil.copyfile(house / "dvc.lock", root / "dvc.lock")
    theirs = Theirs(run, root)
    theirs.good("dvc", "cache", "dir", "--local", str(house / ".dvc/cache"))
    theirs.good("dvc", "checkout", "data/sample/pack", "data/sample/split.csv")
    theirs.register("out=runs/single/clean", "out=runs/single/started seed=2 model.start=models:/sample/1")
    new = root / "models/extra piece.py"
    change("models/scratch.py", (POOLED, POOLED.replace("mean", "amax")), house=root)
    new.write_text("# Not in git when the version was trained.\n")
    theirs.register("out=runs/single/dirty")
    theirs.good("git", "checkout", "-q", "models")
    new.unlink()
    # Three commits; the first would give other weights.
    change("models/scratch.py", (POOLED, POOLED.replace("mean", "logsumexp")), house=root)
    for number in range(3):
        (root / "notes.txt").write_text(f"{number}\n")
        theirs.good("git", "add", "-A")
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        theirs.good("git", *who, "commit", "-qm", f"change {number}")
    return theirs


@contextmanager
def _written(file: Path, text: str):
    """A file with another text, and its folder sealed with it, while the context lasts."""
    sums = file.with_name("SHA256SUMS")
    before = {place: place.read_bytes() for place in (file, sums)}
    try:
        file.write_text(text)
        seal.seal(file.parent)
        yield
    finally:
        for place, data in before.items():
            place.write_bytes(data)


def _changed(file: Path, **changes):
    """A JSON file with other values; a key may lead into a tree: data__content."""
    tree = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    return _written(file, json.dumps(tree))


@pytest.fixture
def bare(theirs, tmp_path):
    """The clone with an empty cache."""
    local = theirs.root / ".dvc/config.local"
    kept = local.read_text()
    theirs.good("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    yield theirs
    local.write_text(kept)


def test_a_version_registered_three_commits_ago_is_rebuilt_to_identical_weights(theirs, tmp_path):
    before = theirs.state()
    done = theirs.reproduce("sample", "1", "--keep", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stdout
    commit = theirs.good("git", "rev-parse", "HEAD~3")[:8]
    assert re.search(
        rf"sample 1: identical weights \(sha256 \w{{12}}\), rebuilt from commit {commit} in \d+ s$",
        done.stdout.strip(),
    )
    assert "sample, from DVC's cache" in done.stdout
    kept = theirs.root / "runs/single/clean"
    for file in kept.iterdir():
        assert (tmp_path / "kept" / file.name).read_bytes() == file.read_bytes(), file.name
    assert theirs.state() == before


def test_a_version_of_a_dirty_tree_says_so_and_is_rebuilt_from_the_diff_it_keeps(theirs, bare):
    version = theirs.version(3)
    assert version.tags["dirty"] == "true"
    assert "with uncommitted changes (the run keeps them: `provenance/changes.diff`)" in version.description
    changes = (theirs.kept(3).parent / "provenance/changes.diff").read_text()
    assert "amax" in changes
    assert "models/extra piece.py" in changes
    assert not (theirs.kept(1).parent / "provenance/changes.diff").exists()
    before = theirs.state()
    # The changes are code: they are shown, and nothing runs that a person has not said is to be trusted.
    refused = theirs.reproduce("sample", "3", "--check")
    assert refused.returncode == 1
    assert refused.stdout.splitlines()[-1].startswith("error: these changes are code that would run here")
    assert "  models/scratch.py  +1 −1\n" in refused.stdout
    assert re.search(r"\|\s+\+.*amax", refused.stdout)
    # Nor is its data in the cache: it is drawn again.
    done = theirs.reproduce("sample", "3", "--trust")
    assert done.returncode == 0, done.stdout
    assert "with the run's uncommitted changes to 2 files:" in done.stdout
    assert "sample, created again" in done.stdout
    assert "sample 3: identical weights" in done.stdout
    assert theirs.state() == before


@pytest.mark.slow
def test_a_version_is_rebuilt_from_the_version_it_started_from_with_data_of_a_remote(
    theirs, bare, house, tmp_path
):
    theirs.good("dvc", "remote", "add", "--local", "--default", "share", str(tmp_path / "share"))
    empty = theirs.reproduce("sample", "2", "--check")
    assert "sample, neither in DVC's cache nor on a remote; to be generated again" in empty.stdout
    theirs.good("dvc", "cache", "dir", "--local", str(house / ".dvc/cache"))
    theirs.good("dvc", "push", "data/sample/pack", "data/sample/split.csv")
    theirs.good("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    check = theirs.reproduce("sample", "2", "--check")
    assert check.returncode == 0, check.stdout
    assert "sample, on DVC's remote" in check.stdout
    done = theirs.reproduce("sample", "2")
    assert done.returncode == 0, done.stdout
    assert "sample, from DVC's remote" in done.stdout
    assert re.search(r"start: +models:/sample/1\n", done.stdout)
    assert "sample 2: identical weights" in done.stdout


def test_a_commit_with_modules_elsewhere_is_asked_alone(house, run, tmp_path):
    """Today's checkout is installed, too, and has modules of names that this commit does not know."""
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
    program = shutil.copy(house / "pipeline/maintenance/worktree_script.py", tmp_path / "program")
    run("python", program, "config.yaml", "answer.json", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    told = json.loads((tmp_path / "answer.json").read_text())
    assert told == {"lineage": {"of": "it", "threads": 3}, "device": "cpu"}


@pytest.mark.parametrize("group", ["runtime", "trainer"])
def test_the_threads_of_a_training_are_found_where_its_commit_had_them(house, monkeypatch, group):
    cfg = OmegaConf.create(
        {"data": {"name": "nothing"}, "trainer": {"accelerator": "cpu"}, group: {"threads": 3}}
    )
    OmegaConf.set_struct(cfg, True)
    assert worktree_script.lineage(cfg)["environment"]["threads"] == 3


@pytest.mark.slow
def test_a_version_of_two_processes_is_rebuilt_by_two(theirs):
    words = "out=runs/single/two trainer=ddp trainer.accelerator=cpu runtime.workers=0"
    theirs.good("python", "-m", "pipeline.train", "model=scratch", "data.epochs=1", *words.split())
    theirs.register(words)
    number = max(int(version.version) for version in theirs.versions())
    done = theirs.reproduce("sample", str(number))
    assert done.returncode == 0, done.stdout
    # One process would have given other weights.
    assert theirs.version(number).tags["model_sha256"] != theirs.version(1).tags["model_sha256"]
    assert f"sample {number}: identical weights" in done.stdout


def test_a_check_trains_nothing_and_says_that_it_can_be_done(theirs):
    theirs.good("python", "-c", "from pipeline import tracking; tracking.promote('sample', '1', 'by hand')")
    before = theirs.state()
    done = theirs.reproduce("sample", "champion", "--check")
    assert done.returncode == 0, done.stdout
    told = dict(re.findall(r"^(\w+): +(.+)$", done.stdout, re.MULTILINE))
    assert told.keys() == {"version", "code", "data", "environment", "result"}
    assert told["version"].startswith("sample 1, scratch data.epochs=1, run ")
    assert told["result"] == "sample 1 can be rebuilt"
    assert not re.search(r"(?m)^epoch ", done.stdout)
    assert theirs.state() == before


def test_a_check_names_what_differs_in_the_environment_with_both_values(theirs):
    with _changed(theirs.kept(1) / "lineage.json", environment__torch="1.0.0"):
        done = theirs.reproduce("sample", "1", "--check")
    assert done.returncode == 0
    assert re.search(r"environment: +torch: 1\.0\.0 then, \S+ now\n", done.stdout)
    assert "sample 1 could be rebuilt, but may differ: torch: 1.0.0 then" in done.stdout


def test_other_data_than_the_versions_is_named_with_both_values_and_trains_nothing(theirs):
    was = json.loads((theirs.kept(1) / "lineage.json").read_text())["data"]["split"]
    with _changed(theirs.kept(1) / "lineage.json", data__split="0" * 64):
        done = theirs.reproduce("sample", "1")
    assert done.returncode == 1
    assert f"error: sample 1 can't be rebuilt: data's split: {'0' * 64} then, {was} now" in done.stdout
    assert not re.search(r"(?m)^epoch ", done.stdout)


def test_other_code_than_the_versions_is_named(theirs):
    with _changed(theirs.kept(1) / "lineage.json", code="f" * 64):
        done = theirs.reproduce("sample", "1", "--check")
    assert done.returncode == 1
    assert f"error: sample 1 can't be rebuilt: code: {'f' * 64} then, " in done.stdout


def test_a_run_written_from_files_afterwards_can_be_rebuilt_too(theirs, tmp_path):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    theirs.register("out=runs/single/clean", MLFLOW_TRACKING_URI=address)
    done = theirs.reproduce("sample", "1", "--check", MLFLOW_TRACKING_URI=address)
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
def test_an_unknown_version_is_told_in_one_line_with_what_there_is(theirs, name, version, message):
    done = theirs.reproduce(name, version)
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
def test_what_can_not_be_rebuilt_is_told_in_one_line(theirs, changes, message):
    if changes.get("commit") == "HEAD~3":  # there is one
        changes = changes | {"commit": theirs.good("git", "rev-parse", "HEAD~3").strip()}
    before = theirs.state()
    with _changed(theirs.kept(1) / "lineage.json", **changes):
        done = theirs.reproduce("sample", "1", "--check")
    assert done.returncode == 1
    assert re.search(message, done.stdout.splitlines()[-1]), done.stdout
    assert "Traceback" not in done.stdout
    assert theirs.state() == before


def test_a_version_of_an_earlier_form_holds_its_commit_and_changes_in_the_train_folder(theirs):
    kept = theirs.kept(3)
    changes, commit = (
        kept.parent / "provenance/changes.diff",
        theirs.good("git", "rev-parse", "HEAD~3").strip(),
    )
    aside = kept.parent.parent / "aside"
    with _changed(kept / "lineage.json", commit=commit, dirty=True):
        shutil.copyfile(changes, kept / "changes.diff")
        changes.parent.rename(aside)
        seal.seal(kept)
        try:
            done = theirs.reproduce("sample", "3", "--check", "--trust")
        finally:
            (kept / "changes.diff").unlink()
            aside.rename(changes.parent)
    assert done.returncode == 0, done.stdout
    assert f"commit {commit[:8]} with the run's uncommitted changes" in done.stdout


@pytest.mark.parametrize("number", [1, 3])
def test_where_the_record_of_a_commit_is_lost_one_with_the_same_code_stands_for_it(theirs, number):
    lost = {path: path.with_name("aside") for path in (theirs.kept(number).parent / "provenance",)}
    lost[theirs.root / "runs/.provenance"] = theirs.root / "runs/aside"
    for path, aside in lost.items():
        path.rename(aside)
    try:
        done = theirs.reproduce("sample", str(number), "--check")
    finally:
        for path, aside in lost.items():
            aside.rename(path)
    if number == 1:
        commit = theirs.good("git", "rev-parse", "HEAD~3")[:8]
        assert f"commit {commit} (the record is lost; this commit has the same code)" in done.stdout
        assert "sample 1 can be rebuilt" in done.stdout
    else:  # of a dirty tree
        assert done.stdout.endswith(
            "\nerror: sample 3 was trained outside a git checkout, or the record of its commit is lost: "
            "its code is unknown, so it can't be rebuilt\n"
        )


def test_a_device_that_is_not_here_is_told(theirs):
    file = theirs.kept(1) / "config.yaml"
    other = file.read_text().replace("accelerator: cpu\n  devices: 1", "accelerator: gpu\n  devices: 64")
    with _written(file, other):
        done = theirs.reproduce("sample", "1", "--check")
    assert done.returncode == 1
    assert "sample 1 was trained on another device (gpu × 64, cpu), which PyTorch does not see" in done.stdout


def test_ended_from_outside_it_leaves_no_worktree(theirs):
    before = theirs.state()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "reproduce", "sample", "1"],
        cwd=theirs.root,
        env=_environment(theirs.root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while "petfaces-" not in theirs.good("git", "worktree", "list") and time.monotonic() < until:
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert theirs.state() == before


def _environment(root: Path) -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return kept | {"PYTHONPATH": str(root)}


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
def test_the_first_thing_that_differs_is_named_with_both_values(changes, first):
    now = json.loads(json.dumps(THEN))
    for change in changes:
        for tree in (now, now["data"], now["environment"]):
            if change in tree:
                tree[change] = "other"
    device = "other" if "device" in changes else "cpu"
    found = comparison.differences(comparison.facts(THEN, "cpu"), comparison.facts(now, device))
    assert found[0] == first
    assert len(found) == len(changes)


def test_what_an_older_lineage_does_not_know_is_no_difference():
    old = {"data": THEN["data"], "environment": {"python": "3.11.1", "threads": 2, "torch": "2.9"}}
    assert comparison.differences(comparison.facts(old, None), comparison.facts(THEN, "cpu")) == []


def test_other_weights_are_told_with_how_far_they_are_apart(repro, house, tmp_path):
    from safetensors.torch import load_file, save_file

    then = house / "runs/sample/train/scratch"
    now = shutil.copytree(then, tmp_path / "now")
    assert comparison.verdict(then, now, [])[0]
    tensors = load_file(now / "weights.safetensors")
    tensors["head.bias"][3] += 0.25
    save_file(tensors, now / "weights.safetensors")
    same, told = comparison.verdict(then, now, [])
    assert not same
    assert told[0].startswith("different weights (sha256 ")
    assert "maximum difference 0.25" in told[0]
    assert told[1] == "nothing in the lineage differs"
    assert (
        comparison.verdict(then, now, ["torch: 1 then, 2 now"])[1][1]
        == "first difference: torch: 1 then, 2 now"
    )
    same, told = comparison.verdict(then, then, ["torch: 1 then, 2 now"])
    assert same
    assert told[1] == "although this differs: torch: 1 then, 2 now"
