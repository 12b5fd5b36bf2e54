"""MLflow's records of sweeps; callers also work without them."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.common.errors import UserError
from pipeline.tracking.address import local_file
from pipeline.tracking.runs import PARENT
from pipeline.tracking.store import client, error_message, or_none


@contextmanager
def _any_error_as_user_error() -> Iterator[None]:
    """Turns any error within the context into a UserError: these queries to MLflow are optional.

    Raises:
        UserError: the query failed.
    """
    try:
        yield
    except Exception as error:
        raise UserError(error_message(error)) from error


def _experiments() -> list[str]:
    """Ids of all experiments; empty if there is no database, which is not created."""
    if (file := local_file()) and not file.is_file():
        return []
    return [experiment.experiment_id for experiment in client().search_experiments()]


def sweep_of(run_name: str) -> str | None:
    """The sweep of the parent or job run with this name or id; None if there is no such run.

    Raises:
        UserError: MLflow does not answer.
    """
    with _any_error_as_user_error():
        experiments = _experiments()
        if not experiments:
            return None
        run = or_none(client().get_run, run_name)
        if run is None:
            quoted = run_name.replace("'", "")
            found = client().search_runs(experiments, f"attributes.run_name = '{quoted}'", max_results=1)
            if not found:
                return None
            run = found[0]
        parent = run.data.tags.get(PARENT)
        return (client().get_run(parent) if parent else run).data.tags.get("sweep")


def sweep_runs(sweep: str) -> list[dict]:
    """A sweep's jobs in MLflow, oldest first: name, status, reason (of failure), params, seconds.

    Raises:
        UserError: MLflow does not answer.
    """
    with _any_error_as_user_error():
        experiments = _experiments()
        if not experiments:
            return []
        runs = []
        for parent in client().search_runs(experiments, f"tags.sweep = '{sweep}'"):
            query = f"tags.`{PARENT}` = '{parent.info.run_id}'"
            runs += client().search_runs(experiments, query, max_results=10_000, order_by=["start_time ASC"])
        return [
            {
                "name": run.info.run_name,
                "status": run.info.status,
                "reason": run.data.tags.get("failed_by", ""),
                "params": run.data.params,
                "seconds": run.data.metrics.get("wall_seconds"),
            }
            for run in runs
        ]
