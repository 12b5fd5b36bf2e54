"""A catalog's folder and its database stay together; no command deletes images or backups otherwise."""

import functools
import os
import re
import sqlite3
import time
from pathlib import Path

import postgresql
import pytest
from catalog_server import Catalog, folder_of
from conftest import outcome, petfaces
from sqlalchemy import select

from catalog import backup, belonging, running
from catalog.library import Library
from catalog.store import UnavailableError, failures, identity, open_database
from catalog.store.tables import Image
from catalog.sweep import KEPT, sweep
from catalog.web import sessions
from pipeline.common.errors import UserError

pytestmark = pytest.mark.integration  # some start PostgreSQL


@pytest.fixture
def catalog(tmp_path, database_url):
    """A project of three images."""
    catalog = Catalog.create(tmp_path, database_url)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    yield catalog
    catalog.database.close()


def open_closed(library: Library, may_create: bool = False) -> None:
    belonging.open_catalog(library, may_create).close()


def image_files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "images").rglob("*") if file.is_file())


def make_old(folder: Path) -> None:
    """Lets the sweep take all files for ones that no program is writing."""
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - 86400,) * 2)


def test_a_database_without_images_deletes_none(tmp_path, database_url):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    empty = Catalog.create(tmp_path / "other", database_url).database
    make_old(catalog.library.folder)
    assert sweep(empty, catalog.library) == 0
    assert len(image_files(catalog.library.folder)) == 3
    for database in (empty, catalog.database):
        database.close()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("SQLITE_FULL", "free space on its disk"),
        ("SQLITE_IOERR_READ", "check its disk"),
        ("SQLITE_CANTOPEN", "check the permissions"),
        ("SQLITE_NOTADB", "restore a backup"),
        ("SQLITE_CORRUPT", "restore a backup"),
    ],
)
def test_nobody_is_told_to_move_a_database_away(code, advice):
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = code
    found = failures.of_file(error, "catalog.db")
    assert advice in str(found) and "move" not in str(found)
    assert isinstance(found, UnavailableError) == ("restore" not in advice)


def test_a_folder_stays_with_its_database(catalog, database_url, tmp_path):
    open_closed(catalog.library)
    open_closed(catalog.library)
    with catalog.database.read() as session:
        known = identity.of(session).database
    assert (catalog.library.folder / belonging.FILE).read_text().startswith(f"{known}\n")
    url = postgresql.session_server().create(migrated=False) if database_url else f"sqlite:///{tmp_path}/x.db"
    other = Library(catalog.library.folder, url)
    with pytest.raises(UserError, match="belongs to the database"):
        open_closed(other, may_create=True)
    open_database(url).close()
    with pytest.raises(UserError, match="belongs to the database"):
        open_closed(other)


def test_the_database_that_was_copied_is_left_behind(catalog, database_url, tmp_path):
    url = f"sqlite:///{tmp_path}/x.db" if database_url else postgresql.session_server().create(migrated=False)
    folder, own = str(catalog.library.folder), catalog.library.database_url
    petfaces("catalog", "--folder", folder, "--database", own, "copy-database", url)
    open_closed(Library(catalog.library.folder, url))
    with pytest.raises(UserError, match="belongs to the database"):
        open_closed(catalog.library, may_create=True)


@pytest.mark.parametrize("recorded", ["", "catalog.db\n", "0" * 32 + "\ncatalog.db\n"])
def test_a_new_database_is_refused_in_a_folder_with_images(tmp_path, recorded):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    catalog.database.close()
    (catalog.library.folder / "catalog.db").rename(tmp_path / "moved-away.db")
    if recorded:
        (catalog.library.folder / belonging.FILE).write_text(recorded)
    message = outcome(lambda: petfaces("catalog", "--folder", str(catalog.library.folder), "--port", "0"))
    assert str(catalog.library.folder) in message and "restore a backup" in message
    assert not (catalog.library.folder / "catalog.db").exists()
    assert len(image_files(catalog.library.folder)) == 3


