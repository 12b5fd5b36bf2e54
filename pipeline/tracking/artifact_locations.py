"""Checks of the artifact locations in MLflow's store, which anyone with write access to it may have set."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.tracking.address import uri
from pipeline.tracking.artifact_roots import own_folder
from pipeline.tracking.store import client

SERVER_SCHEMES = ("http", "https", "mlflow-artifacts")


def check(run_id: str | None = None, model: str | None = None, writing: bool = False) -> None:
    """Rejects artifact locations outside the store.

    MLflow itself sends the tracking server's credentials to any server that an artifact URI names, and writes
    into any folder.

    Args:
        run_id: the run whose artifacts are accessed.
        model: id of the logged model whose files are accessed.
        writing: whether files will be written there.

    Raises:
        UserError: the server is not the tracking server; or, when writing with a SQLite store, the folder is
            neither inside the artifact folder next to it nor named ``<id>/artifacts``.
    """
    if run_id:
        _check(client().get_run(run_id).info.artifact_uri, f"run {run_id}", run_id if writing else None)
    if model:
        address = client().get_logged_model(model).artifact_location
        _check(address, f"model {model}", model if writing else None)


def check_version(version) -> None:
    """`check` for a registered version and for its run and logged model."""
    source = version.source or ""
    for address in (source, getattr(version, "storage_location", None)):
        if address:
            _check(address, f"version {version.version} of {version.name}")
    check(version.run_id or None, source.rpartition("/")[2] if source.startswith("models:/m-") else None)


def _check(address: str, name: str, written: str | None = None) -> None:
    """`check` for one URI.

    Args:
        address: the URI.
        name: what it belongs to, for messages.
        written: id of the run or model whose files are written; None if they are only read.
    """
    own = own_folder()
    try:
        parts, server = urlsplit(address), _host(uri())
        foreign = parts.scheme in SERVER_SCHEMES and _host(address) not in ("", server)
        if written and own and parts.scheme in ("", "file"):
            folder = Path(unquote(parts.path)).resolve()
            # An experiment may have its own folder; there, too, MLflow names subfolders by id.
            foreign = not folder.is_relative_to(own.resolve()) and folder.parts[-2:] != (written, "artifacts")
    except ValueError:  # invalid, such as "http://["
        foreign = True
    if foreign:
        raise UserError(
            f"the artifacts of {name} are at {text.without_password(address)}, outside the store's own "
            "locations, and are not accessed; if you trust whoever writes to this store, copy them into it"
        )


def _host(address: str) -> str:
    """Host and port, without credentials."""
    return urlsplit(address).netloc.rpartition("@")[2]
