"""The champion is changed by one command, each change keeps when and why, and the gate respects it."""

import json
import os
import re

import pytest
from conftest import petfaces

from pipeline import tracking
from pipeline.common.errors import UserError
from pipeline.maintenance import champion
from pipeline.tracking import champion_files, store


@pytest.fixture(scope="module")
def second(repro, run):
    """The number of a version that is not champion."""
    listed = run("python", "-m", "pipeline", "registry", "list").stdout
    (line,) = [
        line for line in listed.splitlines() if re.search(r"│ +\d+ │", line) and "champion" not in line
    ]
    return re.search(r"│ +(\d+) │", line)[1]


def test_versions_are_listed_with_their_champion(repro, run):
    listed = run("python", "-m", "pipeline", "registry", "list").stdout
    assert listed.count("champion ") >= 1
    assert re.search(r"Z  version \d became champion: the first champion", listed)
    assert listed.count("%") == 2


def test_a_version_is_promoted_and_taken_back_with_reasons(run, house, second):
    first = "2" if second == "1" else "1"
    decision = house / "runs/sample/register/decision.json"
    kept = house / "runs/sample/register/champion/train/model.json"
    before = kept.read_bytes()
    done = run("python", "-m", "pipeline", "registry", "promote", second, "--why", "smaller")
    assert done.returncode == 0, done.stdout
    assert f"version {second} is champion of sample" in done.stdout
    assert kept.read_bytes() != before  # the files follow
    assert json.loads(decision.read_text())["champion"]["reason"] == "smaller"
    done = run("python", "-m", "pipeline", "registry", "rollback", "--why", "worse on kittens")
    assert done.returncode == 0, done.stdout
    assert f"version {first} is champion of sample again, instead of {second}" in done.stdout
    assert kept.read_bytes() == before
    listed = run("python", "-m", "pipeline", "registry", "list").stdout
    assert f"version {second} became champion instead of version {first}: smaller" in listed
    assert f"version {first} became champion instead of version {second}: worse on kittens" in listed
    assert "taken back: worse on kittens" in listed
    done = run("python", "-m", "pipeline", "registry", "rollback", "--why", "once more")
    assert done.returncode == 1 and "is the first champion: there is none to return to" in done.stdout
    done = run("python", "-m", "pipeline", "registry", "promote", first, "--why", "again")
    assert done.returncode == 1 and f"version {first} is champion of sample already" in done.stdout


def test_each_rollback_goes_one_further_back(repro, monkeypatch):
    """Of champions 1, 2, 3: from 3 to 2, from 2 to 1, and no further."""
    from pipeline.tracking import promotion

    told, present = [], ["3"]
    changes = [
        promotion.Change("", "1", None, ""),
        promotion.Change("", "2", "1", ""),
        promotion.Change("", "3", "2", ""),
    ]
    monkeypatch.setattr(promotion, "champion", lambda name: (present[0], ""))
    monkeypatch.setattr(promotion, "history", lambda name: changes)

    def promote(name, number, reason, by_person, instead_of):
        assert instead_of == present[0]
        changes.append(promotion.Change("", number, present[0], reason))
        told.append(number)
        present[0] = number

    monkeypatch.setattr(promotion, "promote", promote)
    assert [promotion.withdraw("sample", "x") for _ in range(2)] == [("3", "2"), ("2", "1")]
    with pytest.raises(UserError, match="version 1 of sample is the first champion"):
        promotion.withdraw("sample", "x")


def test_an_alias_set_on_the_page_is_told_and_dvc_sees_that_the_files_do_not_follow(
    repro, run, house, second, monkeypatch
):
    client, folder = store.client(), house / "champions"
    number, _ = tracking.champion("sample")
    kept = {file: file.read_bytes() for file in folder.iterdir()}
    assert champion_files.difference("sample") is None
    client.set_registered_model_alias("sample", "champion", second)
    try:
        told = champion_files.difference("sample")
        assert told.startswith(f"version {second} is champion of sample, but runs/sample/register/champion/")
        assert told.endswith("dvc repro")
        noted = (folder / "sample.json").read_bytes()
        assert champion_files.difference("sample") == told
        assert (folder / "sample.json").read_bytes() == noted  # what DVC hashes is settled
        status = run("dvc", "status", "register").stdout
        assert re.search(r"register:\n\s+changed deps:\n\s+modified: +champions", status)
    finally:
        client.set_registered_model_alias("sample", "champion", number)
        for file in set(folder.iterdir()) - kept.keys():
            file.unlink()
        for file, data in kept.items():
            file.write_bytes(data)


