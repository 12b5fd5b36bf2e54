"""Compares a rebuilt model with the original: weights, and facts that may explain a difference."""

from pathlib import Path

from pipeline import portable
from pipeline.common.text import printable

WEIGHTS = "weights.safetensors"
BESIDE = ("model.json", "metrics.json", "curves.csv")  # also compared


def facts(lineage: dict, device: str | None) -> dict[str, object]:
    """Everything that determines a model's weights, most likely causes of a difference first."""
    environment = dict(lineage["environment"])
    threads, instructions = environment.pop("threads", None), environment.pop("instructions", None)
    return {
        "code": lineage.get("code"),  # not recorded by the first versions
        "data's content": lineage["data"]["content"],
        "data's split": lineage["data"]["split"],
        **environment,
        "threads": threads,
        "device": device,
        "processor's instructions": instructions,
    }


def differences(then: dict, now: dict) -> list[str]:
    """Differences between two sets of facts, in their order; facts missing in one are skipped."""
    return [
        f"{name}: {printable(value)} then, {printable(now[name])} now"
        for name, value in then.items()
        if None not in (value, now.get(name)) and value != now[name]
    ]


def max_difference(then: Path, now: Path) -> str:
    """The largest difference between the weights of two train folders, in words."""
    from models.classifier import read_weights

    first, second = read_weights(then / WEIGHTS), read_weights(now / WEIGHTS)
    shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (first, second)]
    if shapes[0] != shapes[1]:
        return "of another shape"
    max_difference = max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
    return f"at most {max_difference:.3g} apart"


def verdict(then: Path, now: Path, differ: list[str]) -> tuple[bool, list[str]]:
    """Whether two train folders hold the same weights, and the lines to print.

    Args:
        then: the version's train folder.
        now: the rebuilt one.
        differ: differences between their facts.
    """
    before, after = (portable.sha256_of(folder / WEIGHTS) for folder in (then, now))
    if before != after:
        why = f"first difference: {differ[0]}" if differ else "nothing in the lineage differs"
        return False, [
            f"other weights (sha256 {before[:12]} then, {after[:12]} now, {max_difference(then, now)})",
            why,
        ]
    messages = [f"identical weights (sha256 {before[:12]})"]
    hashes = [{name: portable.sums(folder).get(name) for name in BESIDE} for folder in (then, now)]
    if changed := [name for name in BESIDE if hashes[0][name] != hashes[1][name]]:
        messages.append(f"but not the same bytes in {', '.join(changed)}")
    if differ:
        messages.append(f"although it is not all the same: {differ[0]}")
    return True, messages
