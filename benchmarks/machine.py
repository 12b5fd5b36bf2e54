"""The machine description that every benchmark prints, and interleaved timing of several programs."""

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


class Seconds(float):
    """The median of what a program took in several rounds, which knows the others, too."""

    def __new__(cls, rounds: list[float]):
        median = super().__new__(cls, statistics.median(rounds))
        median.rounds = rounds
        return median

    def shown(self, form: str = ".2f", scale: float = 1.0) -> str:
        """Median and range."""
        return spread([taken * scale for taken in self.rounds], form)

    def rate(self, count: int, form: str = ",.0f") -> str:
        """So many things a second: median and range."""
        return spread([count / taken for taken in self.rounds], form)

    def over(self, base: "Seconds", form: str = ".2f") -> str:
        """How many times as long as another program: median and range of the rounds' ratios."""
        pairs = zip(self.rounds, base.rounds, strict=True)
        return spread([taken / other for taken, other in pairs], form)


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def interleaved(programs: dict[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """Seconds of each program, run in turn: what slows the machine down then slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - began)
    return {name: Seconds(each) for name, each in seconds.items()}
