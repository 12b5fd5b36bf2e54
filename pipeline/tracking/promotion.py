"""The alias `champion`: setting it, its history, and how often the test split was used to decide on it."""

import json
import re
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline import tasks
from pipeline.common.errors import UserError
from pipeline.tracking.locks import creation_lock
from pipeline.tracking.registry import available, find_version, run_of
from pipeline.tracking.store import client, display_uri, or_none, versions_of

# Tags of a registered model, one per champion change, keyed by nanoseconds and a random suffix.
CHANGE_TAG = re.compile(r"change_(\d{1,20})(?:_\w+)?")
WITHDRAWN = "withdrawn"  # tag of a champion that a user replaced; register won't promote it again
UNKNOWN = "unknown"  # which version was champion when the decision was made
MAX_CLOCK_SKEW = 366 * 86_400 * 10**9  # nanoseconds by which another machine's clock may be ahead


def champion(name: str) -> tuple[str, str] | None:
    """Version number and model hash of a data set's champion, or None."""
    version = or_none(client().get_model_version_by_alias, name, "champion")
    return (str(version.version), version.tags.get("model_sha256", "")) if version else None


class ChampionChangedError(UserError):
    """Another program changed the champion at the same time."""


def promote(
    name: str, number: str, reason: str, by_person: bool = False, instead_of: str | None = UNKNOWN
) -> None:
    """Makes a version the champion and records in its history when, why, and which version it replaces.

    Args:
        name: the data set.
        number: the version.
        reason: free text.
        by_person: whether a user decided; the stage `register` then won't promote the former champion again.
        instead_of: number of the champion when the decision was made, or None if there was none.

    Raises:
        ChampionChangedError: the champion has changed since the decision.
        UserError: there is no such version, or it is already champion.
    """
    with creation_lock():
        version = find_version(f"models:/{name}/{number}").number
        former = champion(name)
        current = former[0] if former else None
        if instead_of not in (UNKNOWN, current):
            raise ChampionChangedError(f"version {current or 'none'} became champion of {name} meanwhile")
        if current == version:
            raise UserError(f"version {version} is champion of {name} already")
        client().set_model_version_tag(name, version, "promoted", reason[:500])
        if by_person and current:
            client().set_model_version_tag(name, current, WITHDRAWN, reason[:500])
        _set(name, version, current, reason)


def withdraw(name: str, reason: str) -> tuple[str, str]:
    """Reinstates the previous champion; the stage `register` won't promote the withdrawn version again.

    Returns:
        The numbers of the withdrawn and the reinstated version.

    Raises:
        UserError: there is no champion, or no previous one.
    """
    with creation_lock():
        current = champion(name)
        if not current:
            raise UserError(
                f"'{name}' has no champion in the registry at {display_uri()}; it has {available(name)}"
            )
        existing = {str(version.version) for version in versions_of(name)}
        champions: list[str] = []  # a stack: going back to a version removes those after it
        for change in history(name):
            if change.version not in existing:
                continue  # deleted since
            if change.version in champions:
                del champions[champions.index(change.version) :]
            champions.append(change.version)
        if champions and champions[-1] == current[0]:
            champions.pop()
        if not champions:
            raise UserError(
                f"version {current[0]} of {name} is the first champion: there is none to return to"
            )
        promote(name, champions[-1], reason, by_person=True, instead_of=current[0])
        return current[0], champions[-1]


def withdrawn(name: str, number: str) -> str | None:
    """Why a user withdrew a version as champion, or None."""
    return client().get_model_version(name, number).tags.get(WITHDRAWN)


@dataclass(frozen=True)
class Change:
    """A move of the alias `champion` from one version to another.

    Attributes:
        when: UTC, to the second.
        version: number of the new champion.
        former: number of the previous one, or None.
        why: free text.
    """

    when: str
    version: str
    former: str | None
    why: str


def history(name: str) -> list[Change]:
    """Champion changes, oldest first, without those made by hand in MLflow's UI, which are not recorded."""
    return list(changes(name).values())


