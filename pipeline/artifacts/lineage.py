"""What a result comes from: choices, data, code and environment; no clock, no host, no commit."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline.common import text, yaml_files
from pipeline.common.paths import ROOT

# Choices that change where and how fast, not what.
WITHOUT_EFFECT = ("out", "models", "fetch", "register")


def settings_of(cfg: DictConfig) -> dict:
    """The resolved configuration as plain values, less what has no effect on the result and passwords."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    for key in WITHOUT_EFFECT:
        tree.pop(key, None)
    tree = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    # What is left to Lightning is no choice, and another version of it may have further arguments.
    tree["trainer"] = {key: value for key, value in tree["trainer"].items() if value is not None}
    for key in ("callbacks", "metrics"):  # of the checkout's own, and as a rule none
        if not tree[key]:
            del tree[key]
    return _without_passwords(tree)


def _without_passwords(tree: object) -> object:
    """Of all texts in a tree of plain values: addresses of data may have one."""
    if isinstance(tree, dict):
        return {key: _without_passwords(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_passwords(value) for value in tree]
    return text.without_password(tree) if isinstance(tree, str) else tree


def code_hash() -> str:
    """Of the code that a training runs, as ``dvc.yaml`` lists it for its stage."""
    places = [ROOT / need for need in code_needs(yaml_files.read(ROOT / "dvc.yaml"))]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    return hash_of(
        (file.relative_to(ROOT), hashlib.sha256(file.read_bytes()).hexdigest()) for file in sorted(files)
    )


def code_needs(dvc_yaml: dict) -> list[str]:
    """Files and folders of code that a ``dvc.yaml`` lists for training."""
    needs = dvc_yaml["stages"]["train"]["deps"]
    return [need for need in needs if need.partition("/")[0] in ("pipeline", "models")]


def hash_of(files: Iterable[tuple[Path, str]]) -> str:
    """Of files in their order, each with its SHA-256."""
    whole = hashlib.sha256()
    for file, digest in files:
        whole.update(f"{file} {digest}\n".encode())
    return whole.hexdigest()


def lineage_of(pack, threads: int) -> dict:
    """Where a result comes from: data, code, environment.

    The commit is not among them (`pipeline.artifacts.provenance`): the same code may run from many.
    """
    from importlib.metadata import version

    import torch

    packages = (
        "torch",
        "torchvision",
        "timm",
        "pytorch-lightning",
        "albumentations",
        "numpy",
        "scikit-learn",
        "pillow",
    )
    return {
        "data": {
            "name": pack.folder.parent.name,
            "content": pack.summary["content"],
            "split": pack.split_sha256,
            "pictures": len(pack.table),
            "classes": len(pack.classes),
        },
        "code": code_hash(),
        "environment": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "threads": threads,
            **{name: version(name) for name in packages},
            # Of the processor: wider ones sum in another order, which moves the weights' last bits.
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
    }
