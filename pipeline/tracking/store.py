"""MLflow's client: checks of the store, searches, and one-line errors if the store can't be used."""

import errno
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.tracking import artifact_roots
from pipeline.tracking.address import default_uri, display_uri, local_file, uri
from pipeline.tracking.locks import creation_lock, lock_timeout

# Fails within seconds if a server is unreachable; `sync` sends the files later.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# No telemetry unless the user enables it.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# No progress bar for each download, which is only a few megabytes.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

LOCK_SECONDS = 20  # to wait for another program's transaction, as MLflow does


class DeletedError(UserError):
    """The experiment to write to was deleted in MLflow."""


@cache
def client():
    """MLflow's client, after checking that the store is usable.

    Raises:
        UserError: the store has an older or newer schema, is not writable, or is not MLflow's.
    """
    import logging
    import warnings

    import mlflow

    # Hides the log of migrations at the first start, and tracebacks of errors that we report in one line.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # The signature and the description document a model's input; no example is needed.
    warnings.filterwarnings("ignore", message=".*input example was not provided.*")
    if display_uri() != uri():  # MLflow prints the URI, here with a password, after each run
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    with creation_lock():  # two simultaneous first starts must not both create the tables
        check()
        artifact_roots.check()
        _create_sqlite_store()
        mlflow.set_tracking_uri(uri())
        return mlflow.MlflowClient()


def check() -> None:
    """Checks a database before MLflow opens it and migrates an older schema without asking or a backup.

    Raises:
        UserError: see `client`.
    """
    scheme = uri().partition(":")[0] if ":" in uri() else ""
    if scheme in ("", "file"):
        folder = uri().removeprefix("file://").removeprefix("file:")
        raise UserError(
            f"MLFLOW_TRACKING_URI={display_uri()} names a folder of files, which MLflow no longer writes; "
            f"unset it, or migrate its runs to a new database: mlflow migrate-filestore --source {folder} "
            "--target sqlite:///migrated.db"
        )
    if scheme.partition("+")[0] not in ("sqlite", "postgresql", "mysql", "mssql"):
        return  # a server manages its own schema
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError

    address = make_url(uri())
    is_sqlite = address.get_backend_name() == "sqlite"
    try:
        if file := local_file():
            file.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(address, connect_args={"timeout": LOCK_SECONDS} if is_sqlite else {})
        try:
            with engine.connect() as connection:
                _check_schema(connection, set(inspect(connection).get_table_names()))
                if is_sqlite:  # only a write reveals a read-only database
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    connection.exec_driver_sql("CREATE TABLE writable (x INTEGER)")
                    connection.exec_driver_sql("ROLLBACK")
        finally:
            engine.dispose()
    except DBAPIError as error:
        raise UserError(f"MLflow's store {display_uri()} {_database_problem(error.orig)}") from error
    except OSError as error:
        raise UserError(f"MLflow's store {display_uri()} can't be created: {error.strerror}") from error
    except ImportError as error:
        raise UserError(f"MLflow's store {display_uri()} needs a driver: pip install {error.name}") from error


def _create_sqlite_store() -> None:
    """Creates a SQLite store that does not exist yet, under a temporary name, and renames it atomically.

    MLflow creates the tables one by one: if killed meanwhile, it leaves a store that can't be opened again.
    """
    import mlflow
    from sqlalchemy.engine import make_url

    file = local_file()
    if file is None or (file.exists() and file.stat().st_size):
        return
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed here
    part_uri = f"{make_url(uri()).drivername}:///{part}"
    mlflow.MlflowClient(part_uri, part_uri).search_registered_models(max_results=1)
    os.replace(part, file)


def _check_schema(connection, tables: set[str]) -> None:
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    found = MigrationContext.configure(connection).get_current_revision()
    if not tables - {"alembic_version"}:
        return  # a new database
    other = "or name another one: MLFLOW_TRACKING_URI=sqlite:///other.db"
    if found is None:
        names = ", ".join(sorted(tables)[:3])
        raise UserError(
            f"{display_uri()} is not an MLflow database (it has the tables {names}); move it away, {other}"
        )
    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations"))
    try:
        script.get_revision(found)
    except CommandError as error:
        raise UserError(
            f"MLflow's store {display_uri()} was written by a newer MLflow (its schema {found} is unknown to "
            f"{mlflow.__version__}); install that one, {other}"
        ) from error
    if found != script.get_current_head():
        raise UserError(
            f"MLflow's store {display_uri()} was written by an older MLflow (schema {found}, not "
            f"{script.get_current_head()}); copy it, then run: mlflow db upgrade {display_uri()}"
        )


