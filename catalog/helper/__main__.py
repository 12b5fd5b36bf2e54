"""The helper's loop: ``python -m catalog.helper FOLDER [--crashed]``, started and watched by the server."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from catalog import backbone, belonging
from catalog.helper.progress import Progress
from catalog.helper.reading import read
from catalog.helper.watching import Watcher
from catalog.library import DATABASE_VARIABLE, Library
from catalog.store import Database, UnavailableError, jobs, projects, suggestions
from catalog.store.tables import Help, JobState, Project
from pipeline.common import log, text
from pipeline.common.errors import UserError
from pipeline.portable import reason

PAUSE = 0.3  # seconds between looks for work
NICE = 10  # people who label come before it where processors are few
WAIT = 3.0  # seconds between tries while the database can't be reached

T = TypeVar("T")

_log = logging.getLogger(__name__)


def main(folder: Path, crashed: bool) -> None:
    """Works until standard input, which the server holds open, is closed.

    Args:
        folder: the catalog's.
        crashed: whether the last helper of this server ended unexpectedly.
    """
    log.setup("catalog helper")
    os.nice(NICE)
    threading.Thread(target=_end_with_server, daemon=True).start()
    library = Library(folder, os.environ.get(DATABASE_VARIABLE, ""))
    # A helper of a server that was killed may still be in its last step.
    with FileLock(folder / "helper.lock"):
        database = _when_available(lambda: belonging.open_catalog(library))
        _when_available(lambda: _requeue(database, crashed))
        _publish_backbone(library)
        threading.Thread(target=Watcher(database).run, daemon=True).start()
        while True:
            try:
                if not work(database, library):
                    time.sleep(PAUSE)
            except UnavailableError:  # the job is done again; it isn't to blame
                _when_available(lambda: _requeue(database, False))


def _requeue(database: Database, crashed: bool) -> None:
    with database.write() as session:
        jobs.requeue_interrupted(session, crashed)


def _when_available(action: Callable[[], T]) -> T:
    """Does something as soon as the database can be used."""
    while True:
        try:
            return action()
        except UnavailableError as error:
            _log.warning("%s", error)
            time.sleep(WAIT)


def _end_with_server() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # whatever it does: jobs are repeated


def _publish_backbone(library: Library) -> None:
    """Exports the backbone for the teach page, unless it is there; everything else works without it."""
    if backbone.is_current(library.backbone):
        return
    from catalog.helper.features import publish_backbone  # with PyTorch behind it

    try:
        publish_backbone(library)
    except Exception as error:  # labeling goes on without the teach page, which shows the reason
        _log.warning("%s; the teach page can't train", error, exc_info=not isinstance(error, UserError))
        backbone.report_failure(library.backbone, str(error))


def work(database: Database, library: Library) -> bool:
    """Does one job, if there is one; returns whether there was."""
    _request_training(database)
    with database.write() as session:
        job = jobs.take(session)
        if job is None:
            return False
        job_id, kind, project = job.id, jobs.Kind(job.kind), session.get(Project, job.project_id)
        session.flush()
        session.expunge(project)
    progress = Progress(database, job_id)
    state = JobState.DONE
    try:
        message = _function(kind)(database, library, project, progress)
    except UnavailableError:
        raise
    except UserError as error:
        state, message = JobState.FAILED, str(error)
    except Exception as error:  # shown on the page; the next job may well succeed
        _log.exception("%s of project %s failed", kind, project.name)
        state, message = JobState.FAILED, text.shortened(f"{type(error).__name__}: {reason(error)}", 300)
    is_read = kind == jobs.Kind.READ and state == JobState.DONE and project.model_help != Help.NONE
    with database.read() as session:  # of many images this takes a second; writers needn't wait for it
        lacks_suggestions = is_read and suggestions.are_missing(session, project.id)
    with database.write() as session:
        if session.get(Project, project.id) is None:  # deleted meanwhile
            library.erase_project(project.id)
            return True
        jobs.finish(session, job_id, state, message)
        if lacks_suggestions:
            jobs.request(session, project.id, jobs.Kind.SUGGEST)
    return True


def _function(kind: jobs.Kind) -> Callable[[Database, Library, Project, Progress], str]:
    """What does a job; imported late, since reading images needs none of the numeric libraries."""
    if kind == jobs.Kind.READ:
        return read
    if kind == jobs.Kind.SUGGEST:
        from catalog.helper.suggest import suggest as function
    elif kind == jobs.Kind.MAP:
        from catalog.helper.mapping import draw as function
    elif kind == jobs.Kind.EXPORT:
        from catalog.helper.taught_export import export as function
    else:
        from catalog.helper.comparison import compare as function
    return function


def _request_training(database: Database) -> None:
    """Asks for new suggestions where enough was labeled since the last ones."""
    with database.read() as session:
        due = [
            project.id
            for project in projects.helped(session)
            if suggestions.is_due(session, project.id)
            and not jobs.is_open(session, project.id, jobs.Kind.SUGGEST)
            and not jobs.has_just_failed(session, project.id, jobs.Kind.SUGGEST)
        ]
    if due:
        with database.write() as session:
            for project_id in due:
                jobs.request(session, project_id, jobs.Kind.SUGGEST)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--crashed" in sys.argv)
