"""Versions registered by earlier code still predict, verify and can be rebuilt."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT, _run

from pipeline.sources import synthetic
from pipeline.sources.breeds import BREEDS

# The last commits before typed cards and Lightning's Trainer, before tasks, and before packages.
EARLIER = {
    "own loop": "b580f53079dc24ea228c25508ae98f3db1ce6100",
    "Trainer": "06d48b5de4327d9bfe027081a2ccd6bcd510ce2b",
    "flat": "78610be54db2e5039320a613abb1809ba65a9f67",
}
REGISTER = """
from pathlib import Path
from pipeline import graph, tracking
for model in ("scratch", "probe"):
    folders = [Path("runs/sample") / part / model for part in ("train", "evaluate", "portable")]
    graph.to_onnx(folders[0], folders[2])
    tracking.ensure_version(*folders)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", EARLIER)
def test_a_version_of_earlier_code_predicts_verifies_and_is_rebuilt(name, tmp_path):
    now, then = tmp_path / "now", tmp_path / "then"
    assert _run("git", "clone", "-q", str(CHECKOUT), str(now), cwd=tmp_path).returncode == 0
    # Uncommitted changes are tested, too.
    changes = _run("git", "diff", "HEAD", "--binary", cwd=CHECKOUT).stdout
    (tmp_path / "changes.diff").write_text(changes)
    if changes:
        assert _run("git", "apply", str(tmp_path / "changes.diff"), cwd=now).returncode == 0
    added = _run("git", "worktree", "add", "-q", "--detach", str(then), EARLIER[name], cwd=now)
    if added.returncode:
        pytest.skip(f"this checkout does not hold the commit {EARLIER[name][:12]}")
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{now / 'mlflow.db'}"}

    def call(folder: Path, *command: str) -> str:
        done = _run(*command, cwd=folder, PYTHONPATH=str(folder), **store)
        assert done.returncode == 0, done.stdout
        return done.stdout

    for stage in ("fetch", "pack", "split"):
        call(then, "python", "-m", f"pipeline.{stage}")
    for model, args in (("scratch", ["data.epochs=1"]), ("probe", ["model.input.size=64"])):
        call(
            then, "python", "-m", "pipeline.train", f"model={model}", *args, f"out=runs/sample/train/{model}"
        )
        call(then, "python", "-m", "pipeline.evaluate", f"model={model}")
    call(then, "python", "-c", REGISTER)
    synthetic.draw(BREEDS["dog_pug"], np.random.default_rng(0)).save(tmp_path / "face.png")
    for number, model in enumerate(("scratch", "probe"), start=1):
        face, uri = str(tmp_path / "face.png"), f"models:/sample/{number}"
        answers = [
            json.loads(re.search(r"^\{.*\}$", call(folder, "python", "-m", *args), re.M)[0])
            for folder, args in (
                (then, ("pipeline.predict", face, "--format", "jsonl", "--model", uri)),
                (now, ("pipeline", "predict", face, "--format", "jsonl", "--model", uri)),
            )
        ]
        assert answers[0]["labels"] == answers[1]["labels"]
        assert answers[0]["probabilities"] == pytest.approx(answers[1]["probabilities"], abs=1e-3)
        # Today's code also opens the model folder itself.
        trained = str(then / "runs/sample/train" / model)
        output = call(now, "python", "-m", "pipeline", "predict", face, "--model", trained)
        assert "breed" in output
        rebuilt = call(now, "python", "-m", "pipeline", "reproduce", "sample", str(number))
        assert f"sample {number}: identical weights" in rebuilt
    assert "nothing is damaged" in call(now, "python", "-m", "pipeline", "verify")
