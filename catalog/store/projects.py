"""Projects and their classes."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.language import N_, _, number, percent
from catalog.store import image_counts, jobs, relabeling
from catalog.store.tables import Help, Kind, LabelClass, Project, Source, Status
from pipeline import tasks
from pipeline.common import text
from pipeline.common.errors import UserError
from pipeline.portable.card import TASKS

PAGE_SIZES = (1, 4, 6, 9, 16, 25)
MAX_CLASSES = 1000
# Of text.class_name_problem.
PROBLEMS = [
    *(N_("is empty"), N_("is not UTF-8"), N_("has control characters"), N_("has more than 200 characters")),
]
MAX_PRECISION = 0.99  # more can't be shown by the predictions that count as evidence


@dataclass(frozen=True)
class Draft:
    """The form of a project; the first four can't change after it is created."""

    name: str
    task: str
    source: Source
    source_path: str
    classes: tuple[str, ...]
    instructions: str = ""
    model_help: Help = Help.SUGGESTIONS
    probable_keys: bool = False
    uncertain_first: bool = False
    page_size: int = 9
    min_precision: float = 0.9
    test_fraction: float = 0.05
    champion: str = ""
    kind: Kind = Kind.LABEL
    is_watched: bool = False
    second_share: float = 0.0

    def __post_init__(self):
        """Raises UserError for a value that can't be used."""
        check_name(self.name)
        if self.task not in TASKS:
            raise UserError(_("the task {task} is unknown").format(task=text.shortened(self.task, 40)))
        if self.page_size not in PAGE_SIZES:
            raise UserError(
                _("images per page: one of {sizes}").format(sizes=", ".join(map(str, PAGE_SIZES)))
            )
        if not 0.5 <= self.min_precision <= MAX_PRECISION:
            message = _("the precision of suggestions must be from {least} to {most}")
            raise UserError(message.format(least=percent(0.5), most=percent(MAX_PRECISION)))
        # What is taught tests itself by cross-validation; the pipeline draws its own test split.
        if not 0 < self.test_fraction <= 0.5 and self.kind != Kind.TEACH:
            raise UserError(_("the share of test images must be above 0 and at most 50 %"))
        if self.is_watched and self.source != Source.FOLDER:
            raise UserError(_("only a folder or an archive can be watched"))
        if not 0 <= self.second_share <= 1:
            raise UserError(_("the share of images for a second person must be from 0 to 100 %"))
        if self.second_share and self.kind == Kind.TEACH:
            raise UserError(_("images of the teach page are labeled once"))
        check_classes(self.classes, least=0 if self.kind == Kind.TEACH else 2)


def check_name(name: str) -> None:
    """Raises UserError for a name that a project can't have."""
    if problem := text.class_name_problem(name):
        raise UserError(_("the project's name {problem}").format(problem=_(problem)))
    if len(name) > 100:
        raise UserError(_("the project's name has more than 100 characters"))


def check_classes(names: Iterable[str], least: int = 2) -> None:
    """Checks the names of a project's classes.

    Raises:
        UserError: they are fewer than `least` or too many, or a name is invalid or too similar to another.
    """
    names = list(names)
    if not least <= len(names) <= MAX_CLASSES:
        message = _("give {least} to {most} classes, one per line; there are {count}")
        raise UserError(message.format(least=least, most=number(MAX_CLASSES), count=number(len(names))))
    for name in names:
        problem = text.class_name_problem(name)
        problem = problem and _(problem)
        if problem is None and tasks.SEPARATOR in name:
            problem = _("contains {character}, which separates classes in files").format(
                character=tasks.SEPARATOR
            )
        if problem is None and ("/" in name or "\\" in name):
            problem = _("contains a slash, and classes become folders")
        if problem:
            message = _("the class {name} {problem}")
            raise UserError(
                message.format(name=text.shortened(name, 60) or _("in an empty line"), problem=problem)
            )
    if groups := text.look_alikes(names):
        raise UserError(_("these classes look alike: {names}").format(names=", ".join(map(repr, groups[0]))))


def create(session: Session, draft: Draft) -> Project:
    """Adds a project and asks the helper to read its images.

    Raises:
        UserError: the name is taken.
    """
    if session.scalar(select(Project).where(Project.name == draft.name)):
        message = _("there is a project {name} already; choose another name")
        raise UserError(message.format(name=draft.name))
    columns = {key: value for key, value in vars(draft).items() if key != "classes"}
    project = Project(**columns, paused=False, created_at=time.time())
    session.add(project)
    session.flush()
    for position, name in enumerate(draft.classes):
        session.add(LabelClass(project_id=project.id, name=name, position=position))
    if draft.source != Source.UPLOAD:
        jobs.request(session, project.id, jobs.Kind.READ)
    return project


