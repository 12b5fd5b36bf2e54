"""Appearance of the 35 classes of Pet Faces, used to draw the synthetic sample."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Breed:
    """Appearance of a breed.

    Attributes:
        ears: `point`, `round`, `fold`, `flop` or `bat`.
        muzzle: length, 0 (flat) to 1 (long).
        coat: base colour, RGB in 0–1.
        mark: colour of the pattern, RGB in 0–1.
        pattern: `solid`, `points`, `stripes`, `spots`, `blaze`, `saddle`, `mask` or `eyebrows`.
        eyes: colour of the iris, RGB in 0–1.
        fluff: raggedness of the outline, 0–1.
        width: width of the head divided by its height.
    """

    ears: str
    muzzle: float
    coat: list[float]
    mark: list[float]
    pattern: str
    eyes: list[float]
    fluff: float
    width: float = 1.0


_TABLE = yaml.safe_load(Path(__file__).with_name("breeds.yaml").read_text(encoding="utf-8"))
COLOURS: dict[str, list[float]] = _TABLE["colours"]
BREEDS = {label: Breed(**appearance) for label, appearance in _TABLE["breeds"].items()}
