"""DDP on one machine: Lightning launches the other ranks by running the program again."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ranks_of_one_job(overrides: list[str], out: str) -> Iterator[None]:
    """Lets Lightning launch further ranks from within a sweep's job.

    Lightning reruns `sys.argv`; under --multirun each rank would run the whole sweep, so the arguments are
    replaced by this job's. Afterwards the process group and its environment variables are cleared, so that
    the next job does not count as a rank of this one.

    Args:
        overrides: the job's.
        out: its train folder.
    """
    original = list(sys.argv)
    sys.argv = [
        original[0],
        *(item for item in overrides if not item.startswith("out=")),
        f"out={out}",
        "hydra.mode=RUN",
    ]
    try:
        yield
    finally:
        sys.argv = original
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for variable in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(variable, None)
