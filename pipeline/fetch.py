"""Stage fetch: brings one archive of pictures, checks it, and leaves it as one file."""

import os
import shutil
import tarfile
from pathlib import Path

from omegaconf import DictConfig

from pipeline import config, download, yaml_files
from pipeline.config import ROOT, UserError


def fetch(cfg: DictConfig, archive: Path) -> None:
    """Leaves the archive of ``cfg.data`` at `archive`; an unfinished one never stands there.

    Raises:
        UserError: the pictures can't be had.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(archive.name + ".part")
    source, mirror = cfg.data.source, download.mirror_of(cfg)
    if source.kind == "drawn":
        from pipeline import sample

        sample.write_archive(unfinished, source.per_class, source.seed)
        origin = "drawn"
    elif source.kind == "folder":
        origin = write_folder(config.from_root(cfg.fetch.path, config.main_checkout()), unfinished)
    elif source.kind in ("archive", "oxford_photos"):
        origin = str(mirror or "its published address")
        _published(source, mirror, unfinished)
    else:
        raise UserError(
            f"data.source.kind={source.kind} is not known: drawn, archive, oxford_photos or folder"
        )
    size, sha256 = unfinished.stat().st_size, download.sha256_of(unfinished)
    print(f"fetch: {cfg.data.name} from {origin}, {size:,} bytes, sha256 {sha256}")
    os.replace(unfinished, archive)


def _published(source: DictConfig, mirror: str | None, target: Path) -> None:
    """Brings a published data set, or rebuilds it where its archive is gone."""
    from pipeline import oxford

    if source.kind == "oxford_photos":
        oxford.write_photos(*(download.bring(file, mirror) for file in source.files), target)
        return
    (file,) = source.files
    try:
        shutil.copyfile(download.bring(file, mirror), target)
    except UserError as gone:
        if not source.get("rebuild"):
            raise
        print(f"fetch: {gone}", flush=True)
        print(f"fetch: rebuilding it from {source.rebuild}'s photos instead", flush=True)
        files = yaml_files.load(config.CONF / f"data/{source.rebuild}.yaml").source.files
        try:
            found = [download.bring(file, mirror) for file in files]
        except UserError as too:
            raise UserError(f"{gone}; nor can it be rebuilt: {too}") from too
        oxford.write_faces(*found, target)


def write_folder(path: Path, target: Path) -> str:
    """Makes one archive of a person's pictures.

    Args:
        path: a directory of class folders, or an archive (tar, compressed or not, or zip).
        target: the archive to write; equal files give equal bytes.

    Returns:
        Where they came from.

    Raises:
        UserError: there is nothing, or neither of the two.
    """
    import zipfile

    if path.is_file():
        if not tarfile.is_tarfile(path) and not zipfile.is_zipfile(path):
            raise UserError(f"fetch.path={path} is neither a directory nor a tar or zip archive; name one")
        shutil.copyfile(path, target)
        return str(path)
    if not path.is_dir():
        raise UserError(
            f"fetch.path={path} is not there; name a directory of class folders, or an archive of them"
        )
    inside = ((file.relative_to(path), file) for file in path.rglob("*") if file.is_file())
    files = sorted(
        (name, file) for name, file in inside if not any(part.startswith(".") for part in name.parts)
    )
    if not files:
        raise UserError(f"{path} is empty; put pictures there, a folder a class, or name another fetch.path")
    with tarfile.open(target, "w") as archive:
        for name, file in files:
            member = tarfile.TarInfo(name.as_posix())
            member.size = file.stat().st_size
            with open(file, "rb") as data:
                archive.addfile(member, data)
    return str(path)


@config.stage
def main(cfg: DictConfig) -> None:
    fetch(cfg, ROOT / f"data/{cfg.data.name}/archive")


if __name__ == "__main__":
    main()
