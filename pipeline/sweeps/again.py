"""A sweep that was broken off goes on: the same command finds its folder, where finished jobs are."""

import json
import sys
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Again(Callback):
    """Writes down which command a sweep is of, and that it ended (``command.json``, read in `config`)."""

    def on_multirun_start(self, config: DictConfig, **_) -> None:
        folder = Path(config.hydra.sweep.dir)
        if (folder / "command.json").is_file():
            print(f"sweep: goes on in {folder}; delete that folder to begin anew", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, ended=False)

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        self._write(Path(config.hydra.sweep.dir), ended=True)

    def _write(self, folder: Path, ended: bool) -> None:
        part = folder / "command.part"
        part.write_text(json.dumps({"arguments": sys.argv[1:], "ended": ended}) + "\n", encoding="utf-8")
        part.replace(folder / "command.json")
