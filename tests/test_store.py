"""An unusable MLflow store is a one-line error that says what to do; no store is migrated unasked."""

import re
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import mlflow.protos.databricks_pb2 as protos
import pytest
from mlflow.exceptions import MlflowException

from pipeline.tracking import store


def _sql(file: Path, command: str) -> None:
    database = sqlite3.connect(file)
    database.execute(command)
    database.commit()
    database.close()


@pytest.fixture(scope="session")
def revisions() -> list[str]:
    """Schema versions of this MLflow, newest first."""
    import mlflow
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations"))
    return [each.revision for each in script.walk_revisions()]


@pytest.fixture
def old_store(repro, project, tmp_path, revisions) -> Path:
    """A store of an older MLflow: an older schema, without a later table."""
    file = tmp_path / "older.db"
    shutil.copyfile(project / "mlflow.db", file)
    _sql(file, f"UPDATE alembic_version SET version_num = '{revisions[5]}'")
    _sql(file, "DROP TABLE webhook_events")
    return file


def _error(monkeypatch, address: str) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(store.UserError) as caught:
        store.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (protos.RESOURCE_DOES_NOT_EXIST, "refuses: no such model"),
        (protos.INTERNAL_ERROR, "does not answer: no such model; nothing is lost, try again"),
    ],
)
def test_only_temporary_errors_advise_to_try_again(repro, code, message):
    with pytest.raises(store.UserError, match=rf"{message}$"), store.reachable():
        raise MlflowException("no such model", code)


def test_a_usable_store_is_not_changed(repro, project, tmp_path, monkeypatch):
    file = tmp_path / "good.db"
    shutil.copyfile(project / "mlflow.db", file)
    before = file.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    store.check()
    assert file.read_bytes() == before


@pytest.mark.integration
@pytest.mark.parametrize("statement", [10, 60])
def test_a_store_whose_creation_was_killed_is_created_at_the_next_start(run, tmp_path, statement):
    program = (
        "import os, signal\n"
        "from sqlalchemy import Engine, event\n"
        "from pipeline.tracking import store\n"
        "done = []\n"
        "@event.listens_for(Engine, 'before_cursor_execute')\n"
        "def deadly(*_):\n"
        "    done.append(1)\n"
        f"    if len(done) == {statement}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.client()\n"
    )
    address = f"sqlite:///{tmp_path}/new.db"
    killed = run("python", "-c", program, MLFLOW_TRACKING_URI=address)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    program = "from pipeline.tracking import store\nstore.client().create_experiment('first')"
    done = run("python", "-c", program, MLFLOW_TRACKING_URI=address)
    assert done.returncode == 0, done.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.db", "new.db.lock"]


def test_an_older_store_is_an_error_and_not_migrated(old_store, monkeypatch):
    before = old_store.read_bytes()
    message = _error(monkeypatch, f"sqlite:///{old_store}")
    assert str(old_store) in message
    assert "older MLflow" in message
    assert f"copy it, then run: mlflow db upgrade sqlite:///{old_store}" in message
    assert old_store.read_bytes() == before


def test_a_newer_store_is_an_error(old_store, monkeypatch):
    _sql(old_store, "UPDATE alembic_version SET version_num = 'feedfeedfeed'")
    assert "newer MLflow" in _error(monkeypatch, f"sqlite:///{old_store}")


def test_another_programs_database_is_an_error(tmp_path, monkeypatch):
    _sql(tmp_path / "study.db", "CREATE TABLE studies (x)")
    assert "is not an MLflow database (it has the tables studies)" in _error(
        monkeypatch, f"sqlite:///{tmp_path}/study.db"
    )


def test_a_file_that_is_no_database_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "letter.db").write_text("Dear reader, this is a letter. " * 100)
    assert "is not a database" in _error(monkeypatch, f"sqlite:///{tmp_path}/letter.db")


def test_a_folder_instead_of_a_database_is_an_error(tmp_path, monkeypatch):
    assert "can't be opened: it is a folder" in _error(monkeypatch, f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("address", ["file:./mlruns", "mlruns", "./mlruns"])
def test_a_file_store_is_an_error_that_says_how_to_migrate_it(address, monkeypatch):
    message = _error(monkeypatch, address)
    assert "migrate-filestore --source" in message
    assert "mlruns --target sqlite:///" in message


def test_a_read_only_store_is_an_error(repro, project, tmp_path, monkeypatch):
    shutil.copyfile(project / "mlflow.db", tmp_path / "kept.db")
    # By SQLite's mode=ro, as file modes don't bind root.
    message = _error(monkeypatch, f"sqlite:///file:{tmp_path}/kept.db?mode=ro&uri=true")
    assert "is read-only" in message


def test_a_locked_store_is_an_error(repro, project, tmp_path, monkeypatch):
    file = tmp_path / "busy.db"
    shutil.copyfile(project / "mlflow.db", file)
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert "has been locked by another program" in _error(monkeypatch, f"sqlite:///{file}")
    finally:
        other.close()


def test_a_missing_driver_is_an_error_without_the_password(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = _error(monkeypatch, "postgresql+psycopg://me:secret@localhost/runs")
    assert "needs a driver" in message
    assert "secret" not in message


@pytest.mark.parametrize("program", ["pipeline tracking sync", "pipeline tracking ui", "pipeline.register"])
def test_commands_that_need_mlflow_fail_in_one_line_and_change_nothing(
    old_store, repro, run, project, program
):
    register = project / "runs/sample/register"
    before = {file: file.read_bytes() for file in register.rglob("*.json")}
    done = run("python", "-m", *program.split(), MLFLOW_TRACKING_URI=f"sqlite:///{old_store}")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert re.match(r"(\w+: )?error: MLflow's store", line)
    assert before
    assert {file: file.read_bytes() for file in register.rglob("*.json")} == before
