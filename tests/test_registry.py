"""`registry promote` and `rollback` change the champion, its files and its history."""

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
    """Number of the version that is not champion."""
    output = run("python", "-m", "pipeline", "registry", "list").stdout
    (line,) = [
        line for line in output.splitlines() if re.search(r"│ +\d+ │", line) and "champion" not in line
    ]
    return re.search(r"│ +(\d+) │", line)[1]


def test_versions_are_listed_with_the_champion(repro, run):
    output = run("python", "-m", "pipeline", "registry", "list").stdout
    assert output.count("champion ") >= 1
    assert re.search(r"Z  version \d became champion: the first champion", output)
    assert output.count("%") == 2


def test_promotion_and_rollback_record_their_reasons(run, project, second):
    first = "2" if second == "1" else "1"
    decision = project / "runs/sample/register/decision.json"
    card = project / "runs/sample/register/champion/train/model.json"
    before = card.read_bytes()
    done = run("python", "-m", "pipeline", "registry", "promote", second, "--why", "smaller")
    assert done.returncode == 0, done.stdout
    assert f"version {second} is champion of sample" in done.stdout
    assert card.read_bytes() != before  # the champion's files are replaced too
    assert json.loads(decision.read_text())["champion"]["reason"] == "smaller"
    done = run("python", "-m", "pipeline", "registry", "rollback", "--why", "worse on kittens")
    assert done.returncode == 0, done.stdout
    assert f"version {first} is champion of sample again, instead of {second}" in done.stdout
    assert card.read_bytes() == before
    output = run("python", "-m", "pipeline", "registry", "list").stdout
    assert f"version {second} became champion instead of version {first}: smaller" in output
    assert f"version {first} became champion instead of version {second}: worse on kittens" in output
    assert "rolled back: worse on kittens" in output
    done = run("python", "-m", "pipeline", "registry", "rollback", "--why", "once more")
    assert done.returncode == 1 and "is the first champion: there is none to return to" in done.stdout
    done = run("python", "-m", "pipeline", "registry", "promote", first, "--why", "again")
    assert done.returncode == 1 and f"version {first} is champion of sample already" in done.stdout


def test_each_rollback_goes_one_champion_further_back(repro, monkeypatch):
    """Of champions 1, 2, 3: from 3 to 2, from 2 to 1, and no further."""
    from pipeline.tracking import promotion

    promoted, current = [], ["3"]
    changes = [
        promotion.Change("", "1", None, ""),
        promotion.Change("", "2", "1", ""),
        promotion.Change("", "3", "2", ""),
    ]
    monkeypatch.setattr(promotion, "champion", lambda name: (current[0], ""))
    monkeypatch.setattr(promotion, "history", lambda name: changes)

    def promote(name, number, reason, by_person, instead_of):
        assert instead_of == current[0]
        changes.append(promotion.Change("", number, current[0], reason))
        promoted.append(number)
        current[0] = number

    monkeypatch.setattr(promotion, "promote", promote)
    assert [promotion.withdraw("sample", "x") for _ in range(2)] == [("3", "2"), ("2", "1")]
    with pytest.raises(UserError, match="version 1 of sample is the first champion"):
        promotion.withdraw("sample", "x")
    assert promoted == ["2", "1"]


def test_an_alias_set_in_mlflows_page_makes_register_stale(repro, run, project, second, monkeypatch):
    client, folder = store.client(), project / "champions"
    number, _ = tracking.champion("sample")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert champion_files.difference("sample") is None
    client.set_registered_model_alias("sample", "champion", second)
    try:
        line = champion_files.difference("sample")
        assert line.startswith(f"version {second} is champion of sample, but runs/sample/register/champion/")
        assert line.endswith("dvc repro")
        record = (folder / "sample.json").read_bytes()
        assert champion_files.difference("sample") == line
        assert (folder / "sample.json").read_bytes() == record  # hashed by DVC
        status = run("dvc", "status", "register").stdout
        assert re.search(r"register:\n\s+changed deps:\n\s+modified: +champions", status)
    finally:
        client.set_registered_model_alias("sample", "champion", number)
        for file in set(folder.iterdir()) - before.keys():
            file.unlink()
        for file, data in before.items():
            file.write_bytes(data)


def test_promotion_waits_for_another_dvc(project, monkeypatch, capsys):
    locks = project / ".dvc/tmp/rwlock"
    process = {"pid": 4711, "cmd": "dvc repro"}
    before = locks.read_bytes() if locks.exists() else None
    locks.parent.mkdir(exist_ok=True)
    locks.write_text(json.dumps({"write": {"x": process}, "read": {"y": [process], "z": []}}))
    checked, alive = [], iter([True, True, False])
    monkeypatch.setattr(champion, "POLL_INTERVAL", 0)
    monkeypatch.setattr(champion, "_is_running", lambda pid: checked.append(pid) or next(alive))
    try:
        champion._wait_for_other_dvc()
        monkeypatch.setattr(champion, "_is_running", lambda pid: True)
        monkeypatch.setattr(champion, "MAX_WAIT", -1)
        with pytest.raises(UserError, match=r"another dvc is still running \(process 4711\); to update"):
            champion._wait_for_other_dvc()
        for text in ("", "{", "[]", '{"write": {"x": 1}, "read": {}}'):
            locks.write_text(text)
            assert champion._lock_holders() == set()
    finally:
        locks.write_bytes(before) if before is not None else locks.unlink()
    assert checked == [4711] * 3
    assert capsys.readouterr().err.count("waiting for another dvc to finish") == 1


def test_dvcs_messages_about_locks_are_recognised(tmp_path):
    from dvc import lock, rwlock

    assert champion.LOCK_MESSAGES[1] in lock.FAILED_TO_LOCK_MESSAGE
    held = {"write": {str(tmp_path): {"pid": os.getpid(), "cmd": "dvc repro"}}}
    with pytest.raises(lock.LockError, match=champion.LOCK_MESSAGES[0]):
        mine = {"pid": os.getpid(), "cmd": "dvc repro register"}
        rwlock._check_blockers(str(tmp_path), held, mine, mode="write", waiters=[str(tmp_path)])


def test_dvc_is_retried_while_locked_and_other_failures_are_errors(repro, monkeypatch):
    answers = [None, None, 0, 1]
    monkeypatch.setattr(champion, "POLL_INTERVAL", 0)
    monkeypatch.setattr(champion, "_run_dvc", lambda command: answers.pop(0))
    with pytest.raises(UserError, match="its files are not updated: dvc repro report failed"):
        champion._update_files("sample")
    assert answers == []


def test_ctrl_c_while_waiting_prints_the_command_that_updates_the_files(repro, monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(champion, "_update_files", interrupted)
    monkeypatch.setattr(tracking, "promote", lambda *_, **__: None)
    monkeypatch.setattr(champion_files, "record", lambda *_: None)
    with pytest.raises(SystemExit, match="130"):
        petfaces("registry", "promote", "1", "--why", "x")
    assert "to update the champion's files later, run: dvc repro" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "99", "--why", "x"], "has no models:/sample/99; it has versions 1 to 2"),
        (["--data", "nothing", "list"], "has no 'nothing'; it has the names "),
        (["promote", "9" * 30, "--why", "x"], "is no version"),
        (["--data", "", "list"], "--data: '' is not a valid name"),
        (["--data", "nothing", "rollback", "--why", "x"], "'nothing' has no champion"),
        (["promote", "1"], "Missing option '--why'"),
    ],
)
def test_impossible_arguments_are_one_line_errors(repro, run, arguments, message):
    done = run("python", "-m", "pipeline", "registry", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stdout and "Traceback" not in done.stdout
