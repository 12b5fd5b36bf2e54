"""A catalog moves between SQLite and PostgreSQL with one command, and comes back whole from a backup."""

import shutil
import threading
from pathlib import Path

import postgresql
import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, submit
from conftest import outcome, petfaces
from sqlalchemy import select

from catalog import backup
from catalog.library import DATABASE_VARIABLE, Library
from catalog.store import UnavailableError, labels, open_database, projects
from catalog.store.copying import TABLES
from catalog.store.fair_lock import FairLock
from catalog.store.tables import Event, Image, LabelClass
from pipeline.common.errors import UserError

pytestmark = pytest.mark.integration  # most start PostgreSQL


@pytest.fixture
def catalog(tmp_path, database_url):
    """A project of 30 images, 20 of them labeled; a class merged into a later one, and a deleted one."""
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", 30))
    catalog.label_all(20)
    with catalog.database.write() as session:
        session.add(LabelClass(project_id=1, name="hamster", position=3))
        session.flush()
        session.get(LabelClass, 3).merged_into = 4
        deleted = LabelClass(project_id=1, name="bird", position=4)
        session.add(deleted)
        session.flush()
        session.delete(deleted)
    yield catalog
    catalog.database.close()


@pytest.fixture
def other_kind(database_url, tmp_path) -> str:
    """The URL of an empty database of the other kind."""
    if database_url:
        return f"sqlite:///{tmp_path / 'copy.db'}"
    return postgresql.session_server().create(migrated=False)


def command(catalog, *arguments):
    """Runs a subcommand on the catalog."""
    url = catalog.library.database_url
    petfaces("catalog", "--folder", str(catalog.library.folder), "--database", url, *arguments)


def rows(database) -> dict[str, list]:
    """Everything in a database but its identity."""
    with database.read() as session:
        return {table.name: sorted(tuple(row) for row in session.execute(select(table))) for table in TABLES}


def test_one_command_moves_the_database_and_loses_nothing(catalog, other_kind, capsys):
    command(catalog, "copy-database", other_kind)
    printed = capsys.readouterr().out
    assert "event: 30 rows" in printed and DATABASE_VARIABLE in printed
    assert "secret" not in printed
    copy = open_database(other_kind)
    assert rows(copy) == rows(catalog.database)
    moved = Catalog(Library(catalog.library.folder, other_kind), copy)
    with copy.read() as session:
        assert not list(labels.differences(session, 1))
        event = select(Event.id).where(Event.predicted.is_(None), Event.geometry.is_(None))
        assert len(session.scalars(event).all()) == 0  # `predicted` is JSON's null there as here
    with moved.database.write() as session:
        new = LabelClass(project_id=1, name="fox", position=9)
        session.add(new)
        session.flush()
        assert new.id == 6  # 5 is the id of the class that was deleted
        session.get(LabelClass, 4).name = "gerbil"
    assert len(projects_of(moved)) == 1
    copy.close()


def projects_of(catalog):
    with catalog.database.read() as session:
        return projects.all_projects(session)


def test_a_database_that_is_not_empty_is_never_written(catalog, other_kind):
    command(catalog, "copy-database", other_kind)
    before = rows(catalog.database)
    (catalog.library.folder / "database.txt").unlink()  # the folder belongs to the copy now
    message = outcome(lambda: command(catalog, "copy-database", other_kind))
    assert "isn't empty: its table project has rows" in message and "secret" not in message
    assert rows(catalog.database) == before


def test_a_copy_that_fails_leaves_nothing_behind(catalog, other_kind, monkeypatch):
    counts = iter([1, 0])
    monkeypatch.setattr(labels, "differences", lambda *_: iter(range(next(counts))))
    assert "labels of pets differ from the events after copying" in outcome(
        lambda: command(catalog, "copy-database", other_kind)
    )
    copy = open_database(other_kind)
    assert not any(rows(copy).values())
    copy.close()


def test_a_database_is_not_copied_while_people_label(catalog, other_kind):
    from filelock import FileLock

    with FileLock(catalog.library.folder / "helper.lock"):
        message = outcome(lambda: command(catalog, "copy-database", other_kind))
    assert "is running; stop it first" in message


