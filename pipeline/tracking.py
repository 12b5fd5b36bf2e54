"""MLflow, the mirror of the files; the only module that imports mlflow.

What a stage needs it reads from files. A run or a version that MLflow lacks (another machine, a lost
database, an outage of the server) is written from the same files by `ensure` and `ensure_version`, once,
however often they are called::

    python -m pipeline.tracking sync    # brings back whatever MLflow lacks
    python -m pipeline.tracking ui      # the page, opened on its training side
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline import config
from pipeline.config import ROOT, UserError

# An unreachable server is told within seconds; the files wait for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

MODEL_FILES = ("model.json", "model.onnx")  # what a registered model consists of, beside portable.py
REQUIREMENTS = ("numpy", "pandas", "pillow", "onnxruntime")  # of portable.py, at the versions installed here


def uri() -> str:
    """The tracking server, or the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{config.main_checkout() / 'mlflow.db'}"


@cache
def _client():
    import logging
    import warnings

    import mlflow

    for name in ("mlflow.store.db.utils", "alembic"):  # a page of migrations at the first start
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow would like an example with each model; signature and description say what goes in.
    warnings.filterwarnings("ignore", message=".*input example was not provided.*")
    mlflow.set_tracking_uri(uri())
    return mlflow.MlflowClient()


def _experiment(name: str) -> str:
    """Id of the experiment of a data set, made where it is missing."""
    import mlflow

    found = _client().get_experiment_by_name(name)
    if found:
        return found.experiment_id
    artifacts = (config.main_checkout() / "mlartifacts").as_uri() if uri().startswith("sqlite") else None
    try:
        return _client().create_experiment(name, artifact_location=artifacts)
    except mlflow.exceptions.MlflowException:  # another process was quicker
        found = _client().get_experiment_by_name(name)
        if not found:
            raise
        return found.experiment_id


def _find(experiment: str, **tags: str):
    """The oldest run with these tags, or None."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs = _client().search_runs([experiment], query, max_results=1, order_by=["start_time ASC"])
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
            f"MLflow at {uri()} does not answer: {_line(error)}; nothing is lost, try again"
        ) from error


# ---------------------------------------------------------------- runs


class Run:
    """A run being written.

    Tracking never stops a training: the first failure is told, and `sync` makes up for it.
    """

    def __init__(self, run_id: str | None):
        self.run_id = run_id
        self.started = time.time()
        self.sent = 0

    def push(self, rows: list[dict]) -> None:
        """Sends the rows of the curves that have not been sent."""
        self._attempt(lambda: self._push(rows))

    def _push(self, rows: list[dict]) -> None:
        _log_curves(self.run_id, rows[self.sent :])
        self.sent = len(rows)

    def finish(self, folder: Path) -> None:
        """Ends the run with all that stands in train's folder."""
        self._attempt(lambda: _complete(self.run_id, folder, {"wall_seconds": time.time() - self.started}))

    def fail(self, reason: str) -> None:
        """Ends the run as failed."""
        self._attempt(lambda: self._fail(reason))

    def _fail(self, reason: str) -> None:
        _client().set_tag(self.run_id, "failed_by", reason[:500])
        _client().set_terminated(self.run_id, "FAILED")

    def _attempt(self, action) -> None:
        if self.run_id is None:
            return
        try:
            action()
        except Exception as error:
            _warn(error)
            self.run_id = None


def _line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _warn(error: Exception) -> None:
    print(
        f"warning: MLflow at {uri()} can't be written ({_line(error)}); "
        "the files are complete, send them later by: python -m pipeline.tracking sync",
        file=sys.stderr,
    )


def start(card: dict, settings: dict, lineage: dict, name: str, sweep: str | None = None) -> Run:
    """Starts the run of a training; settings as `ensure` finds them in ``config.yaml``."""
    import platform

    run = Run(None)
    try:
        run.run_id = _create(card, settings, lineage, name, sweep)
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
        _client().set_tag(run.run_id, "machine", machine)
        for file in ("params.yaml", "dvc.lock"):
            if (ROOT / file).is_file():
                _client().log_artifact(run.run_id, ROOT / file)
    except Exception as error:
        _warn(error)
        run.run_id = None
    return run


def device(run: Run, name: str) -> None:
    """Notes what the run was computed on."""
    run._attempt(lambda: _client().set_tag(run.run_id, "device", name))


def params(settings: dict) -> dict[str, str]:
    """A configuration as MLflow's parameters; the whole is an artifact, longer values MLflow would cut."""
    return {key: str(value) for key, value in config.flat(settings) if len(str(value)) <= 250}