def test_a_folder_from_before_identities_goes_on(catalog, database_url):
    file = catalog.library.folder / belonging.FILE
    for recorded in (None, "catalog.db\n" if not database_url else f"{catalog.database.place}\n"):
        file.unlink(missing_ok=True)
        if recorded:
            file.write_text(recorded)
        open_closed(catalog.library)
        assert len(file.read_text().splitlines()[0]) == 32
    file.write_text("postgresql://***@elsewhere/catalog\n")
    with pytest.raises(UserError, match="belongs to the database postgresql"):
        open_closed(catalog.library)


def test_another_database_is_not_migrated_before_it_is_refused(catalog, database_url, tmp_path):
    open_closed(catalog.library)
    url = postgresql.session_server().create(migrated=False) if database_url else f"sqlite:///{tmp_path}/x.db"
    database = open_database(url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE identity")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0008'")
    with pytest.raises(UserError, match="belongs to the database"):
        open_closed(Library(catalog.library.folder, url))
    with database.engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    assert found == "0008"
    database.close()


def test_databases_that_only_a_parameter_tells_apart_are_two(tmp_path):
    server = postgresql.session_server()
    urls = []
    for _ in range(2):
        url, _, name = server.create(migrated=False).rpartition("/")
        urls.append(f"{url}/?dbname={name}")
    folder = tmp_path / "catalog"
    open_closed(Library(folder, urls[0]), may_create=True)
    with pytest.raises(UserError, match="another one of that name"):
        open_closed(Library(folder, urls[1]), may_create=True)
    # The same one without the password, and by another name of this machine.
    assert belonging._is_same("postgresql://***@h/x", "postgresql://u@h/x")


def test_a_link_to_the_folder_is_the_same_folder(tmp_path):
    catalog = Catalog.create(tmp_path)
    (tmp_path / "link").symlink_to(catalog.library.folder)
    (catalog.library.folder / belonging.FILE).write_text(f"{tmp_path}/link/catalog.db\n")
    open_closed(catalog.library)
    open_closed(Library(tmp_path / "link", f"sqlite:///{tmp_path}/link/catalog.db"))
    catalog.database.close()


def test_a_database_with_images_is_refused_in_an_empty_folder(catalog, database_url, tmp_path):
    url = database_url or f"sqlite:///{catalog.library.folder}/catalog.db"
    with pytest.raises(UserError, match="has none of them"):
        open_closed(Library(tmp_path / "new", url), may_create=True)


@pytest.mark.parametrize("command", [["verify"], ["user", "list"], ["backup", "BACKUP"]])
def test_a_command_on_no_catalog_makes_none(command, tmp_path):
    catalog = Catalog.create(tmp_path)
    catalog.add_project(folder_of(tmp_path / "images", 3))
    backup.write(catalog.library, catalog.database, tmp_path / "backup")
    words = [word.replace("BACKUP", str(tmp_path / "backup")) for word in command]
    typo = tmp_path / "typo"
    message = outcome(lambda: petfaces("catalog", "--folder", str(typo), *words))
    assert f"there is no catalog in {typo}" in message
    assert not typo.exists()
    assert len(image_files(tmp_path / "backup")) == 3
    catalog.database.close()


def test_a_command_on_an_empty_postgresql_makes_no_tables(tmp_path):
    url = postgresql.session_server().create(migrated=False)
    arguments = ("catalog", "--folder", str(tmp_path), "--database", url, "verify")
    assert "there is no catalog in postgresql://" in outcome(lambda: petfaces(*arguments))
    assert not identity.look(url).is_catalog


def test_another_catalogs_backup_is_not_replaced(catalog, database_url, tmp_path):
    target = tmp_path / "backup"
    backup.write(catalog.library, catalog.database, target)
    other = Catalog.create(tmp_path / "other")
    with pytest.raises(UserError, match="another catalog's backup"):
        backup.write(other.library, other.database, target)
    # One from before the marker had the line.
    (target / backup.MARKER).write_text("A backup of a Pet Faces catalog.\n")
    with pytest.raises(UserError, match="another catalog's backup"):
        backup.write(other.library, other.database, target)
    assert len(image_files(target)) == 3
    backup.write(catalog.library, catalog.database, target)
    assert "catalog: " in (target / backup.MARKER).read_text()
    other.database.close()


