"""Classes and samples of the teach page."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Body, Form, HTTPException, Query, UploadFile
from pydantic import BaseModel

from catalog import decoding
from catalog.language import _
from catalog.store import erasing, projects, samples
from catalog.store.images import NewImage
from catalog.store.samples import ClassCount
from catalog.store.tables import LabelClass
from catalog.teach.saved_project import MAX_CLASSES
from catalog.web.context import ByPerson, Context, InContext, taught_or_404
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable import UnreadableError
from pipeline.sources import archives

router = APIRouter()
Ids = Annotated[list[int], Body(embed=True, max_length=100_000)]
MAX_SAMPLES = 20_000  # of a project: time and memory of a training grow with them


class ShownClass(BaseModel):
    """A class with the number of its samples; `newest` grows whenever one joins it."""

    id: int
    name: str
    is_enabled: bool
    count: int
    newest: int


class ShownSample(BaseModel):
    """An image in a class."""

    id: int
    sha256: str


class Received(BaseModel):
    """What became of uploaded images; `refused` has their names with the reasons."""

    new: int
    known: int
    refused: list[tuple[str, str]]


def shown_class(found: LabelClass, counts: dict[int, ClassCount]) -> ShownClass:
    """A class with its count."""
    count = counts.get(found.id, ClassCount())
    return ShownClass(
        id=found.id,
        name=found.name,
        is_enabled=found.is_enabled,
        count=count.images,
        newest=count.newest,
    )


@router.post("/api/teach/{project_id}/classes")
def add_class(project_id: int, name: Annotated[str, Body(embed=True)], context: InContext) -> ShownClass:
    """Adds a class."""
    with context.database.write() as session:
        project = taught_or_404(session, project_id)
        if len(projects.classes(session, project.id)) >= MAX_CLASSES:
            raise HTTPException(422, _("a project of this page has at most 100 classes"))
        return shown_class(samples.add_class(session, project, name.strip()), {})


class ClassChange(BaseModel):
    """What to change of a class."""

    name: str | None = None
    is_enabled: bool | None = None


@router.post("/api/teach/{project_id}/classes/{class_id}")
def change_class(project_id: int, class_id: int, change: ClassChange, context: InContext) -> ShownClass:
    """Renames a class, or switches it on or off; the model does not learn a class that is off."""
    with context.database.write() as session:
        taught_or_404(session, project_id)
        found = samples.class_of(session, project_id, class_id)
        if change.name is not None:
            samples.rename_class(session, found, change.name.strip())
        if change.is_enabled is not None:
            found.is_enabled = change.is_enabled
        shown = shown_class(found, samples.counts(session, project_id))
    context.teacher.has_changed(project_id)
    return shown


@router.post("/api/teach/{project_id}/classes/{class_id}/erase")
def erase_class(project_id: int, class_id: int, context: InContext) -> dict[str, int]:
    """Deletes a class with its samples for good."""
    with context.database.write() as session:
        project = taught_or_404(session, project_id)
        found = samples.class_of(session, project_id, class_id)
        ids = samples.ids_of_class(session, found)
        unused = erasing.images(session, project, ids)
        erasing.label_class(session, found)
        delete_files(context, unused)
    context.teacher.discard([image.sha256 for image in unused])
    context.teacher.has_changed(project_id)
    return {"erased": len(ids)}


def delete_files(context: Context, unused: list[erasing.Unused]) -> None:
    """Deletes the files of images that no project has any more; called before their rows are gone."""
    for image in unused:
        context.library.erase(image.sha256, image.suffix)


@router.get("/api/teach/{project_id}/classes/{class_id}/samples")
def list_samples(
    project_id: int,
    class_id: int,
    context: InContext,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
) -> list[ShownSample]:
    """Some of a class's samples, newest first."""
    with context.database.read() as session:
        taught_or_404(session, project_id)
        found = samples.class_of(session, project_id, class_id)
        return [
            ShownSample(id=image.id, sha256=image.sha256)
            for image in samples.of_class(session, found, offset, limit)
        ]


