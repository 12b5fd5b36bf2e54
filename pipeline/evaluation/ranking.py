"""The order of models that a metric ranks alike, and how a table shows that it does."""

from collections.abc import Sequence

# In words, wherever ties are shown.
RULE = (
    "Of ties the cheapest comes first: fewest multiply-adds in training (of one picture × pictures seen), "
    "then in answering, then fewest parameters."
)


def cost(metrics: dict) -> tuple[float, ...]:
    """What orders models that a metric ranks alike, the cheapest first.

    Args:
        metrics: train's ``metrics.json``; what an older one lacks counts as nothing.

    Returns:
        Multiply-adds of one image times the images seen in training, multiply-adds of one image, parameters.
    """
    each = metrics.get("multiply_adds", 0)
    return each * metrics.get("pictures_seen", 0), each, metrics.get("parameters", 0)


def ranks(values: Sequence) -> list[str]:
    """Ranks of sorted values: equal neighbours share one, marked by an equals sign (1=, 1=, 3)."""
    first = {}
    for position, value in enumerate(values, start=1):
        first.setdefault(value, position)
    return [f"{first[value]}=" if values.count(value) > 1 else str(first[value]) for value in values]
