"""MLflow's page: the links that open it where people look, and the server behind them."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress

from pipeline import tasks
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.tracking.descriptions import ENTRANCE
from pipeline.tracking.naming import GROUPS
from pipeline.tracking.store import client, reachable, shown, uri

# A saved view of the runs table, as the page's own "Views" menu keeps it: an experiment's tag. It carries
# what a link can't: columns, their order and widths. Whoever changes it there keeps the change.
VIEW = "comparison"
# In order, with widths in pixels: the figures between them fit beside the assistant's panel on a laptop.
FIRST = {"attributes.`Run Name`": 330, "runDateAndNestInfo": 130}  # the latter is Created
LAST = {"duration": 90, "attributes.`Models`": 130, "attributes.`Dataset`": 260}
DIFFERING, NEWEST = 5, 200  # parameters shown, and runs among which they are looked for
CHART = {
    "deleted": False,
    "isGenerated": False,
    "lineSmoothness": 0,
    "range": {},
    "runsCountToCompare": 10,
    "scaleType": "linear",
    "selectedXAxisMetricKey": "",
    "useGlobalLineSmoothing": True,
    "useGlobalXaxisKey": True,
    "xAxisKey": "step",
    "xAxisScaleType": "linear",
    "yAxisExpressions": [],
    "yAxisKey": "metric",
}
SECTION = {"deleted": False, "display": True, "isGenerated": False, "isReordered": False}
STATE = {
    "searchFilter": "",
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "isAccordionReordered": True,  # or the page's own sections, sorted by name, come before ours
}


def differing(runs: list[dict[str, str]]) -> list[str]:
    """Which parameters tell the most about how runs differ, the names of whole files of ``conf/`` first.

    What differs between models alone follows from the model: another parameter counts where it has several
    values among the runs of one model. Runs of earlier versions lack some.

    Args:
        runs: parameters of each.
    """
    kinds: dict[str, list[dict[str, str]]] = {}
    for params in runs:
        kinds.setdefault(params.get("model.name", ""), []).append(params)
    spread = {}
    for key in dict.fromkeys(key for params in runs for key in params):
        among = [runs] if key in GROUPS else kinds.values()
        spread[key] = max(len({params[key] for params in some if key in params}) for some in among)
    varied = [key for key, values in spread.items() if values > 1 and key not in ("data.name", "model.name")]
    # A group's name says more than the values in its file; a model's name does not tell its other values.
    said = tuple(f"{group}." for group in GROUPS if group in varied and group != "model")
    varied = [key for key in varied if not key.startswith(said)]
    order = {key: place for place, key in enumerate((*GROUPS, "seed"))}
    varied.sort(key=lambda key: (order.get(key, len(order)), -spread[key], key))
    return varied[:DIFFERING]


def _state(experiment) -> dict:
    """The view of an experiment's runs, with the parameters that differ beside the figures."""
    query = "attributes.status != 'FAILED'"
    runs = client().search_runs([experiment.experiment_id], query, max_results=NEWEST)
    # A sweep's parent has none.
    keys = differing([run.data.params for run in runs if run.data.params])
    named = (run.data.tags["task"] for run in runs if "task" in run.data.tags)
    task = tasks.of_tag(next(named, None))
    kept = [f"best/{task.monitor}", *(f"test/{figure.key}" for figure in task.ranked[:2])]
    # The parameters stand behind the figures, which a laptop's window shows beside the name.
    columns = FIRST | {f"metrics.`{key}`": 110 - 20 * key.startswith("test") for key in kept}
    columns |= {f"params.`{key}`": 110 for key in keys} | LAST
    charts = {  # section: kind, metrics; by itself the page begins with a bar for every single figure
        "the kept weights": ("BAR", kept),
        "curves": ("LINE", (task.monitor, "val/loss", "train/loss")),
    }
    return STATE | {
        "selectedColumns": [name for name in columns if "." in name],
        "columnOrder": list(columns),
        "columnWidths": columns,
        "compareRunSections": [{"uuid": name, "name": name, **SECTION} for name in charts],
        "compareRunCharts": [
            {
                "uuid": key,
                "metricKey": key,
                "displayName": key,
                "type": kind,
                "metricSectionId": name,
                **CHART,
            }
            for name, (kind, shown) in charts.items()
            for key in shown
        ],
    }


def _view(experiment) -> str:
    """Makes sure that an experiment has the saved view; what a link says to open it."""
    key, state = f"mlflow.sharedViewState.{VIEW}", json.dumps(_state(experiment))
    kept = {}
    with suppress(ValueError, TypeError, RecursionError):  # anybody may write tags
        kept = dict(json.loads(experiment.tags.get(key, "{}")))
    untouched = kept.get("createdAt") == kept.get("updatedAt")
    if untouched and kept.get("state") != state:
        now = int(time.time() * 1000)
        envelope = {"name": VIEW, "createdAt": now, "updatedAt": now, "state": state}
        client().set_experiment_tag(experiment.experiment_id, key, json.dumps(envelope))
    return f"viewStateShareKey={VIEW}"


def links(host: str) -> list[tuple[str, str]]:
    """What can be looked at, and where: each data set's runs and versions."""
    found = []
    models = {model.name for model in client().search_registered_models()}
    for experiment in client().search_experiments():
        name, page = experiment.name, f"{host}/#/experiments/{experiment.experiment_id}/runs?{ENTRANCE}"
        if name == "Default":  # MLflow's own; nothing here writes into it
            continue
        view = f"{page}&{_view(experiment)}"
        found += [(f"{name}: runs", view), (f"{name}: charts", f"{view}&compareRunsMode=CHART")]
        if name in models:
            found.append((f"{name}: versions", f"{host}/#/models/{name}?{ENTRANCE}"))
    return found


def _print(host: str) -> None:
    table = links(host)
    width = max((len(what) for what, _ in table), default=0)
    for what, where in table:
        print(text.printable(f"{what:<{width}}  {where}"), flush=True)
    if not table:
        print(f"{host}  (no runs yet: dvc repro)", flush=True)


def ui(port: int = 5000) -> None:
    """Serves MLflow's page on this machine until Ctrl-C, which ends its helpers too.

    Raises:
        UserError: the page does not start.
    """
    import signal

    if uri().startswith("http"):
        _print(shown().rstrip("/"))
        return
    client()
    host = f"http://127.0.0.1:{port}"
    taken = UserError(f"port {port} is taken; name another: petfaces tracking ui --port {port + 1}")
    if _listens(port):
        raise taken
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    # Its job runner, for evaluations by language models, would start seven processes more.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    # Not as arguments, which everybody on this machine may read: a database's address holds its password.
    store = {"MLFLOW_BACKEND_STORE_URI": uri(), "MLFLOW_REGISTRY_STORE_URI": uri()}
    server = subprocess.Popen(command, env={**os.environ, **quiet, **store}, start_new_session=True)
    for ending in (signal.SIGINT, signal.SIGTERM):  # also where a shell has started it in the background
        signal.signal(ending, lambda *_: sys.exit(0))
    try:
        while server.poll() is None and not _listens(port):
            time.sleep(0.2)
        if server.poll() is None:
            with reachable():
                _print(host)
            print("Ctrl-C ends it.", flush=True)
        server.wait()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    if server.returncode > 0:
        raise UserError("MLflow's page did not start; what it says stands above")


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0