def test_files_wait_for_the_dvc_that_is_running(house, monkeypatch, capsys):
    locks = house / ".dvc/tmp/rwlock"
    holder = {"pid": 4711, "cmd": "dvc repro"}
    before = locks.read_bytes() if locks.exists() else None
    locks.parent.mkdir(exist_ok=True)
    locks.write_text(json.dumps({"write": {"x": holder}, "read": {"y": [holder], "z": []}}))
    asked, alive = [], iter([True, True, False])
    monkeypatch.setattr(champion, "POLL", 0)
    monkeypatch.setattr(champion, "_alive", lambda pid: asked.append(pid) or next(alive))
    try:
        champion._wait_for_other_dvc()
        monkeypatch.setattr(champion, "_alive", lambda pid: True)
        monkeypatch.setattr(champion, "PATIENCE", -1)
        with pytest.raises(UserError, match=r"another dvc does not end \(process 4711\); afterwards"):
            champion._wait_for_other_dvc()
        for text in ("", "{", "[]", '{"write": {"x": 1}, "read": {}}'):
            locks.write_text(text)
            assert champion._listed() == set()
    finally:
        locks.write_bytes(before) if before is not None else locks.unlink()
    assert asked == [4711] * 3
    assert capsys.readouterr().err.count("waiting for the dvc that is running") == 1


def test_what_dvc_says_of_a_lock_is_known(tmp_path):
    from dvc import lock, rwlock

    assert champion.LOCKED[1] in lock.FAILED_TO_LOCK_MESSAGE
    held = {"write": {str(tmp_path): {"pid": os.getpid(), "cmd": "dvc repro"}}}
    with pytest.raises(lock.LockError, match=champion.LOCKED[0]):
        mine = {"pid": os.getpid(), "cmd": "dvc repro register"}
        rwlock._check_blockers(str(tmp_path), held, mine, mode="write", waiters=[str(tmp_path)])


def test_a_dvc_that_is_locked_out_is_tried_again_and_another_failure_is_told(repro, monkeypatch):
    answers = [None, None, 0, 1]
    monkeypatch.setattr(champion, "POLL", 0)
    monkeypatch.setattr(champion, "_dvc", lambda command: answers.pop(0))
    with pytest.raises(UserError, match="the files do not follow: dvc repro report failed"):
        champion._refresh("sample")
    assert answers == []


def test_ctrl_c_while_it_waits_says_how_the_files_follow(repro, monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(champion, "_refresh", interrupted)
    monkeypatch.setattr(tracking, "promote", lambda *_, **__: None)
    monkeypatch.setattr(champion_files, "record", lambda *_: None)
    with pytest.raises(SystemExit, match="130"):
        petfaces("registry", "promote", "1", "--why", "x")
    assert "afterwards the files follow with: dvc repro" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["promote", "99", "--why", "x"], "has no models:/sample/99; it has versions 1 to 2"),
        (["--data", "nothing", "list"], "has no 'nothing'; it has the names "),
        (["promote", "9" * 30, "--why", "x"], "is no version"),
        (["--data", "", "list"], "--data: '' is not a valid name"),
        (["--data", "nothing", "rollback", "--why", "x"], "'nothing' has no champion"),
        (["promote", "1"], "Missing option '--why'"),
    ],
)
def test_what_can_not_be_is_told_in_one_line(repro, run, arguments, told):
    done = run("python", "-m", "pipeline", "registry", *arguments)
    assert done.returncode in (1, 2)
    assert told in done.stdout and "Traceback" not in done.stdout
