"""Where MLflow keeps its runs: the address, the client, and one clear line when it does not answer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from pipeline import config
from pipeline.config import UserError

# An unreachable server is told within seconds; the files wait for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def uri() -> str:
    """The tracking server, or the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{config.main_checkout() / 'mlflow.db'}"


@cache
def client():
    import logging
    import warnings

    import mlflow

    for name in ("mlflow.store.db.utils", "alembic"):  # a page of migrations at the first start
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow would like an example with each model; signature and description say what goes in.
    warnings.filterwarnings("ignore", message=".*input example was not provided.*")
    mlflow.set_tracking_uri(uri())
    return mlflow.MlflowClient()


def experiment_id(name: str) -> str:
    """Id of the experiment of a data set, made where it is missing."""
    import mlflow

    found = client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    artifacts = (config.main_checkout() / "mlartifacts").as_uri() if uri().startswith("sqlite") else None
    try:
        return client().create_experiment(name, artifact_location=artifacts)
    except mlflow.exceptions.MlflowException:  # another process was quicker
        found = client().get_experiment_by_name(name)
        if not found:
            raise
        return found.experiment_id


def find_run(experiment: str, **tags: str):
    """The oldest run with these tags, or None."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = client().search_runs([experiment], query, max_results=1, order_by=["start_time ASC"])
    return runs[0] if runs else None


@contextmanager
def reachable() -> Iterator[None]:
    """Ends what can't do without MLflow in one line.

    Raises:
        UserError: the server or the store does not answer as it should.
    """
    import mlflow

    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        raise UserError(
            f"MLflow at {uri()} does not answer: {first_line(error)}; nothing is lost, try again"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
