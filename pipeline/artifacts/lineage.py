"""Lineage of a result: its configuration, data, code and environment, without time, host or commit."""

import sys

from omegaconf import DictConfig, OmegaConf

from pipeline import portable
from pipeline.artifacts import seal
from pipeline.common import text, yaml_files
from pipeline.common.paths import ROOT

# Top-level config keys that don't change the result.
IGNORED_KEYS = ("out", "models", "fetch", "register")
# Their versions are part of the lineage.
PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "albumentations")
PACKAGES += ("numpy", "scikit-learn", "pillow")


def settings_of(cfg: DictConfig) -> dict:
    """The resolved config as plain values, without passwords and keys that don't change the result."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    for key in IGNORED_KEYS:
        tree.pop(key, None)
    tree = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    # None means Lightning's default; other versions of Lightning may have more arguments.
    tree["trainer"] = {key: value for key, value in tree["trainer"].items() if value is not None}
    for key in ("callbacks", "metrics"):  # recorded only if the user added any
        if not tree[key]:
            del tree[key]
    return _without_passwords(tree)


def _without_passwords(tree: object) -> object:
    """The tree with passwords removed from all strings, since data URLs may contain one."""
    if isinstance(tree, dict):
        return {key: _without_passwords(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_passwords(value) for value in tree]
    return text.without_password(tree) if isinstance(tree, str) else tree


def code_hash() -> str:
    """SHA-256 of the code that ``dvc.yaml`` lists as dependencies of the train stage."""
    paths = [ROOT / dep for dep in code_deps(yaml_files.read(ROOT / "dvc.yaml"))]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return seal.hash_of((file.relative_to(ROOT), portable.sha256_of(file)) for file in sorted(files))


def code_deps(dvc_yaml: dict) -> list[str]:
    """Code files and folders among the train stage's dependencies in a ``dvc.yaml``."""
    deps = dvc_yaml["stages"]["train"]["deps"]
    return [dep for dep in deps if dep.partition("/")[0] in ("pipeline", "models")]


def lineage_of(pack, threads: int) -> dict:
    """The content of ``lineage.json``: data, code and environment of a result.

    The commit is recorded elsewhere (`pipeline.artifacts.provenance`): many commits can have the same code.

    Args:
        pack: the `PackedDataset`.
        threads: number of torch threads.
    """
    from importlib.metadata import version

    import torch

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
            **{name: version(name) for name in PACKAGES},
            # CPU vector width: it changes the order of summation and so the weights' last bits.
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
    }
