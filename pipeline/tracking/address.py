"""The address of MLflow's store."""

import os
from pathlib import Path

from pipeline.common import paths, text


def uri() -> str:
    """The tracking URI: ``MLFLOW_TRACKING_URI``, or else the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri()


def default_uri() -> str:
    """URI of the SQLite file of the main checkout, the default without ``MLFLOW_TRACKING_URI``."""
    return f"sqlite:///{paths.main_checkout() / 'mlflow.db'}"


def display_uri() -> str:
    """The tracking URI for messages, without its password."""
    return text.without_password(uri())


def local_file() -> Path | None:
    """The file of a SQLite store; None for a server, another database or an in-memory store."""
    if not uri().startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri()).database or ""
    except ArgumentError:
        return None
    return Path(name).resolve() if name and not name.startswith((":", "file:")) else None
