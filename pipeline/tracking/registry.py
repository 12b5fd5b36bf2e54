"""The model registry: versions, the alias `champion`, and the looks at the test split."""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import seal
from pipeline.config import UserError
from pipeline.portable import SUMS
from pipeline.provenance import BESIDE, Provenance
from pipeline.tracking import notes
from pipeline.tracking.artifacts import WRAPPING, wrapping
from pipeline.tracking.folders import Trained, model_hash, read
from pipeline.tracking.runs import ensure
from pipeline.tracking.store import client, shown

PORTABLE = Path(__file__).parents[1] / "portable.py"  # the code that a registered model carries along
CHANGE = "change_"  # tags of a registered model: its champions, one after the other
WITHDRAWN = "withdrawn"  # tag of a version that a person took out of office
REQUIREMENTS = ("numpy", "pandas", "pillow", "onnxruntime")  # of portable.py, at the versions installed here


def _version(name: str, model: str):
    """The version with this hash, or None."""
    found = client().search_model_versions(f"name='{name}' and tags.model_sha256='{model}'", max_results=1)
    return found[0] if found else None


def ensure_version(folder: Path, evaluation: Path, portable: Path) -> str:
    """Makes the registry hold these weights, once, under the name of their data.

    Args:
        folder: train's.
        evaluation: evaluate's.
        portable: holds ``model.onnx`` and ``model.json``, sealed.

    Returns:
        The version's number.

    Raises:
        UserError: a file is missing, damaged or of an older form.
    """
    import mlflow

    trained = Trained.open(folder)
    seal.check(evaluation)
    seal.check(portable)
    name, model = trained.card["data"], model_hash(folder)
    found = _version(name, model)
    if found:
        return found.version
    run_id = ensure(folder, evaluation)
    if not client().search_registered_models(f"name='{name}'"):
        client().create_registered_model(
            name,
            description=f"Names the breed in a photo cropped to the head; trained on `{name}`. "
            "In: a column `image` of encoded pictures or uint8 arrays, height × width × 3. "
            "Out: five `labels`, best first, their `probabilities`, and whether it is `unsure`. "
            f"In use: the alias `champion` (`models:/{name}@champion`).",
        )
    run = client().get_run(run_id).info
    with mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name=trained.card["name"],
            loader_module="portable",
            code_paths=[str(PORTABLE)],
            data_path=str(portable),
            signature=signature(),
            pip_requirements=_requirements(),
        )
    # Registering is no part of the training: the run ends when it ended, even after a registering cut off.
    client().set_terminated(run_id, "FINISHED", run.end_time)
    lineage = trained.lineage
    tags = {
        "model": trained.card["name"],
        "model_sha256": model,
        "data": lineage["data"]["content"],
        "split": lineage["data"]["split"],
        **trained.provenance.tags(),
    }
    with tempfile.TemporaryDirectory() as place:
        whole = mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=place)
        tags[WRAPPING] = json.dumps(wrapping(Path(whole)))
    test = read(evaluation / "metrics.json", "test/top1")
    version = client().create_model_version(
        name,
        logged.model_uri,
        run_id=run_id,
        tags=tags,
        description=notes.version(trained, test, run.experiment_id, run_id),
        model_id=logged.model_id,
    )
    return version.version