def _database_problem(error: BaseException) -> str:
    """The problem with a database and its remedy, for a message."""
    name = getattr(error, "sqlite_errorname", "")
    other = "or name another store: MLFLOW_TRACKING_URI=sqlite:///other.db"
    if name.startswith("SQLITE_NOTADB"):
        return f"is not a database; move it away, {other}"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"has been locked by another program for {LOCK_SECONDS} s; end that one, then try again"
    if name.startswith("SQLITE_READONLY"):
        return f"is read-only; make it and its folder writable, {other}"
    if name.startswith("SQLITE_CANTOPEN"):
        return f"can't be opened: it is a folder, or its folder is not writable; correct that, {other}"
    return f"can't be used: {first_line(error)}"


def experiment_id(name: str) -> str:
    """Id of a data set's experiment, created if missing."""
    import mlflow

    with creation_lock():
        if found := find_experiment(name):
            return found
        folder = artifact_roots.own_folder()
        try:
            return client().create_experiment(name, artifact_location=folder and folder.as_uri())
        except mlflow.exceptions.MlflowException:  # another machine may have created it
            if found := find_experiment(name):
                return found
            raise


def find_experiment(name: str) -> str | None:
    """Id of a data set's experiment, or None.

    Raises:
        DeletedError: it was deleted; its name stays taken until it is restored or permanently deleted.
    """
    found = client().get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        address = f"MLFLOW_TRACKING_URI={shlex.quote(uri())} " if uri() == default_uri() else ""
        raise DeletedError(
            f"the experiment {text.printable(name)} was deleted in MLflow at {display_uri()}; restore it: "
            f"{address}.venv/bin/mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return found.experiment_id if found else None


def find_run(experiment: str, deleted: bool = False, **tags: str):
    """The oldest run with these tags, or None.

    Args:
        experiment: its id.
        deleted: whether to search only deleted runs instead of active ones.
        **tags: the tags to match.
    """
    from mlflow.entities import ViewType

    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    runs = client().search_runs([experiment], query, kind, max_results=1, order_by=["start_time ASC"])
    return runs[0] if runs else None


def find_or_create_run(experiment: str, create: Callable[[], str], **tags: str) -> tuple[str, bool]:
    """The oldest run with these tags, created if there is none.

    Args:
        experiment: its id.
        create: creates a run with these tags and returns its id.
        **tags: the tags to match.

    Returns:
        Its id, and whether it was created here.
    """
    with creation_lock():
        if found := find_run(experiment, **tags):
            return found.info.run_id, False
        run_id = create()
        # The lock does not cover other machines: one may have created the run meanwhile.
        oldest = find_run(experiment, **tags)
        if oldest is None or oldest.info.run_id == run_id:
            return run_id, True
        client().delete_run(run_id)
        return oldest.info.run_id, False


def or_none(request: Callable, *args):
    """The result of a request to MLflow, ``request(*args)``; None for an unknown or invalid id or name."""
    import mlflow

    try:
        return request(*args)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def versions_of(name: str) -> list:
    """All versions of a registered name, oldest first; empty if there is no such name."""
    # A quote would end the string in MLflow's query; no name that this project registers has one.
    versions = client().search_model_versions(f"name='{name}'") if "'" not in name else []
    return sorted(versions, key=lambda version: int(version.version))


@contextmanager
def request_timeout(seconds: float | None) -> Iterator[None]:
    """Within the context, requests to a server time out after so many seconds and are not retried.

    Waiting for another program's lock is limited, too. None: timeout and retries as in the environment, and a
    minute for the lock.
    """
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    previous = {name: os.environ[name] for name in limits}
    try:
        os.environ.update(limits if seconds else {})
        with lock_timeout(seconds or 60):
            yield
    finally:
        os.environ.update(previous)


@contextmanager
def reachable() -> Iterator[None]:
    """Checks the store on entry, and turns errors of MLflow within the context into a one-line UserError.

    Raises:
        UserError: the server or store fails or does not answer, or lacks what was requested.
    """
    import mlflow
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client().search_experiments(max_results=1)
        yield
    except (mlflow.exceptions.MlflowException, RequestException, SQLAlchemyError) as error:
        hint = "" if is_refusal(error) else "; nothing is lost, try again"
        raise UserError(f"{error_message(error)}{hint}") from error


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow rejected the request, so that a retry would fail, too."""
    return getattr(error, "error_code", "") in (
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
        "PERMISSION_DENIED",
        "INVALID_STATE",
    )


def error_message(error: Exception) -> str:
    """A one-line message for an error of MLflow."""
    from sqlalchemy.exc import IntegrityError

    if isinstance(error, UserError):
        return str(error)
    for each in _chain(error):
        if isinstance(each, IntegrityError):
            return f"another program wrote the same entry to MLflow at {display_uri()} at the same time"
        if "disk is full" in str(each) or getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return f"MLflow at {display_uri()} can't write, its disk is full; free some space"
    verb = "refuses" if is_refusal(error) else "does not answer"
    return f"MLflow at {display_uri()} {verb}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    from requests.exceptions import ConnectionError as NoConnectionError

    if any(isinstance(each, NoConnectionError) for each in _chain(error)):
        return "no connection"
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return text.printable(text.without_password(line))[:200]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its chain of causes."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
