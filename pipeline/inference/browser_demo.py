"""The browser demo of a model: a static page that includes the model, for any web host or for loopback.

The page runs the model with ONNX Runtime Web, whose files are copied next to it. npm downloads them once, and
they are cached. The page requests no other files.
"""

import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.common import paths
from pipeline.common.errors import UserError
from pipeline.common.paths import ROOT
from pipeline.inference import loopback
from pipeline.portable import ModelCard

PAGE = Path(__file__).parent / "try_page"
CACHE = Path("data/.cache/npm")  # relative to the main checkout
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"  # the npm package
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"  # of the package's archive
# The CPU-only runtime: 14 MB, half the size of the one with GPU support.
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def write(model: Path, card: ModelCard, target: Path, none_class: str | None = None) -> None:
    """Writes the page's folder.

    Args:
        model: ``model.onnx``, which includes resizing.
        card: the model's card.
        target: the folder to create; must not exist.
        none_class: the class that says that a picture shows none of the others, if there is one.

    Raises:
        UserError: ONNX Runtime Web is not cached, and npm can't download it.
    """
    runtime = _runtime()
    shutil.copytree(PAGE, target)
    for file in (*FILES, "LICENSE"):
        shutil.copyfile(runtime / file, target / ("onnxruntime-LICENSE" if file == "LICENSE" else file))
    shutil.copyfile(model, target / "model.onnx")
    settings = {
        "data": card.data,
        "labels": card.classes,
        "drawings": card.drawings,
        "breeds": any(card.species),
        "unsure_below": card.unsure_below,
        "thresholds": card.thresholds,
        "none": None if none_class is None else card.classes.index(none_class),
    }
    (target / "card.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")


def _runtime() -> Path:
    """The folder with ONNX Runtime Web's files and licence, downloaded unless cached.

    Raises:
        UserError: npm is missing, fails, or fetches another archive than expected.
    """
    cached = paths.main_checkout() / CACHE / f"{RUNTIME}-{VERSION}"
    if cached.is_dir():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".") as scratch:
        try:
            result = subprocess.run(
                ["npm", "pack", "--silent", f"{RUNTIME}@{VERSION}"],
                cwd=scratch,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
            )
        except FileNotFoundError as error:
            raise UserError(
                f"the page needs {RUNTIME}, which npm downloads once, but npm is not installed; "
                "install Node.js, or export without the page: --no-try"
            ) from error
        archive = Path(scratch) / f"{RUNTIME}-{VERSION}.tgz"
        if result.returncode or not archive.is_file():
            reason = (result.stderr.strip().splitlines() or ["npm gave no reason"])[-1]
            raise UserError(
                f"npm could not download {RUNTIME}@{VERSION} ({reason}); go online once, "
                "or export without the page: --no-try"
            )
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            raise UserError(
                f"npm's archive of {RUNTIME}@{VERSION} has an unexpected sha256 and is not used; check npm's "
                "registry setting, or export without the page: --no-try"
            )
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as members:
            for file in FILES:
                (unpacked / file).write_bytes(members.extractfile(f"package/dist/{file}").read())
        # The archive lacks the licence text that MIT requires; this project's licence has the same text.
        _, permission, rest = (ROOT / "LICENSE").read_text(encoding="utf-8").partition("\n\nPermission")
        notice = f"{', '.join(FILES)}:\nONNX Runtime, MIT License, Copyright (c) Microsoft Corporation\n"
        (unpacked / "LICENSE").write_text(notice + permission + rest, encoding="utf-8")
        unpacked.replace(cached)
    return cached


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # the system's MIME table may map scripts to text/plain, which browsers refuse
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def send_head(self):
        # Prevents DNS rebinding: another site's host name that resolves to loopback.
        if loopback.is_loopback(loopback.host_of(self.headers.get("Host", loopback.NAME))):
            return super().send_head()
        return self.send_error(421)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_) -> None:
        """Logs no requests."""


def serve(folder: Path, port: int, ready: Callable[[str], object]) -> None:
    """Serves the page on loopback until Ctrl-C.

    Args:
        folder: the folder from `write`.
        port: 0 picks a free one.
        ready: called with the page's URL once connections are accepted.

    Raises:
        UserError: the port is in use or invalid.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--port {port}: {reason}; choose another port") from error
    with server:
        ready(f"http://127.0.0.1:{server.server_port}/")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
