"""The model registry: creates, finds and downloads versions."""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.artifacts import seal
from pipeline.artifacts.model_folder import ModelFolder
from pipeline.artifacts.provenance import ARTIFACT_DIR, Provenance
from pipeline.artifacts.untrusted import json_object
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable import SUMS, ModelCard
from pipeline.tracking import artifact_locations, descriptions
from pipeline.tracking.artifacts import LOADER_HASHES, loader_hashes
from pipeline.tracking.locks import creation_lock, write_lock
from pipeline.tracking.runs import ensure
from pipeline.tracking.store import client, display_uri, or_none, versions_of

PORTABLE = Path(__file__).parents[1] / "portable"  # the loader code of a registered model
REQUIREMENTS = ("numpy", "pandas", "pillow", "onnxruntime")  # of `portable`, pinned to the installed versions


def _first_version(name: str, model: str):
    """The first version with this model hash, or None."""
    found = client().search_model_versions(f"name='{name}' and tags.model_sha256='{model}'")
    return min(found, key=lambda version: int(version.version), default=None)


def ensure_version(folder: Path, evaluation: Path, portable: Path) -> str:
    """Registers these weights, once, under the name of their data set.

    Args:
        folder: the train folder.
        evaluation: the evaluation folder.
        portable: sealed folder with ``model.onnx`` and ``model.json``.

    Returns:
        The version's number.

    Raises:
        UserError: a file is missing, damaged or in an older format.
    """
    trained = ModelFolder.open(folder)
    seal.check(evaluation)
    seal.check(portable)
    name, model = trained.card.data, trained.sha256
    with write_lock():
        if found := _first_version(name, model):
            return str(found.version)
        version = _create_version(trained, evaluation, portable)
        # Our lock does not cover other machines: one may have registered the model first.
        first = _first_version(name, model)
        if first and first.version != version.version:
            client().delete_model_version(name, version.version)
            client().delete_logged_model(version.source.rpartition("/")[2])
            return str(first.version)
        return str(version.version)


def _create_version(trained: ModelFolder, evaluation: Path, portable: Path):
    import mlflow

    run_id = ensure(trained.train, evaluation)
    name = trained.card.data
    _create_model(trained)
    run = client().get_run(run_id).info
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name=trained.card.name,
            loader_module="portable",
            code_paths=[str(PORTABLE)],
            data_path=str(portable),
            signature=signature(trained.card),
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in REQUIREMENTS],
        )
    # Keeps the end time of training, also if an earlier registration failed.
    client().set_terminated(run_id, "FINISHED", run.end_time)
    lineage = trained.lineage
    tags = {
        "model": trained.card.name,
        "model_sha256": trained.sha256,
        "data": lineage["data"]["content"],
        "split": lineage["data"]["split"],
        **trained.provenance.tags(),
    }
    with tempfile.TemporaryDirectory() as folder:
        model_dir = mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=folder)
        tags[LOADER_HASHES] = json.dumps(loader_hashes(Path(model_dir)))
    test = json_object(evaluation / "metrics.json", trained.task.test_key)
    return client().create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        tags=tags,
        description=descriptions.version(trained, test, run.experiment_id, run_id),
        model_id=logged.model_id,
    )


def _create_model(trained: ModelFolder) -> None:
    import mlflow

    name = trained.card.data
    flag = "whether each is `present`" if trained.card.several else "whether it is `unsure`"
    with creation_lock():
        if client().search_registered_models(f"name='{name}'"):
            return
        try:
            client().create_registered_model(
                name,
                description=f"{trained.task.purpose} Trained on `{name}`. "
                "In: a column `image` of encoded pictures or uint8 arrays, height × width × 3. "
                f"Out: five `labels`, best first, their `probabilities`, and {flag}. "
                f"In use: the alias `champion` (`models:/{name}@champion`).",
            )
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine created it
                raise


