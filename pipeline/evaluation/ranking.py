"""Tie-breaking between models with equal metrics, and the ranks that tables show."""

from collections.abc import Sequence

# Printed below every table with ties.
RULE = (
    "Of ties the cheapest comes first: fewest multiply-adds in training (of one picture × pictures seen), "
    "then in answering, then fewest parameters."
)


def cost(metrics: dict) -> tuple[float, ...]:
    """Sort key for models with equal metrics, cheapest first.

    Args:
        metrics: train's ``metrics.json``; keys missing in older ones count as 0.

    Returns:
        Multiply-adds of one image times the images seen in training, multiply-adds of one image, parameters.
    """
    multiply_adds = metrics.get("multiply_adds", 0)
    return multiply_adds * metrics.get("pictures_seen", 0), multiply_adds, metrics.get("parameters", 0)


def ranks(values: Sequence) -> list[str]:
    """Ranks of values sorted best first; equal values share a rank, marked by an equals sign (1=, 1=, 3)."""
    first = {}
    for position, value in enumerate(values, start=1):
        first.setdefault(value, position)
    return [f"{first[value]}=" if values.count(value) > 1 else str(first[value]) for value in values]
