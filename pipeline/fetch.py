"""Stage fetch: downloads or creates one archive of images; see `sources.kinds`."""

import os
from pathlib import Path

from omegaconf import DictConfig

from pipeline import portable
from pipeline.common import log
from pipeline.common.paths import ROOT
from pipeline.sources.kinds import KINDS
from pipeline.stage import stage


def fetch(cfg: DictConfig, archive: Path) -> None:
    """Writes the archive of ``cfg.data`` to `archive`, atomically.

    Raises:
        UserError: the images are not available.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(archive.name + ".part")
    keys = {key: value for key, value in cfg.data.source.items() if key != "kind"}
    origin = KINDS[cfg.data.source.kind](unfinished, cfg.fetch, **keys)
    size, sha256 = unfinished.stat().st_size, portable.sha256_of(unfinished)
    log.result(f"{cfg.data.name} from {origin}, {size:,} bytes, sha256 {sha256}")
    os.replace(unfinished, archive)


@stage
def main(cfg: DictConfig) -> None:
    fetch(cfg, ROOT / f"data/{cfg.data.name}/archive")


if __name__ == "__main__":
    main()
