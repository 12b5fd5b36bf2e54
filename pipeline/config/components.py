"""Which callbacks, metrics and losses a configuration may name by ``_target_``."""

import re
from collections.abc import Iterator

from pipeline.common.text import printable

# The libraries are those that a training imports anyway; `models` is this checkout's, so a file of your own
# there is part of the code hash, and dvc.yaml lists it.
ALLOWED = {
    "callbacks": ("models", "pytorch_lightning.callbacks"),
    # Not those of text and images: some load networks that their arguments name.
    "metrics": ("models", "torchmetrics.classification", "torchmetrics.aggregation"),
    "model.loss": ("models", "torch.nn", "timm.loss"),
}


def described(tree: dict) -> Iterator[tuple[str, str, dict]]:
    """Each description in a resolved configuration: group, dotted key, ``_target_`` and arguments."""
    for group in ("callbacks", "metrics"):
        for name, node in (tree.get(group) or {}).items():
            yield group, f"{group}.{name}", node
    if node := tree["model"].get("loss"):
        yield "model.loss", "model.loss", node


def problems(group: str, tree: dict, where: str) -> Iterator[str]:
    """What is wrong with a description, as far as its words tell; nothing is imported.

    Args:
        group: a key of `ALLOWED`.
        tree: ``_target_`` and arguments.
        where: the configuration's key, for the message.
    """
    target = tree.get("_target_")
    *others, last = ALLOWED[group]
    homes = f"{', '.join(others)} or {last}"
    if not isinstance(target, str):
        yield f"{where}._target_ is missing; name a class of {homes} there"
    elif not any(re.fullmatch(rf"{re.escape(each)}(\.\w+)+", target) for each in ALLOWED[group]):
        yield (
            f"{where}._target_={printable(target)[:100]}: must be a class of {homes}; "
            "put one of your own into models/"
        )
    for key in tree:
        if str(key).startswith("_") and key != "_target_":
            yield f"{where}.{printable(key)[:50]}: only _target_ and arguments of the class are allowed"