def test_a_backup_made_while_people_label_is_restored_whole(catalog, tmp_path, database_url):
    with catalog.database.write() as session:
        for image in session.scalars(select(Image)):
            labels.give(session, image, labels.Answer(labels.Status.WAITING), "ann")
    stop, answered = threading.Event(), []

    def label() -> None:
        while not stop.is_set() and (page := open_page(address, size=1)) is not None:
            assert submit(address, page, 1).status_code == 200
            answered.append(page["images"][0]["id"])

    with catalog.served() as address:
        people = [threading.Thread(target=label) for _ in range(2)]
        for person in people:
            person.start()
        while len(answered) < 3:
            pass
        before = list(answered)
        command(catalog, "backup", str(tmp_path / "backup"))
        stop.set()
        for person in people:
            person.join()
    url = postgresql.session_server().create(migrated=False) if database_url else ""
    restored = Library(tmp_path / "restored", url)
    petfaces(
        "catalog",
        *("--folder", str(restored.folder), "--database", url, "restore", str(tmp_path / "backup")),
    )
    database = open_database(restored.database)
    with database.read() as session:
        assert not list(labels.differences(session, 1))
        for number in before:
            assert session.get(Image, number).classes == [1]
        for image in session.scalars(select(Image)):
            kept = restored.image(image.sha256, image.suffix).read_bytes()
            assert kept == catalog.library.image(image.sha256, image.suffix).read_bytes()
            assert restored.thumbnail(image.sha256).is_file()
    with Catalog(restored, database).served() as address:
        assert requests.get(f"{address}/projects/1", timeout=30).status_code == 200
    database.close()


def test_a_second_backup_copies_only_what_is_new_and_follows_deletions(catalog, tmp_path):
    target = tmp_path / "backup"
    (catalog.library.folder / "champions/labels-1").mkdir(parents=True)
    (catalog.library.folder / "champions/labels-1/card.json").write_text("{}")
    (catalog.library.folder / "features").mkdir(exist_ok=True)
    (catalog.library.folder / "features/a.npy").write_text("computed again")
    first = backup.write(catalog.library, catalog.database, target)
    assert (first.images, first.copied, first.missing) == (30, 61, ())  # images, thumbnails and a champion
    assert backup.write(catalog.library, catalog.database, target).copied == 0
    assert not (target / "features").exists()
    with catalog.database.write() as session:
        from catalog.store import erasing

        for gone in erasing.images(session, catalog.project(session), [1]):
            catalog.library.erase(gone.sha256, gone.suffix)
    last = backup.write(catalog.library, catalog.database, target)
    assert (last.images, last.copied, last.missing) == (29, 0, ())
    assert len([file for file in (target / "images").rglob("*") if file.is_file()]) == 29
    assert sorted(file.name for file in target.glob("catalog.db*")) == ["catalog.db"]


def test_a_backup_that_is_cut_off_leaves_the_last_one(catalog, tmp_path, monkeypatch):
    target = tmp_path / "backup"
    backup.write(catalog.library, catalog.database, target)
    kept = (target / "catalog.db").read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "_copy_others", fail)
    with pytest.raises(KeyboardInterrupt):
        backup.write(catalog.library, catalog.database, target)
    assert (target / "catalog.db").read_bytes() == kept


