"""MLflow's UI: links to its pages, and a local server."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from pipeline import tasks
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.tracking.descriptions import WORKFLOW
from pipeline.tracking.naming import GROUPS
from pipeline.tracking.store import client, display_uri, reachable, uri

# A saved view of the runs table, stored like those of the UI's "Views" menu, as an experiment's tag. Unlike
# a link, it sets columns, their order and widths. Users' changes to it are kept.
VIEW = "comparison"
# Columns before and after the metrics and parameters, with widths in pixels: the metrics fit beside the
# assistant's panel on a laptop. The UI titles the second one Created.
FIRST_COLUMNS = {"attributes.`Run Name`": 330, "runDateAndNestInfo": 130}
LAST_COLUMNS = {"duration": 90, "attributes.`Models`": 130, "attributes.`Dataset`": 260}
MAX_PARAMS, MAX_RUNS = 5, 200  # parameters shown, and newest runs compared to select them
# The parts that each view has. With `isAccordionReordered` false, the UI's own sections, sorted by name,
# would come first.
TEMPLATE = json.loads(Path(__file__).with_name("web_ui_view.json").read_text(encoding="utf-8"))


def differing(runs: list[dict[str, str]]) -> list[str]:
    """The parameters that best distinguish runs, starting with selected files of ``conf/``.

    A parameter that differs only between models follows from the model, so those other than files count only
    if they vary among the runs of one model. Runs of earlier versions lack some parameters.

    Args:
        runs: the parameters of each run.
    """
    by_model: dict[str, list[dict[str, str]]] = {}
    for params in runs:
        by_model.setdefault(params.get("model.name", ""), []).append(params)
    counts = {}
    for key in dict.fromkeys(key for params in runs for key in params):
        groups = [runs] if key in GROUPS else by_model.values()
        counts[key] = max(len({params[key] for params in some if key in params}) for some in groups)
    varied = [key for key, values in counts.items() if values > 1 and key not in ("data.name", "model.name")]
    # The name of a group's file stands for the group's values, except for models, whose values vary, too.
    covered = tuple(f"{group}." for group in GROUPS if group in varied and group != "model")
    varied = [key for key in varied if not key.startswith(covered)]
    order = {key: position for position, key in enumerate((*GROUPS, "seed"))}
    varied.sort(key=lambda key: (order.get(key, len(order)), -counts[key], key))
    return varied[:MAX_PARAMS]


def _state(experiment) -> dict:
    """The view of an experiment's runs: metrics, and the parameters that differ."""
    query = "attributes.status != 'FAILED'"
    runs = client().search_runs([experiment.experiment_id], query, max_results=MAX_RUNS)
    # Parent runs of sweeps have no parameters.
    keys = differing([run.data.params for run in runs if run.data.params])
    task_tags = (run.data.tags["task"] for run in runs if "task" in run.data.tags)
    task = tasks.of_tag(next(task_tags, None))
    metrics = [f"best/{task.monitor}", *(f"test/{spec.key}" for spec in task.ranked[:2])]
    # Metrics come first, so that they are visible beside the name on a laptop.
    columns = FIRST_COLUMNS | {f"metrics.`{key}`": 110 - 20 * key.startswith("test") for key in metrics}
    columns |= {f"params.`{key}`": 110 for key in keys} | LAST_COLUMNS
    charts = {  # section: type, metrics; by default the UI shows a bar chart of every metric
        "the kept weights": ("BAR", metrics),
        "curves": ("LINE", (task.monitor, "val/loss", "train/loss")),
    }
    return TEMPLATE["state"] | {
        "selectedColumns": [name for name in columns if "." in name],
        "columnOrder": list(columns),
        "columnWidths": columns,
        "compareRunSections": [{"uuid": name, "name": name, **TEMPLATE["section"]} for name in charts],
        "compareRunCharts": [
            {
                "uuid": key,
                "metricKey": key,
                "displayName": key,
                "type": chart,
                "metricSectionId": name,
                **TEMPLATE["chart"],
            }
            for name, (chart, chart_keys) in charts.items()
            for key in chart_keys
        ],
    }


def _view(experiment) -> str:
    """Ensures that an experiment has the saved view; returns the URL parameter that opens it."""
    key, state = f"mlflow.sharedViewState.{VIEW}", json.dumps(_state(experiment))
    saved = {}
    with suppress(ValueError, TypeError, RecursionError):  # any client may write tags
        saved = dict(json.loads(experiment.tags.get(key, "{}")))
    untouched = saved.get("createdAt") == saved.get("updatedAt")
    if untouched and saved.get("state") != state:
        now = int(time.time() * 1000)
        envelope = {"name": VIEW, "createdAt": now, "updatedAt": now, "state": state}
        client().set_experiment_tag(experiment.experiment_id, key, json.dumps(envelope))
    return f"viewStateShareKey={VIEW}"


def links(host: str) -> list[tuple[str, str]]:
    """Titles and URLs of each data set's runs, charts and versions."""
    found = []
    models = {model.name for model in client().search_registered_models()}
    for experiment in client().search_experiments():
        name, page = experiment.name, f"{host}/#/experiments/{experiment.experiment_id}/runs?{WORKFLOW}"
        if name == "Default":  # MLflow's own, unused here
            continue
        view = f"{page}&{_view(experiment)}"
        found += [(f"{name}: runs", view), (f"{name}: charts", f"{view}&compareRunsMode=CHART")]
        if name in models:
            found.append((f"{name}: versions", f"{host}/#/models/{name}?{WORKFLOW}"))
    return found


def _print(host: str) -> None:
    table = links(host)
    width = max((len(title) for title, _ in table), default=0)
    for title, url in table:
        print(text.printable(f"{title:<{width}}  {url}"), flush=True)
    if not table:
        print(f"{host}  (no runs yet: dvc repro)", flush=True)


def ui(port: int = 5000) -> None:
    """Serves MLflow's UI on this machine until Ctrl-C, which also ends its child processes.

    Raises:
        UserError: the server does not start.
    """
    import signal

    if uri().startswith("http"):
        _print(display_uri().rstrip("/"))
        return
    client()
    host = f"http://127.0.0.1:{port}"
    error = UserError(f"port {port} is taken; name another: petfaces tracking ui --port {port + 1}")
    if _listens(port):
        raise error
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    # MLflow's job runner, for LLM evaluations, would start seven more processes.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    # Not as arguments, which other users can read: a database URI contains its password.
    store = {"MLFLOW_BACKEND_STORE_URI": uri(), "MLFLOW_REGISTRY_STORE_URI": uri()}
    server = subprocess.Popen(command, env={**os.environ, **quiet, **store}, start_new_session=True)
    for signum in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too, if a shell started it in the background
        signal.signal(signum, lambda *_: sys.exit(0))
    try:
        while server.poll() is None and not _listens(port):
            time.sleep(0.2)
        if server.poll() is None:
            with reachable():
                _print(host)
            print("Ctrl-C stops it.", flush=True)
        server.wait()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    if server.returncode > 0:
        raise UserError("MLflow's UI did not start; its messages are above")


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