def test_a_restored_catalog_goes_on_with_its_backup(catalog, tmp_path, database_url):
    target = tmp_path / "backup"
    backup.write(catalog.library, catalog.database, target)
    url = postgresql.session_server().create(migrated=False) if database_url else ""
    folder = tmp_path / "restored"
    petfaces("catalog", "--folder", str(folder), "--database", url, "restore", str(target))
    petfaces("catalog", "--folder", str(folder), "--database", url, "backup", str(target))
    # But the live folder isn't used with the restored database.
    open_closed(catalog.library)
    restored = Library(catalog.library.folder, url or f"sqlite:///{folder}/catalog.db")
    with pytest.raises(UserError, match="belongs to the database"):
        open_closed(restored)


def test_a_backup_is_not_restored_into_a_folder_with_a_catalog(catalog, tmp_path, database_url):
    backup.write(catalog.library, catalog.database, tmp_path / "backup")
    url = postgresql.session_server().create(migrated=False) if database_url else f"sqlite:///{tmp_path}/x.db"
    arguments = ("--folder", str(catalog.library.folder), "--database", url)
    open_closed(catalog.library)
    message = outcome(lambda: petfaces("catalog", *arguments, "restore", str(tmp_path / "backup")))
    assert "holds a catalog" in message
    open_closed(catalog.library)  # the folder still belongs to its own


def test_a_restore_that_was_cut_off_is_repeated_and_never_started(catalog, tmp_path, monkeypatch):
    backup.write(catalog.library, catalog.database, tmp_path / "backup")
    folder = tmp_path / "restored"
    arguments = ("catalog", "--folder", str(folder), "restore", str(tmp_path / "backup"))

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("catalog.store.copying.copy", fail)
        assert outcome(lambda: petfaces(*arguments)) not in (0, None)
    with pytest.raises(UserError, match="cut off; run the same command again"):
        open_closed(Library(folder), may_create=True)
    petfaces(*arguments)
    open_closed(Library(folder))
    assert len(image_files(folder)) == 3


def test_one_server_runs_and_none_while_the_database_is_copied(catalog, tmp_path):
    arguments = ("--folder", str(catalog.library.folder), "--database", catalog.library.database_url)
    for holder in (running.server, running.stopped):
        with holder(catalog.library):
            for words in (["--port", "0"], ["copy-database", f"sqlite:///{tmp_path}/copy.db"]):
                command = functools.partial(petfaces, "catalog", *arguments, *words)
                assert "is running" in outcome(command)
    assert not (tmp_path / "copy.db").exists()


def test_a_damaged_image_does_not_replace_its_copy(catalog, tmp_path):
    target = tmp_path / "backup"
    backup.write(catalog.library, catalog.database, target)
    first, second, _ = sorted((catalog.library.folder / "images").rglob("*.png"))
    kept = (target / first.relative_to(catalog.library.folder)).read_bytes()
    first.write_bytes(b"half")
    # And one that the backup lost is not taken with a wrong content, either.
    copy = target / second.relative_to(catalog.library.folder)
    copy.unlink()
    second.write_bytes(b"half")
    arguments = ("--folder", str(catalog.library.folder), "--database", catalog.library.database_url)
    message = outcome(lambda: petfaces("catalog", *arguments, "backup", str(target)))
    assert "2 image files are missing or damaged" in message and first.name in message
    assert (target / first.relative_to(catalog.library.folder)).read_bytes() == kept
    assert not copy.exists()


def test_an_upload_that_is_read_during_a_backup_is_in_it(catalog, tmp_path, monkeypatch):
    upload = catalog.library.uploads(1) / "new.png"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"sent by a browser")
    write = backup.snapshot.write

    def write_and_read(database, file) -> None:
        write(database, file)
        upload.unlink(missing_ok=True)

    monkeypatch.setattr(backup.snapshot, "write", write_and_read)
    target = tmp_path / "backup"
    backup.write(catalog.library, catalog.database, target)
    assert (target / "uploads/1/new.png").read_bytes() == b"sent by a browser"
    backup.write(catalog.library, catalog.database, target)
    assert not (target / "uploads/1/new.png").exists()


