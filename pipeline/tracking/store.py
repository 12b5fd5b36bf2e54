"""Where MLflow keeps its runs: the address, the client, and one clear line when the store can't be used."""

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
from pipeline.tracking.address import default_uri, local_file, shown, uri
from pipeline.tracking.locks import creating, waiting_at_most

# An unreachable server is told within seconds; the files wait for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# Nothing phones home unasked; a person's own setting wins.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A bar for each folder that is fetched, of a few megabytes each.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

LOCK_SECONDS = 20  # to wait for another program's transaction, as MLflow does


class DeletedError(UserError):
    """Somebody deleted in MLflow what the files would be written into."""


@cache
def client():
    """MLflow's client on a store that was found usable.

    Raises:
        UserError: the store is older or newer than this MLflow, can't be written, or is something else.
    """
    import logging
    import warnings

    import mlflow

    # A page of migrations at the first start, and of traceback for what is told in one line here.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # MLflow would like an example with each model; signature and description say what goes in.
    warnings.filterwarnings("ignore", message=".*input example was not provided.*")
    if shown() != uri():  # MLflow prints the server's address with each run that ends
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    with creating():  # two first starts at once would both make the tables
        check()
        artifact_roots.check()
        _make()
        mlflow.set_tracking_uri(uri())
        return mlflow.MlflowClient()


def check() -> None:
    """Looks at a database before MLflow opens it: MLflow would migrate an older one unasked, without a copy.

    Raises:
        UserError: as `client` says.
    """
    scheme = uri().partition(":")[0] if ":" in uri() else ""
    if scheme in ("", "file"):
        folder = uri().removeprefix("file://").removeprefix("file:")
        raise UserError(
            f"MLFLOW_TRACKING_URI={shown()} names a folder of files, which MLflow no longer writes; "
            f"unset it, or bring its runs into a new database: mlflow migrate-filestore --source {folder} "
            "--target sqlite:///migrated.db"
        )
    if scheme.partition("+")[0] not in ("sqlite", "postgresql", "mysql", "mssql"):
        return  # a server looks after its own
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DBAPIError

    address = make_url(uri())
    lite = address.get_backend_name() == "sqlite"
    try:
        if lite and not (address.database or "").startswith((":", "file:")):
            Path(address.database or "").parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(address, connect_args={"timeout": LOCK_SECONDS} if lite else {})
        try:
            with engine.connect() as connection:
                _check_schema(connection, set(inspect(connection).get_table_names()))
                if lite:  # a database that is open for reading only shows it at the first write
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    connection.exec_driver_sql("CREATE TABLE writable (x INTEGER)")
                    connection.exec_driver_sql("ROLLBACK")
        finally:
            engine.dispose()
    except DBAPIError as error:
        raise UserError(f"MLflow's store {shown()} {_trouble(error.orig)}") from error
    except OSError as error:
        raise UserError(f"MLflow's store {shown()} can't be made: {error.strerror}") from error
    except ImportError as error:
        raise UserError(f"MLflow's store {shown()} needs a driver: pip install {error.name}") from error


def _make() -> None:
    """Makes the tables of a new SQLite store beside it and puts them there in one step.

    MLflow makes them one by one: killed meanwhile, it leaves a store that neither it nor we can open again.
    """
    import mlflow
    from sqlalchemy.engine import make_url

    file = local_file()
    if file is None or (file.exists() and file.stat().st_size):
        return
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)  # of a start that was killed
    made = f"{make_url(uri()).drivername}:///{part}"
    mlflow.MlflowClient(made, made).search_registered_models(max_results=1)
    os.replace(part, file)


def _check_schema(connection, tables: set[str]) -> None:
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    found = MigrationContext.configure(connection).get_current_revision()
    if not tables - {"alembic_version"}:
        return  # a new one
    other = "or name another one: MLFLOW_TRACKING_URI=sqlite:///other.db"
    if found is None:
        some = ", ".join(sorted(tables)[:3])
        raise UserError(
            f"{shown()} is a database of something else than MLflow (tables {some}); move it away, {other}"
        )
    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations"))
    try:
        script.get_revision(found)
    except CommandError as error:
        raise UserError(
            f"MLflow's store {shown()} was written by a newer MLflow (its schema {found} is unknown to "
            f"{mlflow.__version__}); install that one, {other}"
        ) from error
    if found != script.get_current_head():
        raise UserError(
            f"MLflow's store {shown()} was written by an older MLflow (schema {found}, {mlflow.__version__} "
            f"has {script.get_current_head()}); copy it, then run: mlflow db upgrade {shown()}"
        )


