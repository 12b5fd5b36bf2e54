"""Logs a training to MLflow while it runs."""

import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import Provenance
from pipeline.common import text
from pipeline.common.errors import StoppedError, UserError
from pipeline.common.paths import ROOT
from pipeline.portable import ModelCard
from pipeline.tracking import descriptions, runs, store
from pipeline.tracking.locks import write_lock
from pipeline.tracking.store import client, error_message, experiment_id, find_or_create_run, request_timeout

_log = logging.getLogger(__name__)

# Seconds without requests after a failure, doubled each time, and the timeout of a request: an unresponsive
# server hardly delays a long training.
RETRY_SECONDS, MAX_RETRY_SECONDS, REQUEST_SECONDS = 30, 900, 5
FAILURE_TAG = "failed_by"


class Run:
    """One training's run in MLflow.

    Tracking never stops or blocks training: if MLflow does not answer, training continues and the data is
    sent later, at the latest by `sync`.

    Args:
        card: the model card.
        settings: the resolved configuration, as `ensure` finds it in ``config.yaml``.
        lineage: the data, code and environment that the model is trained with.
        provenance: the commit that it is trained from.
        name: the run's name.
        sweep: the sweep that it belongs to, or None.
        device: the training device.
        attempt: id of the training, by which a restart finds its run.
    """

    def __init__(
        self,
        card: ModelCard,
        settings: dict,
        lineage: dict,
        provenance: Provenance,
        name: str,
        sweep: str | None,
        device: str,
        attempt: str,
    ):
        self.run_args, self.lineage = (card, settings, provenance, name, sweep), lineage
        self.device, self.attempt = device, attempt
        self.run_id: str | None = None
        self.sent = 0  # rows of the curves sent so far
        self.may_have_more = True  # whether MLflow may have rows that `sent` does not count
        self.warned = False
        self.retry_at, self.retry_seconds = 0.0, RETRY_SECONDS
        self.monitor = None  # of CPU, memory and disk, if the user enables it
        self._try(lambda: None)

    def push(self, rows: list[dict]) -> None:
        """Sends the rows of the curves that were not sent yet."""
        self._try(lambda: self._push(rows))

    def finish(self, folder: Path, rows: list[dict], seconds: float) -> bool:
        """Ends the run with the contents of the train folder; returns whether MLflow has them."""

        def end() -> None:
            self._stop_monitor()
            with write_lock():  # `sync` in another program may complete this run, too
                self.may_have_more |= "content" in client().get_run(self.run_id).data.tags
                self._push(rows)
                runs.complete(self.run_id, ModelFolder.open(folder), {"wall_seconds": seconds})

        return self._try(end, patient=True)

    def fail(self, error: BaseException) -> None:
        """Marks the run as failed or stopped; a restart of the same training continues it."""
        stopped = isinstance(error, StoppedError | KeyboardInterrupt)
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        reason = text.without_password(reason)
        self._try(lambda: self._fail(reason, "KILLED" if stopped else "FAILED"), patient=True)

    def _push(self, rows: list[dict]) -> None:
        runs.log_curves(self.run_id, rows[self.sent :], may_exist=self.may_have_more)
        self.sent, self.may_have_more = len(rows), False

    def _fail(self, reason: str, status: str) -> None:
        self._stop_monitor()
        reason = descriptions.without_paths(reason)[:500]
        client().set_tag(self.run_id, FAILURE_TAG, reason)
        client().set_tag(self.run_id, runs.NOTE, descriptions.failed(reason))
        client().set_terminated(self.run_id, status)
        runs.update_sweep_note(self.run_id)

    def _try(self, action: Callable[[], None], patient: bool = False) -> bool:
        """Runs the action unless MLflow failed recently; returns whether it succeeded.

        Args:
            action: must be repeatable.
            patient: whether to ignore recent failures and use MLflow's timeout, as at the end of a training.
        """
        if not patient and time.monotonic() < self.retry_at:
            return False
        try:
            with request_timeout(None if patient else REQUEST_SECONDS):
                try:
                    self._run_action(action)
                except Exception as error:
                    if not self._was_deleted(error):
                        raise
                    self.run_id, self.sent = None, 0  # opens a new run
                    self._run_action(action)
        except Exception as error:
            if not self.warned:
                _log.warning(
                    "%s; the files are complete, MLflow gets the rest later, or by: petfaces tracking sync",
                    error_message(error),
                )
            self.warned = self.may_have_more = True
            self.retry_at = time.monotonic() + self.retry_seconds
            self.retry_seconds = min(2 * self.retry_seconds, MAX_RETRY_SECONDS)
            return False
        return True

    def _run_action(self, action: Callable[[], None]) -> None:
        if self.run_id is None:
            self.run_id = self._open()
        action()

    def _was_deleted(self, error: Exception) -> bool:
        """Whether the action failed because a user deleted the run in MLflow."""
        return store.is_refusal(error) and self.run_id is not None and not runs.is_active(self.run_id)

    def _open(self) -> str:
        """Finds or creates the run of this attempt; returns its id."""
        card, settings, *_ = self.run_args
        run_id, created = find_or_create_run(
            experiment_id(card.data),
            lambda: runs.new(*self.run_args, attempt=self.attempt),
            attempt=self.attempt,
        )
        if not created:
            client().update_run(run_id, status="RUNNING")
            for tag in {FAILURE_TAG, runs.NOTE} & set(client().get_run(run_id).data.tags):
                client().delete_tag(run_id, tag)
        runs.describe(run_id, settings, self.lineage)
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
        client().set_tag(run_id, "machine", machine)
        client().set_tag(run_id, "device", self.device)
        for file in ("params.yaml", "dvc.lock"):
            if (ROOT / file).is_file():
                client().log_artifact(run_id, ROOT / file)
        self._start_monitor(run_id)
        return run_id

    def _start_monitor(self, run_id: str) -> None:
        """Starts MLflow's system metrics if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true."""
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.WARNING)
            self._stop_monitor()
            self.monitor = SystemMetricsMonitor(run_id, resume_logging=True)
            self.monitor.start()

    def _stop_monitor(self) -> None:
        if self.monitor:
            self.monitor.finish()
            self.monitor = None
