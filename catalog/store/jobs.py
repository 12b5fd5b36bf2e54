"""The helper's work: reading images, computing features, training."""

import enum
import time

from sqlalchemy import case, delete, select, update
from sqlalchemy.orm import Session

from catalog.store.tables import Job, JobState, Project

RETRY_SECONDS = 60  # before a job that failed is tried again by itself
OPEN = (JobState.WAITING, JobState.RUNNING)


class Kind(enum.StrEnum):
    """Kinds of work."""

    READ = "read"  # find and check a project's images
    SUGGEST = "suggest"  # compute features, train a head or form clusters, write suggestions
    MAP = "map"  # arrange the images by similarity
    EXPORT = "export"  # export the model of a project of the teach page
    COMPARE = "compare"  # train a small network from scratch on such a project


_ORDER = {kind: number for number, kind in enumerate(Kind)}  # images can be labeled once they are read


def request(session: Session, project_id: int, kind: Kind) -> None:
    """Adds a job, unless an equal one is waiting."""
    query = select(Job.id).where(
        Job.project_id == project_id, Job.kind == kind, Job.state == JobState.WAITING
    )
    if session.scalar(query.limit(1)) is None:
        now = time.time()
        session.add(
            Job(
                project_id=project_id,
                kind=kind,
                state=JobState.WAITING,
                attempts=0,
                done=0,
                total=0,
                message="",
                created_at=now,
                updated_at=now,
            )
        )


def is_open(session: Session, project_id: int, kind: Kind) -> bool:
    """Whether a job of this kind is waiting or running."""
    query = select(Job.id).where(Job.project_id == project_id, Job.kind == kind, Job.state.in_(OPEN))
    return session.scalar(query.limit(1)) is not None


def has_just_failed(session: Session, project_id: int, kind: Kind) -> bool:
    """Whether the last job of this kind failed less than RETRY_SECONDS ago."""
    query = select(Job).where(Job.project_id == project_id, Job.kind == kind).order_by(Job.id.desc())
    last = session.scalar(query.limit(1))
    return (
        last is not None and last.state == JobState.FAILED and time.time() - last.updated_at < RETRY_SECONDS
    )


def take(session: Session) -> Job | None:
    """The next job, marked as running, by kind in the order of `Kind`; None if there is none."""
    query = (
        select(Job)
        .join(Project, Project.id == Job.project_id)
        .where(Job.state == JobState.WAITING, ~Project.paused)
        .order_by(case(_ORDER, value=Job.kind), Job.id)
    )
    job = session.scalar(query.limit(1))
    if job is not None:
        job.state, job.updated_at = JobState.RUNNING, time.time()
    return job


def requeue_interrupted(session: Session, crashed: bool) -> None:
    """Puts jobs back that a helper left running when it ended.

    Args:
        session: of a write transaction.
        crashed: whether it ended unexpectedly; a job on which this happened twice has failed.
    """
    reason = "the helper ended unexpectedly, twice; out of memory perhaps"
    for job in session.scalars(select(Job).where(Job.state == JobState.RUNNING)):
        job.attempts += crashed
        if job.attempts < 2:
            job.state = JobState.WAITING
        else:
            job.state, job.message = JobState.FAILED, reason


def report(session: Session, job_id: int, done: int, total: int, message: str) -> None:
    """Writes a running job's progress."""
    values = {"done": done, "total": total, "message": message, "updated_at": time.time()}
    session.execute(update(Job).where(Job.id == job_id).values(values))


def finish(session: Session, job_id: int, state: JobState, message: str) -> None:
    """Writes how a job ended; earlier ones of its kind are deleted, of which a watched folder has many."""
    job = session.get(Job, job_id)
    job.state, job.message, job.updated_at = state, message, time.time()
    of_kind = Job.project_id == job.project_id, Job.kind == job.kind
    session.execute(delete(Job).where(*of_kind, Job.id < job_id, Job.state.not_in(OPEN)))


def latest(session: Session, project_id: int) -> dict[str, Job]:
    """The running job of each kind, or else the last one."""
    found = {}
    for kind in Kind:
        if (job := newest(session, project_id, kind)) is not None:
            found[str(kind)] = job
    return found


def newest(session: Session, project_id: int, kind: Kind) -> Job | None:
    """The running job of a kind, or else the last one."""
    query = select(Job).where(Job.project_id == project_id, Job.kind == kind)
    return session.scalar(query.order_by(Job.state != JobState.RUNNING, Job.id.desc()).limit(1))