@router.post("/api/teach/{project_id}/classes/{class_id}/samples")
def add_samples(
    project_id: int,
    class_id: int,
    files: list[UploadFile],
    context: InContext,
    person: ByPerson,
    burst: Annotated[str | None, Form(pattern=r"^[\w-]{1,40}$")] = None,
) -> Received:
    """Adds images to a class; they are on the disk when this is answered.

    `burst` names the webcam recording that all of them are from.
    """
    with context.database.read() as session:
        project = taught_or_404(session, project_id)
        samples.class_of(session, project_id, class_id)
        if sum(projects.counts(session, project_id).values()) + len(files) > MAX_SAMPLES:
            raise HTTPException(422, _("a project of this page has at most 20,000 images"))
    refused: list[tuple[str, str]] = []
    found = list(_stored(files, context, refused))
    images = [image for image, _file in found]
    try:
        with context.database.write() as session:
            project = taught_or_404(session, project_id)
            label_class = samples.class_of(session, project_id, class_id)
            for image, file in found:  # some may have been erased elsewhere since they were stored
                if not context.library.image(image.sha256, image.suffix).is_file():
                    file.file.seek(0)
                    decoding.store(file.file.read(), image.path, context.library)
            added = samples.add(session, project, label_class, images, burst, person.name)
    except (UserError, HTTPException):  # the class or project is gone
        with context.database.write() as session:
            pairs = [(image.sha256, image.suffix) for image in images]
            delete_files(context, erasing.unused(session, pairs))
        raise
    context.teacher.has_changed(project_id)
    return Received(new=added.new, known=added.known, refused=refused)


def _stored(
    files: list[UploadFile], context: Context, refused: list[tuple[str, str]]
) -> Iterator[tuple[NewImage, UploadFile]]:
    for file in files:
        name = text.shortened(text.path(file.filename or _("image")), 100)
        if (file.size or 0) > archives.MAX_BYTES:
            refused.append((name, _("it is too large")))
            continue
        try:
            yield decoding.store(file.file.read(), name, context.library), file
        except UnreadableError as error:
            refused.append((name, text.printable(error)))


@router.post("/api/teach/{project_id}/samples/move")
def move(
    project_id: int,
    ids: Ids,
    class_id: Annotated[int, Body(embed=True)],
    context: InContext,
    person: ByPerson,
) -> dict[str, bool]:
    """Moves samples to another class."""
    with context.database.write() as session:
        project = taught_or_404(session, project_id)
        label_class = samples.class_of(session, project_id, class_id)
        samples.move(session, project, ids, label_class, person.name)
    context.teacher.has_changed(project_id)
    return {"moved": True}


@router.post("/api/teach/{project_id}/samples/remove")
def remove(project_id: int, ids: Ids, context: InContext, person: ByPerson) -> dict[str, bool]:
    """Takes samples out of their classes; they can be restored until they are erased."""
    with context.database.write() as session:
        samples.remove(session, taught_or_404(session, project_id), ids, person.name)
    context.teacher.has_changed(project_id)
    return {"removed": True}


@router.post("/api/teach/{project_id}/samples/restore")
def restore(
    project_id: int,
    context: InContext,
    person: ByPerson,
    ids: Annotated[list[int] | None, Body(embed=True, max_length=100_000)] = None,
) -> dict[str, int]:
    """Puts removed samples back into their classes: these, or all."""
    with context.database.write() as session:
        project = taught_or_404(session, project_id)
        ids = samples.removed(session, project_id) if ids is None else ids
        restored = samples.restore(session, project, ids, person.name)
    context.teacher.has_changed(project_id)
    return {"restored": restored}


@router.post("/api/teach/{project_id}/samples/erase")
def erase(project_id: int, context: InContext) -> dict[str, int]:
    """Deletes all removed samples for good."""
    with context.database.write() as session:
        project = taught_or_404(session, project_id)
        ids = samples.removed(session, project_id)
        unused = erasing.images(session, project, ids)
        delete_files(context, unused)
    context.teacher.discard([image.sha256 for image in unused])
    return {"erased": len(ids)}