def test_a_damaged_image_of_a_backup_is_named_and_the_rest_restored(tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    target = tmp_path / "backup"
    backup.write(catalog.library, catalog.database, target)
    damaged = next((target / "images").glob("??/*"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    arguments = ("--folder", str(tmp_path / "restored"), "restore", str(target))
    message = outcome(lambda: petfaces("catalog", *arguments))
    assert "1 image files are missing or damaged in the backup" in message and damaged.name in message
    database = open_database(tmp_path / "restored/catalog.db")
    assert len(rows(database)["image"]) == 3
    database.close()
    assert "holds a catalog" in outcome(lambda: petfaces("catalog", *arguments))


def test_files_that_are_no_backup_are_left_alone(tmp_path):
    catalog = Catalog.create(tmp_path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds other files than a backup"):
        backup.write(catalog.library, catalog.database, tmp_path / "letters")
    with pytest.raises(UserError, match="in the catalog's own folder"):
        backup.write(catalog.library, catalog.database, catalog.library.folder / "backup")
    with pytest.raises(UserError, match="is no finished backup"):
        backup.restore(catalog.library, catalog.database, tmp_path / "letters")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.replace("secret", "guess"), "password authentication failed"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", '"nowhere" does not exist'),
        (lambda url: "postgresql://tests:secret@127.0.0.1:1/x", "Connection refused"),
        (lambda url: "mysql://tests:secret@127.0.0.1/x", "mysql is no database of the catalog"),
        (lambda url: "postgresql://tests:secret@127.0.0.1:x/x", "the database's URL can't be read"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_line_without_the_password(change, message, tmp_path):
    url = change(postgresql.session_server().create(migrated=False))
    line = outcome(lambda: petfaces("catalog", "--folder", str(tmp_path), "--database", url, "verify"))
    assert message in line and line.startswith("error: ")
    assert not any(word in line for word in ("secret", "guess"))


def test_a_missing_driver_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[postgresql\]'"):
        open_database("postgresql://localhost/catalog")


def test_a_database_of_a_newer_version_is_refused(database_url, tmp_path):
    database = open_database(database_url or tmp_path / "catalog.db")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(UserError, match="is of a newer version"):
        open_database(database_url or tmp_path / "catalog.db")


def test_two_that_start_at_once_create_the_tables_once(tmp_path):
    url, failures = postgresql.session_server().create(migrated=False), []

    def start() -> None:
        try:
            open_database(url).close()
        except Exception as error:
            failures.append(error)

    both = [threading.Thread(target=start) for _ in range(3)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert not failures


def test_a_reader_sees_one_state(catalog):
    with catalog.database.read() as session:
        before = len(session.scalars(select(LabelClass)).all())
        with catalog.database.write() as writing:
            writing.add(LabelClass(project_id=1, name="goat", position=9))
        session.expire_all()
        assert len(session.scalars(select(LabelClass)).all()) == before


def test_a_request_during_an_outage_gets_one_line_and_the_next_one_works(tmp_path):
    with postgresql.own_server() as server:
        catalog = Catalog.create(tmp_path, server.create())
        catalog.add_project(folder_of(tmp_path / "images", 9))
        with catalog.served() as address:
            page = open_page(address)
            server.kill()
            for answer in (submit(address, page, 1), requests.get(f"{address}/projects/1", timeout=30)):
                assert answer.status_code == 503
                assert answer.json() == {"detail": "the database can't be reached; try again in a moment"}
            server.start()
            assert submit(address, page, 1).json() == {"saved": 9}
        catalog.database.close()


def test_a_number_or_text_that_no_column_holds_is_no_error_of_the_server(catalog):
    with catalog.served() as address:
        for number in (2**31, 2**63, 2**70):
            assert requests.get(f"{address}/images/{number}/thumbnail", timeout=30).status_code == 404
        body = {"answers": {str(2**40): {"status": "labeled", "classes": [2**40]}}}
        with catalog.database.write() as session:
            session.get(Image, 1).status = "waiting"
        page = open_page(address)
        url = f"{address}/api/pages/{page['token']}/submit"
        assert requests.post(url, json=body, timeout=30).status_code == 422


def test_a_writer_that_waits_too_long_is_told_so(catalog, monkeypatch):
    monkeypatch.setattr("catalog.store.database.BUSY_SECONDS", 0.05)
    with (
        catalog.database.write(),
        pytest.raises(UnavailableError, match="the database is busy"),
        catalog.database.write(),
    ):
        pass
    with catalog.database.write() as session:
        assert session.get(Image, 1)


def test_labels_that_are_written_together_are_those_written_one_by_one(catalog):
    with catalog.database.write() as session:
        image, other = session.get(Image, 1), session.get(Image, 2)
        with labels.together(session):
            for label in (1, 2):
                labels.give(session, image, labels.Answer(labels.Status.LABELED, (label,)), "ann")
            labels.give(session, other, labels.Answer(labels.Status.UNKNOWN), "ann")
    with catalog.database.read() as session:
        assert not list(labels.differences(session, 1))
        events = session.scalars(select(Event).where(Event.person == "ann").order_by(Event.id)).all()
        assert [event.image_id for event in events] == [1, 1, 2]
        assert events[1].before == events[0].after
        assert session.get(Image, 1).classes == [2]


def test_threads_get_the_lock_in_the_order_in_which_they_asked():
    lock, order, threads = FairLock(), [], []

    def take(number: int) -> None:
        with lock.hold(10):
            order.append(number)

    with lock.hold(1):
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(lock._waiting) <= number:
                pass
        with pytest.raises(TimeoutError), lock.hold(0.01):
            pass
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_a_backup_folder_is_closed_to_others(tmp_path):
    catalog = Catalog.create(tmp_path)
    backup.write(catalog.library, catalog.database, tmp_path / "backup")
    assert Path(tmp_path / "backup").stat().st_mode & 0o077 == 0
    shutil.rmtree(tmp_path / "backup")
