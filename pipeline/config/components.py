"""The callbacks, metrics and losses that a configuration may name as ``_target_``."""

import re
from collections.abc import Iterator

from pipeline.common.text import printable

# Only libraries that training imports anyway. `models` is in this checkout, so custom files there are part of
# the code hash and of the dependencies in dvc.yaml.
ALLOWED = {
    "callbacks": ("models", "pytorch_lightning.callbacks"),
    # Excludes torchmetrics.text and .image: some load networks named in their arguments.
    "metrics": ("models", "torchmetrics.classification", "torchmetrics.aggregation"),
    "model.loss": ("models", "torch.nn", "timm.loss"),
}


def configured(tree: dict) -> Iterator[tuple[str, str, dict]]:
    """Yields group, dotted key, and node (``_target_`` and arguments) of each configured component."""
    for group in ("callbacks", "metrics"):
        for name, node in (tree.get(group) or {}).items():
            yield group, f"{group}.{name}", node
    if node := tree["model"].get("loss"):
        yield "model.loss", "model.loss", node


def problems(group: str, tree: dict, where: str) -> Iterator[str]:
    """Yields a message for each problem of a component that can be found without importing it.

    Args:
        group: a key of `ALLOWED`.
        tree: ``_target_`` and arguments.
        where: the config key, for the message.
    """
    target = tree.get("_target_")
    *others, last = ALLOWED[group]
    modules = f"{', '.join(others)} or {last}"
    if not isinstance(target, str):
        yield f"{where}._target_ is missing; set it to a class of {modules}"
    elif not any(re.fullmatch(rf"{re.escape(each)}(\.\w+)+", target) for each in ALLOWED[group]):
        yield (
            f"{where}._target_={printable(target)[:100]}: must be a class of {modules}; "
            "put your own class into models/"
        )
    for key in tree:
        if str(key).startswith("_") and key != "_target_":
            yield f"{where}.{printable(key)[:50]}: only _target_ and arguments of the class are allowed"
