"""Where a store says that the files of its runs and models lie; whoever can write to it may have said so."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline import text
from pipeline.config import UserError
from pipeline.tracking.address import uri
from pipeline.tracking.artifact_roots import own_folder
from pipeline.tracking.store import client

SERVERS = ("http", "https", "mlflow-artifacts")


def check(run_id: str | None = None, model: str | None = None, writing: bool = False) -> None:
    """Refuses places to which this project would send a request or a file unasked.

    MLflow asks a server that such an address names, with the name and password of the tracking server, and
    writes into any folder.

    Args:
        run_id: whose artifacts are meant.
        model: id of a logged model, whose files are meant.
        writing: whether files are to be written there.

    Raises:
        UserError: it is another server than the tracking server, or, of a SQLite store that is written to, a
            folder outside the one beside it.
    """
    places = []
    if run_id:
        places.append(client().get_run(run_id).info.artifact_uri)
    if model:
        places.append(client().get_logged_model(model).artifact_location)
    for place in places:
        parts = urlsplit(place)
        foreign = parts.scheme in SERVERS and parts.netloc not in ("", urlsplit(uri()).netloc)
        own = own_folder()
        if writing and own and parts.scheme in ("", "file"):
            foreign = not Path(unquote(parts.path)).resolve().is_relative_to(own.resolve())
        if foreign:
            raise UserError(
                f"MLflow says that files of {run_id or model} lie at {text.without_password(place)}, which "
                "is none of its own places; it is not used. If you trust who writes to this store, copy the "
                "files into it"
            )


def check_version(version) -> None:
    """`check` of the run and the model that a registered version names."""
    for place in (version.source, getattr(version, "storage_location", None)):
        if place and urlsplit(place).scheme in SERVERS and urlsplit(place).netloc != urlsplit(uri()).netloc:
            raise UserError(
                f"MLflow says that version {version.version} of {version.name} lies at "
                f"{text.without_password(place)}, which is none of its own places; it is not used"
            )
    source = version.source or ""
    check(version.run_id or None, source.rpartition("/")[2] if source.startswith("models:/m-") else None)