def all_projects(session: Session) -> list[Project]:
    """All projects by name."""
    return sorted(session.scalars(select(Project)), key=_name)


def _name(project: Project) -> str:
    """The key of an order by name; those of databases depend on their settings."""
    return project.name


def change(session: Session, project: Project, **values: object) -> None:
    """Changes a project's settings.

    Args:
        session: of a write transaction.
        project: the project.
        **values: columns of `Project`; task, source and share of test images can't change.

    Raises:
        UserError: a value can't be used, the name is taken, or labels are still being changed.
    """
    if not values.get("paused", project.paused):
        relabeling.check_done(session, project.id)
    present = classes(session, project.id)
    draft = Draft(
        task=project.task,
        source=Source(project.source),
        source_path=project.source_path,
        classes=tuple(found.name for found in present),
        test_fraction=project.test_fraction,
        kind=Kind(project.kind),
        **{key: value for key, value in values.items() if key != "paused"},
    )
    other = session.scalar(select(Project).where(Project.name == draft.name, Project.id != project.id))
    if other is not None:
        message = _("there is a project {name} already; choose another name")
        raise UserError(message.format(name=draft.name))
    of_suggestions = ("model_help", "min_precision", "champion")
    has_changed = any(getattr(draft, key) != getattr(project, key) for key in of_suggestions)
    if has_changed and draft.model_help != Help.NONE:
        jobs.request(session, project.id, jobs.Kind.SUGGEST)
    for key, value in values.items():
        setattr(project, key, value)


def pause(session: Session, project: Project, is_paused: bool) -> None:
    """Pauses or resumes a project.

    Raises:
        UserError: labels are still being changed.
    """
    if not is_paused:
        relabeling.check_done(session, project.id)
    project.paused = is_paused


def rename(session: Session, project: Project, name: str) -> None:
    """Renames a project.

    Raises:
        UserError: the name is taken or can't be used.
    """
    check_name(name)
    if session.scalar(select(Project).where(Project.name == name, Project.id != project.id)) is not None:
        raise UserError(_("there is a project {name} already; choose another name").format(name=name))
    project.name = name


def use_champion(session: Session, project: Project, champion: str) -> None:
    """Lets a champion predict in a project, and asks for its suggestions."""
    project.champion = champion
    if project.model_help != Help.NONE:
        jobs.request(session, project.id, jobs.Kind.SUGGEST)


def classes(session: Session, project_id: int) -> list[LabelClass]:
    """A project's classes in the order of their keys, without those that were merged into others."""
    return [found for found in all_classes(session, project_id) if found.merged_into is None]


def all_classes(session: Session, project_id: int) -> list[LabelClass]:
    """A project's classes, with those that were merged into others: earlier events name them."""
    query = select(LabelClass).where(LabelClass.project_id == project_id).order_by(LabelClass.position)
    return list(session.scalars(query))


def by_name(session: Session, name: str) -> Project:
    """The project with this name.

    Raises:
        UserError: there is none.
    """
    project = session.scalar(select(Project).where(Project.name == name))
    if project is None:
        names = sorted(session.scalars(select(Project.name)))
        raise UserError(f"there is no project {name}; there are: {text.listed(names, 8) or 'none'}")
    return project


def labeled_by_name(session: Session, name: str) -> Project:
    """The project with this name.

    Raises:
        UserError: there is none, or it belongs to the teach page.
    """
    project = by_name(session, name)
    if project.kind != Kind.LABEL:
        raise UserError(f"{name} is a project of the teach page, which takes no files of labels")
    return project


def taught(session: Session) -> list[Project]:
    """The projects of the teach page, by name."""
    return sorted(session.scalars(select(Project).where(Project.kind == Kind.TEACH)), key=_name)


def to_label(session: Session) -> list[Project]:
    """The projects of the label page that aren't paused, by name."""
    query = select(Project).where(Project.kind == Kind.LABEL, ~Project.paused).order_by(Project.name)
    return list(session.scalars(query))


def helped(session: Session) -> list[Project]:
    """The projects that run with a model's help."""
    query = select(Project).where(Project.model_help != Help.NONE, ~Project.paused)
    return list(session.scalars(query))


def watched(session: Session) -> list[Project]:
    """The running projects whose folders are watched."""
    query = select(Project).where(Project.is_watched, ~Project.paused, Project.kind == Kind.LABEL)
    return list(session.scalars(query))


def note_refresh(session: Session, project_id: int) -> None:
    """Records that a project's source was read to the end."""
    if (project := session.get(Project, project_id)) is not None:  # it may be deleted by now
        project.refreshed_at, project.refresh_problem = time.time(), ""


def counts(session: Session, project_id: int) -> dict[Status, int]:
    """Number of images by status, without those that were removed."""
    found = image_counts.by_status(session, project_id)
    return {status: found[status] for status in Status if status != Status.REMOVED}
