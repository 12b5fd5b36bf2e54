"""Makes an archive of the user's own images: a directory or an archive."""

import logging
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from omegaconf import DictConfig

from pipeline.common import paths, text
from pipeline.common.errors import UserError
from pipeline.sources import archives, photos

_log = logging.getLogger(__name__)

TOO_LARGE = f"more than {archives.MAX_BYTES:,} bytes"


def fetch_folder(target: Path, settings: DictConfig) -> str:
    """Copies the archive, or archives the directory of class folders, at ``fetch.path``; see `kinds`.

    Equal files give equal bytes. A file that can't be read becomes an empty member with the reason.

    Raises:
        UserError: the path does not exist, is empty, or is neither a directory nor an archive.
    """
    path = paths.from_root(settings.path, paths.main_checkout())
    if path.is_file():
        if not tarfile.is_tarfile(path) and not zipfile.is_zipfile(path):
            raise UserError(f"fetch.path={path} is neither a directory nor a tar or zip archive; name one")
        shutil.copyfile(path, target)
        return str(path)
    if not path.is_dir():
        raise UserError(
            f"fetch.path={path} does not exist; name a directory of class folders, or an archive of them"
        )
    links: list[Path] = []
    hidden: list[Path] = []
    files = sorted(photos.walk(path, links, hidden))
    skipped = [
        str(file.relative_to(path))
        for folder in hidden
        for file in photos.files_in_hidden(folder)
        if photos.is_named_as_picture(file.name)
    ]
    if skipped:
        _log.warning("%s", photos.hidden_message(skipped))
    if not files:
        raise UserError(f"{path} is empty; add one folder of pictures per class, or set another fetch.path")
    untracked = []
    with tarfile.open(target, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for parts, file in files:
            data = _read(file)
            reason, data = (data, b"") if isinstance(data, str) else (None, data)
            # Keeps the name's bytes under any locale; names in the archive are UTF-8.
            name = os.fsencode("/".join(parts)).decode("utf-8", "surrogateescape")
            archives.add(archive, name, data, {archives.UNREADABLE: reason} if reason else None)
            if any("\udc80" <= letter <= "\udcff" for letter in name):
                untracked.append(f"{text.path(name)} (a name that is not UTF-8)")
            elif reason not in (None, photos.LOOP, TOO_LARGE):
                untracked.append(f"{text.path(name)} ({reason})")
    _warn_of_dvc_limits(untracked, links)
    return str(path)


def _warn_of_dvc_limits(untracked: list[str], links: list[Path]) -> None:
    """Warns of changes that DVC can't see: it does not follow links and fails on unreadable files."""
    if untracked:
        _log.warning(
            "%s: packed if readable, but DVC can't track a folder with such a file and fails or hangs; "
            "remove it, or set fetch.path to a tar: tar -C FOLDER -chf FILE.tar .",
            text.listed([text.shortened(file, 200) for file in untracked], 1),
        )
    if links:
        _log.warning(
            "links to folders are followed (%s: 1 of %d), but DVC does not notice changes behind them; "
            "after a change, run: dvc repro -f fetch && dvc repro",
            text.shortened(links[0].name, 60),
            len(links),
        )


def _read(file: Path) -> bytes | str:
    """A file's bytes, or why it can't be read; pipes and devices are not opened."""
    try:
        if reason := photos.why_not_a_file(file):
            return reason
        if file.stat().st_size > archives.MAX_BYTES:
            return TOO_LARGE
        return file.read_bytes()
    except FileNotFoundError:
        return "a broken link"
    except OSError as error:
        return f"can't be read ({error.strerror})"
