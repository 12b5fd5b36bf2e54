"""Where MLflow's store is."""

import os
from pathlib import Path

from pipeline.common import paths, text


def uri() -> str:
    """The tracking server, or the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri()


def default_uri() -> str:
    """The SQLite file of the main checkout, used where ``MLFLOW_TRACKING_URI`` names nothing else."""
    return f"sqlite:///{paths.main_checkout() / 'mlflow.db'}"


def shown() -> str:
    """The address as messages tell it, without a password."""
    return text.without_password(uri())


def local_file() -> Path | None:
    """The file of a SQLite store; None of a server, another database, or a store in memory."""
    if not uri().startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        name = make_url(uri()).database or ""
    except ArgumentError:
        return None
    return Path(name).resolve() if name and not name.startswith((":", "file:")) else None
