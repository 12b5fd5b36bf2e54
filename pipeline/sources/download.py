"""Downloads single files from their URLs or a mirror, with resume and checksum verification."""

import hashlib
import json
import logging
import os
import shutil
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import pooch
import requests
from omegaconf import DictConfig
from tqdm import tqdm

from pipeline.common import log, paths, text
from pipeline.common.errors import UserError

_log = logging.getLogger(__name__)

DOWNLOADS = Path("data/.cache/downloads")  # cache in the main checkout
ATTEMPTS = 5  # consecutive attempts without progress, after which a download fails
CHUNK = 1 << 16  # bytes; a partial chunk is requested again after a broken connection


def retrieve(files: Iterable[DictConfig], settings: DictConfig) -> list[Path]:
    """Paths of published files, from the mirror if there is one, else from the cache or their URLs.

    Args:
        files: each with `name` (on a mirror), `urls`, and `bytes` and `hash` as published or None.
        settings: ``cfg.fetch``.

    Raises:
        UserError: a file is not available, or does not match its checksum.
    """
    mirror = _mirror(settings)
    return [_from_mirror(file, mirror) if mirror else _from_urls(file) for file in files]


def origin(settings: DictConfig) -> str:
    """Where `retrieve` gets files from, for messages."""
    return text.without_password(_mirror(settings) or "its published address")


def _mirror(settings: DictConfig) -> str | None:
    return os.environ.get("PETFACES_MIRROR") or settings.mirror


def _from_urls(file: DictConfig) -> Path:
    """The file from the first URL that provides it as published."""
    failures = []
    for url in file.urls:
        try:
            path = _download(url, file.hash)
        except UserError as failure:
            failures.append(str(failure))
            continue
        if not (difference := _difference(path, file)):
            return path
        path.unlink()
        failures.append(f"{url} provides another file than the published one ({difference})")
    raise UserError(
        f"{'; '.join(failures)}; try again, or set a mirror that has {file.name}: "
        "fetch.mirror=DIRECTORY_OR_URL, or the environment variable PETFACES_MIRROR"
    )


def _difference(path: Path, file: DictConfig) -> str | None:
    """How the file at `path` differs from the published size or hash; None if it doesn't."""
    size = path.stat().st_size
    if file.bytes and size != file.bytes:
        return f"{size:,} bytes, not {file.bytes:,}"
    if file.hash:
        kind, _, expected = file.hash.partition(":")
        if pooch.file_hash(str(path), alg=kind) != expected:
            return f"its {kind} is not {expected}"
    return None


def _from_mirror(file: DictConfig, mirror: str) -> Path:
    """The file from a directory or URL, verified against the mirror's own SHA256SUMS if it has one.

    A difference from the published file is only a warning.

    Raises:
        UserError: the mirror lacks the file, or the file differs from its SHA256SUMS.
    """
    name = file.name
    if mirror.startswith(("http://", "https://")):
        base = mirror.rstrip("/")
        expected = _listed_checksum(_sums(f"{base}/SHA256SUMS"), name)
        path = _download(f"{base}/{name}", expected and f"sha256:{expected}", refresh=expected is None)
    else:
        folder = paths.from_root(mirror, paths.main_checkout())
        path, sums = folder / name, folder / "SHA256SUMS"
        if not path.is_file():
            raise UserError(f"the mirror {folder} has no file {name}; put it there or set another mirror")
        expected = _listed_checksum(sums.read_text(encoding="utf-8"), name) if sums.is_file() else None
        if expected and pooch.file_hash(path) != expected:
            raise UserError(f"{path} does not match its checksum in {sums}; copy it to the mirror again")
    if difference := _difference(path, file):
        _log.warning("the mirror's %s differs from the published file (%s)", name, difference)
    return path


def _sums(url: str) -> str:
    """Text of a mirror's SHA256SUMS, never cached; empty if it has none."""
    try:
        response = requests.get(url, timeout=30)
    except requests.exceptions.RequestException:
        return ""  # downloading the file itself will report the error
    return response.text if response.ok else ""


