"""A store that can't be used is told in one line: what, where and what to do; nobody's is migrated."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
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
def older(repro, house, tmp_path, revisions) -> Path:
    """A store as a former MLflow left it: of a former schema, without a table that came later."""
    file = tmp_path / "older.db"
    shutil.copyfile(house / "mlflow.db", file)
    _sql(file, f"UPDATE alembic_version SET version_num = '{revisions[5]}'")
    _sql(file, "DROP TABLE webhook_events")
    return file


def _told(monkeypatch, address: str) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(store.UserError) as caught:
        store.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (protos.RESOURCE_DOES_NOT_EXIST, "refuses: no such model"),
        (protos.INTERNAL_ERROR, "does not answer: no such model; nothing is lost, try again"),
    ],
)
def test_nobody_is_told_to_try_again_what_can_not_be(repro, code, told):
    with pytest.raises(store.UserError, match=rf"{told}$"), store.reachable():
        raise MlflowException("no such model", code)


def test_a_good_store_is_left_as_it_is(repro, house, tmp_path, monkeypatch):
    file = tmp_path / "good.db"
    shutil.copyfile(house / "mlflow.db", file)
    before = file.read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    store.check()
    assert file.read_bytes() == before


@pytest.mark.integration
@pytest.mark.parametrize("statement", [10, 60])
def test_killed_while_a_new_store_is_made_the_next_start_makes_it(tmp_path, statement):
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
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/new.db"}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    program = "from pipeline.tracking import store\nstore.client().create_experiment('first')"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.db", "new.db.lock"]


def test_an_older_store_is_told_and_not_migrated(older, monkeypatch):
    before = older.read_bytes()
    told = _told(monkeypatch, f"sqlite:///{older}")
    assert str(older) in told
    assert "older MLflow" in told
    assert f"copy it, then run: mlflow db upgrade sqlite:///{older}" in told
    assert older.read_bytes() == before


def test_a_newer_store_is_told(older, monkeypatch):
    _sql(older, "UPDATE alembic_version SET version_num = 'feedfeedfeed'")
    assert "newer MLflow" in _told(monkeypatch, f"sqlite:///{older}")


def test_a_database_of_something_else_is_told_and_gets_no_tables(tmp_path, monkeypatch):
    _sql(tmp_path / "study.db", "CREATE TABLE studies (x)")
    assert "is not an MLflow database (it has the tables studies)" in _told(
        monkeypatch, f"sqlite:///{tmp_path}/study.db"
    )


def test_a_file_that_is_no_database_is_told(tmp_path, monkeypatch):
    (tmp_path / "letter.db").write_text("Dear reader, this is a letter. " * 100)
    assert "is not a database" in _told(monkeypatch, f"sqlite:///{tmp_path}/letter.db")


def test_a_folder_in_the_place_of_a_database_is_told(tmp_path, monkeypatch):
    assert "can't be opened: it is a folder" in _told(monkeypatch, f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("address", ["file:./mlruns", "mlruns", "./mlruns"])
def test_a_folder_of_files_is_told_with_the_way_to_bring_it_over(address, monkeypatch):
    told = _told(monkeypatch, address)
    assert "migrate-filestore --source" in told
    assert "mlruns --target sqlite:///" in told


def test_a_store_for_reading_only_is_told(repro, house, tmp_path, monkeypatch):
    shutil.copyfile(house / "mlflow.db", tmp_path / "kept.db")
    # As SQLite says it itself: file modes do not bind an administrator.
    told = _told(monkeypatch, f"sqlite:///file:{tmp_path}/kept.db?mode=ro&uri=true")
    assert "is read-only" in told


def test_a_locked_store_is_told(repro, house, tmp_path, monkeypatch):
    file = tmp_path / "busy.db"
    shutil.copyfile(house / "mlflow.db", file)
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert "has been locked by another program" in _told(monkeypatch, f"sqlite:///{file}")
    finally:
        other.close()


def test_a_missing_driver_is_told_without_the_password(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    told = _told(monkeypatch, "postgresql+psycopg://me:secret@localhost/runs")
    assert "needs a driver" in told
    assert "secret" not in told


@pytest.mark.parametrize("program", ["pipeline tracking sync", "pipeline tracking ui", "pipeline.register"])
def test_what_needs_mlflow_ends_in_that_line_and_destroys_nothing(older, repro, run, house, program):
    register = house / "runs/sample/register"
    before = {file: file.read_bytes() for file in register.rglob("*.json")}
    done = run("python", "-m", *program.split(), MLFLOW_TRACKING_URI=f"sqlite:///{older}")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert re.match(r"(\w+: )?error: MLflow's store", line)
    assert before
    assert {file: file.read_bytes() for file in register.rglob("*.json")} == before