def _trouble(error: BaseException) -> str:
    """What is wrong with a database, and what to do."""
    name = getattr(error, "sqlite_errorname", "")
    other = "or name another store: MLFLOW_TRACKING_URI=sqlite:///other.db"
    if name.startswith("SQLITE_NOTADB"):
        return f"is not a database; move it away, {other}"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"is locked by another program for {LOCK_SECONDS} s; end that one, then try again"
    if name.startswith("SQLITE_READONLY"):
        return f"can be read only; make it and its folder writable, {other}"
    if name.startswith("SQLITE_CANTOPEN"):
        return f"can't be opened: a folder, or in one that can't be written; mend that, {other}"
    return f"can't be used: {first_line(error)}"


def experiment_id(name: str) -> str:
    """Id of the experiment of a data set, made where it is missing."""
    import mlflow

    with creating():
        if found := find_experiment(name):
            return found
        folder = artifact_roots.own_folder()
        try:
            return client().create_experiment(name, artifact_location=folder and folder.as_uri())
        except mlflow.exceptions.MlflowException:  # another machine was quicker
            if found := find_experiment(name):
                return found
            raise


def find_experiment(name: str) -> str | None:
    """Id of the experiment of a data set, or None.

    Raises:
        DeletedError: somebody deleted it, and its name is taken until it is restored or gone for good.
    """
    found = client().get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        address = f"MLFLOW_TRACKING_URI={shlex.quote(uri())} " if uri() == default_uri() else ""
        raise DeletedError(
            f"the experiment {text.printable(name)} was deleted in MLflow at {shown()}; restore it: "
            f"{address}.venv/bin/mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return found.experiment_id if found else None


def find_run(experiment: str, deleted: bool = False, **tags: str):
    """The oldest run with these tags, or None.

    Args:
        experiment: its id.
        deleted: whether to look among those that somebody deleted, and not among the others.
        **tags: what it is known by.
    """
    from mlflow.entities import ViewType

    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    runs = client().search_runs([experiment], query, kind, max_results=1, order_by=["start_time ASC"])
    return runs[0] if runs else None


def find_or_create_run(experiment: str, create: Callable[[], str], **tags: str) -> tuple[str, bool]:
    """The oldest run with these tags, which is created where there is none.

    Args:
        experiment: its id.
        create: creates a run with these tags and returns its id.
        **tags: what it is known by.

    Returns:
        Its id, and whether it was created here.
    """
    with creating():
        if found := find_run(experiment, **tags):
            return found.info.run_id, False
        run_id = create()
        # A program on another machine, which no lock of ours binds, may have created one meanwhile.
        oldest = find_run(experiment, **tags)
        if oldest is None or oldest.info.run_id == run_id:
            return run_id, True
        client().delete_run(run_id)
        return oldest.info.run_id, False


@contextmanager
def answering_within(seconds: float | None) -> Iterator[None]:
    """Within, a request to a server is made once and waits so long at most; None: as the environment says.

    So does waiting for another program's lock, for a minute at most.
    """
    brisk = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    usual = {name: os.environ[name] for name in brisk}
    try:
        os.environ.update(brisk if seconds else {})
        with waiting_at_most(seconds or 60):
            yield
    finally:
        os.environ.update(usual)


@contextmanager
def reachable() -> Iterator[None]:
    """Ends what can't do without MLflow in one line, before it begins where the store is unfit.

    Raises:
        UserError: the server or the store does not answer as it should, or has not what it was asked for.
    """
    import mlflow
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client().search_experiments(max_results=1)
        yield
    except (mlflow.exceptions.MlflowException, RequestException, SQLAlchemyError) as error:
        hint = "" if is_refusal(error) else "; nothing is lost, try again"
        raise UserError(f"{silent(error)}{hint}") from error


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow did answer, that something is not there or can't be: trying again is no use."""
    return getattr(error, "error_code", "") in (
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
        "PERMISSION_DENIED",
        "INVALID_STATE",
    )


def silent(error: Exception) -> str:
    """What went wrong with MLflow, in one line."""
    from sqlalchemy.exc import IntegrityError

    if isinstance(error, UserError):
        return str(error)
    for each in _chain(error):
        if isinstance(each, IntegrityError):
            return f"another program wrote the same into MLflow at {shown()} at the same moment"
        if "disk is full" in str(each) or getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return f"MLflow at {shown()} can't write, its disk is full; make room"
    told = "refuses" if is_refusal(error) else "does not answer"
    return f"MLflow at {shown()} {told}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    from requests.exceptions import ConnectionError as NoConnectionError

    if any(isinstance(each, NoConnectionError) for each in _chain(error)):
        return "no connection"
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return text.printable(text.without_password(line))[:200]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
