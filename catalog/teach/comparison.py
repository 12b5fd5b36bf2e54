"""The curves of training a small network from scratch and of tuning the head, on the same images."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.artifacts import atomic
from pipeline.portable import DamagedError, read_json


@dataclass(frozen=True)
class Point:
    """Share of the held-out images that are right after some seconds."""

    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Comparison:
    """Both curves.

    Attributes:
        samples: see `TaughtModel`.
        images: number of all images.
        held_out: number of those that neither has learned.
        tuning: of the head; its time begins with computing the features.
        scratch: of the network from scratch, which grows while it trains.
    """

    samples: str
    images: int
    held_out: int
    tuning: list[Point] = field(default_factory=list)
    scratch: list[Point] = field(default_factory=list)

    def save(self, file: Path) -> None:
        """Writes the curves, atomically."""
        atomic.replace_text(file, json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> "Comparison | None":
        """The curves in a file; None if there are none, or they are of another version."""
        try:
            details = read_json(file)
            curves = {name: [Point(**each) for each in details.pop(name)] for name in ("tuning", "scratch")}
            return cls(**details, **curves)
        except (DamagedError, TypeError, KeyError, AttributeError):
            return None
