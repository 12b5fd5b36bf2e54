"""Whether a rebuilt model is the same, and what differs in its making."""

import hashlib
from pathlib import Path

from pipeline import portable
from pipeline.common.text import printable

WEIGHTS = "weights.safetensors"
BESIDE = ("model.json", "metrics.json", "curves.csv")  # compared, too


def facts(lineage: dict, device: str | None) -> dict[str, object]:
    """What decides about a model's weights, in the order in which it is worth looking at."""
    environment = dict(lineage["environment"])
    threads, instructions = environment.pop("threads", None), environment.pop("instructions", None)
    return {
        "code": lineage.get("code"),  # the first versions did not note it
        "data's content": lineage["data"]["content"],
        "data's split": lineage["data"]["split"],
        **environment,
        "threads": threads,
        "device": device,
        "processor's instructions": instructions,
    }


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two sets of facts, in their order; what one of them does not know is none."""
    return [
        f"{name}: {printable(value)} then, {printable(now[name])} now"
        for name, value in then.items()
        if None not in (value, now.get(name)) and value != now[name]
    ]


def apart(then: Path, now: Path) -> str:
    """How far the weights of two train folders are from each other."""
    from models.classifier import read_weights

    one, two = read_weights(then / WEIGHTS), read_weights(now / WEIGHTS)
    shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (one, two)]
    if shapes[0] != shapes[1]:
        return "of another shape"
    most = max(float((one[name].double() - two[name].double()).abs().max()) for name in one)
    return f"at most {most:.3g} apart"


def verdict(then: Path, now: Path, differ: list[str]) -> tuple[bool, list[str]]:
    """Whether two train folders hold the same weights, and what is to be said of it.

    Args:
        then: the version's folder.
        now: the rebuilt one.
        differ: of their facts.
    """
    before, after = (hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() for folder in (then, now))
    if before != after:
        why = f"first difference: {differ[0]}" if differ else "nothing in the lineage differs"
        return False, [
            f"other weights (sha256 {before[:12]} then, {after[:12]} now, {apart(then, now)})",
            why,
        ]
    told = [f"identical weights (sha256 {before[:12]})"]
    hashes = [{name: portable.sums(folder).get(name) for name in BESIDE} for folder in (then, now)]
    if others := [name for name in BESIDE if hashes[0][name] != hashes[1][name]]:
        told.append(f"but not the same bytes in {', '.join(others)}")
    if differ:
        told.append(f"although it is not all the same: {differ[0]}")
    return True, told
