"""The champion is changed by one command, each change keeps when and why, and the gate respects it."""

import json
import re

import pytest

from pipeline.config import UserError


@pytest.fixture(scope="module")
def second(repro, run):
    """The number of a version that is not champion."""
    listed = run("python", "-m", "pipeline.registry", "list").stdout
    (line,) = [
        line for line in listed.splitlines() if re.search(r"│ +\d+ │", line) and "champion" not in line
    ]
    return re.search(r"│ +(\d+) │", line)[1]


def test_versions_are_listed_with_their_champion(repro, run):
    listed = run("python", "-m", "pipeline.registry", "list").stdout
    assert listed.count("champion ") >= 1
    assert re.search(r"Z  version \d became champion: the first champion", listed)
    assert listed.count("%") == 2


def test_a_version_is_promoted_and_taken_back_with_reasons(run, house, second):
    first = "2" if second == "1" else "1"
    decision = house / "runs/sample/register/decision.json"
    kept = house / "runs/sample/register/champion/train/model.json"
    before = kept.read_bytes()
    done = run("python", "-m", "pipeline.registry", "promote", second, "--why", "smaller")
    assert done.returncode == 0, done.stdout
    assert f"registry: version {second} is champion of sample" in done.stdout
    assert kept.read_bytes() != before  # the files follow
    assert json.loads(decision.read_text())["champion"]["reason"] == "smaller"
    done = run("python", "-m", "pipeline.registry", "rollback", "--why", "worse on kittens")
    assert done.returncode == 0, done.stdout
    assert f"version {first} is champion of sample again, instead of {second}" in done.stdout
    assert kept.read_bytes() == before
    listed = run("python", "-m", "pipeline.registry", "list").stdout
    assert f"version {second} became champion instead of version {first}: smaller" in listed
    assert f"version {first} became champion instead of version {second}: worse on kittens" in listed
    assert "taken back: worse on kittens" in listed
    done = run("python", "-m", "pipeline.registry", "rollback", "--why", "once more")
    assert done.returncode == 1 and "is the first champion: there is none to go back to" in done.stdout
    done = run("python", "-m", "pipeline.registry", "promote", first, "--why", "again")
    assert done.returncode == 1 and f"version {first} is champion of sample already" in done.stdout


def test_each_rollback_goes_one_further_back(repro, monkeypatch):
    """Of champions 1, 2, 3: from 3 to 2, from 2 to 1, and no further."""
    from pipeline.tracking import registry

    told, present = [], ["3"]
    changes = [
        registry.Change("", "1", None, ""),
        registry.Change("", "2", "1", ""),
        registry.Change("", "3", "2", ""),
    ]
    monkeypatch.setattr(registry, "champion", lambda name: (present[0], ""))
    monkeypatch.setattr(registry, "history", lambda name: changes)

    def promote(name, number, reason, by_person):
        changes.append(registry.Change("", number, present[0], reason))
        told.append(number)
        present[0] = number

    monkeypatch.setattr(registry, "promote", promote)
    assert [registry.withdraw("sample", "x") for _ in range(2)] == [("3", "2"), ("2", "1")]
    with pytest.raises(UserError, match="version 1 of sample is the first champion"):
        registry.withdraw("sample", "x")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["promote", "99", "--why", "x"], "has no models:/sample/99; it has versions 1 to 2"),
        (["--data", "nothing", "list"], "has no 'nothing'; it has the names 'sample'"),
        (["--data", "nothing", "rollback", "--why", "x"], "'nothing' has no champion"),
        (["promote", "1"], "the following arguments are required: --why"),
    ],
)
def test_what_can_not_be_is_told_in_one_line(repro, run, arguments, told):
    done = run("python", "-m", "pipeline.registry", *arguments)
    assert done.returncode in (1, 2)
    assert told in done.stdout and "Traceback" not in done.stdout