def _listed_checksum(sums: str, name: str) -> str | None:
    """The checksum of a file in the text of a SHA256SUMS, or None."""
    for line in sums.splitlines():
        digest, _, file = line.partition(" ")
        if file.lstrip(" *").removeprefix("./") == name:
            return digest.lower()
    return None


def _download(url: str, known_hash: str | None, refresh: bool = False) -> Path:
    """Downloads a URL into the cache, with a progress bar on a terminal; returns the path.

    Args:
        url: the URL.
        known_hash: in pooch's format (`sha256:…`), or None; a cached file that matches is used.
        refresh: discard the cached file; used without a hash, when it may be outdated.

    Raises:
        UserError: the URL can't be reached, or the file does not match its hash.
    """
    folder = paths.main_checkout() / DOWNLOADS / hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urllib.parse.urlparse(url).path).name
    pooch.get_logger().setLevel("WARNING")  # else it logs usage hints
    if refresh:
        (folder / name).unlink(missing_ok=True)
    try:
        return Path(pooch.retrieve(url, known_hash, name, folder, downloader=_resumable))
    except requests.exceptions.HTTPError as error:
        raise UserError(f"{url} answers {error.response.status_code} {error.response.reason}") from error
    except requests.exceptions.RequestException as error:
        raise UserError(f"{url} can't be fetched ({type(error).__name__})") from error
    except ValueError as error:  # pooch raises it for a wrong checksum, and deletes the file
        kind, _, expected = (known_hash or "").partition(":")
        raise UserError(f"{url}: the {kind} of the download is not {expected}") from error


def _resumable(url: str, output_file: str, pooch_: object) -> None:
    """A downloader for pooch that resumes; pooch's own starts over, so 800 MB might never finish.

    Partial data is next to the target as ``.part``, its validator (ETag or Last-Modified) as ``.json``. If
    the file has changed or the server ignores ranges, it sends everything (RFC 9110, sections 13.1.5, 14.2).

    Raises:
        requests.exceptions.RequestException: no progress in ATTEMPTS attempts, or an HTTP error.
    """
    part = Path(output_file).parent / "unfinished.part"
    state = part.with_suffix(".json")
    max_size, failed = _size(part), 0
    while True:
        try:
            _append(url, part, state)
            break
        except (
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            failed = 0 if _size(part) > max_size else failed + 1
            max_size = max(max_size, _size(part))
            # If no data ever arrived (unknown host, no route), retrying would not help.
            if failed >= ATTEMPTS or not max_size:
                raise
            _log.warning(
                "%s broke off at %s bytes (%s); requesting the rest",
                url,
                f"{_size(part):,}",
                type(error).__name__,
            )
    state.unlink(missing_ok=True)
    shutil.move(part, output_file)


def _size(file: Path) -> int:
    """In bytes; 0 if there is no such file."""
    return file.stat().st_size if file.is_file() else 0


def _append(url: str, part: Path, state: Path) -> None:
    """Requests the missing rest of a file once and appends it to `part`."""
    done = _size(part)
    known = json.loads(state.read_text(encoding="utf-8")) if done and state.is_file() else {}
    headers = {"Accept-Encoding": "identity"}
    if validator := known.get("validator"):  # without one, the rest could be from another version
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 416:  # the part is complete, or the server's file is shorter now
            part.unlink()
            _append(url, part, state)
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        # A weak ETag guarantees equivalent content, not identical bytes.
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        state.write_text(json.dumps({"validator": validator}), encoding="utf-8")
        remaining = int(response.headers.get("Content-Length", 0))
        bar = tqdm(
            total=(remaining + done if resumed else remaining) or None,
            initial=done if resumed else 0,
            unit="B",
            unit_scale=True,
            desc=Path(urllib.parse.urlparse(url).path).name,
            disable=log.is_quiet() or None,
        )
        with bar, open(part, "ab" if resumed else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
