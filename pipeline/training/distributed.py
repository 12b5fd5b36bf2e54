"""Several processes on one machine, which Lightning starts by calling the program again."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_processes(overrides: list[str], out: str) -> Iterator[None]:
    """Lets Lightning start further processes from within a sweep.

    It calls this program again by `sys.argv`: under --multirun each would run the whole sweep, so the
    arguments become this job's. Afterwards nothing may remain that makes the next job think it is one of
    them.
    """
    given = list(sys.argv)
    sys.argv = [
        given[0],
        *(item for item in overrides if not item.startswith("out=")),
        f"out={out}",
        "hydra.mode=RUN",
    ]
    try:
        yield
    finally:
        sys.argv = given
        import torch

        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for variable in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(variable, None)
