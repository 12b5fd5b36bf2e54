"""Latency for one image, and answers per second under many clients; no answer may be lost.

``python -m benchmarks.serving`` uses the champion of params.yaml's data; ``--soak 10`` sends requests for ten
more minutes. All programs get the same encoded image and run on the same cores, as do the clients.
"""

import argparse
import base64
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import requests
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.machine import described, interleaved, spread
from models import classifier
from pipeline import portable, tracking
from pipeline.common.paths import ROOT
from pipeline.data.dataset import LooseImages
from pipeline.evaluation import predictions
from pipeline.inference import export, resolve
from pipeline.sources import archives


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of petfaces serve."""
    command = [sys.executable, "-m", "pipeline", "serve", str(folder), "--port", "0"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"at (http\S+)/predict", program.stdout.readline())[1]
    finally:
        program.terminate()
        program.wait()


@contextmanager
def served_by_mlflow(model: Path, port: int = 5055) -> Iterator[str]:
    """The address of `mlflow models serve` with the same exported model."""
    import mlflow

    with tempfile.TemporaryDirectory() as place:
        # As pipeline/tracking/registry.py logs it.
        mlflow.pyfunc.save_model(
            f"{place}/model",
            loader_module="portable",
            code_paths=[str(Path(portable.__file__).parent)],
            data_path=str(model),
            signature=tracking.signature(portable.read_card(model)),
        )
        command = ["mlflow", "models", "serve", "-m", f"{place}/model", "--env-manager", "local"]
        program = subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(600):
                try:
                    requests.get(f"http://127.0.0.1:{port}/ping", timeout=1)
                    break
                except (requests.ConnectionError, requests.Timeout):
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            program.terminate()
            program.wait()


def flood(ask: Callable[[], bool], clients: int, seconds: float) -> tuple[int, int, float]:
    """Lets so many clients ask at once.

    Returns:
        How many answers came, how many were lost, and how many came a second.
    """
    counts, stop = [[0, 0] for _ in range(clients)], time.monotonic() + seconds

    def client(count: list[int]) -> None:
        while time.monotonic() < stop:
            count[0 if ask() else 1] += 1

    began = time.monotonic()
    threads = [threading.Thread(target=client, args=(count,)) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered, lost = (sum(count[place] for count in counts) for place in (0, 1))
    return answered, lost, answered / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", help=resolve.HELP)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--soak", type=float, default=0, help="minutes")
    given = parser.parse_args()
    console = Console(width=120)
    console.print(described("torch", "onnxruntime", "mlflow", "fastapi"))
    with resolve.opened(given.model) as found, tempfile.TemporaryDirectory() as scratch:
        card = found.card
        (_, file) = next(islice(archives.members(ROOT / "data" / card.data / "archive"), 1, None))
        folder = export.export(found, Path(scratch) / "exported", page=False)
        network, _ = classifier.load(found.train)
        alone, beside = portable.OnnxClassifier(folder), portable.OnnxClassifier(folder, threads=1)
        local = threading.local()

        def post(address: str, **how) -> bool:
            if not hasattr(local, "session"):
                local.session = requests.Session()
            try:
                return local.session.post(address, timeout=60, **how).status_code == 200
            except requests.RequestException:
                return False

        def eager() -> np.ndarray:
            picture = np.asarray(portable.read_picture(file))
            return predictions.predict(network, LooseImages([picture], card.input), 1)

        request = {"columns": ["image"], "data": [[base64.b64encode(file).decode()]]}
        with served(folder) as ours, served_by_mlflow(found.portable) as theirs:
            programs = {
                "torch eager": eager,
                "ONNX Runtime": lambda: alone.answer(file),
                "petfaces serve": lambda: post(f"{ours}/predict", files={"photo": file}),
                "mlflow models serve": lambda: post(
                    f"{theirs}/invocations", json={"dataframe_split": request}
                ),
            }
            torch.set_num_threads(os.cpu_count() or 1)
            for name, program in programs.items():
                if program() is False:
                    sys.exit(f"{name} does not answer")
            seconds = interleaved(programs, given.rounds)
            table = Table("one picture", "milliseconds", "of torch eager", title=f"{card.name}, {card.data}")
            for name, taken in seconds.items():
                table.add_row(name, taken.shown(".1f", 1000), taken.over(seconds["torch eager"]))
            console.print(table)

            table = Table(f"{given.clients} clients", "answers/s", "bare, of it", "lost")
            rates: dict[str, list[float]] = {}
            lost: dict[str, int] = {}
            for _ in range(3):
                rates.setdefault("bare ONNX Runtime", []).append(_bare(beside, file, given.seconds))
                for name in ("petfaces serve", "mlflow models serve"):
                    _, gone, rate = flood(programs[name], given.clients, given.seconds)
                    rates.setdefault(name, []).append(rate)
                    lost[name] = lost.get(name, 0) + gone
            bare = statistics.median(rates["bare ONNX Runtime"])
            for name, each in rates.items():
                rate = statistics.median(each)
                table.add_row(name, spread(each, ".1f"), f"{bare / rate:.2f}", str(lost.get(name, "")))
            console.print(table)
            if given.soak:
                answered, gone, rate = flood(programs["petfaces serve"], given.clients, given.soak * 60)
                console.print(
                    f"soak: {answered:,} answers in {given.soak:g} minutes, {gone} lost, {rate:.1f} a second"
                )


def _bare(model: portable.OnnxClassifier, file: bytes, seconds: float) -> float:
    """Answers a second of as many threads as there are cores, without any server."""
    cores, stop = os.cpu_count() or 1, time.monotonic() + seconds

    def work() -> int:
        count = 0
        while time.monotonic() < stop:
            model.answer(file)
            count += 1
        return count

    began = time.monotonic()
    with ThreadPoolExecutor(cores) as pool:
        done = sum(each.result() for each in [pool.submit(work) for _ in range(cores)])
    return done / (time.monotonic() - began)


if __name__ == "__main__":
    main()
