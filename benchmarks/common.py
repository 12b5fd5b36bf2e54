"""What the benchmarks share: command line, description of the machine, timing in turn, a server."""

import argparse
import asyncio
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version


def argument_parser(module: str, doc: str, overrides: bool = True) -> argparse.ArgumentParser:
    """The parser of a benchmark.

    Args:
        module: name of the module.
        doc: its docstring, whose first line becomes the description.
        overrides: whether it takes further arguments as `pipeline.train` does.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.partition("\n")[0])
    if overrides:
        parser.add_argument("overrides", nargs="*", help="config overrides, as for pipeline.train")
    return parser


def describe_machine(*packages: str) -> str:
    """Processor, and versions of the packages, in one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{platform.machine()}, {os.cpu_count()} processors; {versions}"


class Timing(float):
    """The median of a program's times over several rounds, in seconds.

    Attributes:
        rounds: the time of each round.
    """

    def __new__(cls, rounds: list[float]):
        median = super().__new__(cls, statistics.median(rounds))
        median.rounds = rounds
        return median

    def format(self, form: str = ".2f", scale: float = 1.0) -> str:
        """Median and range; `scale` converts from seconds."""
        return median_and_range([seconds * scale for seconds in self.rounds], form)

    def rate(self, count: int, form: str = ",.0f") -> str:
        """Items per second if each round processed `count` items: median and range."""
        return median_and_range([count / seconds for seconds in self.rounds], form)

    def ratio_to(self, baseline: "Timing", form: str = ".2f") -> str:
        """Median and range of the ratios to another program's time, taken within each round."""
        pairs = zip(self.rounds, baseline.rounds, strict=True)
        return median_and_range([seconds / other for seconds, other in pairs], form)


def median_and_range(values: list[float], form: str) -> str:
    """Formats values as ``median (minimum–maximum)``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def time_in_turn(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Times programs in turn in each round, so that other load on the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(rounds) for name, rounds in seconds.items()}


@contextmanager
def serving(app) -> Iterator[str]:
    """The address of an ASGI application that runs in a thread."""
    import uvicorn

    class Server(uvicorn.Server):
        """Ends at once, where uvicorn waits twice for a tenth of a second: the tests start hundreds."""

        async def main_loop(self) -> None:
            while not await self.on_tick(0):
                await asyncio.sleep(0.01)

        async def shutdown(self, sockets: list | None = None) -> None:
            for server in self.servers:
                server.close()
            for connection in list(self.server_state.connections):
                connection.shutdown()
            while self.server_state.tasks:
                await asyncio.sleep(0.01)
            await self.lifespan.shutdown()

    server = Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
