"""Figures of a project's dashboard."""

import time
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from catalog.store import image_counts, jobs, projects, second_labels, suggestions
from catalog.store.tables import Event, Help, Image, Job, LabelClass, Model, Project, Status

HOURS = 24  # of the charts of labels per hour


@dataclass(frozen=True)
class Work:
    """The labels that a person has given on pages in the last HOURS hours.

    Attributes:
        name: the person's.
        per_hour: labels in each hour, oldest first.
    """

    name: str
    per_hour: list[int]

    @property
    def total(self) -> int:
        return sum(self.per_hour)

    @property
    def last_hour(self) -> int:
        return self.per_hour[-1]

    @property
    def rate(self) -> float:
        """Labels per hour in which there were any."""
        return self.total / sum(map(bool, self.per_hour))


@dataclass(frozen=True)
class Dashboard:
    """What a project's dashboard shows.

    Attributes:
        counts: images by status.
        total: all images.
        open_now: images on open pages.
        second: labeled images that wait for the label of a second person.
        prelabeled, clustered, tests: waiting images by the kind of page that they come on next.
        distribution: (class, images), most frequent first; an image counts for each of its classes.
        per_hour: labels in each of the last HOURS hours, oldest first.
        people: the same by person, most labels first.
        jobs: the last job of each kind.
        model: the newest model.
        since_model: labels since then, and how many lead to the next one.
    """

    counts: dict[Status, int]
    total: int
    open_now: int
    second: int
    prelabeled: int
    clustered: int
    tests: int
    distribution: list[tuple[LabelClass, int]]
    per_hour: list[int]
    people: list[Work]
    jobs: dict[str, Job]
    model: Model | None
    since_model: tuple[int, int]

    def as_dict(self) -> dict[str, object]:
        """For a template."""
        return dict(vars(self))


def of(session: Session, project: Project) -> Dashboard:
    """Computes the dashboard of a project."""
    now = time.time()
    counts = projects.counts(session, project.id)
    held = select(func.count()).where(Image.project_id == project.id, Image.leased_until >= now)
    model = suggestions.newest(session, project.id)
    people = _people(session, project, now)
    prelabeled = clustered = 0
    if project.model_help != Help.NONE and model is not None:
        clustered = suggestions.waiting(session, project.id)
        if model.threshold is not None:
            prelabeled = suggestions.waiting(session, project.id, model.threshold)
            clustered -= prelabeled
    return Dashboard(
        counts=counts,
        total=sum(counts.values()),
        open_now=session.scalar(held),
        second=second_labels.waiting(session, project.id).total(),
        prelabeled=prelabeled,
        clustered=clustered,
        tests=image_counts.by_split(session, project.id)[Status.WAITING, True],
        distribution=_distribution(session, project),
        per_hour=[sum(hour) for hour in zip(*(work.per_hour for work in people), strict=True)] or [0] * HOURS,
        people=people,
        jobs=jobs.latest(session, project.id),
        model=model,
        since_model=suggestions.since(session, model) if model else (0, 0),
    )


def _distribution(session: Session, project: Project) -> list[tuple[LabelClass, int]]:
    counts = image_counts.by_class(session, project.id)
    rows = [(found, counts[found.id]) for found in projects.classes(session, project.id)]
    return sorted(rows, key=lambda row: -row[1])


def _people(session: Session, project: Project, now: float) -> list[Work]:
    hour = func.floor((now - Event.at) / 3600)
    query = (
        select(Event.person, hour, func.count())
        .where(Event.project_id == project.id, Event.at > now - HOURS * 3600, Event.page_kind.is_not(None))
        .group_by(Event.person, hour)
    )
    found: dict[str, list[int]] = {}
    for name, ago, count in session.execute(query):
        found.setdefault(name, [0] * HOURS)[HOURS - 1 - max(0, int(ago))] += count
    return sorted((Work(name, counts) for name, counts in found.items()), key=lambda work: -work.total)
