"""Downloads a published file from its URLs or a mirror, with resume and checksum verification."""

import hashlib
import json
import logging
import os
import shutil
import urllib.parse
from pathlib import Path

import pooch
import requests
from omegaconf import DictConfig
from tqdm import tqdm

from pipeline.common import log, paths
from pipeline.common.errors import UserError

_log = logging.getLogger(__name__)

DOWNLOADS = Path("data/.cache/downloads")  # cache in the main checkout
ATTEMPTS = 5  # consecutive attempts without progress; those with progress don't count
CHUNK = 1 << 16  # bytes; a partial chunk is requested again after a broken connection


def bring(file: DictConfig, mirror: str | None) -> Path:
    """Path of a published file, from the mirror if there is one.

    Args:
        file: `name` (on a mirror), `urls`, and `bytes` and `hash` as published or None.
        mirror: directory or URL, or None.

    Raises:
        UserError: the file is not available, or does not match its checksum.
    """
    if not mirror:
        return _published(file)
    found = _from_mirror(mirror, file.name)
    if difference := _difference(found, file):
        _log.warning("the mirror's %s differs from the published file (%s)", file.name, difference)
    return found


def _published(file: DictConfig) -> Path:
    """The file from the first URL that provides it as published."""
    failures = []
    for url in file.urls:
        try:
            found = _download(url, file.hash)
        except UserError as failure:
            failures.append(str(failure))
            continue
        difference = _difference(found, file)
        if not difference:
            return found
        found.unlink()
        failures.append(f"{url} gave another file than was published ({difference})")
    raise UserError(
        f"{'; '.join(failures)}; try again, or name a mirror that has {file.name}: "
        "fetch.mirror=DIRECTORY_OR_URL, or the variable PETFACES_MIRROR"
    )


def _difference(found: Path, file: DictConfig) -> str | None:
    """How a file differs from its published size or hash, or None."""
    size = found.stat().st_size
    if file.bytes and size != file.bytes:
        return f"{size:,} bytes, not {file.bytes:,}"
    if file.hash:
        kind, _, expected = file.hash.partition(":")
        if pooch.file_hash(str(found), alg=kind) != expected:
            return f"its {kind} is not {expected}"
    return None


def _from_mirror(mirror: str, name: str) -> Path:
    """The file from a directory or URL, verified against the mirror's own SHA256SUMS if it has one.

    Raises:
        UserError: the mirror lacks the file, or the file differs from its SHA256SUMS.
    """
    if mirror.startswith(("http://", "https://")):
        base = mirror.rstrip("/")
        expected = _listed_checksum(_sums(f"{base}/SHA256SUMS"), name)
        return _download(f"{base}/{name}", expected and f"sha256:{expected}", again=expected is None)
    folder = paths.from_root(mirror, paths.main_checkout())
    file = folder / name
    if not file.is_file():
        raise UserError(f"the mirror {folder} has no file {name}; put it there or name another mirror")
    sums = folder / "SHA256SUMS"
    expected = _listed_checksum(sums.read_text(encoding="utf-8"), name) if sums.is_file() else None
    if expected and pooch.file_hash(file) != expected:
        raise UserError(f"{file} is not the file that {sums} promises; fetch it again from where it came")
    return file


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


def _download(url: str, known: str | None, again: bool = False) -> Path:
    """Downloads a URL, with a progress bar on a terminal.

    Args:
        url: the URL.
        known: hash of the file as pooch writes it (`sha256:…`), or None; a cached file that matches is used.
        again: discard the cached file; used without a hash, when it may be outdated.

    Raises:
        UserError: the URL can't be reached, or the file does not match its hash.
    """
    folder = paths.main_checkout() / DOWNLOADS / hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urllib.parse.urlparse(url).path).name
    pooch.get_logger().setLevel("WARNING")  # else it logs usage hints
    if again:
        (folder / name).unlink(missing_ok=True)
    try:
        return Path(pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=_resumable))
    except requests.exceptions.HTTPError as error:
        raise UserError(f"{url} answers {error.response.status_code} {error.response.reason}") from error
    except requests.exceptions.RequestException as error:
        raise UserError(f"{url} can't be fetched ({type(error).__name__})") from error
    except ValueError as error:  # pooch raises it for a wrong checksum, and deletes the file
        kind, _, expected = (known or "").partition(":")
        raise UserError(f"{url}: the {kind} of what came is not {expected}") from error


def _resumable(url: str, output_file: str, pooch_: object) -> None:
    """A pooch downloader that resumes; pooch's own restarts, so 800 MB might never finish.

    Partial data is next to the target as ``.part``, its validator (ETag or Last-Modified) as ``.json``. If
    the file has changed or the server ignores ranges, it sends everything (RFC 9110, sections 13.1.5, 14.2).

    Raises:
        requests.exceptions.RequestException: no progress in ATTEMPTS attempts, or an HTTP error.
    """
    part = Path(output_file).parent / "unfinished.part"
    note = part.with_suffix(".json")
    furthest, failed = _size(part), 0
    while True:
        try:
            _append(url, part, note)
            break
        except (
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            failed = 0 if _size(part) > furthest else failed + 1
            furthest = max(furthest, _size(part))
            # If no data ever arrived (unknown host, no route), retrying would not help.
            if failed >= ATTEMPTS or not furthest:
                raise
            _log.warning(
                "%s broke off at %s bytes (%s); asking for the rest",
                url,
                f"{_size(part):,}",
                type(error).__name__,
            )
    note.unlink(missing_ok=True)
    shutil.move(part, output_file)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _append(url: str, part: Path, note: Path) -> None:
    """Requests the missing part of a file once and appends it."""
    done = _size(part)
    known = json.loads(note.read_text(encoding="utf-8")) if done and note.is_file() else {}
    headers = {"Accept-Encoding": "identity"}
    if validator := known.get("validator"):  # without one, the rest might be of another version of the file
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 416:  # the part is complete, or the server's file is shorter now
            part.unlink()
            _append(url, part, note)
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        # A weak ETag guarantees equivalent content, not identical bytes.
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        note.write_text(json.dumps({"validator": validator}), encoding="utf-8")
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


def mirror_of(cfg: DictConfig) -> str | None:
    """The mirror to use instead of published URLs: from PETFACES_MIRROR, else the config; or None."""
    return os.environ.get("PETFACES_MIRROR") or cfg.fetch.mirror
