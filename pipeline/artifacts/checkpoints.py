"""Checkpoints on disk: written in one step, known by their sha256, the last two kept."""

import hashlib
import io
import os
import re
import sys
from pathlib import Path

KEPT = 2  # should the last one be damaged, the one before is used
_NAME = re.compile(r"(\d{9})\.([0-9a-f]{64})\.ckpt")


class Checkpoints:
    """The checkpoints of one training, ``<step>.<sha256>.ckpt`` in a folder of their own.

    The name carries the hash, so that file and hash come into being in the same step and `sha256sum` checks
    one by hand.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, step: int, tree: dict) -> Path:
        """Writes what a training has reached; it is on the disk when this returns.

        Args:
            step: optimiser steps that are done; a later checkpoint has a higher one.
            tree: tensors and plain values, as ``torch.load(weights_only=True)`` reads them.

        Raises:
            OSError: it can't be written; the ones before are whole.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(tree, buffer)
        data = buffer.getbuffer()
        self.folder.mkdir(parents=True, exist_ok=True)
        part, file = self.folder / "part", self._file(step, hashlib.sha256(data).hexdigest())
        try:
            with open(part, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, file)
        except OSError:
            part.unlink(missing_ok=True)  # gives a full disk its space back
            raise
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        for old in self._newest_first()[KEPT:]:
            old.unlink()
        return file

    def any(self) -> bool:
        """Whether there is one, whole or not."""
        return bool(self._newest_first())

    def latest(self) -> Path | None:
        """The newest whole checkpoint; a damaged one is named and taken away."""
        for file in self._newest_first():
            try:
                with open(file, "rb") as stream:
                    found = hashlib.file_digest(stream, "sha256").hexdigest()
            except FileNotFoundError:  # damaged, and deleted by another process of this training
                continue
            if found == _NAME.fullmatch(file.name)[2]:
                return file
            print(
                f"warning: the checkpoint {file} is damaged (its sha256 is {found[:12]}…); "
                "the one before is used",
                file=sys.stderr,
            )
            file.unlink(missing_ok=True)  # by another process of this training
        return None

    def _newest_first(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        files = [file for file in self.folder.iterdir() if _NAME.fullmatch(file.name)]
        # Two of the same step: the epoch's last batch, and the epoch judged.
        return sorted(files, key=lambda file: (file.name[:9], file.stat().st_mtime_ns), reverse=True)

    def _file(self, step: int, sha256: str) -> Path:
        return self.folder / f"{step:09}.{sha256}.ckpt"


def read(file: Path) -> dict:
    """What a checkpoint holds, on the processor."""
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)