def _create(card: dict, settings: dict, lineage: dict, name: str, sweep: str | None, **tags: str) -> str:
    """A new run with its parameters, its data and its tags."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    experiment = _experiment(card["data"])
    tags |= {
        "mlflow.runName": name,
        "model": card["name"],
        "seed": str(settings["seed"]),
        "commit": str(lineage["commit"]),
        "dirty": str(lineage["dirty"]).lower(),
        "mlflow.source.name": "pipeline.train",
        "mlflow.source.git.commit": str(lineage["commit"]),
    }
    if sweep:
        tags["mlflow.parentRunId"] = _parent(experiment, sweep)
    run_id = _client().create_run(experiment, tags=tags).info.run_id
    _client().log_batch(run_id, params=[Param(key, value) for key, value in params(settings).items()])
    data = lineage["data"]
    dataset = Dataset(
        name=data["name"],
        digest=data["content"][:32],
        source_type="local",
        source=json.dumps({"uri": f"data/{data['name']}/pack"}),
        profile=json.dumps({key: data[key] for key in ("pictures", "classes", "split")}),
    )
    _client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    return run_id


def _parent(experiment: str, sweep: str) -> str:
    """The run that a sweep's jobs are nested under; jobs may start together: one makes it, all find it."""
    from filelock import FileLock

    runs = config.main_checkout() / "runs"
    runs.mkdir(exist_ok=True)
    with FileLock(runs / ".sweep.lock"):
        found = _find(experiment, sweep=sweep)
        if found:
            return found.info.run_id
        run = _client().create_run(experiment, tags={"mlflow.runName": f"sweep {sweep}", "sweep": sweep})
        _client().set_terminated(run.info.run_id)
        return run.info.run_id


def _log_curves(run_id: str, rows: list[dict]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, int(row["step"]))
        for row in rows
        for key, value in row.items()
        if key != "step" and value is not None
    ]
    for first in range(0, len(metrics), 1000):  # MLflow's limit a batch
        _client().log_batch(run_id, metrics=metrics[first : first + 1000])


