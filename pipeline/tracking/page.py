"""MLflow's page: the links that open it where people look, and the server behind them."""

import os
import subprocess
import sys

from pipeline.config import UserError
from pipeline.tracking.store import client, uri


def experiment_link(name: str, host: str) -> str:
    """Address of the table of a data set's runs."""
    found = client().get_experiment_by_name(name)
    if not found:
        return host
    return f"{host}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


def ui(port: int = 5000) -> None:
    """Serves MLflow's page on this machine until Ctrl-C, which ends its helpers too."""
    import signal

    if uri().startswith("http"):
        for experiment in client().search_experiments():
            print(f"{experiment.name}: {experiment_link(experiment.name, uri())}")
        return
    host = f"http://127.0.0.1:{port}"
    # A link for each data set that has runs; MLflow's own start page is its GenAI side.
    for experiment in client().search_experiments():
        if experiment.name != "Default":
            print(f"{experiment.name}: {experiment_link(experiment.name, host)}", flush=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri(),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    if server.returncode > 0:
        raise UserError(f"MLflow's page did not start; if port {port} is taken, name another: --port 5001")
