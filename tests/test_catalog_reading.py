"""Reading images into a project: what is new joins, what can't be used is named with its reason."""

import hashlib
import io
import os
import zipfile

import pytest
import requests
from catalog_server import Catalog, folder_of, picture
from PIL import Image as PillowImage
from sqlalchemy import select

from catalog.store import images, jobs
from catalog.store.tables import Help, Image, JobState, Model, Source, Suggestion
from pipeline.sources import photos


@pytest.fixture
def catalog(tmp_path):
    return Catalog.create(tmp_path)


def read_again(catalog):
    with catalog.database.write() as session:
        jobs.request(session, 1, jobs.Kind.READ)
    catalog.finish_jobs()


def rows(catalog):
    with catalog.database.read() as session:
        found = list(session.scalars(select(Image).order_by(Image.path)))
        session.expunge_all()
        return found


def reasons(catalog):
    with catalog.database.read() as session:
        return {file.path: file.reason for file in images.quarantined(session, 1)}


def test_an_image_is_known_by_its_hash_and_has_a_thumbnail(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 3)
    catalog.add_project(folder)
    for image in rows(catalog):
        data = (folder / image.path).read_bytes()
        assert image.sha256 == hashlib.sha256(data).hexdigest()
        assert catalog.library.image(image.sha256, image.suffix).read_bytes() == data
        with PillowImage.open(catalog.library.thumbnail(image.sha256)) as thumbnail:
            assert thumbnail.size == (image.width, image.height) == (20, 16)


def test_reading_a_folder_again_adds_what_is_new(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 3)
    catalog.add_project(folder)
    before = {image.path: image.id for image in rows(catalog)}
    (folder / "new.png").write_bytes(picture(77))
    (folder / "copy of 000.png").write_bytes(picture(0))
    (folder / "000.png").rename(folder / "renamed.png")
    read_again(catalog)
    after = {image.path: image.id for image in rows(catalog)}
    assert after.keys() - before.keys() == {"new.png"}
    assert before.items() <= after.items()


def test_unusable_files_are_listed_with_the_reason(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 2)
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "empty too.png").touch()
    catalog.add_project(folder)
    for _ in range(2):
        assert len(rows(catalog)) == 2
        assert reasons(catalog) == {
            "text.jpg": "not a picture of a known format",
            "empty.png": "empty file",
            "empty too.png": "empty file",
        }
        read_again(catalog)


def test_a_folder_that_can_be_read_again_leaves_the_list_and_a_vanished_file_does_not_join_it(
    catalog, tmp_path, monkeypatch
):
    folder = folder_of(tmp_path / "images", 3)
    (folder / "below").mkdir()
    project = catalog.add_project(folder)
    with catalog.database.write() as session:
        images.quarantine(session, project, {"below": "Permission denied"}, set())
    read, vanished = photos.read, folder / "new.png"
    vanished.write_bytes(picture(9))

    def read_late(path: str) -> bytes:
        vanished.unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(photos, "read", read_late)
    read_again(catalog)
    assert reasons(catalog) == {}


def test_files_that_are_gone_leave_the_list_and_uploads_stay_on_it(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 2)
    for name in ("renamed.png", "stays.png"):
        (folder / name).write_text("no image")
        os.utime(folder / name, (0, 0))
    project = catalog.add_project(folder)
    with catalog.database.write() as session:
        problems = {"gone": "Permission denied", "v.png": "No such file or directory"}
        images.quarantine(session, project, problems, set())
    with catalog.served() as address:
        files = {"files": ("uploaded.png", b"no image")}
        requests.post(f"{address}/projects/1/files", files=files, timeout=30).raise_for_status()
    (folder / "renamed.png").rename(folder / "note.txt")
    read_again(catalog)
    assert reasons(catalog).keys() == {"stays.png", "uploaded.png"}