def read_curves(folder: Path) -> list[dict]:
    """Rows of ``curves.csv``; what a row does not have is None."""
    import csv

    with open(folder / "curves.csv", newline="") as file:
        return [
            {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def digest(folder: Path) -> str:
    """Hash of a folder's files by name and bytes."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _complete(run_id: str, folder: Path, extra: dict[str, float]) -> None:
    """Final figures and files; the tag `content` comes last, so that it means: all is there."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    final = json.loads((folder / "metrics.json").read_text()) | extra
    # Figures that also have a curve stand under best/, for the last step's need not be the best one's.
    curves = {key for row in read_curves(folder) for key in row}
    metrics = [
        Metric(f"best/{key}" if key in curves else key, float(value), now, 0) for key, value in final.items()
    ]
    _client().log_batch(run_id, metrics=metrics)
    _client().log_artifacts(run_id, folder, "train")
    _client().set_tag(run_id, "content", digest(folder))
    _client().set_terminated(run_id, "FINISHED")


def ensure(folder: Path, evaluation: Path | None = None) -> str:
    """Makes MLflow hold the run of a train folder, and its evaluation where there is one.

    Returns:
        The run's id.
    """
    import yaml

    card = json.loads((folder / "model.json").read_text())
    found = _find(_experiment(card["data"]), content=digest(folder))
    if found:
        run_id = found.info.run_id
    else:
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        lineage = json.loads((folder / "lineage.json").read_text())
        sweeps = ROOT / "runs/sweeps"
        sweep = folder.parent.name if folder.parent.parent == sweeps else None
        name = f"{card['name']} seed={settings['seed']}"
        run_id = _create(card, settings, lineage, name, sweep, restored="true")
        _log_curves(run_id, read_curves(folder))
        _complete(run_id, folder, {})
    if evaluation:
        _ensure_evaluation(run_id, evaluation)
    return run_id


def _ensure_evaluation(run_id: str, folder: Path) -> None:
    from mlflow.entities import Metric

    content = digest(folder)
    if _client().get_run(run_id).data.tags.get("evaluation") == content:
        return
    now = int(time.time() * 1000)
    figures = json.loads((folder / "metrics.json").read_text())
    metrics = [
        Metric(key, float(value), now, 0) for key, value in figures.items() if isinstance(value, int | float)
    ]
    _client().log_batch(run_id, metrics=metrics)
    _client().log_artifacts(run_id, folder, "evaluation")
    _client().set_tag(run_id, "evaluation", content)


def wall_seconds(folder: Path) -> float | None:
    """How long the training of this folder took, where MLflow saw it."""
    try:
        card = json.loads((folder / "model.json").read_text())
        run = _find(_experiment(card["data"]), content=digest(folder))
    except Exception as error:
        _warn(error)
        return None
    return run.data.metrics.get("wall_seconds") if run else None


# ---------------------------------------------------------------- sweeps


@contextmanager
def _asked() -> Iterator[None]:
    """Whatever goes wrong while MLflow is only asked is no more than an answer that is missing.

    Raises:
        UserError: says so in one line.
    """
    try:
        yield
    except Exception as error:
        raise UserError(f"MLflow at {uri()} does not answer ({_line(error)})") from error


def _experiments() -> list[str]:
    """Ids of all experiments; none, and no database made, where there is none yet."""
    if uri().startswith("sqlite:///") and not Path(uri().removeprefix("sqlite:///")).is_file():
        return []
    return [experiment.experiment_id for experiment in _client().search_experiments()]


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
            run = _client().get_run(word)
        except mlflow.exceptions.MlflowException:
            quoted = word.replace("'", "")
            found = _client().search_runs(places, f"attributes.run_name = '{quoted}'", max_results=1)
            if not found:
                return None
            run = found[0]
        parent = run.data.tags.get("mlflow.parentRunId")
        return (_client().get_run(parent) if parent else run).data.tags.get("sweep")


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
        for parent in _client().search_runs(places, f"tags.sweep = '{sweep}'"):
            query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
            runs += _client().search_runs(places, query, max_results=10_000, order_by=["start_time ASC"])
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


# ---------------------------------------------------------------- registry


def model_hash(folder: Path) -> str:
    """Of a train folder's weights and card (classes, sizing): what a registered version is known by."""
    whole = hashlib.sha256((folder / "weights.safetensors").read_bytes())
    whole.update((folder / "model.json").read_bytes())
    return whole.hexdigest()


def _version(name: str, model: str):
    """The version with this hash, or None."""
    found = _client().search_model_versions(f"name='{name}' and tags.model_sha256='{model}'", max_results=1)
    return found[0] if found else None


def ensure_version(folder: Path, evaluation: Path, portable: Path) -> str:
    """Makes the registry hold these weights, once, under the name of their data.

    Args:
        folder: train's.
        evaluation: evaluate's.
        portable: holds ``model.onnx`` and ``model.json``.

    Returns:
        The version's number.
    """
    import mlflow

    card = json.loads((folder / "model.json").read_text())
    name, model = card["data"], model_hash(folder)
    found = _version(name, model)
    if found:
        return found.version
    run_id = ensure(folder, evaluation)
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Schema

    if not _client().search_registered_models(f"name='{name}'"):
        _client().create_registered_model(
            name, description=f"Breeds of {name}: bytes or uint8 arrays in, five labels out."
        )
    signature = ModelSignature(
        Schema([ColSpec("binary", "image")]),
        Schema([ColSpec(Array("string"), "labels"), ColSpec(Array("double"), "probabilities")]),
    )
    before = _client().get_run(run_id).info
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="portable",
            code_paths=[str(Path(__file__).with_name("portable.py"))],
            data_path=str(portable),
            signature=signature,
            pip_requirements=_requirements(),
        )
    _client().set_terminated(run_id, before.status, before.end_time)  # registering is no part of the training
    figures = json.loads((evaluation / "metrics.json").read_text())
    validation = json.loads((folder / "metrics.json").read_text())
    lineage = json.loads((folder / "lineage.json").read_text())
    tags = {
        "model_sha256": model,
        "model": card["name"],
        "data": lineage["data"]["content"],
        "split": lineage["data"]["split"],
        "commit": str(lineage["commit"]),
        "dirty": str(lineage["dirty"]).lower(),
    }
    description = (
        f"{card['name']} on {name}: test top-1 {figures['test/top1']:.1%}, top-3 {figures['test/top3']:.1%}; "
        f"validation top-1 {validation['val/top1']:.1%}; commit {str(lineage['commit'])[:8]}"
        f"{' with uncommitted changes' if lineage['dirty'] else ''}."
    )
    if card["drawings"]:
        description += " Trained on drawings: it knows no photographs."
    version = _client().create_model_version(
        name, logged.model_uri, run_id=run_id, tags=tags, description=description, model_id=logged.model_id
    )
    return version.version


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in REQUIREMENTS]


