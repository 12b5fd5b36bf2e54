"""Script that `Reproduction` runs with another commit's code: reports lineage and device, or trains.

It runs in a worktree of that commit, so `pipeline` and `models` are that commit's, and it uses only what they
have had since the first commit. It is a script because Lightning launches further ranks by the same command::

    python worktree_script.py CONFIG.YAML REPORT.JSON        # reports what a training would record
    python worktree_script.py CONFIG.YAML REPORT.JSON OUT    # trains into OUT; reports only an error
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
    """The first of these objects, given as MODULE:NAME, that exists in this commit.

    Raises:
        ImportError: none does, or a module lacks one of its own imports.
    """
    for path in paths:
        module, _, name = path.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not module.startswith(error.name or "?"):  # the module exists, but not what it imports
                raise
    raise ImportError(f"this commit has none of {', '.join(paths)}")


def lineage(cfg: DictConfig) -> dict:
    """The lineage that a training would record here; without data facts if there is no data yet."""
    dataset_class = _first("pipeline.data.dataset:PackedDataset", "pipeline.data:Pack")
    lineage_of = _first(
        *(f"pipeline.{module}:lineage_of" for module in ("artifacts.lineage", "lineage", "train"))
    )
    data_dir = Path("data", cfg.data.name).resolve()
    if (data_dir / "split.csv").is_file() and (data_dir / "pack").is_dir():
        pack = dataset_class.open(data_dir)
    else:
        empty = {"summary": {"content": None}, "split_sha256": None, "table": [], "classes": []}
        pack = SimpleNamespace(folder=data_dir / "pack", **empty)
    group = cfg.runtime if "runtime" in cfg else cfg.trainer  # earlier commits have trainer.threads
    return lineage_of(pack, group.threads)


def device(cfg: DictConfig) -> str | None:
    """The device that a training would use, or None if the configured one is not available."""
    if cfg.trainer.accelerator not in ("gpu", "cuda", "auto"):
        return "cpu"
    count = torch.cuda.device_count()
    if not count and cfg.trainer.accelerator == "auto":
        return "cpu"
    is_enough = count and (not isinstance(cfg.trainer.devices, int) or count >= cfg.trainer.devices)
    return torch.cuda.get_device_name(0) if is_enough else None


def main(settings: str, report: str, out: str | None = None) -> None:
    # An editable installation would supply the main checkout's module where this commit lacks one.
    sys.meta_path[:] = [each for each in sys.meta_path if getattr(each, "__name__", "") != "_EditableFinder"]
    from pipeline.config import ROOT

    # Guards against importing an installed petfaces instead of the worktree.
    assert Path.cwd().resolve() == ROOT, f"{ROOT} instead of the worktree"
    is_rank_zero = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        cfg = configuration(settings, out or "runs/none")
        if out is None:
            result = {"lineage": lineage(cfg), "device": device(cfg)}
        else:
            from pipeline.train import train

            with suppress(ImportError):  # earlier commits print messages instead of logging them
                from pipeline.common import log

                log.setup("train")
            train(cfg)
            result = {}
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
        if any(kind.__name__ == "UserError" for kind in type(error).__mro__):
            result["error"] = str(error)
        elif is_rank_zero:
            import traceback

            traceback.print_exc()
    if is_rank_zero:
        Path(report).write_text(json.dumps(result), encoding="utf-8")
    sys.exit("error" in result)


if __name__ == "__main__":
    main(*sys.argv[1:])
