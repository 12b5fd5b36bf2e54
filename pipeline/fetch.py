"""Stage fetch: downloads or creates one archive of images and checks it."""

import logging
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from omegaconf import DictConfig

from pipeline import portable
from pipeline.common import log, paths, text, yaml_files
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.sources import archives, download, photos
from pipeline.stage import stage

_log = logging.getLogger(__name__)

TOO_LARGE = f"more than {archives.MAX_BYTES:,} bytes"


def fetch(cfg: DictConfig, archive: Path) -> None:
    """Writes the archive of ``cfg.data`` to `archive`, atomically.

    Raises:
        UserError: the images are not available.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(archive.name + ".part")
    source, mirror = cfg.data.source, download.mirror_of(cfg)
    if source.kind.startswith("drawn"):
        from pipeline.sources import synthetic

        if source.kind == "drawn":
            files = synthetic.pictures(source.per_class, source.seed)
        else:
            files = synthetic.with_attributes(source.pictures, source.seed)
        synthetic.write(unfinished, files)
        origin = "drawn"
    elif source.kind == "folder":
        origin = write_folder(paths.from_root(cfg.fetch.path, paths.main_checkout()), unfinished)
    else:
        origin = text.without_password(mirror or "its published address")
        _published(source, mirror, unfinished)
    size, sha256 = unfinished.stat().st_size, portable.sha256_of(unfinished)
    log.result(f"{cfg.data.name} from {origin}, {size:,} bytes, sha256 {sha256}")
    os.replace(unfinished, archive)


def _published(source: DictConfig, mirror: str | None, target: Path) -> None:
    """Downloads a published data set, or rebuilds it if its archive is gone."""
    from pipeline.sources import oxford

    if source.kind == "oxford_photos":
        oxford.write_photos(*(download.bring(file, mirror) for file in source.files), target)
        return
    (file,) = source.files
    try:
        shutil.copyfile(download.bring(file, mirror), target)
    except UserError as error:
        if not source.get("rebuild"):
            raise
        _log.warning("%s; rebuilding it from %s's photos instead", error, source.rebuild)
        files = yaml_files.load(paths.CONF / f"data/{source.rebuild}.yaml").source.files
        try:
            downloaded = [download.bring(file, mirror) for file in files]
        except UserError as rebuild_error:
            raise UserError(f"{error}; nor can it be rebuilt: {rebuild_error}") from rebuild_error
        oxford.write_faces(*downloaded, target)


def write_folder(path: Path, target: Path) -> str:
    """Makes one archive of the user's images.

    Args:
        path: a directory of class folders, or an archive (tar, compressed or not, or zip).
        target: the archive to write; equal files give equal bytes.

    Returns:
        The source, for messages.

    Raises:
        UserError: `path` does not exist, is empty, or is neither of the two.
    """
    if path.is_file():
        if not tarfile.is_tarfile(path) and not zipfile.is_zipfile(path):
            raise UserError(f"fetch.path={path} is neither a directory nor a tar or zip archive; name one")
        shutil.copyfile(path, target)
        return str(path)
    if not path.is_dir():
        raise UserError(
            f"fetch.path={path} is not there; name a directory of class folders, or an archive of them"
        )
    links: list[Path] = []
    hidden: list[Path] = []
    files = sorted(photos.walk(path, links, hidden))
    skipped = [
        str(file.relative_to(path))
        for folder in hidden
        for file in photos.below_hidden(folder)
        if photos.is_named_as_picture(file.name)
    ]
    if skipped:
        _log.warning("%s", photos.hidden_message(skipped))
    if not files:
        raise UserError(f"{path} is empty; put pictures there, a folder a class, or name another fetch.path")
    unwatched = []
    with tarfile.open(target, "w", encoding="utf-8", errors="surrogateescape") as archive:
        for parts, file in files:
            data = _read(file)
            # An unreadable file becomes an empty member with the reason, for pack's quarantine.
            reason, data = (data, b"") if isinstance(data, str) else (None, data)
            # Keeps the name's bytes under any locale; names in the archive are UTF-8.
            name = os.fsencode("/".join(parts)).decode("utf-8", "surrogateescape")
            archives.add(archive, name, data, {archives.UNREADABLE: reason} if reason else None)
            if any("\udc80" <= letter <= "\udcff" for letter in name):
                unwatched.append(f"{text.path(name)} (a name that is not UTF-8)")
            elif reason not in (None, photos.LOOP, TOO_LARGE):
                unwatched.append(f"{text.path(name)} ({reason})")
    _warn_of_dvc_limits(unwatched, links)
    return str(path)


def _warn_of_dvc_limits(unwatched: list[str], links: list[Path]) -> None:
    """Warns of changes that DVC can't see: it does not follow links and fails on unreadable files."""
    if unwatched:
        _log.warning(
            "%s: packed where readable, but DVC can't watch such a folder and fails or waits; take that "
            "away, or name a tar: tar -C FOLDER -chf FILE.tar .",
            text.listed([text.shortened(file, 200) for file in unwatched], 1),
        )
    if links:
        _log.warning(
            "links to folders are followed (%s: 1 of %d), but DVC sees no changes behind them: after one, "
            "run: dvc repro -f fetch && dvc repro",
            text.shortened(links[0].name, 60),
            len(links),
        )


def _read(file: Path) -> bytes | str:
    """A file's bytes, or why it can't be read; pipes and devices are not opened."""
    try:
        if reason := photos.why_no_file(file):
            return reason
        if file.stat().st_size > archives.MAX_BYTES:
            return TOO_LARGE
        return file.read_bytes()
    except FileNotFoundError:
        return "a broken link"
    except OSError as error:
        return f"can't be read ({error.strerror})"


@stage
def main(cfg: DictConfig) -> None:
    fetch(cfg, ROOT / f"data/{cfg.data.name}/archive")


if __name__ == "__main__":
    main()