def signature(card: ModelCard):
    """Input and output schema of a registered model; with it, MLflow decodes base64 in requests."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Schema

    return ModelSignature(
        Schema([ColSpec("binary", "image")]),
        Schema(
            [
                ColSpec(Array("string"), "labels"),
                ColSpec(Array("double"), "probabilities"),
                ColSpec(Array("boolean"), "present") if card.several else ColSpec("boolean", "unsure"),
            ]
        ),
    )


def download_version(name: str, number: str, target: Path) -> None:
    """Downloads a version's files to ``train/``, ``evaluation/`` and ``portable/`` in `target`.

    Raises:
        UserError: they are damaged.
    """
    import mlflow

    version = client().get_model_version(name, number)
    artifact_locations.check_version(version)
    for part in ("train", "evaluation"):
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=part, dst_path=str(target))
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{number}"))
    exported = list(model.rglob("model.onnx"))
    if len(exported) != 1:
        raise UserError(f"models:/{name}/{number} has no exported model; register it again: dvc repro")
    shutil.copytree(exported[0].parent, target / "portable")
    for part in ("train", "evaluation", "portable"):
        _check_or_seal(target / part, f"models:/{name}/{number}, {part}")
    if any(file.path == ARTIFACT_DIR for file in client().list_artifacts(version.run_id)):
        mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path=ARTIFACT_DIR, dst_path=str(target)
        )
        # Saved here for the copies that `register` makes; the record of a local training takes precedence.
        Provenance.of(target / "train").save(target / "train", replace=False)


def _check_or_seal(folder: Path, name: str) -> None:
    """Checks a downloaded folder; one that was registered before seals existed is sealed as it is."""
    if not (folder / SUMS).is_file():
        seal.seal(folder)
    seal.check(folder, name)


def download_train(address: str, target: Path) -> Path:
    """Downloads the train folder of a registered version to `target`.

    Args:
        address: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        target: a directory.

    Raises:
        UserError: the registry has no such version, or it is damaged.
    """
    return download_run(find_version(address), target)


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        name: the data set.
        number: of the version.
        run_id: the training run.
        device: training device; None if the run was written from files afterwards.
    """

    name: str
    number: str
    run_id: str
    device: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


def find_version(address: str) -> Version:
    """The version at ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        UserError: the address is malformed, the registry has no such version, or it has no run.
    """
    name, _, alias = address.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    # MLflow's SQL store fails on larger numbers, and every store on a name that is not valid UTF-8.
    if not (alias or re.fullmatch("[0-9]{1,18}", number)) or text.printable(address) != address:
        raise UserError(
            f"{text.shortened(address, 100)} is no version; write models:/NAME/NUMBER or models:/NAME@ALIAS"
        )
    get = client().get_model_version_by_alias if alias else client().get_model_version
    version = or_none(get, name, alias or number)
    if version is None:
        raise UserError(f"the registry at {display_uri()} has no {address}; it has {available(name)}")
    run = run_of(version)
    if run is None:
        raise UserError(f"{address} has no training run (any more), so its origin is unknown")
    return Version(version.name, str(version.version), version.run_id, run.data.tags.get("device"))


def run_of(version):
    """The run that a version was registered from; None if it has none or it was permanently deleted."""
    return or_none(client().get_run, version.run_id) if version.run_id else None


def available(name: str) -> str:
    """For messages: the versions under a name, or else the names in the registry."""
    versions = versions_of(name)
    if not versions:
        names = sorted(f"'{model.name}'" for model in client().search_registered_models())
        return f"the names {', '.join(names)}" if names else "no version of anything"
    first, last = versions[0].version, versions[-1].version
    aliases = client().get_registered_model(name).aliases
    parts = [f"version {first}" if first == last else f"versions {first} to {last}"]
    parts += [f"@{alias} ({number})" for alias, number in sorted(aliases.items())]
    return f"{', '.join(parts)} of {name}"


def find_model(model: str) -> str | None:
    """URI of a version with these weights and card, under any name; None if there is none."""
    found = client().search_model_versions(f"tags.model_sha256='{model}'", max_results=1)
    return f"models:/{found[0].name}/{found[0].version}" if found else None


def download_run(version: Version, target: Path) -> Path:
    """Downloads the files of a version's run: ``train/``, ``provenance/``, ``params.yaml`` and ``dvc.lock``.

    Older runs lack some of them.

    Returns:
        The train folder.

    Raises:
        UserError: MLflow no longer has them.
    """
    import mlflow

    artifact_locations.check(version.run_id)
    available = {file.path for file in client().list_artifacts(version.run_id)}
    if "train" not in available:
        raise UserError(
            f"MLflow at {display_uri()} no longer has the files of {version} (run {version.run_id}), so its "
            "origin is unknown; restore its artifacts"
        )
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(available & {"train", ARTIFACT_DIR, "params.yaml", "dvc.lock"}):
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path, dst_path=str(target))
    _check_or_seal(target / "train", str(version))
    return target / "train"
