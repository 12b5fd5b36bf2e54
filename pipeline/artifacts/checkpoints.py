"""Checkpoints on disk: written atomically, verified by SHA-256; the last two are kept."""

import hashlib
import io
import logging
import os
import re
from pathlib import Path

from pipeline import portable

_log = logging.getLogger(__name__)

KEEP_LAST = 2  # the previous one is the fallback if the last is damaged
_NAME = re.compile(r"(\d{9})\.([0-9a-f]{64})\.ckpt")


class Checkpoints:
    """The checkpoints of one training run, ``<step>.<sha256>.ckpt`` in their own folder.

    With the hash in the name, one rename publishes file and hash, and `sha256sum` can check a file by hand.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, step: int, checkpoint: dict) -> Path:
        """Writes a checkpoint, fsynced before this returns, and deletes all but the last KEEP_LAST.

        Args:
            step: optimiser steps done; must not decrease.
            checkpoint: tensors and plain values that ``torch.load(weights_only=True)`` can read.

        Returns:
            The file.

        Raises:
            OSError: it can't be written; earlier checkpoints are intact.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getbuffer()
        self.folder.mkdir(parents=True, exist_ok=True)
        part, file = self.folder / "part", self.folder / f"{step:09}.{hashlib.sha256(data).hexdigest()}.ckpt"
        try:
            with open(part, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, file)
        except OSError:
            part.unlink(missing_ok=True)  # frees the space of a partial file on a full disk
            raise
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        for old in self._newest_first()[KEEP_LAST:]:
            old.unlink()
        return file

    def exist(self) -> bool:
        """Whether there is a checkpoint, intact or not."""
        return bool(self._newest_first())

    def latest(self) -> Path | None:
        """The newest intact checkpoint or None; warns about damaged ones and deletes them."""
        for file in self._newest_first():
            try:
                sha256 = portable.sha256_of(file)
            except FileNotFoundError:  # it was damaged, and another rank has deleted it
                continue
            if sha256 == _NAME.fullmatch(file.name)[2]:
                return file
            _log.warning(
                "the checkpoint %s is damaged (its sha256 is %s…); using the previous one", file, sha256[:12]
            )
            file.unlink(missing_ok=True)  # another rank may have deleted it
        return None

    def _newest_first(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        files = [file for file in self.folder.iterdir() if _NAME.fullmatch(file.name)]
        # Two can share a step: one after the epoch's last batch, one after its validation.
        return sorted(files, key=lambda file: (file.name[:9], file.stat().st_mtime_ns), reverse=True)


def load_checkpoint(file: Path) -> dict:
    """The content of a checkpoint, with its tensors on the CPU."""
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)
