"""The alias `champion`: who has it, since when and why, and the looks at the test split behind it."""

import json
import re
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline import tasks
from pipeline.common.errors import UserError
from pipeline.tracking.locks import creating
from pipeline.tracking.registry import find_version, run_of, what_is_there
from pipeline.tracking.store import client, shown

# Tags of a registered model: its champions, one after the other, by nanoseconds and a random word.
KEY = re.compile(r"change_(\d{1,20})(?:_\w+)?")
WITHDRAWN = "withdrawn"  # tag of a version that a person took out of office
ANY = "any"
AHEAD = 366 * 86_400 * 10**9  # nanoseconds that the clock of another machine may be ahead


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


class ChampionChangedError(UserError):
    """Somebody else changed the champion at the same moment."""


def promote(
    name: str, number: str, reason: str, by_person: bool = False, instead_of: str | None = ANY
) -> None:
    """Makes a version the champion; when, why and instead of whom stands in the model's history.

    Args:
        name: of the data set.
        number: of the version.
        reason: in words.
        by_person: whether a person decided, and not the gate, which then will not bring the former one back.
        instead_of: number of the champion that the decision was about, or None where there was none.

    Raises:
        ChampionChangedError: there is another champion than the decision was about.
        UserError: there is no such version, or it is champion already.
    """
    with creating():
        version = find_version(f"models:/{name}/{number}").number
        former = champion(name)
        present = former[0] if former else None
        if instead_of not in (ANY, present):
            raise ChampionChangedError(f"version {present or 'none'} became champion of {name} meanwhile")
        if present == version:
            raise UserError(f"version {version} is champion of {name} already")
        client().set_model_version_tag(name, version, "promoted", reason[:500])
        if by_person and present:
            client().set_model_version_tag(name, present, WITHDRAWN, reason[:500])
        _set(name, version, present, reason)


def withdraw(name: str, reason: str) -> tuple[str, str]:
    """Gives the alias back to the champion before this one; the gate will not promote this one again.

    Returns:
        The numbers of the version that goes and of the one that is in office again.

    Raises:
        UserError: there is no champion, or none before it.
    """
    with creating():
        return _withdraw(name, reason)


def _withdraw(name: str, reason: str) -> tuple[str, str]:
    present = champion(name)
    if not present:
        raise UserError(
            f"'{name}' has no champion in the registry at {shown()}; it has {what_is_there(name)}"
        )
    there = {str(version.version) for version in client().search_model_versions(f"name='{name}'")}
    reigns: list[str] = []  # as they follow each other; who comes back ends all reigns after the own
    for change in history(name):
        if change.version not in there:
            continue  # somebody deleted it
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
    return list(changes(name).values())


def changes(name: str) -> dict[str, Change]:
    """The changes by their tags' keys, oldest first; what is no change is passed over.

    The first form of a key counted from 0: such a change comes before one whose key is a time.
    """
    tags, found = client().get_registered_model(name).tags, {}
    for key in sorted(filter(KEY.fullmatch, tags), key=lambda key: (int(KEY.fullmatch(key)[1]), key)):
        # Anybody may write tags. A key far ahead of all clocks would leave none for the next change.
        if int(KEY.fullmatch(key)[1]) > time.time_ns() + AHEAD:
            continue
        with suppress(ValueError, TypeError, RecursionError):
            change = Change(**json.loads(tags[key]))
            if all(isinstance(value, str) for value in (change.when, change.version, change.why)) and (
                change.former is None or isinstance(change.former, str)
            ):
                found[key] = change
    return found


def _set(name: str, number: str, former: str | None, reason: str) -> None:
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    change = Change(when, number, former, reason[:500])
    # Of the changes in one second the later one has the greater key, also where another machine's clock is
    # ahead; two machines at the same moment write two keys.
    last = max((int(KEY.fullmatch(key)[1]) for key in changes(name)), default=0)
    place = f"change_{max(time.time_ns(), last + 1):020}_{uuid.uuid4().hex[:8]}"
    # Said before it is done: cut off in between, the history tells one change too many, never one too few.
    client().set_registered_model_tag(name, place, json.dumps(asdict(change), ensure_ascii=False))
    client().delete_model_version_tag(name, number, WITHDRAWN)
    _point(name, number)
    # On a server another machine may promote at the same moment: the alias is what the history says last.
    latest = list(changes(name).items())[-1]
    if latest[0] != place:
        _point(name, latest[1].version)
        raise ChampionChangedError(
            f"version {number} was champion of {name} for a moment: at the same time version "
            f"{latest[1].version} was promoted ({latest[1].why})"
        )


def _point(name: str, number: str) -> None:
    """Sets the alias; where another machine sets it at the same moment, once more."""
    import mlflow

    with suppress(mlflow.exceptions.MlflowException):
        client().set_registered_model_alias(name, "champion", number)
        return
    client().set_registered_model_alias(name, "champion", number)


def versions(name: str) -> list[dict]:
    """The versions of a data set, oldest first, for people.

    Returns:
        Of each `version`, `model`, `test` (what it reached there, in words; empty where that is not known),
        `champion` (bool), `withdrawn` and `commit`.

    Raises:
        UserError: the registry has no such name.
    """
    found = client().search_model_versions(f"name='{name}'") if "'" not in name else []
    if not found:
        raise UserError(f"the registry at {shown()} has no '{name}'; it has {what_is_there(name)}")
    present = champion(name)
    rows = []
    for each in sorted(found, key=lambda version: int(version.version)):
        run = run_of(each)
        task = tasks.of_tag(run.data.tags.get("task")) if run else None
        rows.append(
            {
                "version": str(each.version),
                "model": each.tags.get("model", ""),
                "test": task.describe(run.data.metrics, "test", 1) if task else "",
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
