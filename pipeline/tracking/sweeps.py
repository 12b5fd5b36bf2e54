"""What MLflow knows of sweeps: asked, never needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.tracking.runs import PARENT
from pipeline.tracking.store import client, silent, uri


@contextmanager
def _asked() -> Iterator[None]:
    """Whatever goes wrong while MLflow is only asked is no more than an answer that is missing.

    Raises:
        UserError: says so in one line.
    """
    try:
        yield
    except Exception as error:
        raise UserError(silent(error)) from error


def _experiments() -> list[str]:
    """Ids of all experiments; none, and no database made, where there is none yet."""
    if uri().startswith("sqlite:///") and not Path(uri().removeprefix("sqlite:///")).is_file():
        return []
    return [experiment.experiment_id for experiment in client().search_experiments()]


def sweep_of(word: str) -> str | None:
    """The sweep of a run with this id or name, be it the parent or a job; None where there is no such run.

    Raises:
        UserError: MLflow does not answer.
    """
    import mlflow

    with _asked():
        places = _experiments()
        if not places:
            return None
        try:
            run = client().get_run(word)
        except mlflow.exceptions.MlflowException:
            quoted = word.replace("'", "")
            found = client().search_runs(places, f"attributes.run_name = '{quoted}'", max_results=1)
            if not found:
                return None
            run = found[0]
        parent = run.data.tags.get(PARENT)
        return (client().get_run(parent) if parent else run).data.tags.get("sweep")


def sweep_runs(sweep: str) -> list[dict]:
    """What MLflow saw of a sweep's jobs, oldest first: name, status, reason (of failure), params, seconds.

    Raises:
        UserError: MLflow does not answer.
    """
    with _asked():
        places = _experiments()
        if not places:
            return []
        runs = []
        for parent in client().search_runs(places, f"tags.sweep = '{sweep}'"):
            query = f"tags.`{PARENT}` = '{parent.info.run_id}'"
            runs += client().search_runs(places, query, max_results=10_000, order_by=["start_time ASC"])
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
