"""Runs of work other than this pipeline's trainings, such as the catalog's suggestions."""

import time

from pipeline.tracking.locks import lock_timeout, write_lock
from pipeline.tracking.store import client, experiment_id, reachable


def log_work(
    experiment: str,
    name: str,
    params: dict[str, object],
    metrics: dict[str, float],
    tags: dict[str, str],
    timeout: float,
) -> str:
    """Logs a finished run.

    Args:
        experiment: its name; created if MLflow lacks it.
        name: the run's name.
        params: parameters by name.
        metrics: final values by name.
        tags: further tags.
        timeout: seconds to wait for other programs that write to MLflow.

    Returns:
        The run's path in MLflow's UI: ``experiments/1/runs/0123…``.

    Raises:
        UserError: MLflow can't be used or reached.
    """
    from mlflow.entities import Metric, Param

    with reachable(), lock_timeout(timeout), write_lock():
        number = experiment_id(experiment)
        run_id = client().create_run(number, tags={"mlflow.runName": name, **tags}).info.run_id
        now = int(time.time() * 1000)
        client().log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)) for key, value in params.items()],
        )
        client().set_terminated(run_id, "FINISHED")
    return f"experiments/{number}/runs/{run_id}"
