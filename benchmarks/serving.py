"""Latency for one image, and answers per second with many clients; counts requests without an answer.

``python -m benchmarks.serving`` uses the champion of params.yaml's data; ``--soak 10`` sends requests for ten
more minutes. All programs get the same encoded image, and share the machine's cores with the clients.
"""

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

from benchmarks.common import argument_parser, describe_machine, median_and_range, time_in_turn
from models import classifier
from pipeline import portable, tracking
from pipeline.common.paths import ROOT
from pipeline.data.dataset import LooseImages
from pipeline.evaluation import predictions
from pipeline.inference import export, resolve
from pipeline.sources import archives


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Runs ``petfaces serve``; yields its address."""
    command = [sys.executable, "-m", "pipeline", "serve", str(folder), "--port", "0"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"at (http\S+)/predict", program.stdout.readline())[1]
    finally:
        program.terminate()
        program.wait()


@contextmanager
def served_by_mlflow(model: Path, port: int = 5055) -> Iterator[str]:
    """Runs ``mlflow models serve`` with the same exported model; yields its address."""
    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        # As pipeline/tracking/registry.py logs it.
        mlflow.pyfunc.save_model(
            f"{scratch}/model",
            loader_module="portable",
            code_paths=[str(Path(portable.__file__).parent)],
            data_path=str(model),
            signature=tracking.signature(portable.read_card(model)),
        )
        command = ["mlflow", "models", "serve", "-m", f"{scratch}/model", "--env-manager", "local"]
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


def load_test(request: Callable[[], bool], clients: int, seconds: float) -> tuple[int, int, float]:
    """Sends requests from many clients at once, each its next one after the answer.

    Args:
        request: sends a request; returns whether it was answered.
        clients: number of threads.
        seconds: duration.

    Returns:
        Numbers of answered and of lost requests, and answers per second.
    """
    counts, stop = [[0, 0] for _ in range(clients)], time.monotonic() + seconds

    def client(count: list[int]) -> None:
        while time.monotonic() < stop:
            count[0 if request() else 1] += 1

    start = time.monotonic()
    threads = [threading.Thread(target=client, args=(count,)) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered, lost = (sum(column) for column in zip(*counts, strict=True))
    return answered, lost, answered / (time.monotonic() - start)


def main() -> None:
    parser = argument_parser(__spec__.name, __doc__, overrides=False)
    parser.add_argument("--model", help=resolve.HELP)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--soak", type=float, default=0, help="minutes")
    args = parser.parse_args()
    console = Console(width=120)
    console.print(describe_machine("torch", "onnxruntime", "mlflow", "fastapi"))
    with resolve.opened(args.model) as found, tempfile.TemporaryDirectory() as scratch:
        card = found.card
        (_, file) = next(islice(archives.members(ROOT / "data" / card.data / "archive"), 1, None))
        folder = export.export(found, Path(scratch) / "exported", page=False)
        network, _ = classifier.load(found.train)
        all_threads, one_thread = portable.OnnxClassifier(folder), portable.OnnxClassifier(folder, threads=1)
        local = threading.local()

        def post(address: str, **body) -> bool:
            if not hasattr(local, "session"):
                local.session = requests.Session()
            try:
                return local.session.post(address, timeout=60, **body).status_code == 200
            except requests.RequestException:
                return False

        def eager() -> np.ndarray:
            image = np.asarray(portable.read_picture(file))
            return predictions.predict(network, LooseImages([image], card.input), 1)

        request = {"columns": ["image"], "data": [[base64.b64encode(file).decode()]]}
        with served(folder) as ours, served_by_mlflow(found.portable) as theirs:
            programs = {
                "torch eager": eager,
                "ONNX Runtime": lambda: all_threads.answer(file),
                "petfaces serve": lambda: post(f"{ours}/predict", files={"photo": file}),
                "mlflow models serve": lambda: post(
                    f"{theirs}/invocations", json={"dataframe_split": request}
                ),
            }
            torch.set_num_threads(os.cpu_count() or 1)
            for name, program in programs.items():
                if program() is False:
                    sys.exit(f"{name} does not answer")
            timings = time_in_turn(programs, args.rounds)
            columns = ("one image", "milliseconds", "relative to torch eager")
            table = Table(*columns, title=f"{card.name}, {card.data}")
            for name, timing in timings.items():
                table.add_row(name, timing.format(".1f", 1000), timing.ratio_to(timings["torch eager"]))
            console.print(table)

            table = Table(f"{args.clients} clients", "answers/s", "bare ÷ this", "lost")
            rates: dict[str, list[float]] = {}
            lost: dict[str, int] = {}
            for _ in range(3):
                rates.setdefault("bare ONNX Runtime", []).append(_bare_rate(one_thread, file, args.seconds))
                for name in ("petfaces serve", "mlflow models serve"):
                    _, lost_now, rate = load_test(programs[name], args.clients, args.seconds)
                    rates.setdefault(name, []).append(rate)
                    lost[name] = lost.get(name, 0) + lost_now
            bare = statistics.median(rates["bare ONNX Runtime"])
            for name, values in rates.items():
                ratio = f"{bare / statistics.median(values):.2f}"
                table.add_row(name, median_and_range(values, ".1f"), ratio, str(lost.get(name, "")))
            console.print(table)
            if args.soak:
                serve = programs["petfaces serve"]
                answered, unanswered, rate = load_test(serve, args.clients, args.soak * 60)
                console.print(
                    f"soak: {answered:,} answers in {args.soak:g} minutes, {unanswered} lost, {rate:.1f} per "
                    "second"
                )


def _bare_rate(model: portable.OnnxClassifier, file: bytes, seconds: float) -> float:
    """Answers per second without a server, with one thread per core."""
    cores, stop = os.cpu_count() or 1, time.monotonic() + seconds

    def work() -> int:
        count = 0
        while time.monotonic() < stop:
            model.answer(file)
            count += 1
        return count

    start = time.monotonic()
    with ThreadPoolExecutor(cores) as pool:
        total = sum(future.result() for future in [pool.submit(work) for _ in range(cores)])
    return total / (time.monotonic() - start)


if __name__ == "__main__":
    main()
