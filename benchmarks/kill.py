"""Kills a training at random moments, resumes it, and compares the result with an uninterrupted training.

``python -m benchmarks.kill`` does so 25 times each for `scratch` and `finetune`, on the data set of
``params.yaml``. It sends `kill -9` at a random moment, then runs the same command again. The moment is drawn
uniformly from the whole run: start, training, validation, checkpoints, plots and the upload to MLflow. A
trial passes if all files have the same bytes, and MLflow holds one finished run with each point once. Moments
are measured in CPU seconds, so that other work on the machine does not shift them.
"""

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

from benchmarks.common import argument_parser, describe_machine
from pipeline.artifacts import curves
from pipeline.common.paths import ROOT
from pipeline.config import compose
from pipeline.tracking.runs import COUNTERS

# Short trainings with what could go wrong: dropout, mixup, a moving average, a fitted head, frozen and
# trained BatchNorm. The seed is unusual, so that no unfinished training of the user is resumed.
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


def _cpu_seconds(process: subprocess.Popen) -> float:
    """CPU time of a process that was not waited for yet."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def _has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended, without waiting for it, so that its CPU time can still be read."""
    return psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a train folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def _mlflow_problem(store: Path, data: str, folder: Path) -> str:
    """What is wrong with MLflow's runs of one trial; empty if nothing."""
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
        logged = [point.step for point in client.get_metric_history(run.info.run_id, key)]
        steps = [int(row["step"]) for row in rows if row.get(key) is not None and key not in COUNTERS]
        if logged != (steps or [0]):
            return f"{key} at {logged}"
    return ""


def trial(
    overrides: list[str], data: str, moment: float, expected: dict[str, str], folder: Path
) -> tuple[str, str, str] | None:
    """Kills a training once and runs it again.

    Args:
        overrides: of the training.
        data: name of the data set.
        moment: CPU seconds after which to kill.
        expected: hashes of the files of an uninterrupted training.
        folder: an empty folder.

    Returns:
        The last message before the kill, the message on resuming, and what is wrong, each empty if there is
        none; None if the training finished first.
    """
    out, store = folder / "out", folder / "mlflow.db"
    killed = _start(overrides, out, store)
    while not _has_ended(killed) and _cpu_seconds(killed) < moment:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    last = " ".join(killed.communicate()[0].splitlines()[-1:])
    if killed.returncode == 0 or f"in {out}" in last:
        return None
    restarted = _start(overrides, out, store)
    messages = restarted.communicate()[0].splitlines()
    if restarted.returncode:
        problem = f"the restart ended with {restarted.returncode}: {messages[-3:]}"
        return last, " ".join(messages[-1:]), problem
    hashes = _hashes(out)
    differing = ", ".join(name for name, known in expected.items() if hashes.get(name) != known)
    resumed = " ".join(line for line in messages if "resuming after" in line)
    return last, resumed, differing or _mlflow_problem(store, data, out)


def run_trials(model: str, kills: int, seed: int, more: list[str], console: Console) -> int:
    """Prints the table of one model's trials; returns how many passed."""
    overrides, rng = [*TRAININGS[model], *more], random.Random(seed)
    data = compose(*overrides).data.name
    columns = ("kill", "after (CPU s)", "last message before", "restart", "result")
    table = Table(*columns, title=f"{model} on {data}")
    passed = done = 0
    with tempfile.TemporaryDirectory() as name:
        # Twice: the first run caches a backbone's features, as for the trials.
        for folder in (Path(name) / "first", Path(name) / "second"):
            uninterrupted = _start(overrides, folder / "out", folder / "mlflow.db")
            while not _has_ended(uninterrupted):
                time.sleep(0.05)
            total = _cpu_seconds(uninterrupted)
            output = uninterrupted.communicate()[0]
            if uninterrupted.returncode:
                sys.exit(output)
        expected = _hashes(Path(name) / "first/out")
        if _hashes(folder / "out") != expected:
            sys.exit(f"{model}: two uninterrupted trainings differ")
        console.print(f"{model}: {total:.0f} CPU seconds without a kill; {kills} kills follow")
        while done < kills:
            moment = rng.uniform(0, total)
            with tempfile.TemporaryDirectory() as folder:
                result = trial(overrides, data, moment, expected, Path(folder))
            if result is None:
                continue
            last, resumed, problem = (message.removeprefix("train: ") for message in result)
            done += 1
            passed += not problem
            last = last.partition(", loss")[0] or "none yet"
            outcome = problem or "identical"
            table.add_row(str(done), f"{moment:.1f}", last, resumed or "starts over", outcome)
            print(f"{done}/{kills} after {moment:.1f} s ({last}): {outcome}", flush=True)
    console.print(table)
    console.print(f"{model}: {passed} of {done} identical, in files and in MLflow")
    return passed


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__)
    parser.add_argument("--model", choices=TRAININGS, action="append", help="default: all of them")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    args = parser.parse_args()
    console = Console(width=120)
    console.print(describe_machine("torch", "pytorch-lightning", "mlflow"))
    models = args.model or list(TRAININGS)
    passed = [run_trials(model, args.kills, args.seed, args.overrides, console) for model in models]
    sys.exit(0 if sum(passed) == args.kills * len(models) else "not all were identical")


if __name__ == "__main__":
    main()