def test_folders_are_closed_to_others(catalog, tmp_path):
    (tmp_path / "backup").mkdir(mode=0o755)
    backup.write(catalog.library, catalog.database, tmp_path / "backup")
    petfaces("catalog", "--folder", str(tmp_path / "restored"), "restore", str(tmp_path / "backup"))
    for name in ("backup", "restored"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_images_that_an_older_database_lacks_come_back_with_the_newer_one(catalog):
    older = image_files(catalog.library.folder)[:1]
    with catalog.database.write() as session:
        row = session.scalars(select(Image).where(Image.sha256 == Path(older[0]).stem)).one()
        number, newer, row.sha256 = row.id, row.sha256, "0" * 64
    make_old(catalog.library.folder)
    assert sweep(catalog.database, catalog.library) == 1
    assert older[0] not in image_files(catalog.library.folder)
    with catalog.database.write() as session:
        session.get(Image, number).sha256 = newer
    sweep(catalog.database, catalog.library)
    assert older[0] in image_files(catalog.library.folder)
    with catalog.database.write() as session:
        session.get(Image, number).sha256 = "0" * 64
    make_old(catalog.library.folder)
    sweep(catalog.database, catalog.library)
    long_ago = time.time() - KEPT - 1
    os.utime(catalog.library.unused / older[0], (long_ago, long_ago))
    sweep(catalog.database, catalog.library)
    assert not (catalog.library.unused / older[0]).exists()


@pytest.mark.parametrize("failing", [1, 2])  # while the snapshot is written, and after it was read
def test_a_backup_that_cannot_be_written_is_one_line(catalog, tmp_path, monkeypatch, failing):
    arguments = ("--folder", str(catalog.library.folder), "--database", catalog.library.database_url)

    make_single, calls = backup.snapshot._make_single, []

    def full(file):
        calls.append(file)
        if len(calls) == failing:
            raise sqlite3.OperationalError("database or disk is full")
        make_single(file)

    monkeypatch.setattr(backup.snapshot, "_make_single", full)
    message = outcome(lambda: petfaces("catalog", *arguments, "backup", str(tmp_path / "backup")))
    assert re.search(r"not finished \(the snapshot .* can't be written: database or disk is full", message)
    message = outcome(lambda: petfaces("catalog", *arguments, "backup", "/proc/backup"))
    assert "the backup to /proc/backup was not finished" in message


def test_a_database_in_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"can't be opened"):
        open_database("sqlite:////proc/x.db")


def test_a_damaged_backup_is_named(tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / backup.MARKER).touch()
    (tmp_path / "backup/catalog.db").write_text("not a database, but long enough to be read as one " * 100)
    arguments = ("--folder", str(tmp_path / "new"), "restore", str(tmp_path / "backup"))
    assert "the database of the backup in" in outcome(lambda: petfaces("catalog", *arguments))
    assert not list((tmp_path / "new").glob("tmp/restored.db*"))


def test_a_database_is_not_copied_onto_itself(catalog, database_url):
    folder = str(catalog.library.folder)
    own = database_url or f"sqlite:///{folder}/catalog.db"
    command = ("catalog", "--folder", folder, "--database", database_url, "copy-database", own)
    assert "is the catalog's own database" in outcome(lambda: petfaces(*command))


def test_a_wrong_parameter_of_a_url_is_named():
    url = postgresql.session_server().create(migrated=False)
    with pytest.raises(UserError, match="correct the URL's parameters"):
        identity.look(f"{url}?passwort=x")


def test_a_key_is_made_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    key = sessions.key_in(tmp_path / "session.key")
    assert sessions.key_in(tmp_path / "session.key") == key and len(list(tmp_path.iterdir())) == 1


def test_the_folder_of_a_catalog_is_closed_when_it_starts(catalog):
    catalog.library.folder.chmod(0o755)
    open_closed(catalog.library, may_create=True)
    assert catalog.library.folder.stat().st_mode & 0o077 == 0


def test_an_identity_that_cannot_be_recorded_is_one_line(catalog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(belonging.atomic, "replace_text", full)
    with pytest.raises(UserError, match=r"database\.txt can't be written: No space left"):
        open_closed(catalog.library)
