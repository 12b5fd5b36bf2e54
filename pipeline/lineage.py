"""What a result comes from: the choices, the data, the code and the environment; no clock, no host."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from pipeline.config import ROOT

# What can change a result; params.yaml, dvc.lock and reports change by running: no reason to call it dirty.
CODE = ("pipeline", "models", "conf", "dvc.yaml", "constraints.txt", "pyproject.toml")
CHANGES = "changes.diff"  # in the train folder: what of CODE was not committed
# Choices that change where and how fast, not what.
WITHOUT_EFFECT = ("out", "models", "fetch", "register")


def settings_of(cfg: DictConfig) -> dict:
    """The resolved configuration as plain values, less what has no effect on the result."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    for key in WITHOUT_EFFECT:
        tree.pop(key, None)
    return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)


def code_hash() -> str:
    """Of the code that a training runs, as ``dvc.yaml`` lists it for its stage."""
    needs = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    places = [ROOT / need for need in needs if need.partition("/")[0] in ("pipeline", "models")]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def keep_changes(folder: Path) -> None:
    """Writes ``changes.diff``: what of the code differs from the commit, new files too.

    ``git apply`` on that commit brings it back. A clean tree, or one without git, leaves no file.
    """

    def git(*arguments: str, **options) -> bytes:
        # core.quotePath and diff.… of a person's own configuration would change what is kept.
        command = ["git", "-c", "core.quotePath=false", *arguments]
        return subprocess.run(command, cwd=ROOT, env=own, capture_output=True, check=True, **options).stdout

    own = dict(os.environ)
    with tempfile.TemporaryDirectory() as place:
        try:
            index = ROOT / git("rev-parse", "--git-path", "index").decode().strip()
            # A copy of the index takes the new files' names: neither the index nor git's objects are touched.
            own["GIT_INDEX_FILE"] = shutil.copy(index, place)
            new = git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
            if new:
                stdin = ("--pathspec-from-file=-", "--pathspec-file-nul")
                git("--literal-pathspecs", "add", "--intent-to-add", *stdin, input=new)
            plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative")
            prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
            changes = git("diff", "--binary", "--full-index", *plain, *prefixes, "HEAD", "--", *CODE)
        except (OSError, subprocess.CalledProcessError):
            return  # the lineage says that nothing is known of the commit
    if changes:
        (folder / CHANGES).write_bytes(changes)


def lineage_of(pack, threads: int) -> dict:
    """Where a result comes from: data, code, environment; no clock, no host."""
    from importlib.metadata import version

    import torch

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--", *CODE)
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
        "commit": git("rev-parse", "HEAD"),
        "dirty": changed is None or changed != "",
        "code": code_hash(),
        "environment": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "threads": threads,
            **{name: version(name) for name in packages},
            # Of the processor: wider ones sum in another order, which moves the weights' last bits.
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
    }