def test_suggestions_are_not_computed_again_if_nothing_has_joined(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.helper.suggest.suggest", lambda *_: requested.append(1) or "done")
    requested = []
    catalog.add_project(folder_of(tmp_path / "images", 3), model_help=Help.GROUPS)
    assert requested == [1]
    with catalog.database.write() as session:
        values = {"project_id": 1, "model_id": 1, "cluster": 0, "distance": 0.0, "confidence": 0.0}
        session.add(Model(project_id=1, created_at=0, last_event=0, labels=0, message=""))
        session.flush()
        for image in session.scalars(select(Image)):
            session.add(Suggestion(image_id=image.id, probable=[], **values))
    read_again(catalog)
    assert requested == [1]
    (tmp_path / "images" / "new.png").write_bytes(picture(9))
    read_again(catalog)
    assert requested == [1, 1]


def test_a_source_that_cannot_be_looked_at_is_one_line(catalog, tmp_path, caplog):
    catalog.add_project(folder_of(tmp_path / "images", 1))
    with catalog.database.write() as session:  # the system refuses it, as it does without permission
        catalog.project(session).source_path = f"{tmp_path}/{'x' * 300}"
    read_again(catalog)
    with catalog.database.read() as session:
        job = jobs.latest(session, 1)["read"]
    assert (job.state, "File name too long" in job.message) == (JobState.FAILED, True)
    assert "OSError" not in job.message and not caplog.records


def test_images_stay_when_their_source_is_deleted(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 2)
    catalog.add_project(folder)
    for file in folder.iterdir():
        file.unlink()
    read_again(catalog)
    assert all(catalog.library.image(image.sha256, image.suffix).is_file() for image in rows(catalog))


def test_a_repaired_file_leaves_the_list(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 1)
    (folder / "late.png").touch()
    catalog.add_project(folder)
    assert list(reasons(catalog)) == ["late.png"]
    (folder / "late.png").write_bytes(picture(50))
    read_again(catalog)
    assert reasons(catalog) == {}


def test_an_original_that_was_cut_off_comes_back_by_reading_again(catalog, tmp_path):
    catalog.add_project(folder_of(tmp_path / "images", 2))
    with catalog.database.read() as session:
        image = session.scalars(select(Image)).first()
    file = catalog.library.image(image.sha256, image.suffix)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    read_again(catalog)
    assert file.read_bytes() == whole


def test_a_missing_original_or_thumbnail_comes_back_by_reading_again(catalog, tmp_path):
    catalog.add_project(folder_of(tmp_path / "images", 2))
    first, second = rows(catalog)
    catalog.library.image(first.sha256, first.suffix).unlink()
    catalog.library.thumbnail(second.sha256).unlink()
    read_again(catalog)
    assert all(
        catalog.library.image(image.sha256, image.suffix).is_file()
        and catalog.library.thumbnail(image.sha256).is_file()
        for image in (first, second)
    )
    assert len(rows(catalog)) == 2


def test_an_edited_source_does_not_change_what_was_labeled(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 1)
    catalog.add_project(folder)
    (image,) = rows(catalog)
    with open(folder / "000.png", "r+b") as file:
        file.write(b"edited in place")
    assert (
        hashlib.sha256(catalog.library.image(image.sha256, image.suffix).read_bytes()).hexdigest()
        == image.sha256
    )


def test_uploads_join_although_the_source_is_gone(catalog, tmp_path):
    catalog.add_project(tmp_path / "unplugged")
    with catalog.served() as address:
        files = [("files", ("new.png", io.BytesIO(picture(5))))]
        requests.post(f"{address}/projects/1/files", files=files, timeout=30)
    catalog.finish_jobs()
    assert [image.path for image in rows(catalog)] == ["new.png"]


def test_files_that_are_no_images_are_counted(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 1)
    (folder / "photo.heic").write_bytes(b"an iPhone's format")
    catalog.add_project(folder)
    with catalog.database.read() as session:
        assert "1 .heic" in jobs.latest(session, 1)["read"].message


def test_orientation_is_applied(catalog, tmp_path):
    folder = folder_of(tmp_path / "images", 1)
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.new("RGB", (40, 20)).save(folder / "turned.jpg", exif=exif)
    catalog.add_project(folder)
    turned = next(image for image in rows(catalog) if image.path == "turned.jpg")
    assert (turned.width, turned.height) == (20, 40)


def test_an_archive_is_read_like_a_folder(catalog, tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"a/{number}.png", picture(number))
        archive.writestr("a/notes.txt", "not an image")
    catalog.add_project(tmp_path / "images.zip")
    assert [image.path for image in rows(catalog)] == ["a/0.png", "a/1.png", "a/2.png"]
    assert reasons(catalog) == {}


def test_a_missing_folder_fails_the_job_in_one_line(catalog, tmp_path):
    catalog.add_project(tmp_path / "nowhere")
    with catalog.database.read() as session:
        job = jobs.latest(session, 1)["read"]
    assert job.state == JobState.FAILED
    assert "nowhere is not there" in job.message


def test_uploads_join_the_project(catalog):
    catalog.add_project("", source=Source.UPLOAD, source_path="")
    files = [("files", (f"{number}.png", io.BytesIO(picture(number)))) for number in range(5)]
    files.append(("files", ("../../evil.png", io.BytesIO(picture(9)))))
    files.append(("files", ("broken.jpg", io.BytesIO(b"no image"))))
    with catalog.served() as address:
        answer = requests.post(f"{address}/projects/1/files", files=files, timeout=30)
    assert answer.json() == {"received": 7, "refused": 0}
    catalog.finish_jobs()
    assert len(rows(catalog)) == 6
    assert list(reasons(catalog)) == ["broken.jpg"]
    assert list(catalog.library.uploads(1).iterdir()) == []
    inside = catalog.library.folder.resolve()
    assert all(file.resolve().is_relative_to(inside) for file in inside.rglob("*"))


def test_a_job_that_a_killed_helper_left_is_done_again_and_fails_after_two_attempts(catalog, tmp_path):
    catalog.add_project(folder_of(tmp_path / "images", 1))
    for expected in (JobState.WAITING, JobState.FAILED):
        with catalog.database.write() as session:
            if expected == JobState.WAITING:
                jobs.request(session, 1, jobs.Kind.READ)
                session.flush()
            assert jobs.take(session) is not None
        with catalog.database.write() as session:
            jobs.requeue_interrupted(session, crashed=True)
            assert jobs.latest(session, 1)["read"].state == expected
