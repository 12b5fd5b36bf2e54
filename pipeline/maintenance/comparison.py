"""Compares a rebuilt model with the original: its weights, and the facts that may explain a difference."""

from pathlib import Path

from pipeline import portable
from pipeline.common.text import printable

WEIGHTS = "weights.safetensors"
OTHER_FILES = ("model.json", "metrics.json", "curves.csv")  # also compared


def facts(lineage: dict, device: str | None) -> dict[str, object]:
    """Everything that determines a model's weights, most likely causes of a difference first.

    Args:
        lineage: content of ``lineage.json``.
        device: name of the device that trains.

    Raises:
        KeyError: the lineage is incomplete.
    """
    environment = dict(lineage["environment"])
    threads, instructions = environment.pop("threads", None), environment.pop("instructions", None)
    return {
        "code": lineage.get("code"),  # missing in the oldest lineages
        "data's content": lineage["data"]["content"],
        "data's split": lineage["data"]["split"],
        **environment,
        "threads": threads,
        "device": device,
        "processor's instructions": instructions,
    }


def differences(recorded: dict, current: dict) -> list[str]:
    """Describes each fact that differs, in their order; facts missing in one are skipped."""
    return [
        f"{name}: {printable(value)} then, {printable(current[name])} now"
        for name, value in recorded.items()
        if None not in (value, current.get(name)) and value != current[name]
    ]


def max_difference(original: Path, rebuilt: Path) -> str:
    """Describes the largest difference between the weights of two train folders."""
    from models.classifier import read_weights

    first, second = read_weights(original / WEIGHTS), read_weights(rebuilt / WEIGHTS)
    shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (first, second)]
    if shapes[0] != shapes[1]:
        return "different shapes"
    largest = max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
    return f"maximum difference {largest:.3g}"


def verdict(original: Path, rebuilt: Path, differ: list[str]) -> tuple[bool, list[str]]:
    """Compares two train folders.

    Args:
        original: the version's train folder.
        rebuilt: the rebuilt one.
        differ: differences between their facts, see `differences`.

    Returns:
        Whether the weights are identical, and the lines to print.
    """
    before, after = (portable.sha256_of(folder / WEIGHTS) for folder in (original, rebuilt))
    if before != after:
        difference = max_difference(original, rebuilt)
        return False, [
            f"different weights (sha256 {before[:12]} then, {after[:12]} now, {difference})",
            f"first difference: {differ[0]}" if differ else "nothing in the lineage differs",
        ]
    messages = [f"identical weights (sha256 {before[:12]})"]
    first, second = portable.sums(original), portable.sums(rebuilt)
    if changed := [name for name in OTHER_FILES if first.get(name) != second.get(name)]:
        messages.append(f"but other files differ: {', '.join(changed)}")
    if differ:
        messages.append(f"although this differs: {differ[0]}")
    return True, messages
