"""What every benchmark says of where it ran, and how it times things side by side."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version


def described(*packages: str) -> str:
    """Processor and versions in one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{platform.machine()}, {os.cpu_count()} processors; {versions}"


def interleaved(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each program, run in turn: what slows the machine down then slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in seconds.items()}
