"""One published file: from its addresses or a mirror, resumed where it broke off, checked where possible."""

import hashlib
import json
import os
import shutil
import urllib.parse
from pathlib import Path

from omegaconf import DictConfig

from pipeline.common import paths, text
from pipeline.common.errors import UserError

DOWNLOADS = Path("data/.cache/downloads")  # in the main checkout; a finished download is never fetched twice
ATTEMPTS = 5  # in a row without a single byte; a long download over a bad line may break off more often
CHUNK = 1 << 16  # bytes; what is less than one when a line breaks is asked for again


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bring(file: DictConfig, mirror: str | None) -> Path:
    """A published file, from the mirror where one is named.

    Args:
        file: `name` (what a mirror calls it), `urls`, `bytes` and `hash` as published, None where not.
        mirror: directory or address, or None.

    Raises:
        UserError: it can't be had, or is not what was promised.
    """
    if not mirror:
        return _published(file)
    found = _from_mirror(mirror, file.name)
    differs = _differs(found, file)
    if differs:
        print(f"fetch: the mirror's {file.name} differs from the published file ({differs})", flush=True)
    return found


def _published(file: DictConfig) -> Path:
    """From the first address that gives what was published."""
    failures = []
    for url in file.urls:
        try:
            found = _download(url, file.hash)
        except UserError as failure:
            failures.append(str(failure))
            continue
        differs = _differs(found, file)
        if not differs:
            return found
        found.unlink()
        failures.append(f"{url} gave another file than was published ({differs})")
    raise UserError(
        f"{'; '.join(failures)}; try again, or name a mirror that has {file.name}: "
        "fetch.mirror=DIRECTORY_OR_URL, or the variable PETFACES_MIRROR"
    )


def _differs(found: Path, file: DictConfig) -> str | None:
    """How a file differs from what was published, or None."""
    size = found.stat().st_size
    if file.bytes and size != file.bytes:
        return f"{size:,} bytes, not {file.bytes:,}"
    if file.hash:
        import pooch

        kind, _, promised = file.hash.partition(":")
        if pooch.file_hash(str(found), alg=kind) != promised:
            return f"its {kind} is not {promised}"
    return None


def _from_mirror(mirror: str, name: str) -> Path:
    """From a directory or an address, checked against the mirror's own SHA256SUMS.

    Raises:
        UserError: the mirror lacks the file, or the file differs from its SHA256SUMS.
    """
    if mirror.startswith(("http://", "https://")):
        base = mirror.rstrip("/")
        promised = _promised(_sums(f"{base}/SHA256SUMS"), name)
        return _download(f"{base}/{name}", promised and f"sha256:{promised}", again=promised is None)
    folder = paths.from_root(mirror, paths.main_checkout())
    file = folder / name
    if not file.is_file():
        raise UserError(f"the mirror {folder} has no file {name}; put it there or name another mirror")
    sums = folder / "SHA256SUMS"
    promised = _promised(sums.read_text(encoding="utf-8"), name) if sums.is_file() else None
    if promised and sha256_of(file) != promised:
        raise UserError(f"{file} is not the file that {sums} promises; fetch it again from where it came")
    return file


def _sums(url: str) -> str:
    """Text of a mirror's SHA256SUMS, read anew each time; empty where it has none."""
    import requests

    try:
        answer = requests.get(url, timeout=30)
    except requests.exceptions.RequestException:
        return ""  # the file itself will tell what is wrong
    return answer.text if answer.ok else ""


def _promised(sums: str, name: str) -> str | None:
    """The checksum that the text of a SHA256SUMS file promises for a file."""
    for line in sums.splitlines():
        digest, _, file = line.partition(" ")
        if file.lstrip(" *").removeprefix("./") == name:
            return digest.lower()
    return None


def _download(url: str, known: str | None, again: bool = False) -> Path:
    """Fetches one address, with a progress bar on a terminal.

    Args:
        url: the address.
        known: hash of the file as pooch writes it (`sha256:…`), or None; what fits is not fetched again.
        again: fetch it even where a former download lies, which nothing tells to be current.

    Raises:
        UserError: the address can't be reached, or the file is not the promised one.
    """
    import pooch
    import requests

    folder = paths.main_checkout() / DOWNLOADS / hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(urllib.parse.urlparse(url).path).name
    pooch.get_logger().setLevel("WARNING")  # else it tells how to use it
    if again:
        (folder / name).unlink(missing_ok=True)
    try:
        return Path(pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=_resumed))
    except requests.exceptions.HTTPError as error:
        raise UserError(f"{url} answers {error.response.status_code} {error.response.reason}") from error
    except requests.exceptions.RequestException as error:
        raise UserError(f"{url} can't be fetched ({type(error).__name__})") from error
    except ValueError as error:  # pooch's answer to a wrong checksum; it keeps no such file
        kind, _, promised = (known or "").partition(":")
        raise UserError(f"{url}: the {kind} of what came is not {promised}") from error


def _resumed(url: str, output_file: str, pooch_: object) -> None:
    """A downloader for pooch, whose own begins anew each time: 800 MB over a bad line would never arrive.

    What has come stands beside the target as ``.part`` with its server's validator in ``.json``; a server
    that has another file by now, or knows no ranges, sends the whole (RFC 9110, sections 13.1.5, 14.2).

    Raises:
        requests.exceptions.RequestException: nothing came in ATTEMPTS attempts, or the server refuses.
    """
    import requests

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
            # Where nothing ever came (no such name, no route), waiting would not help.
            if failed >= ATTEMPTS or not furthest:
                raise
            print(
                f"fetch: {text.without_password(url)} broke off at {_size(part):,} bytes "
                f"({type(error).__name__}); asking for the rest",
                flush=True,
            )
    note.unlink(missing_ok=True)
    shutil.move(part, output_file)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _append(url: str, part: Path, note: Path) -> None:
    """Asks for what is missing of a file, once."""
    import requests
    from tqdm import tqdm

    have = _size(part)
    validator = (
        json.loads(note.read_text(encoding="utf-8")).get("validator") if have and note.is_file() else None
    )
    headers = {"Accept-Encoding": "identity"}
    if validator:  # without one nobody can tell whether the rest belongs to the beginning
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        if answer.status_code == 416:  # all of it is here already, or the server has a shorter one now
            part.unlink()
            _append(url, part, note)
            return
        answer.raise_for_status()
        resumed = answer.status_code == 206
        # A weak ETag promises the same meaning, not the same bytes.
        etag = answer.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
        note.write_text(json.dumps({"validator": validator}), encoding="utf-8")
        left = int(answer.headers.get("Content-Length", 0))
        bar = tqdm(
            total=(left + have if resumed else left) or None,
            initial=have if resumed else 0,
            unit="B",
            unit_scale=True,
            desc=Path(urllib.parse.urlparse(url).path).name,
            disable=None,
        )
        with bar, open(part, "ab" if resumed else "wb") as file:
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def mirror_of(cfg: DictConfig) -> str | None:
    """The mirror that stands in for published addresses: the environment's, or the configuration's."""
    return os.environ.get("PETFACES_MIRROR") or cfg.fetch.mirror
