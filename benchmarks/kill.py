"""Kills a training at random moments, resumes it, and compares the result with an uninterrupted training.

``python -m benchmarks.kill`` does so 25 times each for `scratch` and `finetune`, on the data set of
``params.yaml``. It sends `kill -9` at a random moment, then runs the same command again. The moment is drawn
uniformly from the whole life of the process: start, training, validation, checkpoints, plots and the upload
to MLflow. A trial passes if all files have the same bytes, and MLflow holds one finished run with each point
once. Moments are measured in CPU seconds, so that other work on the machine does not shift them.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described
from pipeline.artifacts import curves
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.tracking.runs import COUNTERS

# Short trainings with all that could go astray: dropout, mixup, a moving average, a fitted head, frozen and
# learning BatchNorm. The seed is one that nobody else uses: an unfinished training of yours stays yours.
TRAININGS = {
    "scratch": ["model=scratch", "data.epochs=2", "model.ema=0.95", "seed=4100"],
    "finetune": ["model=finetune", "model.epochs=2", "model.input.size=64", "seed=4100"],
}


def _start(overrides: list[str], out: Path, store: Path) -> subprocess.Popen:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    command = [sys.executable, "-m", "pipeline.train", *overrides, f"out={out}"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _spent(process: subprocess.Popen) -> float:
    """Processor seconds of a process that runs, or has ended and was not waited for yet."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def _ended(process: subprocess.Popen) -> bool:
    """Whether it has, without waiting for it: what it spent can still be asked."""
    return psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE


def _bytes(folder: Path) -> dict[str, str]:
    """Hash of each file of a train folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def _mirrored(store: Path, data: str, folder: Path) -> str:
    """What is wrong with MLflow's runs of one trial, or nothing."""
    import mlflow

    try:
        client = mlflow.MlflowClient(f"sqlite:///{store}", f"sqlite:///{store}")
        experiment = client.get_experiment_by_name(data)
    except Exception as error:  # a store that can't be opened raises many kinds
        return f"MLflow's store can't be opened: {str(error).splitlines()[0]}"
    runs = client.search_runs([experiment.experiment_id])
    if len(runs) != 1:
        return f"{len(runs)} runs"
    (run,) = runs
    if run.info.status != "FINISHED":
        return run.info.status
    rows = curves.read(folder)
    for key in run.data.metrics:
        points = [point.step for point in client.get_metric_history(run.info.run_id, key)]
        steps = [int(row["step"]) for row in rows if row.get(key) is not None and key not in COUNTERS]
        if points != (steps or [0]):
            return f"{key} at {points}"
    return ""


def trial(
    overrides: list[str], data: str, moment: float, expected: dict[str, str], place: Path
) -> tuple | None:
    """One kill and the restart.

    Returns:
        What the killed process had told last, where the second one went on, and what is wrong (nothing, at
        best); None if the first had told its result before the moment came.
    """
    out, store = place / "out", place / "mlflow.db"
    killed = _start(overrides, out, store)
    while not _ended(killed) and _spent(killed) < moment:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    before = killed.communicate()[0].splitlines()
    if killed.returncode == 0 or f"in {out}" in " ".join(before[-1:]):
        return None
    again = _start(overrides, out, store)
    after = again.communicate()[0].splitlines()
    if again.returncode:
        return before[-1:], after[-1:], f"the restart ended with {again.returncode}: {after[-3:]}"
    wrong = [name for name, known in expected.items() if _bytes(out).get(name) != known]
    went_on = [line for line in after if "resuming after" in line]
    return before[-1:], went_on, ", ".join(wrong) or _mirrored(store, data, out)


def kill(model: str, kills: int, seed: int, more: list[str], console: Console) -> int:
    """Prints the table of one model's trials; returns how many were good."""
    overrides, rng = [*TRAININGS[model], *more], random.Random(seed)
    data = compose(*overrides).data.name
    table = Table(
        "kill", "after (processor s)", "it had told", "the restart", "result", title=f"{model} on {data}"
    )
    good = done = 0
    with tempfile.TemporaryDirectory() as name:
        # Twice: the first run keeps a backbone's features, so that the second one's life is like the trials'.
        for place in (Path(name) / "first", Path(name) / "second"):
            undisturbed = _start(overrides, place / "out", place / "mlflow.db")
            while not _ended(undisturbed):
                time.sleep(0.05)
            life = _spent(undisturbed)
            told = undisturbed.communicate()[0]
            if undisturbed.returncode:
                sys.exit(told)
        expected = _bytes(Path(name) / "first/out")
        if _bytes(place / "out") != expected:
            sys.exit(f"{model}: two undisturbed trainings differ")
        console.print(f"{model}: undisturbed it takes {life:.0f} processor seconds; {kills} kills follow")
        while done < kills:
            moment = rng.uniform(0, life)
            with tempfile.TemporaryDirectory() as place:
                result = trial(overrides, data, moment, expected, Path(place))
            if result is None:
                continue
            before, after, wrong = (" ".join(part) if isinstance(part, list) else part for part in result)
            done += 1
            good += not wrong
            before = before.removeprefix("train: ").partition(", loss")[0] or "nothing yet"
            table.add_row(
                str(done),
                f"{moment:.1f}",
                before,
                after.removeprefix("train: ") or "starts over",
                wrong or "identical",
            )
            print(f"{done}/{kills} after {moment:.1f} s ({before}): {wrong or 'identical'}", flush=True)
    console.print(table)
    console.print(f"{model}: {good} of {done} identical, in files and in MLflow")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TRAININGS, action="append", help="default: all of them")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("overrides", nargs="*", help="further choices of the training, as for pipeline.train")
    given = parser.parse_args()
    console = Console(width=120)
    console.print(described("torch", "pytorch-lightning", "mlflow"))
    models = given.model or list(TRAININGS)
    good = [kill(model, given.kills, given.seed, given.overrides, console) for model in models]
    sys.exit(0 if sum(good) == given.kills * len(models) else "not all were identical")


if __name__ == "__main__":
    main()
