"""Stage fetch: brings one archive of pictures, checks it, and leaves it as one file."""

import hashlib
import os
import shutil
import urllib.parse
from pathlib import Path

from omegaconf import DictConfig

from pipeline import config
from pipeline.config import ROOT, UserError

DOWNLOADS = Path("data/.cache/downloads")  # in the main checkout; a finished download is never fetched twice


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, sha256: str | None, again: bool = False) -> Path:
    """Fetches one address, with a progress bar on a terminal.

    Args:
        url: the address.
        sha256: of the file, if known; a file that fits is not fetched again.
        again: fetch it even where a former download lies, because nothing tells whether that was whole.

    Raises:
        UserError: the address can't be reached, or the file is not the promised one.
    """
    import pooch
    import requests

    folder = config.main_checkout() / DOWNLOADS / hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urllib.parse.urlparse(url).path).name
    if again:
        (folder / name).unlink(missing_ok=True)
    try:
        return Path(
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                fname=name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=os.isatty(2), timeout=30),
            )
        )
    except requests.exceptions.RequestException as error:
        raise UserError(
            f"{url} can't be fetched ({type(error).__name__}); go online, or name a mirror: "
            "fetch.mirror=DIRECTORY_OR_URL, or the variable PETFACES_MIRROR"
        ) from error
    except ValueError as error:  # pooch's answer to a wrong checksum; it keeps no such file
        raise UserError(f"{url}: the file's sha256 is not {sha256}; try again, or use a mirror") from error


def _sums(url: str) -> str:
    """Text of a mirror's SHA256SUMS, read anew each time; empty where it has none."""
    import requests

    try:
        answer = requests.get(url, timeout=30)
    except requests.exceptions.RequestException:
        return ""  # the archive itself will tell what is wrong
    return answer.text if answer.ok else ""


def _promised(sums: str, name: str) -> str | None:
    """The checksum that the text of a SHA256SUMS file promises for a file."""
    for line in sums.splitlines():
        digest, _, file = line.partition(" ")
        if file.lstrip(" *") == name:
            return digest.lower()
    return None


def _from_mirror(mirror: str, name: str) -> Path:
    """The archive from a directory or an address, checked against the mirror's own SHA256SUMS.

    Raises:
        UserError: the mirror lacks the file, or the file differs from its SHA256SUMS.
    """
    if mirror.startswith(("http://", "https://")):
        base = mirror.rstrip("/")
        promised = _promised(_sums(f"{base}/SHA256SUMS"), name)
        return _download(f"{base}/{name}", promised, again=promised is None)
    folder = config.from_root(mirror, config.main_checkout())
    file = folder / name
    if not file.is_file():
        raise UserError(f"the mirror {folder} has no file {name}; put it there or name another mirror")
    sums = folder / "SHA256SUMS"
    promised = _promised(sums.read_text(), name) if sums.is_file() else None
    if promised and sha256_of(file) != promised:
        raise UserError(f"{file} is not the file that {sums} promises; fetch it again from where it came")
    return file


def _published(urls: list[str], sha256: str | None, size: int | None) -> Path:
    """The archive from the first published address that answers.

    Raises:
        UserError: none answers, or what came is not what was published.
    """
    for place, url in enumerate(urls):
        try:
            file = _download(url, sha256)
        except UserError:
            if place == len(urls) - 1:
                raise
            continue
        if size and file.stat().st_size != size:
            got = file.stat().st_size
            file.unlink()
            raise UserError(f"{url}: {got:,} bytes came, {size:,} were published; try again, or use a mirror")
        return file
    raise UserError("this data source has no address; set fetch.mirror")


def fetch(cfg: DictConfig, archive: Path) -> None:
    """Leaves the archive of ``cfg.data`` at `archive`; an unfinished one never stands there."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(archive.name + ".part")
    source = cfg.data.source
    mirror = os.environ.get("PETFACES_MIRROR") or cfg.fetch.mirror
    if source.kind == "drawn":
        from pipeline import sample

        sample.write_archive(unfinished, source.per_class, source.seed)
        origin = "drawn"
    else:
        file = (
            _from_mirror(mirror, source.file)
            if mirror
            else _published(source.urls, source.sha256, source.bytes)
        )
        shutil.copyfile(file, unfinished)
        origin = str(mirror or source.urls[0])
    size = unfinished.stat().st_size
    print(f"fetch: {cfg.data.name} from {origin}, {size:,} bytes, sha256 {sha256_of(unfinished)}")
    if source.bytes and size != source.bytes:
        print(f"fetch: differs from the published file ({source.bytes:,} bytes)")
    os.replace(unfinished, archive)


@config.stage
def main(cfg: DictConfig) -> None:
    fetch(cfg, ROOT / f"data/{cfg.data.name}/archive")


if __name__ == "__main__":
    main()