def champion(name: str) -> tuple[str, str] | None:
    """Version number and model hash of the champion of a data set, or None."""
    import mlflow

    try:
        version = _client().get_model_version_by_alias(name, "champion")
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return version.version, version.tags.get("model_sha256", "")


def download_version(name: str, number: str, target: Path) -> None:
    """Brings a version's files back as ``train/``, ``evaluation/`` and ``portable/`` in `target`."""
    import mlflow

    version = _client().get_model_version(name, number)
    for part in ("train", "evaluation"):
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=part, dst_path=str(target))
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{number}"))
    (target / "portable").mkdir(parents=True)
    for file in MODEL_FILES:
        (source,) = model.rglob(file)
        (target / "portable" / file).write_bytes(source.read_bytes())


def promote(name: str, number: str, reason: str) -> None:
    """Makes a version the champion and notes why."""
    _client().set_model_version_tag(name, number, "promoted", reason[:500])
    _client().set_registered_model_alias(name, "champion", number)


def promoted_because(name: str, number: str) -> str:
    """Why a version became champion; a person may have set the alias by hand."""
    return _client().get_model_version(name, number).tags.get("promoted", "set by hand")


def count_look(name: str, number: str, champion_model: str, outcome: str) -> None:
    """Notes on the challenger that it was tested against a champion; the same pair again is the same look."""
    _client().set_model_version_tag(name, number, f"tested_against_{champion_model[:12]}", outcome[:500])


def looks(name: str, split: str) -> int:
    """How many paired tests were made on a test split."""
    versions = _client().search_model_versions(f"name='{name}' and tags.split='{split}'", max_results=10_000)
    return sum(tag.startswith("tested_against_") for version in versions for tag in version.tags)


# ---------------------------------------------------------------- programs


def sync() -> None:
    """Writes into MLflow whatever of the files under ``runs/`` it lacks; what is there stays as it is."""
    runs = versions = 0
    for folder in _trained(ROOT / "runs"):
        ensure(folder, _judged(folder))
        runs += 1
    for file in sorted((ROOT / "runs").glob("*/register/decision.json")):
        place, decision = file.parent, json.loads(file.read_text())
        name = place.parent.name
        for model, known in decision["candidates"].items():
            folder = place.parent / "train" / model
            # After a training that was not registered yet, the exported models are those of the former one.
            if (
                (folder / "model.json").is_file()
                and model_hash(folder) == known
                and (judged := _judged(folder))
            ):
                ensure_version(folder, judged, place / "candidates" / model)
                versions += 1
        kept = place / "champion"
        number = ensure_version(kept / "train", kept / "evaluation", kept / "portable")
        if champion(name) is None:
            promote(name, number, decision["champion"]["reason"])
    print(
        f"tracking: MLflow at {uri()} holds the {runs} runs and {versions} candidates that the files tell of"
    )


def _trained(runs: Path) -> list[Path]:
    """Finished train folders of DVC, sweeps and single runs; no champion's copy, nothing cut short."""
    folders = (path.parent for path in runs.rglob("lineage.json"))
    left_out = {"register", ".work"}
    return sorted(
        folder
        for folder in folders
        if not left_out & set(folder.relative_to(runs).parts) and folder.suffix != ".part"
    )


def _judged(folder: Path) -> Path | None:
    """The evaluation of a train folder, unless it is of a former model there."""
    evaluation = folder.parent.parent / "evaluate" / folder.name
    known = evaluation / "model.sha256"
    return evaluation if known.is_file() and known.read_text().strip() == model_hash(folder) else None


def experiment_link(name: str, host: str) -> str:
    """Address of the table of a data set's runs."""
    found = _client().get_experiment_by_name(name)
    if not found:
        return host
    return f"{host}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"


def ui(port: int = 5000) -> None:
    """Serves MLflow's page on this machine until Ctrl-C, which ends its helpers too."""
    import signal

    if uri().startswith("http"):
        for experiment in _client().search_experiments():
            print(f"{experiment.name}: {experiment_link(experiment.name, uri())}")
        return
    host = f"http://127.0.0.1:{port}"
    # A link for each data set that has runs; MLflow's own start page is its GenAI side.
    for experiment in _client().search_experiments():
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


def main(arguments: list[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m pipeline.tracking", description="MLflow, the mirror of the files."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="write into MLflow whatever it lacks of the files under runs/")
    page = commands.add_parser("ui", help="serve MLflow's page on this machine and print its links")
    page.add_argument("--port", type=int, default=5000)
    chosen = parser.parse_args(arguments)
    try:
        with reachable():
            sync() if chosen.command == "sync" else ui(chosen.port)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
