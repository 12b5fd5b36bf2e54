"""Fetch functions for published data sets: an archive as it is, or Oxford-IIIT Pet by class folder."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from pipeline.common import paths, yaml_files
from pipeline.common.errors import UserError

_log = logging.getLogger(__name__)


def fetch_archive(
    target: Path, settings: DictConfig, *, files: Sequence[DictConfig], rebuild: str | None = None
) -> str:
    """Downloads an archive of class folders; see `kinds` for arguments and result.

    Args:
        target: the archive to write.
        settings: ``cfg.fetch``.
        files: one published file.
        rebuild: name of the data set from whose photos to cut the faces if the archive is not available.

    Raises:
        UserError: neither the archive nor those photos are available.
    """
    from pipeline.sources import download, oxford

    try:
        (file,) = download.retrieve(files, settings)
        shutil.copyfile(file, target)
    except UserError as error:
        if not rebuild:
            raise
        _log.warning("%s; rebuilding it from %s's photos instead", error, rebuild)
        photos = yaml_files.load(paths.CONF / f"data/{rebuild}.yaml").source.files
        try:
            oxford.write_faces(*download.retrieve(photos, settings), target)
        except UserError as rebuild_error:
            raise UserError(f"{error}; nor can it be rebuilt: {rebuild_error}") from rebuild_error
    return download.origin(settings)


def fetch_oxford_photos(target: Path, settings: DictConfig, *, files: Sequence[DictConfig]) -> str:
    """Downloads Oxford-IIIT Pet's images and annotations, and writes the photos in class folders."""
    from pipeline.sources import download, oxford

    oxford.write_photos(*download.retrieve(files, settings), target)
    return download.origin(settings)