def changes(name: str) -> dict[str, Change]:
    """Champion changes by tag key, oldest first; invalid tags are skipped.

    Early keys are change_0, change_1 and so on, and sort before those that are timestamps.
    """
    tags, found = client().get_registered_model(name).tags, {}
    for key in sorted(filter(CHANGE_TAG.fullmatch, tags), key=lambda key: (_nanoseconds(key), key)):
        # Any client may write tags. A key far in the future would leave no greater one for the next change.
        if _nanoseconds(key) > time.time_ns() + MAX_CLOCK_SKEW:
            continue
        with suppress(ValueError, TypeError, RecursionError):
            change = Change(**json.loads(tags[key]))
            if all(isinstance(value, str) for value in (change.when, change.version, change.why)) and (
                change.former is None or isinstance(change.former, str)
            ):
                found[key] = change
    return found


def _nanoseconds(key: str) -> int:
    return int(CHANGE_TAG.fullmatch(key)[1])


def _set(name: str, number: str, former: str | None, reason: str) -> None:
    """Records the change and sets the alias.

    Raises:
        ChampionChangedError: another machine promoted a version at the same time.
    """
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    change = Change(when, number, former, reason[:500])
    # A later change gets a greater key, even within a second or if another machine's clock is ahead. The
    # suffix separates changes that two machines make at the same time.
    last = max(map(_nanoseconds, changes(name)), default=0)
    tag = f"change_{max(time.time_ns(), last + 1):020}_{uuid.uuid4().hex[:8]}"
    # Recorded first: an interruption may leave a surplus entry in the history, never a missing one.
    client().set_registered_model_tag(name, tag, json.dumps(asdict(change), ensure_ascii=False))
    client().delete_model_version_tag(name, number, WITHDRAWN)
    _set_alias(name, number)
    # On a server, another machine may promote at the same time: the last history entry wins.
    latest = list(changes(name).items())[-1]
    if latest[0] != tag:
        _set_alias(name, latest[1].version)
        raise ChampionChangedError(
            f"version {number} is not champion of {name}: at the same time another program promoted version "
            f"{latest[1].version} ({latest[1].why})"
        )


def _set_alias(name: str, number: str) -> None:
    """Sets the alias; retries once in case another machine sets it at the same time."""
    import mlflow

    with suppress(mlflow.exceptions.MlflowException):
        client().set_registered_model_alias(name, "champion", number)
        return
    client().set_registered_model_alias(name, "champion", number)


def versions(name: str) -> list[dict]:
    """The versions of a data set, oldest first, for display.

    Returns:
        For each: `version`, `model`, `test` (its test metrics as text; empty if unknown), `champion` (bool),
        `withdrawn` (the reason, or None) and `commit`.

    Raises:
        UserError: the registry has no such name.
    """
    existing = versions_of(name)
    if not existing:
        raise UserError(f"the registry at {display_uri()} has no '{name}'; it has {available(name)}")
    current = champion(name)
    rows = []
    for each in existing:
        run = run_of(each)
        task = tasks.of_tag(run.data.tags.get("task")) if run else None
        rows.append(
            {
                "version": str(each.version),
                "model": each.tags.get("model", ""),
                "test": task.describe(run.data.metrics, "test", 1) if task else "",
                "champion": bool(current and current[0] == str(each.version)),
                "withdrawn": each.tags.get(WITHDRAWN),
                "commit": each.tags.get("commit", ""),
            }
        )
    return rows


def promotion_reason(name: str, number: str) -> str:
    """Why a version became champion, or that the alias was set by hand."""
    return client().get_model_version(name, number).tags.get("promoted", "set by hand")


def tag_test_comparison(name: str, number: str, champion_model: str, outcome: str) -> None:
    """Tags the challenger as tested against a champion; repeating a pair counts once."""
    client().set_model_version_tag(name, number, f"tested_against_{champion_model[:12]}", outcome[:500])


def count_test_comparisons(name: str, split: str) -> int:
    """How many paired tests have used a test split."""
    versions = client().search_model_versions(f"name='{name}' and tags.split='{split}'", max_results=10_000)
    return sum(tag.startswith("tested_against_") for version in versions for tag in version.tags)
