"""Script that `reproduce` runs with another commit's code: reports the lineage of a training, then trains.

`reproduce` copies this file into a worktree of that commit, so `pipeline` and `models` are that commit's. It
uses only what they have had since the first commit. It is a script because Lightning launches further ranks
by the same command::

    python worktree_script.py CONFIG.YAML ANSWER.JSON [OUT]    # without OUT nothing is trained
"""

import importlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import torch
from omegaconf import DictConfig, OmegaConf


def configuration(settings: str, out: str) -> DictConfig:
    """A version's ``config.yaml``, with missing keys filled in from the commit's ``conf/``."""
    cfg = OmegaConf.load(settings)
    for key, value in OmegaConf.load("conf/config.yaml").items_ex(resolve=False):
        if key not in (*cfg, "defaults", "hydra"):
            cfg[key] = value
    cfg.out = out
    OmegaConf.set_struct(cfg, True)  # as Hydra does
    return cfg


def _first(*paths: str) -> object:
    """The first of these objects, given as MODULE:NAME, that exists in this commit."""
    for path in paths:
        module, _, name = path.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not module.startswith(error.name or "?"):  # another module is missing
                raise
    raise ImportError(f"none of {', '.join(paths)} is here")


def lineage(cfg: DictConfig) -> dict:
    """The lineage that a training would record here; without data facts if there is no data yet."""
    data_set = _first("pipeline.data.dataset:PackedDataset", "pipeline.data:Pack")
    lineage_of = _first(
        *(f"pipeline.{module}:lineage_of" for module in ("artifacts.lineage", "lineage", "train"))
    )
    data_dir = Path("data", cfg.data.name).resolve()
    if (data_dir / "split.csv").is_file() and (data_dir / "pack").is_dir():
        pack = data_set.open(data_dir)
    else:
        nothing = {"summary": {"content": None}, "split_sha256": None, "table": [], "classes": []}
        pack = SimpleNamespace(folder=data_dir / "pack", **nothing)
    group = cfg.runtime if "runtime" in cfg else cfg.trainer  # its place in earlier commits
    return lineage_of(pack, group.threads)


def device(cfg: DictConfig) -> str | None:
    """The device that a training would use, or None if the configured one is not available."""
    if cfg.trainer.accelerator not in ("gpu", "cuda", "auto"):
        return "cpu"
    number = torch.cuda.device_count()
    if not number and cfg.trainer.accelerator == "auto":
        return "cpu"
    enough = number and (not isinstance(cfg.trainer.devices, int) or number >= cfg.trainer.devices)
    return torch.cuda.get_device_name(0) if enough else None


def main(settings: str, answer: str, out: str | None = None) -> None:
    # An editable installation supplies its own checkout's modules where this commit lacks one of that name.
    sys.meta_path[:] = [each for each in sys.meta_path if getattr(each, "__name__", "") != "_EditableFinder"]
    from pipeline.config import ROOT

    # Guards against importing an installed petfaces instead of the worktree.
    assert Path.cwd().resolve() == ROOT, f"{ROOT} instead of the worktree"
    leader = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        cfg = configuration(settings, out or "runs/none")
        if out is None:
            told = {"lineage": lineage(cfg), "device": device(cfg)}
        else:
            from pipeline.train import train

            with suppress(ImportError):  # earlier commits print their messages
                from pipeline.common import log

                log.setup("train")
            train(cfg)
            told = {}
    except Exception as error:
        told = {"error": f"{type(error).__name__}: {error}"}
        if any(kind.__name__ == "UserError" for kind in type(error).__mro__):
            told["error"] = str(error)
        elif leader:
            import traceback

            traceback.print_exc()
    if leader:
        Path(answer).write_text(json.dumps(told), encoding="utf-8")
    sys.exit("error" in told)


if __name__ == "__main__":
    main(*sys.argv[1:])
