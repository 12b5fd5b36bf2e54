"""Where a store says that the files of its runs and models lie; whoever can write to it may have said so."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.common import text
from pipeline.common.errors import UserError
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
            folder neither in the one beside it nor named as MLflow names such folders in others.
    """
    if run_id:
        _check(client().get_run(run_id).info.artifact_uri, f"run {run_id}", run_id if writing else None)
    if model:
        place = client().get_logged_model(model).artifact_location
        _check(place, f"model {model}", model if writing else None)


def check_version(version) -> None:
    """`check` of a registered version, and of the run and the model that it names."""
    source = version.source or ""
    for place in (source, getattr(version, "storage_location", None)):
        if place:
            _check(place, f"version {version.version} of {version.name}")
    check(version.run_id or None, source.rpartition("/")[2] if source.startswith("models:/m-") else None)


def _check(place: str, whose: str, written: str | None = None) -> None:
    """`check` of one address; what is written has an id."""
    own = own_folder()
    try:
        parts, server = urlsplit(place), _host(uri())
        foreign = parts.scheme in SERVERS and _host(place) not in ("", server)
        if written and own and parts.scheme in ("", "file"):
            folder = Path(unquote(parts.path)).resolve()
            # Experiments can have folders elsewhere; in those, too, MLflow keeps one for each id.
            foreign = not folder.is_relative_to(own.resolve()) and folder.parts[-2:] != (written, "artifacts")
    except ValueError:  # no address at all: "http://["
        foreign = True
    if foreign:
        raise UserError(
            f"MLflow says that files of {whose} lie at {text.without_password(place)}, which is none of its "
            "own places; it is not used. If you trust who writes to this store, copy the files into it"
        )


def _host(address: str) -> str:
    """Host and port, without the user and password before them."""
    return urlsplit(address).netloc.rpartition("@")[2]
