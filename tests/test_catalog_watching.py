"""A watched folder: new files join by themselves, once they are complete; what is known isn't read again."""

import os
import time
import zipfile

import pytest
import requests
from catalog_server import Catalog, folder_of, open_page, picture, submit
from sqlalchemy import func, select

from catalog.helper import reading, watching
from catalog.helper.folder_scan import scan
from catalog.helper.watching import Watcher
from catalog.store import images, jobs, labels
from catalog.store.tables import Image, Job, JobState, Project, SeenFile
from pipeline.common.errors import UserError
from pipeline.portable import UnreadableError
from pipeline.sources import photos


@pytest.fixture
def catalog(tmp_path):
    return Catalog.create(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Three images that were written an hour ago."""
    folder = folder_of(tmp_path / "images", 3)
    for file in folder.iterdir():
        age(file)
    return folder


def age(file, seconds=3600):
    then = time.time() - seconds
    os.utime(file, (then, then))


class Looks:
    """Looks a minute apart, each followed by the jobs that it has requested."""

    def __init__(self, catalog):
        self.catalog, self.watcher, self.now = catalog, Watcher(catalog.database), 0.0

    def __call__(self, times=2):
        for _ in range(times):
            self.now += 10 * watching.INTERVAL
            self.watcher.look(self.now)
            self.catalog.finish_jobs()


def watched(catalog, folder, **changes):
    catalog.add_project(folder, is_watched=True, **changes)
    return Looks(catalog)


def paths(catalog):
    with catalog.database.read() as session:
        return sorted(session.scalars(select(Image.path)))


def project(catalog):
    with catalog.database.read() as session:
        found = session.get(Project, 1)
        session.expunge_all()
        return found


def readings(catalog):
    with catalog.database.read() as session:
        return session.scalar(select(func.max(Job.id)).where(Job.kind == jobs.Kind.READ))


def refresh(catalog):
    with catalog.database.write() as session:
        jobs.request(session, 1, jobs.Kind.READ)
    catalog.finish_jobs()


def test_new_files_join_a_watched_folder_by_themselves(catalog, folder):
    look = watched(catalog, folder)
    (folder / "below").mkdir()
    (folder / "below" / "new.png").write_bytes(picture(7))
    age(folder / "below" / "new.png")
    look()
    assert "below/new.png" in paths(catalog)
    before = readings(catalog)
    look(3)
    assert readings(catalog) == before  # nothing new, so nothing is read


def test_a_file_that_is_still_being_written_waits(catalog, folder):
    look = watched(catalog, folder)
    new = folder / "new.png"
    whole = picture(7)
    new.write_bytes(whole[:40])
    look(3)
    assert "new.png" not in paths(catalog)  # its last change is too young
    new.write_bytes(whole[:80])
    age(new, 1000)  # a copy that keeps the time of the original
    look(1)
    new.write_bytes(whole)
    age(new, 1000)
    look(1)
    assert "new.png" not in paths(catalog)  # it has grown between the looks
    look(1)
    assert "new.png" in paths(catalog)
    with catalog.database.read() as session:
        assert images.quarantined(session, 1) == []


def test_a_changed_file_is_read_again_and_what_was_labeled_stays(catalog, folder):
    look = watched(catalog, folder)
    with catalog.served() as address:
        submit(address, open_page(address), 1).raise_for_status()
    (folder / "000.png").write_bytes(picture(50))
    age(folder / "000.png", 500)
    (folder / "001.png").unlink()
    look()
    with catalog.database.read() as session:
        found = list(session.scalars(select(Image)))
        assert len(found) == 4 and sum(image.status == "labeled" for image in found) == 3
        assert not list(labels.differences(session, 1))


def test_a_repaired_file_of_a_watched_folder_leaves_the_list(catalog, folder):
    (folder / "late.png").touch()
    age(folder / "late.png")
    look = watched(catalog, folder)
    with catalog.database.read() as session:
        assert [file.path for file in images.quarantined(session, 1)] == ["late.png"]
    before = readings(catalog)
    look(2)
    assert readings(catalog) == before  # it isn't tried in vain each minute
    (folder / "late.png").write_bytes(picture(8))
    age(folder / "late.png", 500)
    look()
    with catalog.database.read() as session:
        assert images.quarantined(session, 1) == []


def test_a_file_joins_once_its_permissions_let_it_be_read(catalog, folder, monkeypatch):
    look, read = watched(catalog, folder), photos.read

    def denied(path: str) -> bytes:
        if path.endswith("new.png"):
            raise UnreadableError("Permission denied")
        return read(path)

    (folder / "new.png").write_bytes(picture(7))
    age(folder / "new.png")
    with monkeypatch.context() as patched:
        patched.setattr(photos, "read", denied)
        look(4)
    (folder / "new.png").chmod(0o600)  # its time and size stay
    look()
    assert "new.png" in paths(catalog)


def test_a_folder_that_is_gone_is_one_line_on_the_dashboard_until_it_is_back(catalog, folder, tmp_path):
    look = watched(catalog, folder)
    folder.rename(tmp_path / "elsewhere")
    look()
    with catalog.served() as address:
        page = requests.get(f"{address}/projects/1", timeout=30).text
        assert "The watched folder can't be read" in page and "is not there" in page
    folder.mkdir()
    look()
    assert "is empty now, but 3 files were read there" in project(catalog).refresh_problem
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    look()
    assert project(catalog).refresh_problem == ""
    with catalog.served() as address:
        page = requests.get(f"{address}/projects/1", timeout=30).text
        assert "Last refresh:" in page and "can't be read" not in page
    assert len(paths(catalog)) == 3


def test_a_paused_or_unwatched_folder_is_left_alone(catalog, folder):
    look = watched(catalog, folder)
    with catalog.database.write() as session:
        session.get(Project, 1).paused = True
    (folder / "new.png").write_bytes(picture(7))
    age(folder / "new.png")
    look()
    with catalog.database.write() as session:
        found = session.get(Project, 1)
        found.paused, found.is_watched = False, False
    look()
    assert "new.png" not in paths(catalog)


def test_a_watched_archive_is_read_again_when_it_changes(catalog, tmp_path):
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("0.png", picture(0))
    age(archive)
    look = watched(catalog, archive)
    before = readings(catalog)
    look()
    assert readings(catalog) == before
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr("1.png", picture(1))
    age(archive, 500)
    look()
    assert paths(catalog) == ["0.png", "1.png"]


def test_unchanged_files_are_not_opened_again(catalog, folder, monkeypatch):
    (folder / "notes.txt").write_text("no image")
    age(folder / "notes.txt")
    catalog.add_project(folder)

    def fail(*_, **__):
        raise AssertionError("a known file was read")

    monkeypatch.setattr(photos, "read", fail)
    monkeypatch.setattr(reading, "_is_picture", fail)
    refresh(catalog)
    with catalog.database.read() as session:
        job = jobs.latest(session, 1)["read"]
        assert job.state == JobState.DONE
        assert job.message == "3 files: 0 new images, 0 that can't be used; skipped files: 1 (1 .txt)"


def test_a_file_with_the_time_and_size_of_another_one_is_read(catalog, folder):
    """Files are known by their path, too."""
    catalog.add_project(folder)
    status = (folder / "000.png").stat()
    (folder / "other.png").write_bytes(picture(60)[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(folder / "other.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    refresh(catalog)
    with catalog.database.read() as session:
        assert session.scalar(select(func.count()).select_from(SeenFile)) == 4


def test_links_to_folders_are_followed_once_and_hidden_files_left_out(folder, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.png").write_bytes(picture(1))
    (folder / "link").symlink_to(tmp_path / "more")
    (folder / "loop").symlink_to(folder)
    (folder / "broken.png").symlink_to(folder / "nothing")
    (folder / ".hidden.png").write_bytes(picture(2))
    hidden = []
    found = {entry.path: entry for entry in scan(folder, hidden)}
    assert list(found) == ["000.png", "001.png", "002.png", "broken.png", "link/a.png"]
    assert found["broken.png"].size == -1
    assert [path.name for path in hidden] == [".hidden.png"]
    with pytest.raises(UserError, match="can't be read"):
        list(scan(tmp_path / "nowhere", []))


def test_watching_is_chosen_when_a_project_is_created_and_in_its_settings(catalog, folder, tmp_path):
    form = {
        "name": "pets",
        "source": "folder",
        "path": str(folder),
        "classes": "cat\ndog",
        "model_help": "none",
    }
    with catalog.served() as address:
        requests.post(f"{address}/projects", data=form | {"is_watched": "true"}, timeout=30)
        assert project(catalog).is_watched
        page = requests.get(f"{address}/projects/1/settings", timeout=30).text
        assert 'name="is_watched" value="true" checked' in page
        changed = {"name": "pets", "page_size": 9, "min_precision": 90, "model_help": "none"}
        requests.post(f"{address}/projects/1/settings", data=changed, timeout=30).raise_for_status()
        assert not project(catalog).is_watched


def test_unusable_files_come_in_pages(catalog, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(1203):
        (folder / f"{number:04}.png").write_text(f"no image {number}")
    catalog.add_project(folder)
    with catalog.served() as address:
        url, shown = f"{address}/projects/1/quarantine", []
        for after in ("", "0499.png", "0999.png"):
            page = requests.get(url, params={"after": after}, timeout=30).text
            shown.append(page.count(".png</td>"))
    assert shown == [500, 500, 203]