def signature():
    """What goes into a registered model, and what comes out; by it MLflow decodes base64 of requests."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Schema

    return ModelSignature(
        Schema([ColSpec("binary", "image")]),
        Schema(
            [
                ColSpec(Array("string"), "labels"),
                ColSpec(Array("double"), "probabilities"),
                ColSpec("boolean", "unsure"),
            ]
        ),
    )


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in REQUIREMENTS]


def champion(name: str) -> tuple[str, str] | None:
    """Version number and model hash of the champion of a data set, or None."""
    import mlflow

    try:
        version = client().get_model_version_by_alias(name, "champion")
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return str(version.version), version.tags.get("model_sha256", "")


def download_version(name: str, number: str, target: Path) -> None:
    """Brings a version's files back as ``train/``, ``evaluation/`` and ``portable/`` in `target`.

    Raises:
        UserError: they are damaged.
    """
    import mlflow

    version = client().get_model_version(name, number)
    for part in ("train", "evaluation"):
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=part, dst_path=str(target))
    model = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{number}"))
    exported = list(model.rglob("model.onnx"))
    if len(exported) != 1:
        raise UserError(f"models:/{name}/{number} holds no exported model; register it again: dvc repro")
    shutil.copytree(exported[0].parent, target / "portable")
    for part in ("train", "evaluation", "portable"):
        _whole(target / part, f"models:/{name}/{number}, {part}")
    if any(file.path == BESIDE for file in client().list_artifacts(version.run_id)):
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=BESIDE, dst_path=str(target))
        Provenance.of(target / "train").keep(
            target / "train"
        )  # what register copies of it is known here, too


def _whole(folder: Path, name: str) -> None:
    """Checks what came from MLflow; what was registered before there were seals gets one as it came."""
    if not (folder / SUMS).is_file():
        seal.seal(folder)
    seal.check(folder, name)


def download_train(address: str, target: Path) -> Path:
    """Brings the train folder of a registered version into `target`.

    Args:
        address: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        target: a directory.

    Raises:
        UserError: the registry has no such version, or it is damaged.
    """
    return download_run(find_version(address), target)


@dataclass(frozen=True)
class Version:
    """A registered version, and what MLflow saw of its training.

    Attributes:
        device: what it was trained on; None where the run was written from files afterwards.
    """

    name: str
    number: str
    run_id: str
    device: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


def find_version(address: str) -> Version:
    """The version at an address: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        UserError: the registry has no such version.
    """
    import mlflow

    name, _, alias = address.removeprefix("models:/").partition("@")
    name, _, number = name.partition("/")
    try:
        if alias:
            version = client().get_model_version_by_alias(name, alias)
        else:
            version = client().get_model_version(name, number)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"the registry at {shown()} has no {address}; it has {_there(name)}") from error
    if not version.run_id:
        raise UserError(f"{address} was registered without a run, so nothing tells what it comes from")
    tags = client().get_run(version.run_id).data.tags
    return Version(version.name, str(version.version), version.run_id, tags.get("device"))


def _there(name: str) -> str:
    """What the registry has under a name, else which names."""
    versions = client().search_model_versions(f"name='{name}'") if "'" not in name else []
    if not versions:
        names = sorted(f"'{model.name}'" for model in client().search_registered_models())
        return f"the names {', '.join(names)}" if names else "no version of anything"
    numbers = sorted(int(version.version) for version in versions)
    aliases = client().get_registered_model(name).aliases
    told = [f"version {numbers[0]}" if len(numbers) == 1 else f"versions {numbers[0]} to {numbers[-1]}"]
    told += [f"@{alias} ({number})" for alias, number in sorted(aliases.items())]
    return f"{', '.join(told)} of {name}"


def find_model(model: str) -> str | None:
    """Address of a version with these weights and card, under whatever name; None where there is none."""
    found = client().search_model_versions(f"tags.model_sha256='{model}'", max_results=1)
    return f"models:/{found[0].name}/{found[0].version}" if found else None


def download_run(version: Version, target: Path) -> Path:
    """Brings the files of a version's run: ``train/``, ``provenance/``, ``params.yaml`` and ``dvc.lock``.

    Older runs have not all of them.

    Returns:
        The train folder.

    Raises:
        UserError: MLflow no longer has them.
    """
    import mlflow

    kept = {file.path for file in client().list_artifacts(version.run_id)}
    if "train" not in kept:
        raise UserError(
            f"MLflow at {shown()} has lost the files of {version} (run {version.run_id}), "
            "so nothing tells what it comes from; bring its artifacts back"
        )
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(kept & {"train", BESIDE, "params.yaml", "dvc.lock"}):
        mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path, dst_path=str(target))
    _whole(target / "train", str(version))
    return target / "train"


def promote(name: str, number: str, reason: str, by_person: bool = False) -> None:
    """Makes a version the champion; when, why and instead of whom stands in the model's history.

    Args:
        name: of the data set.
        number: of the version.
        reason: in words.
        by_person: whether a person decided, and not the gate, which then will not bring the former one back.

    Raises:
        UserError: there is no such version, or it is champion already.
    """
    version = find_version(f"models:/{name}/{number}").number
    former = champion(name)
    if former and former[0] == version:
        raise UserError(f"version {version} is champion of {name} already")
    client().set_model_version_tag(name, version, "promoted", reason[:500])
    if by_person and former:
        client().set_model_version_tag(name, former[0], WITHDRAWN, reason[:500])
    _set(name, version, former, reason)


def withdraw(name: str, reason: str) -> tuple[str, str]:
    """Gives the alias back to the champion before this one; the gate will not promote this one again.

    Returns:
        The numbers of the version that goes and of the one that is in office again.

    Raises:
        UserError: there is no champion, or none before it.
    """
    present = champion(name)
    if not present:
        raise UserError(f"'{name}' has no champion in the registry at {shown()}; it has {_there(name)}")
    reigns: list[str] = []  # as they follow each other; who comes back ends all reigns after the own
    for change in history(name):
        if change.version in reigns:
            del reigns[reigns.index(change.version) :]
        reigns.append(change.version)
    if reigns and reigns[-1] == present[0]:
        reigns.pop()
    if not reigns:
        raise UserError(f"version {present[0]} of {name} is the first champion: there is none to go back to")
    promote(name, reigns[-1], reason, by_person=True)
    return present[0], reigns[-1]


def withdrawn(name: str, number: str) -> str | None:
    """Why a person took a version out of office, or None."""
    return client().get_model_version(name, number).tags.get(WITHDRAWN)


@dataclass(frozen=True)
class Change:
    """The alias `champion` went from one version to another.

    Attributes:
        when: UTC, to the second.
        version: in office from then on.
        former: the number before, or None.
        why: in words.
    """

    when: str
    version: str
    former: str | None
    why: str


def history(name: str) -> list[Change]:
    """Changes of the champion, oldest first; what was set by hand on MLflow's page is not among them."""
    tags = client().get_registered_model(name).tags
    return [Change(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(CHANGE)]


def _set(name: str, number: str, former: tuple[str, str] | None, reason: str) -> None:
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    change = Change(when, number, former[0] if former else None, reason[:500])
    place = f"{CHANGE}{len(history(name)):06}"
    # Said before it is done: cut off in between, the history tells one change too many, never one too few.
    client().set_registered_model_tag(name, place, json.dumps(asdict(change), ensure_ascii=False))
    client().delete_model_version_tag(name, number, WITHDRAWN)
    client().set_registered_model_alias(name, "champion", number)


def versions(name: str) -> list[dict]:
    """The versions of a data set, oldest first, for people.

    Returns:
        Of each `version`, `model`, `test/top1` (None where it is not known), `champion` (bool), `withdrawn`
        and `commit`.

    Raises:
        UserError: the registry has no such name.
    """
    found = client().search_model_versions(f"name='{name}'") if "'" not in name else []
    if not found:
        raise UserError(f"the registry at {shown()} has no '{name}'; it has {_there(name)}")
    present = champion(name)
    rows = []
    for each in sorted(found, key=lambda version: int(version.version)):
        judged = client().get_run(each.run_id).data.metrics if each.run_id else {}
        rows.append(
            {
                "version": str(each.version),
                "model": each.tags.get("model", ""),
                "test/top1": judged.get("test/top1"),
                "champion": bool(present and present[0] == str(each.version)),
                "withdrawn": each.tags.get(WITHDRAWN),
                "commit": each.tags.get("commit", ""),
            }
        )
    return rows


def promoted_because(name: str, number: str) -> str:
    """Why a version became champion; a person may have set the alias by hand."""
    return client().get_model_version(name, number).tags.get("promoted", "set by hand")


def count_look(name: str, number: str, champion_model: str, outcome: str) -> None:
    """Notes on the challenger that it was tested against a champion; the same pair again is the same look."""
    client().set_model_version_tag(name, number, f"tested_against_{champion_model[:12]}", outcome[:500])


def looks(name: str, split: str) -> int:
    """How many paired tests were made on a test split."""
    versions = client().search_model_versions(f"name='{name}' and tags.split='{split}'", max_results=10_000)
    return sum(tag.startswith("tested_against_") for version in versions for tag in version.tags)
