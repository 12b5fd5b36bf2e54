"""Changes of classes in a project that has labels: new ones, merging two, and taking such a change back."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.language import _
from catalog.store import class_changes, image_counts, jobs, projects, relabeling
from catalog.store.class_changes import ChangeKind, Policy
from catalog.store.labels import Act
from catalog.store.tables import Action, ClassChange, Help, LabelClass, Project, Relabeling, Status
from pipeline.common.errors import UserError

SHOWN = 200  # changes
LEAST = 2  # classes of a project
_ACTIONS = {Policy.REQUEUE: Action.REQUEUE, Policy.DISCARD: Action.DISCARD}


@dataclass(frozen=True)
class Entry:
    """A change of classes as people see it; classes that were added together are one.

    Attributes:
        change_id: by which it is taken back.
        labels: number of images whose label it has changed.
        is_undone: whether it was taken back.
        can_be_undone: whether it changed labels, and wasn't taken back.
    """

    change_id: int
    at: float
    person: str
    kind: ChangeKind
    before: str
    after: tuple[str, ...]
    policy: str
    labels: int
    is_undone: bool
    can_be_undone: bool


def labels_of(session: Session, project: Project, policy: Policy) -> int:
    """How many labels a policy changes."""
    counts = projects.counts(session, project.id)
    if policy == Policy.DISCARD:
        return sum(counts[status] for status in relabeling.LABELS)
    return counts[Status.LABELED] + counts[Status.UNKNOWN] if policy == Policy.REQUEUE else 0


def add(session: Session, project: Project, names: tuple[str, ...], policy: Policy, person: str) -> None:
    """Adds classes to a paused project, and begins what the policy says.

    Raises:
        UserError: the project isn't paused, or a name can't be used.
    """
    _check_paused(session, project)
    if not names:
        raise UserError(_("give at least one new class"))
    if policy not in _ACTIONS:
        class_changes.add(session, project, names, person, policy)
        _ask_for_suggestions(session, project)
        return
    act = Act.start(_ACTIONS[policy])
    class_changes.add(session, project, names, person, policy, act.batch)
    relabeling.start(session, project, act, person, labels_of(session, project, policy))


def merge(session: Session, project: Project, found: LabelClass, into: LabelClass, person: str) -> None:
    """Merges a class of a paused project into another one, and begins to change its images.

    From now on the class isn't offered, and answers that name it mean the other one.

    Raises:
        UserError: the project isn't paused, or the classes can't be merged.
    """
    _check_paused(session, project)
    if found.id == into.id:
        raise UserError(_("a class can't be merged into itself"))
    if len(projects.classes(session, project.id)) <= LEAST:
        raise UserError(_("a project needs at least two classes"))
    act = Act.start(Action.MERGE)
    total = image_counts.by_class(session, project.id)[found.id]
    found.merged_into = into.id
    class_changes.record(session, found, ChangeKind.MERGED, person, found.name, into.name, "", act.batch)
    relabeling.start(session, project, act, person, total, class_id=found.id)


def undo(session: Session, project: Project, change_id: int, person: str) -> None:
    """Begins to take back what a change of classes did to the labels; a merged class is there again.

    New classes stay. So does the label of an image that was labeled again since then.

    Raises:
        UserError: the project isn't paused, or the change can't be taken back.
    """
    _check_paused(session, project)
    change = session.get(ClassChange, change_id)
    if change is None or change.project_id != project.id or not change.batch:
        raise UserError(_("this change can't be taken back"))
    if change.batch in _undone(session, project.id) or change.kind == ChangeKind.UNDONE:
        raise UserError(_("this change was taken back already"))
    found = session.get(LabelClass, change.class_id)
    if change.kind == ChangeKind.MERGED:
        _bring_back(session, found)
    class_changes.record(
        session, found, ChangeKind.UNDONE, person, change.before, change.after, change.policy, change.batch
    )
    total = _labels_changed(session, project.id).get(change.batch, 0)
    again = Act.start(Action.UNDO)
    relabeling.start(session, project, again, person, total, undone_batch=change.batch)


def _bring_back(session: Session, found: LabelClass) -> None:
    into = session.get(LabelClass, found.merged_into)
    if into.merged_into is not None:
        message = _("{name} was merged itself since then; take that back first")
        raise UserError(message.format(name=into.name))
    present = projects.classes(session, found.project_id)
    projects.check_classes([*(each.name for each in present), found.name])
    found.merged_into = None


def history(session: Session, project_id: int) -> list[Entry]:
    """The last changes of a project's classes, newest first."""
    query = select(ClassChange).where(ClassChange.project_id == project_id)
    changes = list(session.scalars(query.order_by(ClassChange.id.desc()).limit(SHOWN)))
    undone, numbers = _undone(session, project_id), _labels_changed(session, project_id)
    groups: list[list[ClassChange]] = []
    for change in changes:
        if groups and _is_together(groups[-1][-1], change):
            groups[-1].append(change)
        else:
            groups.append([change])
    entries = []
    for group in groups:
        last = group[0]
        is_undo = last.kind == ChangeKind.UNDONE
        is_undone = not is_undo and last.batch in undone
        entries.append(
            Entry(
                change_id=last.id,
                at=last.at,
                person=last.person,
                kind=ChangeKind(last.kind),
                before=last.before,
                after=tuple(change.after for change in reversed(group)),
                policy=last.policy,
                labels=0 if is_undo else numbers.get(last.batch, 0),
                is_undone=is_undone,
                can_be_undone=bool(last.batch) and not is_undo and not is_undone,
            )
        )
    return entries


def _is_together(later: ClassChange, change: ClassChange) -> bool:
    """Whether two classes were added in one step."""
    both = (later, change)
    is_added = all(each.kind == ChangeKind.ADDED for each in both)
    is_same = (later.person, later.policy, later.batch) == (change.person, change.policy, change.batch)
    return is_added and is_same and later.at - change.at < 1


def _undone(session: Session, project_id: int) -> set[str]:
    """The batches that were taken back."""
    query = select(ClassChange.batch).where(
        ClassChange.project_id == project_id, ClassChange.kind == ChangeKind.UNDONE
    )
    return set(session.scalars(query))


def _labels_changed(session: Session, project_id: int) -> dict[str, int]:
    query = select(Relabeling.batch, Relabeling.changed).where(Relabeling.project_id == project_id)
    return dict(session.execute(query).tuples().all())


def _check_paused(session: Session, project: Project) -> None:
    """Raises UserError unless the project is paused and no change of its labels goes on."""
    if not project.paused:
        raise UserError(_("pause the project first: people who label would see the classes change"))
    relabeling.check_done(session, project.id)


def _ask_for_suggestions(session: Session, project: Project) -> None:
    if project.model_help != Help.NONE:
        jobs.request(session, project.id, jobs.Kind.SUGGEST)
